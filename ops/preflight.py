"""What could stop a release is found out before it begins: every check at once, all of them told.

Nothing here changes anything. A check asks what the run itself will ask, of the same server with
the same credential, and is given five seconds for it.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.text import Text

from honeydue import rules
from honeydue.images import checkout, plan
from honeydue.images.references import SERVICES, path_of, tag_and_digest
from honeydue.images.registry import Login, Registry, RegistryError, nearest
from honeydue.kubernetes.capacity import Need, place
from honeydue.kubernetes.catalogue import WORKLOADS
from honeydue.problems import SettingsError, Wrong
from honeydue.settings import Settings, parse
from ops import hooks
from ops.api import LISTS, Api
from ops.commits import same_commit
from ops.desired import Desired
from ops.diagnosis import dig, is_ready, items, text
from ops.engine import CLOUDFLARE, Engine, WrongPassphrase
from ops.problems import Problem, Refused
from ops.quantities import quantity
from ops.stack_settings import StackSettings
from ops.status import Cluster, members

Outcome = Literal["ok", "warning", "failed", "skipped"]
Answer = TypeVar("Answer")

SECONDS: Final = 5.0  # that any one server is given
_PATIENCE: Final = 2.5  # seconds in which a registry that answers with an error is asked again
_AT_MOST: Final = 60.0  # for a check as a whole: git, and the engine's own processes, are local
HETZNER: Final = "https://api.hetzner.cloud/v1"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is about to be done. `wanted`: what the settings will say; they are read here, since
    that they cannot be read is one of the findings."""

    engine: Engine
    wanted: Callable[[StackSettings], Desired] = Desired.of
    sha: str = ""  # the commit to build; "": whichever is checked out
    services: Sequence[str] = SERVICES  # that may roll
    take_over: bool = False  # the engine's lock of a run that is gone will be removed
    hotfix: bool = False  # one service is mended: what is no obstacle to that is a warning


@dataclass(frozen=True, kw_only=True)
class Check:
    name: str
    outcome: Outcome
    said: str  # what was found, or why it was skipped
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0


def check(asked: Asked) -> list[Check]:
    """In the order in which they are told. Never raises Refused."""
    return _Preflight(asked).run()


def refuse(checks: Sequence[Check]) -> None:
    """Raises Refused with everything that failed."""
    problems = [
        problem for each in checks if each.outcome != "warning" for problem in each.problems
    ]
    if problems:
        raise Refused(*dict.fromkeys(problems))


def show(checks: Sequence[Check], console: Console) -> None:
    """A line a check. The causes come with the refusal."""
    width = max(len(each.name) for each in checks)
    colours = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
    for each in checks:
        line = Text("  ").append(f"{each.outcome:<8}", style=colours[each.outcome])
        line.append(f"{each.name:<{width}}  {each.seconds:>4.1f} s  {each.said}")
        console.print(line, soft_wrap=True)


# --- how they are run ---------------------------------------------------------------------------


class _Skipped(Exception):  # noqa: N818 - nothing failed
    """Why there is nothing to check."""


class _Failed(Exception):  # noqa: N818 - what a check is for
    def __init__(self, said: str, *problems: Problem) -> None:
        super().__init__(said)
        self.said = said
        self.problems = problems


class _Needs(Exception):  # noqa: N818 - another check tells it
    """What this check begins with is not there."""


def _begun(work: Callable[[], Answer]) -> Future[Answer]:
    """In a thread that holds nobody up: a server that never answers may keep it."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as cause:
            future.set_exception(cause)

    threading.Thread(target=run, name="preflight", daemon=True).start()
    return future


def _judged(work: Callable[[], str]) -> tuple[Outcome, str, tuple[Problem, ...], float]:
    began = time.monotonic()
    problems: tuple[Problem, ...] = ()
    outcome: Outcome = "ok"
    try:
        said = work()
    except (_Skipped, _Needs) as cause:
        outcome, said = "skipped", str(cause)
    except _Failed as cause:
        outcome, said, problems = "failed", cause.said, cause.problems
    except Refused as cause:
        outcome, said, problems = "failed", cause.problems[0].what, cause.problems
    own = time.monotonic() - began - getattr(_waited, "seconds", 0.0)
    return outcome, said, problems, own


_waited = threading.local()
"""How long a check's thread has waited for what several begin with: no time of its own."""


