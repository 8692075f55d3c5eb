"""A production to deploy to, in memory: an engine that keeps settings and a history, a cluster that
keeps Deployments and pods, and pods that behave as they are told.

Only what a release goes through is played: the settings become Deployments in the program's own
form (honeydue.kubernetes.catalogue), `api` first, and what `up` left stands in the history.
"""

from __future__ import annotations

import copy
import hashlib
import io
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from honeydue import application, env_file
from honeydue.images import keys
from honeydue.images.references import SERVICES, TAG_ANNOTATION
from honeydue.kubernetes.catalogue import NAME, WORKLOADS, deployment
from honeydue.kubernetes.hashing import content_hash
from ops import rollback, rollout
from ops.api import Api, Conflict
from ops.cli import main
from ops.convergence import REVISION, Watching
from ops.engine import Configured, Edge, Engine, Run, _interrupts_left_to_the_child
from ops.preflight import Check
from ops.problems import refused
from ops.urls import Checked
from tests.ops.kubernetes_json import ago, container, crashing, event, pod, waiting, well
from tests.settings import sample

Json = dict[str, Any]

REPOSITORY = "gitea.treytartt.com/admin/honeydue-"
URLS = {"api": "https://api.myhoneydue.com", "admin": "https://admin.myhoneydue.com"}
CANARY = "canary-of-the-database-7Gq"
NODES = {"honeydue-1": "203.0.113.1", "honeydue-2": "203.0.113.2", "honeydue-3": "203.0.113.3"}

_KEY = keys.generate()
SIGNING = {"publicKey": keys.public_pem(_KEY), "privateKey": keys.private_pem(_KEY)}

Behaviour = str
"""ok, slow, pull-fails, crashes, never-ready: as `python -m rehearsal behave` calls them."""


def digest(service: str, tag: str) -> str:
    return "sha256:" + hashlib.sha256(f"{service} {tag}".encode()).hexdigest()


class Shelf:
    """A registry that holds these tags of each service."""

    def __init__(self, *tags: str) -> None:
        self._tags = tags

    def __call__(self, *_: object, **__: object) -> Shelf:
        return self

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def digest(self, repository: str, name: str) -> str | None:
        return digest(repository.rsplit("-", 1)[-1], name) if name in self._tags else None

    def tags(self, _repository: str) -> list[str]:
        return [*self._tags]


def pin(service: str, tag: str) -> str:
    return f"{tag}@{digest(service, tag)}"


