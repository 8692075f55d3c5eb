"""From a one-line change in the application to its pods being ready: `up`, and the book by hand.

Both run on one home with images: the same registry, builder and cluster, turn by turn, each with a
checkout and changes of its own, so that neither finds in a cache what the other has just built.
Where a rehearsal differs from the book's commands is told on the page (bench/page.py).

The split comes from what is there anyway, after the clock has stopped: the engine's own record of
its steps, BuildKit's history of the builds, and what the gates printed.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rehearsal import images, serve
from rehearsal.cluster import binaries as cluster_binaries
from rehearsal.engine.deployment import Deployment, Project
from rehearsal.engine.state import Backend
from rehearsal.engine.values import plain
from rehearsal.home import REPOSITORY, Home
from rehearsal.registry import binaries as registry_binaries
from rehearsal.registry import service
from rehearsal.registry.gitea import USER
from rehearsal.timeline import Step, critical_path, steps_of

Figures = dict[str, Any]
Change = Callable[[], None]

STACK: Final = "rehearsal"
SERVICES: Final = ("api", "worker", "admin")
NAMESPACE: Final = "honeydue"
BY_HAND: Final = "by-hand"
"""The namespace of the Deployments that are rolled by hand: those of the program are its own."""
PATIENCE: Final = 60.0  # seconds until an admission policy's change is in force


@dataclass(frozen=True)
class Scenario:
    """`file` gets one more `line`; none: nothing is committed. `cold`: the builder is emptied,
    Go's cache with it; `cached`: the registry's layer cache may stay. `by_hand_as`: the scenario
    that is the same by hand, and is not measured twice."""

    file: str = ""
    line: str = ""
    cold: bool = False
    cached: bool = True
    by_hand_as: str = ""


_API: Final = ("api/main.go", 'func init() {{ println("change", {0}) }}')
SCENARIOS: Final[Mapping[str, Scenario]] = {
    "api": Scenario(*_API),
    "admin": Scenario("admin/panel/index.html", "<!-- change {0} -->"),
    "none": Scenario("README.md", "Change {0}."),
    "same": Scenario(),
    "cold": Scenario(*_API, cold=True),
    "empty": Scenario(*_API, cold=True, cached=False, by_hand_as="cold"),
}


def measure(home: Home, scratch: Path, rounds: int) -> Figures:
    """Every scenario, `rounds` times, each time first by the program and then by hand."""
    bench = prepare(home, scratch)
    found: Figures = {name: {way: [] for way in WAYS} for name in SCENARIOS}
    for turn in range(rounds):
        for name, scenario in SCENARIOS.items():
            for way in WAYS:
                if way == "hand" and scenario.by_hand_as:
                    measured = found[scenario.by_hand_as][way][turn]
                else:
                    measured = bench.measured(scenario, way)
                found[name][way].append(measured)
                print(f"  {turn + 1} {name} {way}: {_told(measured)}", flush=True)
    return {"scenarios": found}


def _told(run: Figures) -> str:
    split = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in run["split"].items())
    return f"{run['seconds']:.1f} s ({split}); rolled {', '.join(run['rolled']) or 'nothing'}"


@dataclass
class Bench:
    """What both ways work on."""

    home: Home
    scratch: Path
    server: str
    build_args: Mapping[str, str]
    token: str = field(repr=False)
    changes: int = 0

    @property
    def checkouts(self) -> dict[str, Path]:
        """Each way's own."""
        return {"program": images.app_folder(self.home), "hand": self.scratch / "app"}

    @property
    def environment(self) -> dict[str, str]:
        """The operator's, on their way by hand."""
        return os.environ | {
            "BUILDX_CONFIG": service.environment(self.home)["BUILDX_CONFIG"],
            "DOCKER_CONFIG": str(self.scratch / "docker"),
            "KUBECONFIG": str(self.scratch / "kubeconfig"),
        }

    def measured(self, scenario: Scenario, way: str) -> Figures:
        """One run of one way, and which Deployments it rolled."""
        if scenario.cold:
            self.buildx("prune", "--all", "--force")
            for name in SERVICES if not scenario.cached else ():
                self.forget_cache(name)
        self.changes += 1
        before = self.running()
        figures = WAYS[way](self, lambda: self.commit(scenario, self.checkouts[way]))
        after = self.running()
        return figures | {"rolled": [name for name in after if after[name] != before[name]]}

    def commit(self, scenario: Scenario, checkout: Path) -> None:
        if not scenario.file:
            return
        with (checkout / scenario.file).open("a") as out:
            out.write(scenario.line.format(self.changes) + "\n")
        who = ("-c", "user.name=bench", "-c", "user.email=bench@honeydue.test")
        message = ("--message", f"Change {self.changes}")
        said(["git", "-C", str(checkout), *who, "commit", "-qa", "--no-gpg-sign", *message])

    def buildx(
        self, verb: str, *words: str, cwd: Path | None = None, progress: bool = False
    ) -> str:
        """What it printed: its answer, or its progress, which goes to stderr."""
        tools = registry_binaries.cached()
        assert tools is not None  # the home has built with it
        order = [str(tools.buildx), *verb.split(), "--builder", images.BUILDER, *words]
        return said(order, self.environment, cwd, stderr=progress)

    def kubectl(self, *words: str, stdin: str = "") -> str:
        tools = cluster_binaries.cached()
        assert tools is not None  # the cluster runs by it
        return said([str(tools.kube("kubectl")), *words], self.environment, stdin=stdin)

    @property
    def login(self) -> str:
        """User and token, as HTTP and Docker's configuration have them."""
        return base64.b64encode(f"{USER}:{self.token}".encode()).decode()

    def image(self, name: str) -> str:
        return f"{self.server}/{USER}/honeydue-{name}"

    def running(self) -> dict[str, str]:
        """`<namespace>/<deployment>` → image; SystemExit unless all of its pods are ready."""
        found = {}
        for namespace in (NAMESPACE, BY_HAND):
            listed = json.loads(self.kubectl("get", "deployments", "-n", namespace, "-o", "json"))
            for one in listed["items"]:
                name, status = one["metadata"]["name"], one["status"]
                wanted = one["spec"]["replicas"]
                counts = [status.get(f"{k}Replicas") for k in ("updated", "ready", "available")]
                if counts != [wanted] * 3:
                    raise SystemExit(f"{namespace}/{name} is not rolled out: {counts} of {wanted}")
                found[f"{namespace}/{name}"] = one["spec"]["template"]["spec"]["containers"][0][
                    "image"
                ]
        return found

    def request(self, method: str, path: str, accept: Sequence[int] = ()) -> None:
        login = base64.b64encode(f"admin:{self.token}".encode()).decode()
        asked = urllib.request.Request(
            f"http://{self.server}{path}",
            method=method,
            headers={"Authorization": f"Basic {login}"},
        )
        try:
            urllib.request.urlopen(asked, timeout=30).close()
        except urllib.error.HTTPError as error:
            with error:
                if error.code not in accept:
                    raise SystemExit(f"the registry answers {error.code} to {path}") from None

    def forget_cache(self, name: str) -> None:
        path = f"/api/v1/packages/{USER}/container/honeydue-{name}/buildcache"
        self.request("DELETE", path, accept=(404,))

    def builds(self, since: datetime) -> dict[str, Figures]:
        """Service → what BuildKit recorded of its build since then."""
        found = {}
        for line in self.buildx("history ls", "--format", "json").splitlines():
            listed = json.loads(line)
            name = listed["name"].rpartition("(")[2].rstrip(")")
            if _moment(listed["created_at"]) >= since and name in SERVICES:
                ref = listed["ref"].rpartition("/")[2]
                log = self.buildx("history logs", "--progress", "rawjson", ref, progress=True)
                found[name] = phases(json.loads(one) for one in log.splitlines() if one)
        return found