def _awaited(future: Future[Answer]) -> Answer:
    began = time.monotonic()
    try:
        return future.result()
    finally:
        _waited.seconds = getattr(_waited, "seconds", 0.0) + time.monotonic() - began


@dataclass(frozen=True)
class _Read:
    """The settings, as they will be. `settings` None: they are not right; `problems` say why."""

    stack: StackSettings = field(repr=False)
    wanted: Desired = field(repr=False)
    settings: Settings | None = field(repr=False)
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Live:
    """What the cluster says. `lists` is empty when no API server lists anything."""

    cluster: Cluster
    outputs: Mapping[str, Any] = field(repr=False)


class _Preflight:
    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._engine = asked.engine
        self._read = _begun(self._read_settings)
        self._environment = _begun(asked.engine.environment)
        self._outputs = _begun(asked.engine.outputs)
        self._live = _begun(self._read_cluster)

    def run(self) -> list[Check]:
        checks: dict[str, Callable[[], str]] = {
            "passphrase": self._passphrase,
            "settings": self._settings,
            "hooks": self._hooks,
            "checkout": self._checkout,
            "builder": self._builder,
            "registry": self._registry,
            "images": self._images,
            "cloudflare": self._cloudflare,
            "hetzner": self._hetzner,
            "other runs": self._other_runs,
            "cluster": self._members,
            "paused": self._paused,
            "capacity": self._capacity,
        }
        limit = time.monotonic() + _AT_MOST
        begun = {name: _begun(partial(_judged, work)) for name, work in checks.items()}
        found = []
        for name, future in begun.items():
            try:
                outcome, said, problems, seconds = future.result(max(0, limit - time.monotonic()))
                if outcome == "failed" and self._asked.hotfix and self._may_wait(name):
                    outcome = "warning"
            except NotInTime:
                said = f"not done within {_AT_MOST:g} s"
                again = Problem(f"{name}: {said}", "run the same again; python -m ops status")
                outcome, problems, seconds = "failed", (again,), _AT_MOST
            found.append(
                Check(name=name, outcome=outcome, said=said, problems=problems, seconds=seconds)
            )
        return found

    def _may_wait(self, name: str) -> bool:
        """A server that is lost is no reason to leave users without a hotfix: while an API server
        is well, so is etcd's quorum. Whether there is room `capacity` says."""
        return name == "hetzner" or (name == "cluster" and self._live.exception() is None)

    # What several of them begin with

    def _read_settings(self) -> _Read:
        stack = StackSettings.of(self._engine)
        wanted = self._asked.wanted(stack)
        images = {service: pin for service, pin in wanted.pins.items() if pin}
        values = {**stack.configured.values, "images": images}
        values.pop("envFile", None)
        try:
            settings = parse(
                self._engine.stack,
                values,
                wanted.env,
                stack.env_name,
                secret_keys=stack.configured.secret_keys,
            )
        except SettingsError:
            told = stack.problems(env=wanted.env, sections={"images": images})
            return _Read(stack, wanted, None, tuple(told))
        return _Read(stack, wanted, settings, ())

    def _stack(self) -> _Read:
        try:
            return _awaited(self._read)
        except Refused:
            raise _Needs("the settings cannot be read") from None

    def _right(self) -> Settings:
        settings = self._stack().settings
        if settings is None:
            raise _Needs("the settings are not right")
        return settings

    def _read_cluster(self) -> _Live:
        try:
            outputs = self._outputs.result()
        except Refused:
            if self._read.exception() is not None:  # told by that one
                raise _Needs("the stack cannot be read") from None
            raise
        if not outputs.get("kubeconfig"):
            raise _Skipped("the stack was never deployed")
        with Api.of(self._engine, outputs) as api:
            asked = {each: _begun(partial(api.health, each)) for each in api.nodes}
            health = [each.result() for each in asked.values()]
            if all(each.fault for each in health):
                raise _Failed(
                    "no API server answers",
                    Problem(
                        "no API server is well: "
                        + "; ".join(f"{each.node} {each.fault}" for each in health),
                        "python -m ops status; if the nodes are up, compare this machine's public "
                        "address with operator.apiCidrs in the settings",
                    ),
                )
            api.prefer([each.node for each in health if not each.fault])
            paths = {
                "nodes": "/api/v1/nodes",
                "pods": "/api/v1/pods",
                "deployments": LISTS["deployments"],
            }
            listing = {name: _begun(partial(api.list, at)) for name, at in paths.items()}
            lists = {name: each.result() for name, each in listing.items()}
        cluster = Cluster(health=health, lists=lists, findings=(), logs={}, unreadable=())
        return _Live(cluster, outputs)

    def _lists(self) -> Mapping[str, Sequence[Any]]:
        """For what only makes sense when the cluster answers; `cluster` tells why it does not."""
        try:
            return _awaited(self._live).cluster.lists or {}
        except (_Failed, Refused):
            raise _Needs("the cluster does not answer") from None

    # The checks

    def _passphrase(self) -> str:
        try:
            self._read.result()
        except WrongPassphrase:
            raise
        except Refused:
            raise _Skipped("the settings cannot be read") from None
        return "it opens the stack's secrets"

    def _settings(self) -> str:
        try:
            read = _awaited(self._read)
        except WrongPassphrase:
            raise _Skipped("they are encrypted") from None
        if read.problems:
            count = f"{len(read.problems)} problem{'s' if len(read.problems) > 1 else ''}"
            raise _Failed(f"the program would refuse them: {count}", *read.problems)
        return f"{read.stack.env_name} and the stack's file"

    def _hooks(self) -> str:
        hooks.check(self._engine.folder)
        found = [name for name in hooks.NAMES if hooks.find(name, self._engine.folder)]
        return ", ".join(found) or "none"

    def _checkout(self) -> str:
        settings = self._right()
        if not settings.built:
            raise _Skipped("nothing is built")
        assert settings.app is not None  # the settings see to it
        path = self._engine.folder / settings.app.path
        try:
            found = checkout.read(path, allow_dirty=settings.image.allow_dirty)
        except checkout.CheckoutError as cause:
            raise _Failed(cause.wrong, Problem(cause.wrong, cause.mend)) from None
        wanted = self._asked.sha
        if wanted and not same_commit(found.tag, wanted):
            said = f"{path} is at {found.tag}, and {wanted} was asked for"
            raise _Failed(said, Problem(said, f"git -C {path} checkout {wanted}"))
        if "Dockerfile" not in found.times:
            said = f"{path} has no Dockerfile at its root"
            raise _Failed(said, Problem(said, f"git -C {path} add Dockerfile, and commit it"))
        return f"{found.tag} in {settings.app.path}; builds {', '.join(settings.built)}"

    def _builder(self) -> str:
        settings = self._right()
        if not settings.built:
            raise _Skipped("nothing is built")
        environment = _awaited(self._environment)
        wrong = [
            Problem(f"{each.key} {each.wrong}", each.mend)
            for each in plan.wrong_here(settings, environment)
        ]
        if not wrong:
            wrong = [*_silent_builder(settings, environment)]
        if wrong:
            raise _Failed(wrong[0].what, *wrong)
        return f"{settings.image.builder} and trivy"

    def _registry(self) -> str:
        read = self._stack()
        given = read.stack.section("registry")
        keys = ("server", "namespace", "username", "token")
        if not all(isinstance(given.get(key), str) and given[key] for key in keys):
            raise _Needs("the settings are not right")
        pushes = read.settings.built if read.settings is not None else ()
        if not pushes:
            _skip_unplayed(given["server"])
        try:
            with _registry(given) as registry:
                for service in SERVICES:
                    registry.tags(path_of(given["namespace"], service))
                for service in pushes:
                    registry.may_push(path_of(given["namespace"], service))
        except RegistryError as cause:
            raise _registry_failed(cause) from None
        return f"{given['server']} {'takes pushes' if pushes else 'answers'}"

    def _images(self) -> str:
        settings = self._right()
        pins = {s: pin for s, pin in self._stack().wanted.pins.items() if pin}
        if not pins:
            raise _Skipped("all are built")
        given = self._stack().stack.section("registry")
        _skip_unplayed(settings.registry.server)
        missing: list[Problem] = []
        try:
            with _registry(given) as registry:
                for service, pin in pins.items():
                    missing += _missing(registry, settings, service, pin)
        except RegistryError:
            raise _Needs("the registry does not answer") from None
        if missing:
            raise _Failed(missing[0].what, *missing)
        return f"{', '.join(pins)} {'are' if len(pins) > 1 else 'is'} in the registry"

    def _cloudflare(self) -> str:
        read = self._stack().stack
        token = read.configured.values.get("cloudflareToken")
        if not isinstance(token, str) or not _is(rules.cloudflare_token, token):
            raise _Needs("the settings are not right")
        base = _awaited(self._environment).get("CLOUDFLARE_BASE_URL") or CLOUDFLARE
        vendor = _Vendor("Cloudflare", base, token)
        answer = vendor.get("/user/tokens/verify")
        if answer.status_code in (400, 401, 403):
            # It knows users' tokens only; one that an account owns is as good for its zone.
            zone = str(read.section("dns").get("zoneId", ""))
            if re.fullmatch("[0-9a-f]{32}", zone) and vendor.get(f"/zones/{zone}").is_success:
                return "answers, and the token opens the zone"
            raise vendor.wrong_token(answer, "https://dash.cloudflare.com/profile/api-tokens")
        vendor.expect(answer)
        status = text(dig(_json(answer), "result", "status"))
        if status != "active":
            raise vendor.wrong_token(
                answer, "https://dash.cloudflare.com/profile/api-tokens", f"is {status or 'odd'}"
            )
        return "answers, and the token is active"

    def _hetzner(self) -> str:
        token = self._stack().stack.configured.values.get("hcloudToken")
        if not isinstance(token, str) or not _is(rules.hcloud_token, token):
            raise _Needs("the settings are not right")
        base = _awaited(self._environment).get("HCLOUD_ENDPOINT") or HETZNER
        vendor = _Vendor("Hetzner", base, token)
        answer = vendor.get("/ssh_keys?per_page=1")  # as light as any that asks who one is
        if answer.status_code in (401, 403):
            raise vendor.wrong_token(answer, "https://console.hetzner.cloud, Security, API tokens")
        vendor.expect(answer)
        return "answers, and the token is good"

    def _other_runs(self) -> str:
        holders = self._engine.holders()
        if holders is None:
            raise _Skipped("the state is in a bucket, whose locks no verb shows")
        gone = [each for each in holders if each.endswith("that process is gone")]
        busy = [each for each in holders if each not in gone]
        if busy:
            said = f"the stack is at work: {'; '.join(busy)}"
            mend = "wait until that has ended, and run the same again"
            if not all(f"@{socket.gethostname()} (pid " in each for each in busy):
                # Of elsewhere nobody here can tell whether it is alive, so --take-over leaves it.
                mend += f"; if nobody is at work: {_cancel(self._engine)}, then the same again"
            raise _Failed(said, Problem(said, mend))
        if gone and not self._asked.take_over:
            said = f"a run left its lock behind: {'; '.join(gone)}"
            raise _Failed(said, Problem(said, "run the same with --take-over"))
        return "a lock that was left behind will be removed" if gone else "none"

    def _members(self) -> str:
        live = self._live.result()
        nodes, etcd, problems = members(live.outputs, live.cluster)
        if problems:
            raise _Failed(problems[0].what, *problems)
        return f"{len(nodes)} nodes Ready; etcd: {etcd}"

    def _paused(self) -> str:
        paused = [
            name
            for each in self._lists().get("deployments", ())
            if (name := text(dig(each, "metadata", "name"))) in self._asked.services
            and dig(each, "spec", "paused") is True
        ]
        if paused:
            raise _Failed(
                f"{' and '.join(paused)} {'are' if len(paused) > 1 else 'is'} paused",
                *(
                    Problem(
                        f"{name} is paused: `up` would wait for its rollout in vain",
                        f"python -m ops resume {name}",
                    )
                    for name in paused
                ),
            )
        return "nothing is"

    def _capacity(self) -> str:
        lists = self._lists()
        rolling = [each for each in WORKLOADS if each.name in self._asked.services]
        surge = [
            Need(owner=each.name, cpu_millis=each.cpu_millis, memory_mib=each.memory_mib)
            for each in rolling
            for _ in range(each.surge)
        ]
        if not surge:
            raise _Skipped("nothing that rolls needs more room than it has")
        free = free_on(lists.get("nodes", ()), lists.get("pods", ()))
        if not free:
            raise _Skipped("no node that is Ready says how much it can take")
        homeless = place(surge, list(free.values()))
        room = ", ".join(f"{name} {cpu}m and {memory} MiB" for name, (cpu, memory) in free.items())
        if homeless is not None:
            said = (
                f"one more pod of {homeless.owner} ({homeless.cpu_millis}m CPU, "
                f"{homeless.memory_mib} MiB) fits on no node"
            )
            mend = "bring back the node that is missing (python -m ops status), or end something"
            raise _Failed(said, Problem(f"{said}; free: {room}", mend))
        return f"one more pod of {' and '.join(each.owner for each in surge)} fits"