@dataclass
class Production:
    """`settings`: `honeydue:images`; `head`: the commit that is checked out. `behaves`: by service
    or (service, tag). `checked`: what the URLs say once a tag runs, "" else. `breaks`: a message
    with which `up` fails, by the phase it is in: "build", "after api", "vendor". `during`: called
    in a phase of `up`."""

    folder: Path
    images: dict[str, str] = field(default_factory=dict)
    head: str = "237c6b8"
    deployed: bool = True
    silent: bool = False  # no API server answers
    behaves: dict[str | tuple[str, str], Behaviour] = field(default_factory=dict)
    urls: Callable[[], list[Checked]] | None = None
    breaks: dict[str, str] = field(default_factory=dict)
    during: dict[str, Callable[[], None]] = field(default_factory=dict)
    beside: dict[str, int] = field(default_factory=dict)
    """What `up` changes beside that, by kind, as the engine counts it."""
    secret: str = "honeydue-secrets-1111111111"
    secrets: dict[str, str] = field(default_factory=dict)
    objects: dict[str, dict[str, Json]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What was asked of the engine that changes something."""
    missing: set[tuple[str, str]] = field(default_factory=set)
    """(service, digest) that the registry does not have."""
    holders: list[str] = field(default_factory=list)
    plan_fails: str = ""
    extra: list[Json] = field(default_factory=list)
    """Steps of the plan beside the services'."""
    stated: dict[str, Json] = field(default_factory=dict)
    """Service → its Deployment as the engine's state has it: behind, once a run was killed."""
    clock: datetime = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)

    @property
    def env(self) -> Path:
        return self.folder / "deploy" / "prod.env"

    # What the settings say

    @property
    def environment(self) -> dict[str, str]:
        values, _ = env_file.read(self.env.read_bytes(), "prod.env")
        return {key: value for key, value in (values or {}).items() if value}

    def wants(self, service: str) -> Json:
        """The Deployment that the program would declare now."""
        named = self.images.get(service) or pin(service, self.head)
        tag, _, found = named.rpartition("@")
        data = application.environment_of(service, self.environment)
        return deployment(
            next(each for each in WORKLOADS if each.name == service),
            namespace="honeydue",
            image=f"{REPOSITORY}{service}@{found}",
            tag=tag,
            config=f"honeydue-config-{service}-{content_hash(data)}",
            secrets=self.secret,
        )

    def secret_named(self, value: str) -> str:
        """Its Secret's name, once a value is set: another one for another value."""
        first = value == sample.CONFIG["secrets"]["SECRET_KEY"]
        found = hashlib.sha256(value.encode()).hexdigest()[:10]
        return "honeydue-secrets-" + ("1" * 10 if first else found)

    # What runs

    def runs_now(self, service: str) -> str:
        found = self.objects.get("deployments", {}).get(service)
        return found["metadata"]["annotations"][TAG_ANNOTATION] if found else ""

    @property
    def tags(self) -> dict[str, str]:
        return {service: self.runs_now(service) for service in SERVICES}

    def roll(self, service: str, behaviour: Behaviour) -> bool:
        """Changes the Deployment; whether it becomes ready."""
        made = self.objects.setdefault("deployments", {})
        wanted, was = self.wants(service), made.get(service)
        if was and was["spec"]["template"] == wanted["spec"]["template"]:
            return bool(was["status"]["readyReplicas"])  # for Kubernetes that is no change
        number = int(was["metadata"]["annotations"][REVISION]) + 1 if was else 1
        generation = was["metadata"]["generation"] + 1 if was else 1
        replicas = wanted["spec"]["replicas"]
        old = [p for p in self._pods(service) if was and _ready(p)]
        good = behaviour in ("ok", "slow")
        hash_ = f"{number:010d}"
        fresh = [
            _pod(service, f"{service}-{hash_}-{n}", wanted, behaviour)
            for n in range(replicas if good else 1)
        ]
        for each in fresh:
            each["metadata"]["labels"]["pod-template-hash"] = hash_
            self._events(service, each["metadata"]["name"], behaviour)
        kept = [] if good else old
        pods = self.objects.setdefault("pods", {})
        for name in [n for n, p in pods.items() if p["metadata"]["labels"][NAME] == service]:
            del pods[name]
        pods |= {each["metadata"]["name"]: each for each in [*kept, *fresh]}
        ready = replicas if good else 0
        reason = "NewReplicaSetAvailable" if good else "ProgressDeadlineExceeded"
        self.objects.setdefault("replicasets", {})[f"{service}-{hash_}"] = {
            "metadata": {
                "name": f"{service}-{hash_}",
                "labels": {NAME: service, "pod-template-hash": hash_},
                "annotations": {REVISION: str(number), **wanted["metadata"]["annotations"]},
            },
            "spec": {"template": wanted["spec"]["template"]},
        }
        made[service] = {
            "metadata": {
                **wanted["metadata"],
                "uid": f"uid-{service}",
                "generation": generation,
                "annotations": {**wanted["metadata"]["annotations"], REVISION: str(number)},
            },
            "spec": wanted["spec"],
            "status": {
                "observedGeneration": generation,
                "replicas": replicas if good else len(kept) + 1,
                "updatedReplicas": replicas if good else 1,
                "readyReplicas": ready,
                "availableReplicas": replicas if good else 0,
                "conditions": [{"type": "Progressing", "status": str(good), "reason": reason}],
            },
        }
        return good

    def _pods(self, service: str) -> list[Json]:
        return [
            each
            for each in self.objects.get("pods", {}).values()
            if each["metadata"]["labels"][NAME] == service
        ]

    def _events(self, service: str, name: str, behaviour: Behaviour) -> None:
        if behaviour == "pull-fails":
            said = f'Failed to pull image "{REPOSITORY}{service}": not found'
            made = event("Failed", said, name)
            self.objects.setdefault("events", {})[name] = made

    # The history

    def record(
        self, message: str, result: str, faulty: set[str], changes: Mapping[str, int]
    ) -> None:
        self.clock += timedelta(hours=1)
        self.stated = copy.deepcopy(self.objects.get("deployments", {}))
        left = {"checkpoint": {"latest": {"resources": self.resources(faulty)}}}
        self.runs.append(
            Run(
                number=len(self.runs) + 1,
                kind="update",
                result=result,
                started=self.clock,
                ended=self.clock + timedelta(minutes=2),
                message=message,
                changes=changes,
                environment={},
                config={},
                checkpoint=lambda: copy.deepcopy(left),
            )
        )

    def resources(self, faulty: set[str]) -> list[Json]:
        found: list[Json] = []
        for service, made in self.objects.get("deployments", {}).items():
            inputs = {"metadata": made["metadata"], "spec": made["spec"]}
            each: Json = {"type": "kubernetes:apps/v1:Deployment", "inputs": inputs}
            if service in faulty:
                each["initErrors"] = ["not ready"]
            found.append(each)
        for name, data in self.objects.get("configmaps", {}).items():
            metadata = {"name": name, "namespace": "honeydue"}
            inputs = {"metadata": metadata, "data": data["data"]}
            found.append({"type": "kubernetes:core/v1:ConfigMap", "inputs": inputs})
        return copy.deepcopy(found)

    # The engine

    def differs(self, service: str) -> bool:
        now, wanted = self.stated.get(service), self.wants(service)
        return now is None or now["spec"]["template"] != wanted["spec"]["template"]

    def plan(self) -> Json:
        steps = []
        for service in SERVICES:
            if not self.differs(service):
                continue
            now = self.stated.get(service)
            state = {"type": "kubernetes:apps/v1:Deployment", "custom": True}
            step: Json = {
                "op": "update" if now else "create",
                "urn": f"urn:pulumi:prod::honeydue::kubernetes:apps/v1:Deployment::{service}",
                "newState": {**state, "inputs": self.wants(service)},
            }
            if now:
                step["oldState"] = {**state, "inputs": now}
            steps.append(step)
        return {"steps": [*steps, *self.extra], "diagnostics": []}

    def up(self, message: str, each: Callable[[str], None]) -> int:
        def phase(name: str) -> str:
            with suppress(KeyError):
                self.during[name]()
            return self.breaks.pop(name, "")

        faulty: set[str] = set()
        changes = {"same": 40}
        wrong = phase("build")
        rolls = [service for service in SERVICES if self.differs(service)]
        if not wrong:
            for service in SERVICES:
                data = application.environment_of(service, self.environment)
                name = f"honeydue-config-{service}-{content_hash(data)}"
                if name not in self.objects.get("configmaps", {}):
                    changes["create"] = changes.get("create", 0) + 1
                self.objects.setdefault("configmaps", {})[name] = {
                    "metadata": {"name": name, "namespace": "honeydue", "labels": {}},
                    "data": data,
                }
            for service in rolls:
                each(f" ~  kubernetes:apps/v1:Deployment {service} updating")
                changes["update"] = changes.get("update", 0) + 1
                tag = self.wants(service)["metadata"]["annotations"][TAG_ANNOTATION]
                how = self.behaves.get((service, tag)) or self.behaves.get(service, "ok")
                if not self.roll(service, how):
                    faulty.add(service)
                    wrong = wrong or f"Deployment {service} is not ready: 1 error occurred"
                wrong = phase(f"after {service}") or wrong
                if wrong and service == "api":
                    break
        wrong = wrong or phase("vendor")
        changes |= self.beside
        for said in ("Outputs:", "    kubeconfig: [secret]", "", "Duration: 3s"):
            each(said)
        if wrong:
            for said in f"error: {wrong}".splitlines():
                each(said)
        self.deployed = self.deployed or not wrong
        self.record(message, "failed" if wrong else "succeeded", faulty, changes)
        return 255 if wrong else 0