# --- by the program ------------------------------------------------------------------------------


def by_program(bench: Bench, change: Change) -> Figures:
    since, began = datetime.now(UTC), time.monotonic()
    change()
    _rehearsal(bench.home, "up", "--yes", "--skip-preview")
    seconds = time.monotonic() - began
    split = split_of_last_up(bench, since)
    return {"seconds": seconds, "split": split | {"rest": seconds - sum(split.values())}}


def split_of_last_up(bench: Bench, since: datetime) -> dict[str, float]:
    """Where its seconds went; `since`: it was begun then. Empty when it changed nothing."""
    engine = _engine(bench.home)
    if not engine.history()[0]["resourceChanges"].keys() - {"same"}:
        return {}
    raw = engine.backend.last_up(engine.project.name, STACK)
    # A gate's old half is deleted at the very end: with it its step would last the whole run.
    steps = steps_of([one for one in raw if one["op"] != "delete-replaced"])
    resources = engine.resources()
    path = critical_path(steps, {r.urn: r.references for r in resources})
    printed = {r.urn: str(plain(r.outputs.get("stderr", ""))) for r in resources}
    return split_of([steps[urn] for urn in path if urn in steps], bench.builds(since), printed)


def split_of(
    path: Sequence[Step], builds: Mapping[str, Figures], printed: Mapping[str, str]
) -> dict[str, float]:
    """Phase → seconds, of the steps that lie one after the other on the critical path.

    `builds` as of `Bench.builds`; `printed`: what each gate wrote to stderr. Of the time of a
    build's step that BuildKit does not account for (buildx starts, the context is hashed) `build`
    gets the rest; of a gate's step (Python starts) `gates` does.
    """
    split = dict.fromkeys(PHASES, 0.0)
    for step in path:
        kind, _, name = step.urn.rpartition("::")[2].partition("-")
        if kind == "images" and name in SERVICES:
            split["push"] += builds[name]["push"]
            split["cache"] += builds[name]["cache"]
            split["build"] += step.seconds - builds[name]["push"] - builds[name]["cache"]
        elif kind == "release":
            timed = _timed(printed.get(step.urn, ""))
            split["scan"] += timed.get("scan", 0.0)
            split["sign"] += timed.get("attest", 0.0) + timed.get("sign", 0.0)
            split["verify"] += timed.get("verify", 0.0)
            split["gates"] += step.seconds - sum(timed.values())
        elif kind == "workloads":
            split["rollout"] += step.seconds
    return split


