"""A rollout as it goes: each service's pods in words, while `up` runs and after it.

`progress` is pure: Kubernetes' own JSON in, rollouts out. A boot within its startup probe's budget
is no failure, and nothing is given up before the Deployment's own deadline: Kubernetes says when
(condition Progressing, reason ProgressDeadlineExceeded).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from honeydue.images.references import TAG_ANNOTATION
from honeydue.kubernetes.catalogue import ROLLOUT_SECONDS
from ops.api import LISTS, Api
from ops.diagnosis import Events, Json, dig, is_of, items, moment, number, probe_budget, text
from ops.masking import Hide
from ops.problems import Refused

EVERY: Final = 1.0  # seconds between two looks
REVISION: Final = "deployment.kubernetes.io/revision"
_HASH: Final = "pod-template-hash"
_TRIES: Final = 3  # restarts or pulls after which a pod is called failing
_SAYS_PULL: Final = "ailed to pull"
_MIGRATION: Final = 240.0  # seconds of startup probe that the catalogue gives to who migrates
_PULLING: Final = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"}
_BROKEN: Final = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "StartError",
}

State = Literal[
    "converged", "rolling", "failed: ProgressDeadlineExceeded", "paused", "untouched", "missing"
]


@dataclass(frozen=True, kw_only=True)
class Pod:
    """`kind` stays the same while it only waits; `said` also counts the seconds."""

    name: str
    new: bool
    kind: str
    said: str
    ready: bool = False
    failing: bool = False


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """`ready` counts pods of the new revision, `serving` of any. `left`: seconds until Kubernetes
    gives the rollout up, None when it is not counting. `failing`: every new pod that is not ready
    fails again and again; it is not given up for that."""

    service: str
    state: State
    tag: str = ""
    revision: str = ""
    desired: int = 0
    updated: int = 0
    ready: int = 0
    serving: int = 0
    left: float | None = None
    failing: bool = False
    pods: tuple[Pod, ...] = ()

    @property
    def settled(self) -> bool:
        """Nothing more happens by itself."""
        return self.state != "rolling"

    @property
    def well(self) -> bool:
        return self.state in ("converged", "untouched")


# --- judging ------------------------------------------------------------------------------------


def progress(
    deployments: Sequence[Json],
    replicasets: Sequence[Json],
    pods: Sequence[Json],
    events: Sequence[Json],
    now: datetime,
    *,
    services: Sequence[str] = ("api", "worker", "admin"),
    before: Mapping[str, str] | None = None,
) -> list[Rollout]:
    """One for each of `services`. `before`: service → the revision that it had: one that has it
    still is untouched."""
    told = Events(events)
    by_name = {text(dig(each, "metadata", "name")): each for each in items(deployments)}

    def rollout(service: str) -> Rollout:
        deployment = by_name.get(service)
        newest = _newest(deployment, [each for each in items(replicasets) if is_of(each, service)])
        mine = [each for each in items(pods) if is_of(each, service)]
        views = [view for pod in mine if (view := _pod(pod, newest, told, now)) is not None]
        views.sort(key=lambda each: (not each.new, each.name))
        return _rollout(service, deployment, views, now, (before or {}).get(service, ""))

    return [rollout(service) for service in services]


def _rollout(
    service: str, deployment: Json, views: Sequence[Pod], now: datetime, before: str
) -> Rollout:
    if deployment is None:
        return Rollout(service=service, state="missing")
    status = dig(deployment, "status")
    desired = number(dig(deployment, "spec", "replicas"))
    updated = number(dig(status, "updatedReplicas"))
    condition = next(
        (x for x in items(dig(status, "conditions")) if text(dig(x, "type")) == "Progressing"), None
    )
    reason = text(dig(condition, "reason"))
    seen = _seen(deployment)
    revision = text(dig(deployment, "metadata", "annotations", REVISION))
    # As `kubectl rollout status` decides it (k8s.io/kubectl, pkg/polymorphichelpers).
    state: State = "rolling"
    if seen and reason == "ProgressDeadlineExceeded":
        state = "failed: ProgressDeadlineExceeded"
    elif (
        seen
        and updated >= desired
        and number(dig(status, "replicas")) <= updated
        and number(dig(status, "availableReplicas")) >= updated
    ):
        state = "untouched" if before and before == revision else "converged"
    elif dig(deployment, "spec", "paused") is True:
        state = "paused"
    waiting = [each for each in views if each.new and not each.ready]
    return Rollout(
        service=service,
        state=state,
        tag=text(dig(deployment, "metadata", "annotations", TAG_ANNOTATION)),
        revision=revision,
        desired=desired,
        updated=updated,
        ready=sum(each.new and each.ready for each in views),
        serving=sum(each.ready for each in views),
        left=_left(deployment, condition, now) if state == "rolling" and seen else None,
        failing=bool(waiting) and all(each.failing for each in waiting) and state == "rolling",
        pods=tuple(views),
    )


def _newest(deployment: Json, replicasets: Sequence[Json]) -> Callable[[Json], bool]:
    """Whether a pod is of the Deployment's own revision. While the controller has not seen that
    one, by what the pod runs and reads."""
    revision = text(dig(deployment, "metadata", "annotations", REVISION))
    if not _seen(deployment):
        revision = ""
    hashes = {
        text(dig(each, "metadata", "labels", _HASH))
        for each in replicasets
        if revision and text(dig(each, "metadata", "annotations", REVISION)) == revision
    } - {""}
    wanted = _ingredients(dig(deployment, "spec", "template"))

    def newest(pod: Json) -> bool:
        if hashes:
            return text(dig(pod, "metadata", "labels", _HASH)) in hashes
        return bool(_ingredients(pod) == wanted)

    return newest


def _seen(deployment: Json) -> bool:
    """Whether the controller knows of the last change."""
    asked = number(dig(deployment, "metadata", "generation"))
    return number(dig(deployment, "status", "observedGeneration")) >= asked


def _ingredients(pod: Json) -> Any:
    return [
        (dig(each, "image"), dig(each, "envFrom")) for each in items(dig(pod, "spec", "containers"))
    ]


def _left(deployment: Json, condition: Json, now: datetime) -> float | None:
    """The controller counts from the last progress (deployment/util: DeploymentTimedOut)."""
    since = moment(dig(condition, "lastUpdateTime"))
    if since is None or text(dig(condition, "reason")) == "NewReplicaSetAvailable":
        return None
    patience = number(dig(deployment, "spec", "progressDeadlineSeconds")) or ROLLOUT_SECONDS
    return max(0.0, patience - (now - since).total_seconds())


def _pod(pod: Json, newest: Callable[[Json], bool], told: Events, now: datetime) -> Pod | None:
    name, new = text(dig(pod, "metadata", "name")), newest(pod)
    phase = text(dig(pod, "status", "phase"))

    def view(kind: str, more: str = "", *, ready: bool = False, failing: bool = False) -> Pod:
        return Pod(name=name, new=new, kind=kind, said=kind + more, ready=ready, failing=failing)

    if dig(pod, "metadata", "deletionTimestamp") is not None:
        return view("ending")
    if phase in ("Failed", "Succeeded"):
        return None  # only its record is left
    conditions = {text(dig(x, "type")): x for x in items(dig(pod, "status", "conditions"))}
    placed = conditions.get("PodScheduled")
    if text(dig(placed, "status")) == "False":
        said = text(dig(placed, "message")).split(". preemption:")[0].rstrip(".")
        return view("waits for a node", f": {said}" if said else "")
    if text(dig(conditions.get("Ready"), "status")) == "True":
        return view("ready", ready=True)
    containers = [
        *items(dig(pod, "status", "initContainerStatuses")),
        *items(dig(pod, "status", "containerStatuses")),
    ]
    waiting = [each for each in containers if dig(each, "ready") is not True]
    return _container(pod, waiting[0], told, now, view) if waiting else view("being made")


def _container(
    pod: Json, status: Json, told: Events, now: datetime, view: Callable[..., Pod]
) -> Pod:
    """Of one that is not ready."""
    name = text(dig(pod, "metadata", "name"))
    reason = text(dig(status, "state", "waiting", "reason"))
    restarts = number(dig(status, "restartCount"))
    again, often = _times(restarts, "restart", "restarts"), restarts >= _TRIES
    ended = dig(status, "state", "terminated") or dig(status, "lastState", "terminated")
    code = f"exit {number(dig(ended, 'exitCode'))}"
    if reason in _PULLING or reason in _BROKEN:
        tries = max(restarts, told.count(name, "Failed", _SAYS_PULL if reason in _PULLING else ""))
        # kubelet says ErrImagePull for a moment at each try; that is no news.
        kind = "ImagePullBackOff" if reason == "ErrImagePull" else reason
        return view(kind, _times(tries, "try", "tries"), failing=tries >= _TRIES)
    if reason == "CrashLoopBackOff":
        return view(f"CrashLoopBackOff: {code}", again, failing=often)
    if dig(status, "state", "terminated") is not None:
        return view(f"ended with {code}", again, failing=often)
    if dig(status, "state", "running") is None:
        pulling = told.count(name, "Pulling") > told.count(name, "Pulled")
        return view("pulling" if pulling else "being made")
    budget = probe_budget(pod, status)
    if dig(status, "started") is not True and budget:
        began = moment(dig(status, "state", "running", "startedAt"))
        age = max(0.0, (now - began).total_seconds()) if began else 0.0
        # Whoever is given so long waits for these.
        cause = " (migration lock or database)" if budget >= _MIGRATION else ""
        return view("booting", f" {age:.0f} s of {budget:.0f} s{cause}{again}", failing=often)
    said = told.last(name, "Unhealthy", "Readiness probe").removeprefix("Readiness probe failed: ")
    return view("up, not ready", (f": {said[:60]}" if said else "") + again, failing=often)


def _times(count: int, one: str, many: str) -> str:
    return f", {count} {one if count == 1 else many}" if count else ""


# --- asking -------------------------------------------------------------------------------------


def look(
    api: Api,
    services: Sequence[str],
    before: Mapping[str, str] | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    hide: Hide = str,
) -> dict[str, Rollout]:
    """How it stands now. Raises Refused when no API server answers. `hide` masks what events quote
    (a probe's answer is the application's own text), before any of it is cut short."""
    with ThreadPoolExecutor(len(LISTS)) as pool:
        asked = {kind: pool.submit(api.list, path) for kind, path in LISTS.items()}
        found = {kind: answer.result() for kind, answer in asked.items()}
    found["events"] = [_masked(each, hide) for each in found["events"]]
    rollouts = progress(**found, now=clock(), services=services, before=before)
    return {each.service: each for each in rollouts}


def _masked(event: Json, hide: Hide) -> Json:
    said = {key: hide(text(event[key])) for key in ("message", "note") if event.get(key)}
    return {**event, **said}


def settled(rollouts: Mapping[str, Rollout]) -> bool:
    """Whether there is nothing to wait for: each has ended somehow, or one has failed."""
    return bool(rollouts) and (
        all(each.settled for each in rollouts.values())
        or any(each.state.startswith("failed") for each in rollouts.values())
    )


# --- showing ------------------------------------------------------------------------------------

_WRONG: Final = re.compile(r"\b(?:error|warning|fail(?:ed|ure)?|panic)\b", re.IGNORECASE)
SILENT: Final = "API does not answer, still trying"
_STYLES: Final = {"converged": "green", "rolling": "yellow", "paused": "yellow"}


class Watching:
    """Shows the rollouts while something else runs; `line` prints above them.

    On a terminal a table at the bottom that is drawn anew every second; elsewhere a line for each
    change. `rollouts` is what was seen last. Never raises for an API server that is away."""

    def __init__(
        self,
        api: Api,
        console: Console,
        services: Sequence[str],
        *,
        before: Mapping[str, str] | None = None,
        every: float = EVERY,
        hide: Hide = str,
    ) -> None:
        self._hide = hide
        self._api, self._console, self._services, self._every = api, console, services, every
        self._before = dict(before) if before is not None else None
        self.rollouts: Mapping[str, Rollout] = {}
        self.silent = ""
        """Why the last look saw nothing; "" when it saw."""
        self._over, self._looked = threading.Event(), threading.Condition()
        self._looks = self._seen = 0  # begun, ended
        self._told: dict[str, str] = {}
        self._live: Live | None = None
        self._engine = ""  # its last line
        self._drawing = threading.Lock()  # no older frame comes after a newer one
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watching:
        if self._before is None:
            try:
                seen = look(self._api, self._services)
                self._before = {each.service: each.revision for each in seen.values()}
            except Refused:
                self._before = {}  # then nothing is called untouched
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(10)
        if self._live is not None:
            self._live.stop()
            if self.rollouts:
                self._console.print(table(self.rollouts, self.silent))

    @property
    def before(self) -> Mapping[str, str]:
        """Service → the revision that it had when this began."""
        return self._before or {}

    def line(self, said: str) -> None:
        """What the engine prints. On a terminal only what is wrong stays; of the rest its last line
        is below the table, as a sign of life. Elsewhere all of it, with its colours."""
        if self._live is not None and not _WRONG.search(said):
            if plain := Text.from_ansi(said).plain.strip():
                self._engine = plain
                self._show()
            return
        self._console.print(Text.from_ansi(said), soft_wrap=True)

    def wait(self, seconds: float) -> Mapping[str, Rollout]:
        """Until there is nothing to wait for, or so long; what is shown goes on being shown.

        However short that is, one whole look is waited for: what was seen before belongs to the
        time before, and would be told as what came of it."""
        end = time.monotonic() + seconds
        with self._looked:
            asked = self._looks
            while self._thread.is_alive():
                left = end - time.monotonic()
                fresh = self._seen > asked
                if fresh and (left <= 0 or (not self.silent and settled(self.rollouts))):
                    break
                self._looked.wait(left if left > 0 else 1.0)
            return self.rollouts

    def _run(self) -> None:
        while not self._over.is_set():
            with self._looked:
                self._looks += 1
            try:
                seen = look(self._api, self._services, self._before, hide=self._hide)
                rollouts, silent = seen, ""
            except Refused as cause:
                rollouts, silent = dict(self.rollouts), cause.problems[0].what
            with self._looked:
                self._seen = self._looks
                self.rollouts, self.silent = rollouts, silent
                self._looked.notify_all()
            self._show()
            self._over.wait(self._every)

    def _show(self) -> None:
        if self._live is not None:
            with self._drawing:
                doing = Text(self._engine, "dim", overflow="ellipsis", no_wrap=True)
                self._live.update(Group(table(self.rollouts, self.silent), doing), refresh=True)
            return
        if bool(self.silent) != bool(self._told.get("")):
            self._told[""] = self.silent
            said = f"{SILENT} ({self.silent})" if self.silent else "API answers again"
            self._console.print(Text(said), soft_wrap=True)
        for rollout in self.rollouts.values():
            # The seconds of a boot are no change.
            news = sentence(replace(rollout, pods=tuple(_still(pod) for pod in rollout.pods)))
            if self._told.get(rollout.service) != news:
                self._told[rollout.service] = news
                self._console.print(Text(sentence(rollout)), soft_wrap=True)


def sentence(rollout: Rollout) -> str:
    """`api: 2 of 3 ready (new pod api-… booting 20 s of 240 s)`."""
    if rollout.state == "missing":
        return f"{rollout.service}: not made yet"
    if rollout.state == "untouched":
        return f"{rollout.service}: untouched, {rollout.serving} of {rollout.desired} ready"
    ready = f"{rollout.service}: {rollout.ready} of {rollout.desired} ready"
    if rollout.state == "converged":
        return f"{ready}, converged"
    word = ", failing again and again" if rollout.failing else ""
    word = word if rollout.state == "rolling" else f", {rollout.state}"
    unready = [f"new pod {p.name} {p.said}" for p in rollout.pods if p.new and not p.ready]
    return f"{ready}{word}" + (f" ({'; '.join(unready)})" if unready else "")


def _still(pod: Pod) -> Pod:
    return replace(pod, said=pod.kind)


def table(rollouts: Mapping[str, Rollout], silent: str = "") -> Table:
    """A row for each service, and one for each of its pods while they change."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for rollout in rollouts.values():
        style = "red" if rollout.failing else _STYLES.get(rollout.state, "")
        style = "red" if rollout.state.startswith("failed") else style
        grid.add_row(
            Text(rollout.service, "bold"),
            Text(f"{rollout.ready}/{rollout.desired} ready"),
            Text(_word(rollout), style),
        )
        if rollout.state not in ("converged", "untouched"):
            for pod in rollout.pods:
                age = "new" if pod.new else "old"
                mark = "red" if pod.failing else "green" if pod.ready else ""
                grid.add_row("", Text(age, "dim"), Text(f"{pod.name}  ") + Text(pod.said, mark))
    if silent:
        grid.add_row("", "", Text(f"{SILENT} ({silent})", "yellow"))
    return grid


def _word(rollout: Rollout) -> str:
    if rollout.state == "missing":
        return "not made yet"
    old = rollout.serving - rollout.ready
    parts: list[str] = ["failing again and again" if rollout.failing else rollout.state]
    if old and not rollout.well:
        parts.append(f"{old} old still serve{'s' if old == 1 else ''}")
    if rollout.left is not None:
        parts.append(f"given up in {rollout.left:.0f} s")
    return ", ".join(parts)