def _ready(found: Json) -> bool:
    conditions = found["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _pod(service: str, name: str, wanted: Json, behaviour: Behaviour) -> Json:
    if behaviour in ("ok", "slow"):
        made = well(service, name)
    elif behaviour == "pull-fails":
        said = f'Back-off pulling image "{REPOSITORY}{service}": ErrImagePull: not found'
        made = pod(service, name, containers=[waiting("ImagePullBackOff", said, restartCount=0)])
    elif behaviour == "crashes":
        made = pod(service, name, containers=[{**crashing(2, 3), "name": service}])
    else:
        running = {"running": {"startedAt": ago(600)}}
        state = container(service, started=True, state=running)
        made = pod(service, name, containers=[state])
    made["spec"] = {**wanted["spec"]["template"]["spec"], "nodeName": "honeydue-1"}
    return made


class FakeEngine(Engine):
    """Of a Production."""

    production: Production

    def __init__(self, production: Production) -> None:
        super().__init__("pulumi", "prod", production.folder)
        object.__setattr__(self, "production", production)
        object.__setattr__(self, "project", "honeydue")

    def configured(self) -> Configured:
        p = self.production
        values = {
            **copy.deepcopy(sample.CONFIG),
            "images": dict(p.images),
            "app": {"path": "../app"},
            "signing": SIGNING,
            "envFile": str(p.env),
        }
        values["secrets"] |= {"POSTGRES_PASSWORD": CANARY, **p.secrets}
        secret = frozenset(
            {
                "secrets",
                "registry",
                "snapshots",
                "redis",
                "hcloudToken",
                "cloudflareToken",
                "signing",
            }
        )
        return Configured(values, secret)

    def set(self, key: str, value: str, *, secret: bool) -> None:
        if secret:
            self.production.said.append(f"set {key}")
            self.production.secret = self.production.secret_named(value)
            self.production.secrets[key.rpartition(".")[2]] = value
            return
        self.production.said.append(f"set {key} {value.partition('@')[0]}")
        self.production.images[key.removeprefix("honeydue:images.")] = value

    def unset(self, key: str) -> None:
        self.production.said.append(f"unset {key}")
        self.production.images.pop(key.removeprefix("honeydue:images."), None)

    def environment(self) -> dict[str, str]:
        return {}

    def outputs(self) -> dict[str, Any]:
        return {"kubeconfig": "…", "urls": URLS} if self.production.deployed else {}

    def plan(self) -> Any:
        if self.production.plan_fails:
            raise refused(f"pulumi preview: {self.production.plan_fails}", "mend it")
        return self.production.plan()

    def up(self, message: str = "", each: Any = None, begun: Any = None) -> int:
        p = self.production
        p.said.append(f"up {message.partition(chr(10))[0]}")
        with _interrupts_left_to_the_child():
            begun(
                SimpleNamespace(send_signal=lambda _s: p.breaks.setdefault("vendor", "cancelled"))
            )
            return p.up(message, each)

    def runs(self) -> Iterator[Run]:
        return iter(self.production.runs[::-1])

    def edge(self) -> Edge | None:
        return None

    def holders(self) -> list[str] | None:
        return self.production.holders

    def cancel(self) -> None:
        self.production.said.append("cancel")
        self.production.holders.clear()

    @contextmanager
    def alone(self) -> Iterator[None]:
        yield

    def state(self) -> Any:
        return {"deployment": {"resources": self.production.resources(set())}}

    def last_state(self) -> Any:
        return self.state()


class FakeApi(Api):
    """Its API servers, from one list of objects."""

    def __init__(self, production: Production) -> None:
        super().__init__({})
        self._of = production
        self._version = 0

    def _first(
        self, verb: str, path: str, query: Mapping[str, str], change: Any = None
    ) -> dict[str, Any] | None:
        del query
        if self._of.silent:
            raise refused("no API server answers (honeydue-1: no answer within 2 s)", "look")
        *_, kind, name = path.split("/")
        if verb == "GET" and name in (
            "deployments", "replicasets", "pods", "events", "nodes", "configmaps", "secrets",
            "leases", "replicationcontrollers", "statefulsets", "daemonsets",
            "controllerrevisions", "jobs", "cronjobs",
        ):  # fmt: skip
            return {"items": copy.deepcopy([*self._of.objects.get(name, {}).values()])}
        things = self._of.objects.setdefault(kind, {})
        if verb == "GET":
            there: Json | None = copy.deepcopy(things.get(name))
            return there
        self._version += 1
        if verb == "DELETE":
            gone: Json | None = things.pop(name, None)
            return gone
        if verb == "POST":
            things = self._of.objects.setdefault(name, {})
            name = change["metadata"]["name"]
            if name in things:
                raise Conflict()
        read = change["metadata"].get("resourceVersion")
        if verb == "PUT" and (name not in things or read != _version(things[name])):
            raise Conflict()
        fresh = copy.deepcopy(change)
        fresh["metadata"] |= {"resourceVersion": str(self._version), "uid": f"uid-{name}"}
        things[name] = fresh
        kept: Json = copy.deepcopy(fresh)
        return kept

    @contextmanager
    def stream(self, path: str, **query: str) -> Iterator[Iterator[str]]:
        del path, query
        lines = [
            "connecting to postgres",
            f"panic: cannot parse postgres://honeydue_app:{CANARY}@db.vendor.net/honeydue",
        ]
        yield iter(lines)


def _version(thing: Json) -> str:
    return str(thing["metadata"]["resourceVersion"])


@dataclass
class Operator:
    """At the keyboard of that production: types, reads."""

    production: Production
    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]
    read: str = ""
    out: str = ""

    def __call__(self, *words: str, types: str | None = None) -> int:
        typed = io.StringIO((types or "") + "\n")
        if types is not None:
            typed.isatty = lambda: True  # type: ignore[method-assign]
        self.monkeypatch.setattr(sys, "stdin", typed)
        code = main([*words, "--stack", "prod"])
        said = self.capfd.readouterr()
        self.out, self.read = said.out, said.out + said.err
        assert CANARY not in self.read
        assert "Traceback" not in self.read
        return code

    def says(self, *parts: str) -> None:
        """Each of these is read, in this order, line breaks aside."""
        text, at = " ".join(self.read.split()), 0
        for part in parts:
            found = text.find(part, at)
            assert found >= 0, f"{part!r} is not read after {at}:\n{self.read}"
            at = found + len(part)