PHASES: Final = ("build", "push", "cache", "scan", "sign", "verify", "gates", "rollout")


def _timed(printed: str) -> dict[str, float]:
    """The gate's own lines: `scan 3.1 s`."""
    found: dict[str, float] = {}
    for line in printed.splitlines():
        match line.split():
            case ["scan" | "attest" | "sign" | "verify" as phase, seconds, "s"]:
                found[phase] = float(seconds)
    return found


_TOLD: Final = {"pushing layers": "push", "pushing manifest": "push", "exporting cache": "cache"}


def phases(statuses: Iterator[Figures]) -> dict[str, float]:
    """Seconds of `push` and `cache` of one build, from BuildKit's raw progress."""
    spans: dict[str, list[datetime]] = {"push": [], "cache": []}
    for status in statuses:
        told = [(str(vertex["name"]), vertex) for vertex in status.get("vertexes") or ()]
        told += [(str(step["id"]), step) for step in status.get("statuses") or ()]
        for words, one in told:
            phase = next((phase for begin, phase in _TOLD.items() if words.startswith(begin)), "")
            if phase and one.get("started") and one.get("completed"):
                spans[phase] += [_moment(one["started"]), _moment(one["completed"])]
    return {
        phase: (max(at) - min(at)).total_seconds() if at else 0.0 for phase, at in spans.items()
    }


