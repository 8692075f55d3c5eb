"""One container's life, by kubelet's rules and in kubelet's words. No thread, no clock, no network:
`step` is told the time, and a `Runtime` does what has effects.

    pull ──▶ create ──▶ running ──▶ ended ──▶ (back-off) ──▶ pull …
      └ ErrImagePull, ImagePullBackOff   └ probes: started, ready, or killed

Source of rules and texts: k8s.io/kubernetes v1.34, pkg/kubelet/{images/image_manager.go,
kuberuntime/kuberuntime_container.go, kuberuntime/kuberuntime_manager.go, prober/worker.go}.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Protocol

Json = dict[str, Any]
Tell = Callable[[str, str, str], None]
"""Takes an event: type (Normal, Warning), reason, message."""

FIRST_BACKOFF: Final = 10.0  # seconds; doubled each time, for pulls and for restarts
LAST_BACKOFF: Final = 300.0
FORGIVEN: Final = 600.0  # who ran for so long begins with the first back-off again
LEAST_GRACE: Final = 2.0  # what a preStop hook leaves for the process, however long it took


class PullFailed(Exception):  # noqa: N818 - containerd's words, not an error of ours
    pass


class ConfigMissing(Exception):  # noqa: N818 - as above; kubelet's words
    pass


class StartFailed(Exception):  # noqa: N818 - as above; runc's words
    pass


class Running(Protocol):
    """What was started. `real`: a process, with somebody to spare at its end."""

    real: bool
    probes: Collection[str]
    """Which kinds of its probes are asked; the others pass."""
    ends_at: float
    """When it will have ended by itself, if that is known; else infinity."""

    def exit_code(self, now: float) -> int | None:
        """None while it runs; 128 + n after signal n."""

    def probe(self, kind: str, probe: Json, now: float) -> str:
        """`kind`: startup, readiness or liveness. "" when it passes, else why not."""

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Runtime(Protocol):
    def present(self, image: str) -> bool:
        """Whether the node has it."""

    def pull(self, image: str) -> str:
        """Returns what to say of it. Raises PullFailed."""

    def environment(self, spec: Json) -> dict[str, str]:
        """Raises ConfigMissing."""

    def start(
        self, spec: Json, environment: Mapping[str, str], attempt: int, now: float
    ) -> Running:
        """Raises StartFailed."""


class Container:
    """`whose`: name_namespace(uid) of its pod. `restarts`: Always, OnFailure or Never. `grace`:
    seconds from the wish that it ends to SIGKILL."""

    pace: ClassVar[float] = 1.0
    """Multiplies every back-off; smaller in tests, and nowhere else."""

    def __init__(
        self, spec: Json, *, whose: str, restarts: str, grace: float, runtime: Runtime, tell: Tell
    ) -> None:
        self.spec = spec
        self.name = str(spec["name"])
        self.restart_count = 0
        self.state: Json = {"waiting": {"reason": "ContainerCreating"}}
        self.started = False
        self.done = False
        """It has ended and will not be started again."""
        self._whose = whose
        self._restarts = restarts
        self._grace = grace
        self._runtime = runtime
        self._tell = tell
        self._last_state: Json = {}
        self._running: Running | None = None
        self._began = 0.0
        self._probes: dict[str, _Probe] = {}
        self._readiness = False
        self._pull_backoff = FIRST_BACKOFF
        self._crash_backoff = 0.0  # the first restart comes at once
        self._pull_error = ""
        self._due: Callable[[float], None] = self._begin
        self._at = 0.0
        self._term_at = math.inf
        self._kill_at = math.inf
        self._leaving = False

    def resume(self, status: Json, now: float) -> None:
        """What an earlier kubelet told of it: what ran then has ended since, nobody saw how."""
        self.restart_count = status.get("restartCount", 0)
        state = status.get("state") or {}
        self._last_state = status.get("lastState") or {}
        if "running" in state:
            self.restart_count += 1
            ended = {"exitCode": 255, "reason": "Unknown", "finishedAt": stamp(now)}
            self._last_state = {"terminated": {**state["running"], **ended}}
        elif "terminated" in state:
            if not self._again_after(int(state["terminated"].get("exitCode", 0))):
                self.state, self.done = state, True
            else:
                self.restart_count += 1
                self._last_state = state

    # --- what is seen of it ---

    @property
    def ready(self) -> bool:
        return (
            self._running is not None
            and self.started
            and ("readiness" not in self._probes or self._readiness)
        )

    @property
    def exit_code(self) -> int | None:
        """None unless it has ended."""
        terminated = self.state.get("terminated")
        return None if terminated is None else int(terminated["exitCode"])

    @property
    def waits_for_its_first_start(self) -> bool:
        return "waiting" in self.state and not self.restart_count and not self._last_state

    def status(self) -> Json:
        """Its ContainerStatus."""
        image = str(self.spec["image"])
        waits = "waiting" in self.state
        return {
            "name": self.name,
            "image": image,
            "imageID": "" if waits or "@" not in image else image,
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restart_count,
            "state": self.state,
            "lastState": self._last_state,
            **({} if waits else {"containerID": self._id()}),
        }

    def _id(self) -> str:
        words = f"{self._whose} {self.name} {self.restart_count}"
        return "containerd://" + hashlib.sha256(words.encode()).hexdigest()

    # --- time goes on ---

    def step(self, now: float) -> float:
        """Does what is due, one thing at most; returns when to come again (seconds, like `now`)."""
        if self._running is not None:
            return self._watch(self._running, now)
        if self.done:
            return math.inf
        if now >= self._at:
            self._due(now)
            return now  # there may be more
        return self._at

    def stop(self, now: float, grace: float, why: str = "") -> None:
        """For good: its pod goes. preStop first, then SIGTERM, at the end of `grace` SIGKILL."""
        if self._leaving:
            self._kill_at = min(self._kill_at, now + grace)
            return
        self._leaving = True
        if self._running is None:
            self.done = True
        else:
            self._end(self._running, now, grace, why or f"Stopping container {self.name}")

    def abandon(self) -> None:
        """At once, and without a word: the node lost its power, or the pod is gone already."""
        self._leaving = True
        if self._running is not None:
            self._running.kill()
        else:
            self.done = True

    def _then(self, what: Callable[[float], None], at: float) -> None:
        self._due, self._at = what, at

    def _wait(self, reason: str, message: str) -> None:
        self.state = {"waiting": {"reason": reason, "message": message}}

    # --- pull and create ---

    def _begin(self, now: float) -> None:
        image = self.spec["image"]
        if self.spec.get("imagePullPolicy") != "Always" and self._runtime.present(image):
            self._tell("Normal", "Pulled", f'Container image "{image}" already present on machine')
            self._then(self._create, now)
            self._create(now)
        else:
            self._tell("Normal", "Pulling", f'Pulling image "{image}"')
            self._then(self._pull, now)

    def _pull(self, now: float) -> None:
        image = self.spec["image"]
        try:
            self._tell("Normal", "Pulled", self._runtime.pull(image))
        except PullFailed as error:
            self._pull_error = str(error)
            self._tell("Warning", "Failed", f'Failed to pull image "{image}": {error}')
            self._tell("Warning", "Failed", "Error: ErrImagePull")
            self._wait("ErrImagePull", str(error))
            self._then(self._hold_pull, now + self.pace)
        else:
            self._pull_backoff = FIRST_BACKOFF
            self._then(self._create, now)

    def _hold_pull(self, now: float) -> None:
        said = f'Back-off pulling image "{self.spec["image"]}"'
        self._tell("Normal", "BackOff", said)
        self._tell("Warning", "Failed", "Error: ImagePullBackOff")
        self._wait("ImagePullBackOff", f"{said}: ErrImagePull: {self._pull_error}")
        self._then(self._begin, now + self._pull_backoff * self.pace)
        self._pull_backoff = min(2 * self._pull_backoff, LAST_BACKOFF)

    def _create(self, now: float) -> None:
        try:
            environment = self._runtime.environment(self.spec)
        except ConfigMissing as missing:
            self._tell("Warning", "Failed", f"Error: {missing}")
            self._wait("CreateContainerConfigError", str(missing))
            self._then(self._begin, now + FIRST_BACKOFF * self.pace)
            return
        self._began = now
        self._term_at = self._kill_at = math.inf
        self._readiness = False
        try:
            running = self._runtime.start(self.spec, environment, self.restart_count, now)
        except StartFailed as error:
            self._tell("Normal", "Created", f"Created container: {self.name}")
            self._tell("Warning", "Failed", f"Error: {error}")
            self._over(now, 128, "StartError", str(error))
            return
        self._running = running
        self._tell("Normal", "Created", f"Created container: {self.name}")
        self._tell("Normal", "Started", f"Started container {self.name}")
        self.state = {"running": {"startedAt": stamp(now)}}
        self._probes = {
            kind: _Probe(self.spec[f"{kind}Probe"], now)
            for kind in running.probes
            if f"{kind}Probe" in self.spec
        }
        self.started = "startup" not in self._probes

    # --- running ---

    def _watch(self, running: Running, now: float) -> float:
        code = running.exit_code(now)
        if code is not None:
            self._running = None
            self._over(now, code)
            return now
        if self._kill_at < math.inf:
            if now >= self._kill_at:
                running.kill()
                return now + 0.1  # it may take the kernel a moment
            if now >= self._term_at:
                running.terminate()
                self._term_at = math.inf
                return now
            return min(self._term_at, self._kill_at)
        return min(self._ask(running, now), running.ends_at)

    def _ask(self, running: Running, now: float) -> float:
        """Asks the probes that are due. Until the startup probe has passed, no other is asked."""
        for kind in ("startup",) if not self.started else ("readiness", "liveness"):
            probe = self._probes.get(kind)
            if probe is None or now < probe.at:
                continue
            failure = running.probe(kind, probe.spec, now)
            if failure and probe.early:
                probe.begin()
                continue
            if failure:
                told = f"{kind.capitalize()} probe failed: {failure}"
                self._tell("Warning", "Unhealthy", told)
            verdict = probe.count(now, passed=not failure)
            if kind == "readiness" and verdict is not None:
                self._readiness = verdict
            elif kind == "startup" and verdict:
                self.started = True
                return now  # the others are asked at once
            elif kind != "readiness" and verdict is False:
                grace = probe.spec.get("terminationGracePeriodSeconds", self._grace)
                why = f"Container {self.name} failed {kind} probe, will be restarted"
                self._end(running, now, grace, why)
                return now
        asked = ("readiness", "liveness") if self.started else ("startup",)
        return min((p.at for kind, p in self._probes.items() if kind in asked), default=math.inf)

    def _end(self, running: Running, now: float, grace: float, why: str) -> None:
        self._tell("Normal", "Killing", why)
        hook = (self.spec.get("lifecycle") or {}).get("preStop") or {}
        # Only `sleep` is played: there is no container to run another hook in. A pretended
        # container serves nobody, so nobody is waited for.
        sleep = float((hook.get("sleep") or {}).get("seconds", 0)) if running.real else 0.0
        self._term_at = now + min(sleep, grace)
        self._kill_at = max(now + grace, self._term_at + LEAST_GRACE if sleep else now)

    # --- ended ---

    def _again_after(self, code: int) -> bool:
        return self._restarts == "Always" or (self._restarts == "OnFailure" and code != 0)

    def _over(self, now: float, code: int, reason: str = "", message: str = "") -> None:
        terminated: Json = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "startedAt": stamp(self._began),
            "finishedAt": stamp(now),
            "containerID": self._id(),
            **({"message": message} if message else {}),
        }
        self.started = False
        self.state = {"terminated": terminated}
        if self._leaving or not self._again_after(code):
            self.done = True
            return
        if now - self._began > FORGIVEN:
            self._crash_backoff = 0.0
        delay, self._crash_backoff = (
            self._crash_backoff,
            min(max(FIRST_BACKOFF, 2 * self._crash_backoff), LAST_BACKOFF),
        )
        if delay:
            pod = self._whose
            self._last_state = self.state
            self._wait(
                "CrashLoopBackOff",
                f"back-off {_go(delay)} restarting failed container={self.name} pod={pod}",
            )
            said = f"Back-off restarting failed container {self.name} in pod {pod}"
            self._tell("Warning", "BackOff", said)
        self._then(self._restart, now + max(delay, 1.0) * self.pace)

    def _restart(self, now: float) -> None:
        if "terminated" in self.state:
            self._last_state = self.state
        self.restart_count += 1
        self._then(self._begin, now)


class _Probe:
    """A probe's schedule and its last results in a row.

    A kubelet asks the first time within one period, at random; here at the end of it, so that a
    boot has all the time that the pod gives it. Half a second after the start it is asked once for
    nothing: who boots in no time need not be waited for, and who does not has not failed."""

    EARLY: Final = 0.5

    def __init__(self, spec: Json, now: float) -> None:
        self.spec = spec
        self.early = True
        begins = now + float(spec.get("initialDelaySeconds", 0))
        self.at = begins + self.EARLY
        self._first = begins + self._period
        self._passed = False
        self._in_a_row = 0

    @property
    def _period(self) -> float:
        return float(self.spec.get("periodSeconds", 10))

    def begin(self) -> None:
        """From here on it counts."""
        self.early = False
        self.at = self._first

    def count(self, now: float, *, passed: bool) -> bool | None:
        """True or False once enough results in a row say so; else None: as before."""
        self.early = False
        self.at = now + self._period
        self._in_a_row = self._in_a_row + 1 if passed == self._passed else 1
        self._passed = passed
        wanted = self.spec.get("successThreshold", 1) if passed else 0
        wanted = wanted or self.spec.get("failureThreshold", 3)
        return passed if self._in_a_row >= wanted else None


def stamp(now: float) -> str:
    """Kubernetes' metav1.Time."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _go(seconds: float) -> str:
    """As Go writes a duration: 10s, 1m20s, 5m0s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