def checked(
    name: str = "api",
    why: str = "",
    status: int | None = 200,
    ms: int = 41,
    on_the_way: bool = False,
) -> Checked:
    mend = "python -m ops logs api" if why else ""
    url = URLS[name] + ("/api/health/" if name == "api" else "/")
    return Checked(
        name=name, url=url, status=status, ms=ms, why=why, mend=mend, on_the_way=on_the_way
    )


def afterwards(production: Production, then: Checked) -> Callable[[], list[Checked]]:
    """The URLs are well until there is another run, and then answer so."""
    runs = len(production.runs)
    return lambda: [then] if len(production.runs) > runs else well_all()


def well_all() -> list[Checked]:
    return [checked("api"), checked("admin")]


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Production:
    """Release 1 (0a1b2c3) and 2 (1a2b3c4) went well, and 237c6b8 is checked out."""
    made = Production(tmp_path)
    made.env.parent.mkdir()
    made.env.write_text(sample.env_text())
    secret = {"metadata": {"name": made.secret}, "data": {}}
    made.objects["secrets"] = {made.secret: secret}
    for tag in ("0a1b2c3", "1a2b3c4"):
        made.images = {service: pin(service, tag) for service in SERVICES}
        made.up(f"deploy {tag}\n\nBy: trey@laptop", lambda _line: None)
    made.images, made.said = {}, []
    engine = FakeEngine(made)
    monkeypatch.setattr(Engine, "find", staticmethod(lambda *_: engine))

    def api(_engine: Engine, outputs: Mapping[str, Any] | None = None) -> Api:
        if not (engine.outputs() if outputs is None else outputs).get("kubeconfig"):
            raise refused("there is no cluster", "up makes it")
        return FakeApi(made)

    monkeypatch.setattr(Api, "of", staticmethod(api))
    monkeypatch.setattr(rollout, "Watching", partial(Watching, every=0.01))
    # How long this machine takes is not what is tested: a release takes no time here.
    monkeypatch.setattr(rollout, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr("ops.urls.check", lambda *_, **__: (made.urls or well_all)())
    well = Check(name="settings", outcome="ok", said="deploy/prod.env and the stack's file")
    monkeypatch.setattr("ops.preflight.check", lambda _asked: [well])
    monkeypatch.setattr(
        "honeydue.images.checkout.read", lambda *_, **__: SimpleNamespace(tag=made.head)
    )
    monkeypatch.setattr(
        rollback,
        "gone",
        lambda _registry, _namespace, _of: {
            service: {found for each, found in made.missing if each == service}
            for service in SERVICES
        },
    )
    return made


@pytest.fixture
def ops(
    production: Production, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Operator:
    return Operator(production, monkeypatch, capfd)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)