def _cancel(engine: Engine) -> str:
    if engine.kind == "pulumi":
        return f"pulumi cancel --stack {engine.stack} --yes"
    return f"python -m rehearsal cancel --stack {engine.stack}"


# --- builder and registry -----------------------------------------------------------------------


def _silent_builder(settings: Settings, environment: Mapping[str, str]) -> Iterator[Problem]:
    """buildx's own record of a remote builder says where it is; plan.wrong_here has seen it."""
    if settings.image.driver != "remote":
        return
    file = plan.builder_file(settings.image.builder, environment)
    try:
        nodes = json.loads(file.read_text()).get("Nodes") or ()
    except (OSError, ValueError, AttributeError):
        return  # buildx will say it better
    for node in nodes:
        endpoint = text(dig(node, "Endpoint"))
        if (silent := _no_connection(endpoint)) is not None:
            yield Problem(
                f"the builder {settings.image.builder} does not answer at {endpoint}: {silent}",
                f"start its buildkitd; docker buildx inspect {settings.image.builder} shows it",
            )


def _no_connection(endpoint: str) -> str | None:
    """Why there is none; None: there is one, or it is spoken to in some other way (ssh://…)."""
    at = urlsplit(endpoint)
    try:
        if at.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(SECONDS)
                one.connect(at.path)
        elif at.scheme == "tcp" and at.hostname and at.port:
            socket.create_connection((at.hostname, at.port), SECONDS).close()
    except TimeoutError:
        return f"no answer within {SECONDS:g} s"
    except OSError as cause:
        return cause.strerror or type(cause).__name__
    except ValueError:
        return "that is no address"
    return None