def _moment(text: str) -> datetime:
    """BuildKit's nanoseconds are more than Python reads."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6].ljust(6, '0')}+00:00")


# --- by hand -------------------------------------------------------------------------------------


def by_hand(bench: Bench, change: Change, services: Sequence[str] = SERVICES) -> Figures:
    """The book's chapter 14, command by command, one after the other."""
    split: dict[str, float] = {}

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        split[phase] = split.get(phase, 0.0) + time.monotonic() - began

    since, began = datetime.now(UTC), time.monotonic()
    change()
    checkout = bench.checkouts["hand"]
    tag = said(["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]).strip()
    with timed("login"):
        _login(bench)
    for name in services:
        with timed("build"):
            bench.buildx(
                "build",
                *(f"--build-arg={key}={value}" for key, value in bench.build_args.items()),
                *("--platform", "linux/amd64", "--target", name),
                *("-t", f"{bench.image(name)}:{tag}", "--push", "."),
                cwd=checkout,
            )
    with timed("rollout"):
        for name in services:
            image = f"{name}={bench.image(name)}:{tag}"
            bench.kubectl("set", "image", f"deployment/{name}", "-n", BY_HAND, image)
        for name in services:
            bench.kubectl("rollout", "status", "-n", BY_HAND, f"deployment/{name}")
    with timed("login"):
        (bench.scratch / "docker" / "config.json").unlink()
    seconds = time.monotonic() - began
    split["push"] = sum(build["push"] for build in bench.builds(since).values())
    split["build"] -= split["push"]
    return {"seconds": seconds, "split": split | {"rest": seconds - sum(split.values())}}


def _login(bench: Bench) -> None:
    """What `docker login` does, which is not here: asks whether the token opens, and notes it."""
    bench.request("GET", "/v2/token?service=container_registry&scope=*")
    file = bench.scratch / "docker" / "config.json"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_text(json.dumps({"auths": {bench.server: {"auth": bench.login}}}))


WAYS: Final[Mapping[str, Callable[[Bench, Change], Figures]]] = {
    "program": by_program,
    "hand": by_hand,
}


# --- the surroundings ----------------------------------------------------------------------------


def prepare(home: Home, scratch: Path) -> Bench:
    """A production with images, and a second set of Deployments for the way by hand; both ways
    have run once, unmeasured."""
    print("  a registry, a builder and the production", flush=True)
    images.turn_on(home, lambda _line: None)
    _rehearsal(home, "up", "--yes", "--skip-preview")
    status = serve.wait_for_registry(home, PATIENCE, lambda _line: None)
    secrets = json.loads((service.folder_of(home) / "gitea" / "secrets.json").read_text())
    token = secrets["tokens"]["write"]
    bench = Bench(home, scratch, status["server"], status["build_args"], token)
    kubeconfig = scratch / "kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(_rehearsal(home, "stack", "output", "kubeconfig", "--show-secrets"))
    bench.kubectl("create", "namespace", BY_HAND)
    read = json.loads(bench.kubectl("get", "configmaps,secrets", "-n", NAMESPACE, "-o", "json"))
    for one in read["items"]:
        mine = {**one, "metadata": {"name": one["metadata"]["name"]}}
        bench.kubectl("apply", "-n", BY_HAND, "-f", "-", stdin=json.dumps(mine))
    for name in SERVICES:
        found = bench.kubectl("get", "deployment", name, "-n", NAMESPACE, "-o", "json")
        copy = json.dumps(_copy(json.loads(found)))
        bench.kubectl("apply", "-n", BY_HAND, "-f", "-", stdin=copy)
        bench.kubectl("rollout", "status", "-n", BY_HAND, f"deployment/{name}")
    _admit_tags(bench)
    bench.kubectl("rollout", "status", "-n", BY_HAND, "deployment/api")
    said(["git", "clone", "--quiet", *map(str, bench.checkouts.values())])
    bench.measured(SCENARIOS["api"], "hand")
    return bench


def _copy(found: Figures) -> Figures:
    """The same Deployment for the other namespace. Without its resources: the nodes have room for
    one production and a rollout, not for two."""
    spec = found["spec"]
    for container in spec["template"]["spec"]["containers"]:
        container.pop("resources", None)
    metadata = {"name": found["metadata"]["name"], "namespace": BY_HAND}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def _admit_tags(bench: Bench) -> None:
    """The book deploys by tag, which the program's admission policy refuses: not in BY_HAND."""
    selector = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [BY_HAND]}
    patch = {"spec": {"matchResources": {"namespaceSelector": {"matchExpressions": [selector]}}}}
    for binding in bench.kubectl("get", "validatingadmissionpolicybindings", "-o", "name").split():
        bench.kubectl("patch", binding, "--type", "merge", "-p", json.dumps(patch))
    folder = str(bench.checkouts["program"])
    tag = said(["git", "-C", folder, "rev-parse", "--short", "HEAD"]).strip()
    limit = time.monotonic() + PATIENCE
    while True:
        try:
            image = f"{bench.image('api')}:{tag}"
            bench.kubectl("set", "image", "deployment/api", "-n", BY_HAND, f"api={image}")
            return
        except SystemExit:
            if time.monotonic() > limit:
                raise
            time.sleep(0.5)


def _engine(home: Home) -> Deployment:
    return Deployment(Project.load(REPOSITORY, images.stack_file(home)), STACK, Backend(home.state))


def _rehearsal(home: Home, *words: str) -> str:
    environment = os.environ | {"HONEYDUE_REHEARSAL_HOME": str(home.root)}
    return said([sys.executable, "-m", "rehearsal", *words], environment, REPOSITORY)


def said(
    order: Sequence[str],
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str = "",
    stderr: bool = False,
) -> str:
    """What it printed on stdout, or on stderr. SystemExit, with its last lines, when it fails."""
    done = subprocess.run(
        order, env=environment, cwd=cwd, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise SystemExit(f"`{' '.join(order[:4])} …` ended with {done.returncode}:\n  {last}")
    return done.stderr if stderr else done.stdout
