"""A container's life by kubelet's rules: time is a number here, and nothing runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from ops.diagnosis import diagnose
from rehearsal.kubelet.container import (
    ConfigMissing,
    Container,
    PullFailed,
    Running,
    StartFailed,
    stamp,
)

Json = dict[str, Any]
IMAGE = "registry.test/admin/honeydue-api@sha256:" + "a" * 64
WHOSE = "api-1_honeydue(u-1)"
PROBE: Json = {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 5, "failureThreshold": 3}
REFUSED = 'Get "http://10.42.0.2:8000/": dial tcp 10.42.0.2:8000: connect: connection refused'


@dataclass
class Fake:
    """A container that does what the test says."""

    real: bool = True
    probes: Collection[str] = ("startup", "readiness", "liveness")
    ends_at: float = math.inf
    code: int | None = None
    failing: dict[str, str] = field(default_factory=dict)
    """Kind of probe → what it says."""
    asked: list[tuple[str, float]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    deaf: bool = False
    """Whether SIGTERM does nothing."""

    def exit_code(self, now: float) -> int | None:
        assert now
        return self.code

    def probe(self, kind: str, probe: Json, now: float) -> str:
        assert probe["periodSeconds"]
        self.asked.append((kind, now))
        return self.failing.get(kind, "")

    def terminate(self) -> None:
        self.sent.append("TERM")
        if not self.deaf:
            self.code = 0

    def kill(self) -> None:
        self.sent.append("KILL")
        self.code = 137


class World:
    """The runtime of one container, and a clock that is turned by hand."""

    def __init__(self, *, restarts: str = "Always", grace: float = 45, **spec: Any) -> None:
        self.now = 1000.0
        self.has_image = False
        self.pull_error = ""
        self.config_error = ""
        self.start_error = ""
        self.running: list[Fake] = []
        self.next = Fake()
        self.told: list[tuple[str, str, str]] = []
        self.container = Container(
            {"name": "api", "image": IMAGE, "imagePullPolicy": "IfNotPresent", **spec},
            whose=WHOSE,
            restarts=restarts,
            grace=grace,
            runtime=self,
            tell=lambda *event: self.told.append(event),
        )

    def present(self, image: str) -> bool:
        assert image == IMAGE
        return self.has_image

    def pull(self, image: str) -> str:
        if self.pull_error:
            raise PullFailed(self.pull_error)
        self.has_image = True
        return f"pulled {image}"

    def environment(self, spec: Json) -> dict[str, str]:
        if self.config_error:
            raise ConfigMissing(self.config_error)
        return {"of": spec["name"]}

    def start(
        self, spec: Json, environment: Mapping[str, str], attempt: int, now: float
    ) -> Running:
        assert (environment, now) == ({"of": spec["name"]}, self.now)
        assert attempt == self.container.restart_count
        if self.start_error:
            raise StartFailed(self.start_error)
        made, self.next = self.next, Fake(failing=dict(self.next.failing), deaf=self.next.deaf)
        self.running.append(made)
        return made

    def go(self, seconds: float = 0.0) -> None:
        """Lets so much time pass, with every step at its time."""
        end = self.now + seconds
        for _ in range(10_000):
            at = self.container.step(self.now)
            if at <= self.now:
                continue
            if at > end:
                self.now = end
                return
            self.now = at
        raise AssertionError("it never waits")

    @property
    def waiting(self) -> str:
        return str(self.container.state.get("waiting", {}).get("reason", ""))

    def says(self, reason: str) -> list[str]:
        return [message for _type, why, message in self.told if why == reason]


def started(**spec: Any) -> World:
    world = World(**spec)
    world.go()
    assert world.running
    return world


# --- start --------------------------------------------------------------------------------------


def test_a_container_is_pulled_made_started_and_ready() -> None:
    world = started()
    assert world.told == [
        ("Normal", "Pulling", f'Pulling image "{IMAGE}"'),
        ("Normal", "Pulled", f"pulled {IMAGE}"),
        ("Normal", "Created", "Created container: api"),
        ("Normal", "Started", "Started container api"),
    ]
    status = world.container.status()
    assert (status["ready"], status["started"], status["restartCount"]) == (True, True, 0)
    assert status["state"] == {"running": {"startedAt": stamp(1000)}}
    assert status["imageID"] == IMAGE
    assert status["containerID"].startswith("containerd://")


def test_the_pull_is_told_before_it_begins() -> None:
    world = World()
    assert world.container.step(world.now) == world.now
    assert world.says("Pulling")
    assert not world.has_image


def test_an_image_that_the_node_has_is_not_pulled() -> None:
    world = World()
    world.has_image = True
    world.go()
    assert world.says("Pulled") == [f'Container image "{IMAGE}" already present on machine']
    assert not world.says("Pulling")


def test_a_failed_pull_is_tried_again_with_back_off_and_says_containerds_words() -> None:
    world = World()
    world.pull_error = f'rpc error: code = NotFound desc = "{IMAGE}": not found'
    world.go()
    assert world.waiting == "ErrImagePull"
    assert world.container.state["waiting"]["message"] == world.pull_error
    world.go(2)
    assert world.waiting == "ImagePullBackOff"
    said = f'Back-off pulling image "{IMAGE}": ErrImagePull: {world.pull_error}'
    assert world.container.state["waiting"]["message"] == said
    assert world.container.waits_for_its_first_start
    assert world.says("Failed") == [
        f'Failed to pull image "{IMAGE}": {world.pull_error}',
        "Error: ErrImagePull",
        "Error: ImagePullBackOff",
    ]
    world.go(29)  # back-offs of 10 and 20 s, a second of ErrImagePull before each
    assert len(world.says("Pulling")) == 2
    world.pull_error = ""
    world.go(2)
    assert len(world.says("Pulling")) == 3
    assert world.container.ready


def test_a_missing_setting_is_waited_for() -> None:
    world = World()
    world.config_error = 'secret "honeydue-secrets-1" not found'
    world.go(1)
    assert world.waiting == "CreateContainerConfigError"
    assert world.says("Failed") == ['Error: secret "honeydue-secrets-1" not found']
    world.config_error = ""
    world.go(10)
    assert world.container.ready


def test_a_command_that_cannot_be_started_is_a_start_error_with_exit_code_128() -> None:
    world = World()
    world.start_error = 'exec: "/api": no such file or directory'
    world.go()
    ended = world.container.state["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert ended["message"] == world.start_error


# --- the crash loop -----------------------------------------------------------------------------


def crash(world: World, code: int = 1) -> None:
    world.running[-1].code = code
    world.go()


def test_the_first_restart_comes_at_once_and_the_next_after_10_20_and_40_seconds() -> None:
    world = started()
    crash(world)
    assert world.container.state["terminated"]["reason"] == "Error"
    world.go(1)
    assert world.container.restart_count == 1
    assert world.container.status()["lastState"]["terminated"]["exitCode"] == 1
    for count, (pause, words) in enumerate([(10, "10s"), (20, "20s"), (40, "40s")], start=1):
        crash(world)
        assert world.waiting == "CrashLoopBackOff"
        message = f"back-off {words} restarting failed container=api pod={WHOSE}"
        assert world.container.state["waiting"]["message"] == message
        world.go(pause - 0.1)
        assert world.container.restart_count == count
        world.go(0.2)
        assert world.container.restart_count == count + 1
        assert world.container.ready
    assert world.says("BackOff") == [f"Back-off restarting failed container api in pod {WHOSE}"] * 3


def test_the_back_off_ends_at_five_minutes_and_is_forgiven_after_ten_good_ones() -> None:
    world = started()
    for _ in range(8):
        crash(world)
        world.go(301)
    crash(world)
    assert "back-off 5m0s " in world.container.state["waiting"]["message"]
    world.go(300 + 601)
    crash(world)
    world.go(1)
    assert world.container.ready


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [("Never", 1, False), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Always", 0, True)],
)
def test_the_restart_policy_is_kept(policy: str, code: int, again: bool) -> None:
    world = started(restarts=policy)
    crash(world, code)
    world.go(2)
    assert world.container.done is not again
    assert world.container.restart_count == int(again)


def test_an_exit_with_0_is_completed_and_a_signal_is_128_more() -> None:
    world = started()
    crash(world, 0)
    assert world.container.state["terminated"]["reason"] == "Completed"
    world.go(1)
    crash(world, 137)
    assert world.container.status()["lastState"]["terminated"]["exitCode"] == 137


# --- probes -------------------------------------------------------------------------------------


def test_no_other_probe_is_asked_before_the_startup_probe_has_passed() -> None:
    world = World(startupProbe=PROBE, readinessProbe=PROBE, livenessProbe=PROBE)
    world.next.failing = {"startup": REFUSED}
    world.go(11)
    assert world.running[0].asked == [("startup", at) for at in (1000.5, 1005, 1010)]
    assert world.says("Unhealthy") == [f"Startup probe failed: {REFUSED}"] * 2, "not the early one"
    assert not world.container.started


def test_a_boot_within_its_budget_is_ready_as_soon_as_it_answers() -> None:
    world = World(startupProbe={**PROBE, "failureThreshold": 48}, readinessProbe=PROBE)
    world.next.failing = {"startup": "HTTP probe failed with statuscode: 503"}
    world.go(239)
    assert world.container.restart_count == 0
    assert not world.container.ready
    assert set(world.says("Unhealthy")) == {
        "Startup probe failed: HTTP probe failed with statuscode: 503"
    }
    world.running[0].failing.clear()
    before = world.now
    world.go(5)
    assert world.container.ready
    kind, at = world.running[0].asked[-1]
    assert kind == "readiness"
    assert at == world.running[0].asked[-2][1], "asked in the same moment"
    assert at > before


def test_a_boot_beyond_its_budget_is_killed_and_restarted() -> None:
    world = World(startupProbe=PROBE)
    world.next.failing = {"startup": REFUSED}
    world.go(14.9)
    assert not world.says("Killing")
    world.go(0.2)
    assert world.says("Killing") == ["Container api failed startup probe, will be restarted"]
    assert world.running[0].sent == ["TERM"]
    world.go(2)
    assert world.container.restart_count == 1


def test_readiness_comes_and_goes_without_a_restart() -> None:
    world = started(readinessProbe=PROBE)
    assert not world.container.ready
    world.go(1)
    assert world.container.ready
    fake = world.running[0]
    fake.failing = {"readiness": "HTTP probe failed with statuscode: 503"}
    world.go(10)
    assert world.container.ready, "two failures are not three"
    world.go(5)
    assert not world.container.ready
    assert not fake.sent
    fake.failing.clear()
    world.go(5)
    assert world.container.ready


def test_a_success_threshold_is_counted() -> None:
    world = started(readinessProbe={**PROBE, "successThreshold": 2})
    world.go(1)
    assert not world.container.ready
    world.go(5)
    assert world.container.ready


def test_who_accepts_no_connections_is_restarted() -> None:
    world = started(livenessProbe={**PROBE, "failureThreshold": 6})
    world.running[0].failing = {"liveness": "dial tcp 10.42.0.2:8000: i/o timeout"}
    world.go(29)
    assert not world.says("Killing")
    world.go(1.5)
    assert world.says("Killing") == ["Container api failed liveness probe, will be restarted"]
    world.go(2)
    assert world.container.restart_count == 1


# --- the end ------------------------------------------------------------------------------------

SLEEPS: Json = {"preStop": {"sleep": {"seconds": 10}}}


def test_pre_stop_sleeps_before_sigterm() -> None:
    world = started(lifecycle=SLEEPS, readinessProbe=PROBE)
    world.go(1)
    world.container.stop(world.now, 45)
    world.go(9.9)
    assert not world.running[0].sent
    assert world.container.ready, "it still serves who comes late"
    world.go(0.2)
    assert world.running[0].sent == ["TERM"]
    assert world.container.done
    assert world.container.exit_code == 0
    assert world.says("Killing") == ["Stopping container api"]


def test_who_does_not_end_is_killed_when_its_grace_is_over() -> None:
    world = World(lifecycle=SLEEPS)
    world.next.deaf = True
    world.go()
    world.container.stop(world.now, 45)
    world.go(44.9)
    assert world.running[0].sent == ["TERM"]
    world.go(0.3)
    assert world.running[0].sent == ["TERM", "KILL"]
    assert world.container.exit_code == 137


def test_a_second_delete_with_less_grace_is_obeyed() -> None:
    world = started(lifecycle=SLEEPS)
    world.container.stop(world.now, 45)
    world.go(1)
    world.container.stop(world.now, 0)
    world.go(0.2)
    assert world.running[0].sent == ["KILL"]


def test_nobody_waits_for_what_is_pretended() -> None:
    world = World(lifecycle=SLEEPS)
    world.next.real = False
    world.go()
    world.container.stop(world.now, 45)
    world.go()
    assert world.container.done


def test_what_waits_for_its_image_is_gone_at_once() -> None:
    world = World()
    world.pull_error = "no"
    world.go(1)
    world.container.stop(world.now, 45)
    assert world.container.done
    assert world.container.exit_code is None


# --- a node that was off ------------------------------------------------------------------------


def test_what_ran_before_the_node_was_off_is_one_restart_further() -> None:
    world = World()
    world.has_image = True
    began = {"startedAt": "2026-11-22T10:00:00Z"}
    world.container.resume({"restartCount": 2, "state": {"running": began}}, world.now)
    world.go()
    status = world.container.status()
    assert status["restartCount"] == 3
    ended = status["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (255, "Unknown")
    assert ended["startedAt"] == began["startedAt"]


def test_what_had_ended_for_good_stays_so() -> None:
    world = World(restarts="Never")
    state = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    world.container.resume({"restartCount": 0, "state": state}, world.now)
    world.go(100)
    assert world.container.done
    assert not world.running


# --- the operator's side ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (f'failed to resolve reference "{IMAGE}": {IMAGE}: not found', "gone from the registry"),
        (
            "failed to authorize: failed to fetch oauth token: unexpected status from GET request "
            "to http://127.0.0.1:3000/v2/token: 401 Unauthorized",
            "the pull secret is wrong",
        ),
        (
            'failed to do request: Head "http://127.0.0.1:3000/v2/": dial tcp 127.0.0.1:3000: '
            "connect: connection refused",
            "the registry is down",
        ),
    ],
)
def test_the_operators_diagnosis_knows_these_words_of_a_pull(error: str, cause: str) -> None:
    world = World()
    world.pull_error = f'rpc error: code = Unknown desc = failed to pull "{IMAGE}": {error}'
    world.go(2)
    assert cause in causes(world)


def test_the_operators_diagnosis_knows_the_words_of_what_is_missing() -> None:
    world = World()
    world.config_error = "couldn't find key SECRET_KEY in Secret honeydue/honeydue-secrets-1"
    world.go(1)
    assert "a key that the pod needs is missing" in causes(world)


def test_the_operators_diagnosis_knows_a_crash_loop_and_a_boot_that_takes_too_long() -> None:
    world = started()
    crash(world)
    world.go(1)
    crash(world)
    assert "it does not start" in causes(world)
    slow = World(startupProbe=PROBE)
    slow.next.failing = {"startup": REFUSED}
    slow.go(32)
    assert slow.waiting == "CrashLoopBackOff"
    assert "it did not answer within the 15 s of its startup probe" in causes(slow)


def causes(world: World) -> str:
    about = {"name": "api-1", "namespace": "honeydue"}
    pod = {
        "metadata": about,
        "spec": {"containers": [world.container.spec]},
        "status": {"phase": "Pending", "containerStatuses": [world.container.status()]},
    }
    events = [
        {"involvedObject": about, "reason": reason, "message": message}
        for _type, reason, message in world.told
    ]
    now = datetime.fromtimestamp(world.now, UTC)
    return " ".join(each.cause for each in diagnose([pod], events, [], [], now=now))