def _skip_unplayed(server: str) -> None:
    """A rehearsal without IMAGES=1 has a registry's name and no registry: no name in .test is
    anybody's (RFC 6761)."""
    if server.endswith(".test"):
        raise _Skipped(f"{server} is a rehearsal's, which plays no registry without IMAGES=1")


def _registry(given: Mapping[str, Any]) -> Registry:
    login = Login(given["username"], given["token"])
    return Registry(given["server"], login, timeout=SECONDS, patience=_PATIENCE)


def _registry_failed(cause: RegistryError) -> _Failed:
    return _Failed(cause.why, Problem(cause.why, cause.mend))


def _missing(registry: Registry, settings: Settings, service: str, pin: str) -> Iterator[Problem]:
    """The image of a pin, when the registry does not have it."""
    tag, digest = tag_and_digest(pin)
    repository = path_of(settings.registry.namespace, service)
    if registry.digest(repository, digest or tag) is not None:
        return
    near = nearest(tag or pin, registry.tags(repository))
    there = f"there are {', '.join(near)}" if near else "there is no other"
    yield Problem(
        f"{service}: {settings.registry.server}/{repository} does not have {pin}; {there}",
        "python -m ops releases shows what can still be run; python -m ops deploy builds anew",
    )


# --- vendors ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Vendor:
    name: str
    base: str
    token: str = field(repr=False)

    def get(self, path: str) -> httpx.Response:
        try:
            return httpx.get(
                f"{self.base.rstrip('/')}{path}",
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=SECONDS,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as cause:
            slow = isinstance(cause, httpx.TimeoutException)
            why = f"no answer within {SECONDS:g} s" if slow else _line(str(cause))
            raise self._down(why or type(cause).__name__) from None

    def expect(self, answer: httpx.Response) -> None:
        if not answer.is_success:
            raise self._down(f"it answers {answer.status_code}")

    def wrong_token(self, answer: httpx.Response, where: str, found: str = "") -> _Failed:
        key = f"honeydue:{'cloudflareToken' if self.name == 'Cloudflare' else 'hcloudToken'}"
        said = f"{self.name} does not take the token of {key}"
        why = f"it {found}" if found else f"it answers {answer.status_code}"
        mend = f"make one at {where}, then: pulumi config set --secret {key}"
        return _Failed(f"{said}: {why}", Problem(f"{said}: {why}", mend))

    def _down(self, why: str) -> _Failed:
        host = urlsplit(self.base).netloc
        said = f"{self.name} cannot be reached at {host}: {why}"
        page = {"Cloudflare": "https://www.cloudflarestatus.com"}.get(
            self.name, "https://status.hetzner.com"
        )
        return _Failed(said, Problem(said, f"look at this machine's network, and at {page}"))


def _is(rule: Callable[[str], None], token: str) -> bool:
    """One that is none is not sent: httpx would quote it in its error."""
    try:
        rule(token)
    except Wrong:
        return False
    return True


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _line(said: str) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", " ".join(said.split()))


# --- capacity -----------------------------------------------------------------------------------


def free_on(nodes: Sequence[Any], pods: Sequence[Any]) -> dict[str, tuple[int, int]]:
    """Of each node that takes pods: CPU in thousandths and MiB that no pod has asked for. Nodes
    that do not say what they have are left out."""
    free: dict[str, tuple[int, int]] = {}
    for node in nodes:
        has = dig(node, "status", "allocatable")
        cpu, memory = quantity(dig(has, "cpu")), quantity(dig(has, "memory"))
        takes = is_ready(node) and dig(node, "spec", "unschedulable") is not True
        if takes and cpu is not None and memory is not None:
            free[text(dig(node, "metadata", "name"))] = (int(cpu * 1000), int(memory) >> 20)
    for pod in pods:
        node_name = text(dig(pod, "spec", "nodeName"))
        if node_name in free and text(dig(pod, "status", "phase")) not in ("Succeeded", "Failed"):
            cpu_free, memory_free = free[node_name]
            cpu_asked, memory_asked = _requests(pod)
            free[node_name] = (cpu_free - cpu_asked, memory_free - memory_asked)
    return free


def _requests(pod: Any) -> tuple[int, int]:
    """Init containers run before the others: the larger of the two counts, as for the scheduler."""

    def of(container: Any) -> tuple[int, int]:
        asked = dig(container, "resources", "requests")
        cpu, memory = quantity(dig(asked, "cpu")), quantity(dig(asked, "memory"))
        return int((cpu or 0) * 1000), -(-int(memory or 0) >> 20)

    running = [of(each) for each in items(dig(pod, "spec", "containers"))]
    before = [of(each) for each in items(dig(pod, "spec", "initContainers"))]
    return tuple(  # type: ignore[return-value]
        max(sum(each[i] for each in running), *(each[i] for each in before), 0) for i in (0, 1)
    )
