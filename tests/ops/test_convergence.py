"""What an operator sees of a rollout while it goes, and when it is called over."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from honeydue.kubernetes.catalogue import NAME
from ops.api import Api
from ops.cluster import contexts
from ops.convergence import Rollout, Watching, look, progress, sentence, settled, table
from tests.ops.api_servers import Nodes
from tests.ops.kubernetes_json import (
    DIGEST,
    NOW,
    OTHER,
    Json,
    ago,
    container,
    crashing,
    deployed,
    event,
    pending,
    pod,
    terminated,
    waiting,
    well,
)

GOLDEN = Path(__file__).parent / "golden"
OLD, NEW = "5b4c9d7f8", "7d9c5b6f4"


def replicaset(service: str, hash_: str, revision: str, digest: str = OTHER) -> Json:
    return {
        "metadata": {
            "name": f"{service}-{hash_}",
            "labels": {NAME: service, "pod-template-hash": hash_},
            "annotations": {"deployment.kubernetes.io/revision": revision},
        },
        "spec": {"template": deployed(service, digest)["spec"]["template"]},
    }


def of(hash_: str, made: Json) -> Json:
    """A pod of that ReplicaSet."""
    made["metadata"]["labels"]["pod-template-hash"] = hash_
    return made


def booting(seconds: float, service: str = "api", name: str = "api-new", **status: Any) -> Json:
    running = {"running": {"startedAt": ago(seconds)}}
    return of(
        NEW, pod(service, name, OTHER, containers=[container(service, state=running, **status)])
    )


def rolling(service: str = "api", **status: Any) -> Json:
    """A Deployment in the middle of its second revision."""
    told = {"updatedReplicas": 1, "replicas": 4, "progressing": "ReplicaSetUpdated", **status}
    made = deployed(service, OTHER, **told)
    made["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "2"
    made["status"]["conditions"][0]["lastUpdateTime"] = ago(35)
    return made


SETS = [replicaset("api", OLD, "1", DIGEST), replicaset("api", NEW, "2")]


def seen(*pods: Json, deployment: Json | None = None, events: tuple[Json, ...] = ()) -> Rollout:
    """`api`, with three old pods that are well beside `pods`."""
    old = [of(OLD, well(name=f"api-old-{n}")) for n in range(3)]
    (found,) = progress(
        [rolling() if deployment is None else deployment],
        SETS,
        [*old, *pods],
        events,
        NOW,
        services=("api",),
    )
    return found


def new_pod(rollout: Rollout) -> str:
    (said,) = [each.said for each in rollout.pods if each.new]
    return said


# --- pods in words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "events", "said"),
    [
        (booting(35), (), "booting 35 s of 240 s (migration lock or database)"),
        (booting(239), (), "booting 239 s of 240 s (migration lock or database)"),
        (
            booting(20, restartCount=1),
            (),
            "booting 20 s of 240 s (migration lock or database), 1 restart",
        ),
        (booting(35, started=True), (), "up, not ready"),
        (
            booting(35, started=True),
            (event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503",
                   "api-new"),),
            "up, not ready: HTTP probe failed with statuscode: 503",
        ),
        (of(NEW, pod(name="api-new", containers=[waiting("ContainerCreating")])), (), "being made"),
        (
            of(NEW, pod(name="api-new", containers=[waiting("ContainerCreating")])),
            (event("Pulling", 'Pulling image "x"', "api-new") | {"count": 1},),
            "pulling",
        ),
        (
            of(NEW, pod(name="api-new", containers=[waiting("ImagePullBackOff")])),
            (event("Failed", 'Failed to pull image "x": not found', "api-new") | {"count": 2},),
            "ImagePullBackOff, 2 tries",
        ),
        (
            of(NEW, pod(name="api-new", containers=[waiting("ErrImagePull")])),
            (event("Failed", 'Failed to pull image "x": not found', "api-new") | {"count": 1},),
            "ImagePullBackOff, 1 try",
        ),
        (
            of(NEW, pod(name="api-new", containers=[crashing(2, 1)])),
            (),
            "CrashLoopBackOff: exit 2, 4 restarts",
        ),
        (
            of(NEW, pod(name="api-new", containers=[container(state=terminated(1, 2))])),
            (),
            "ended with exit 1",
        ),
        (
            of(NEW, pod(name="api-new", containers=[waiting("CreateContainerConfigError")])),
            (),
            "CreateContainerConfigError",
        ),
        (
            of(NEW, pending("0/3 nodes are available: 3 Insufficient memory. preemption: 0/3 …")),
            (),
            "waits for a node: 0/3 nodes are available: 3 Insufficient memory",
        ),
        (of(NEW, well(name="api-new")), (), "ready"),
        (of(NEW, pod(name="api-new", metadata={"deletionTimestamp": ago(0)})), (), "ending"),
        (of(NEW, pod(name="api-new")), (), "being made"),
    ],
)  # fmt: skip
def test_each_state_of_a_pod_has_its_words(made: Json, events: tuple[Json, ...], said: str) -> None:
    made = {**made, "metadata": {**made["metadata"], "name": "api-new"}}
    made["metadata"].setdefault("deletionTimestamp", None)
    made["metadata"]["labels"] = {**made["metadata"]["labels"], "pod-template-hash": NEW}
    assert new_pod(seen(made, events=events)) == said


def test_admin_boots_for_another_time_and_waits_for_no_migration() -> None:
    admin = booting(12, "admin", "admin-new")
    (found,) = progress(
        [rolling("admin")], [replicaset("admin", NEW, "2")], [admin], (), NOW, services=("admin",)
    )
    assert new_pod(found) == "booting 12 s of 120 s"


def test_finished_pods_are_not_shown() -> None:
    evicted = of(OLD, pod(name="api-gone", phase="Failed", reason="Evicted"))
    assert [each.name for each in seen(evicted).pods] == ["api-old-0", "api-old-1", "api-old-2"]


# --- the rollout --------------------------------------------------------------------------------


def test_a_rollout_counts_new_and_old_pods_apart_and_knows_its_deadline() -> None:
    found = seen(of(NEW, well(name="api-new-1")), booting(35))
    assert (found.state, found.tag) == ("rolling", "237c6b8")
    assert (found.desired, found.updated, found.ready, found.serving) == (3, 1, 1, 4)
    assert found.left == 565  # of 600, 35 s after the last progress
    assert [each.new for each in found.pods] == [True, True, False, False, False]


def test_pods_are_new_by_what_they_run_before_their_replicaset_is_there() -> None:
    fresh, old = booting(1), well(name="api-old")
    (found,) = progress([rolling()], [], [fresh, old], (), NOW, services=("api",))
    assert [(each.name, each.new) for each in found.pods] == [("api-new", True), ("api-old", False)]


def test_the_pods_of_before_are_not_new_while_the_controller_has_not_seen_the_change() -> None:
    change = rolling(observedGeneration=2)
    change["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
    found = seen(deployment=change)
    assert (found.state, found.ready, found.serving) == ("rolling", 0, 3)


@pytest.mark.parametrize("second", range(0, 241, 30))
def test_the_first_boot_of_240_s_is_never_called_a_failure(second: int) -> None:
    startup = event("Unhealthy", "Startup probe failed: connection refused", "api-new")
    found = seen(booting(second), events=(startup | {"count": max(1, second // 5)},))
    assert (found.state, found.failing, found.settled) == ("rolling", False, False)


@pytest.mark.parametrize(
    "broken",
    [crashing(2, 1, restarts=3), waiting("CreateContainerConfigError", restartCount=3)],
)
def test_new_pods_that_fail_again_and_again_are_failing_but_not_given_up(broken: Json) -> None:
    found = seen(of(NEW, pod(name="api-new", containers=[broken])))
    assert (found.failing, found.state) == (True, "rolling")
    assert not settled({"api": found})


def test_two_tries_or_one_pod_that_only_boots_are_no_failing_rollout() -> None:
    twice = of(NEW, pod(name="api-new", containers=[crashing(2, 1, restarts=2)]))
    assert not seen(twice).failing
    often = of(NEW, pod(name="api-new-2", containers=[crashing(2, 1, restarts=9)]))
    assert not seen(often, booting(30)).failing


def test_kubernetes_own_deadline_is_what_fails_a_rollout() -> None:
    late = seen(booting(35), deployment=rolling(progressing="ProgressDeadlineExceeded"))
    assert late.state == "failed: ProgressDeadlineExceeded"
    assert late.left is None
    assert settled({"api": late, "worker": Rollout(service="worker", state="rolling")})


def test_a_deadline_of_before_a_change_that_was_not_seen_yet_fails_nothing() -> None:
    change = rolling(progressing="ProgressDeadlineExceeded", observedGeneration=2)
    assert seen(deployment=change).state == "rolling"


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, "converged"),
        ({"observedGeneration": 2}, "rolling"),
        ({"updatedReplicas": 2}, "rolling"),
        ({"replicas": 4}, "rolling"),
        ({"availableReplicas": 2}, "rolling"),
        ({"spec": {"paused": True}, "updatedReplicas": 0}, "paused"),
        ({"spec": {"paused": True}}, "converged"),
    ],
)
def test_converged_is_what_kubectl_rollout_status_calls_so(
    status: dict[str, Any], state: str
) -> None:
    assert seen(deployment=deployed("api", OTHER, **status)).state == state


def test_a_service_with_the_revision_that_it_had_is_untouched() -> None:
    same = rolling(updatedReplicas=3, replicas=3)
    for before, state in (("2", "untouched"), ("1", "converged"), ("", "converged")):
        (found,) = progress([same], SETS, [], (), NOW, services=("api",), before={"api": before})
        assert found.state == state


def test_a_deployment_that_is_not_there_is_missing() -> None:
    (found,) = progress([], [], [], (), NOW, services=("worker",))
    assert found.state == "missing"
    assert sentence(found) == "worker: not made yet"


@pytest.mark.parametrize("nonsense", [None, 3, "x", [], {"metadata": 3, "status": [], "spec": "x"}])
def test_nothing_that_kubernetes_could_say_breaks_it(nonsense: Any) -> None:
    labelled = {"metadata": {"name": "api", "labels": {NAME: "api"}}, "status": nonsense}
    everything = [nonsense, labelled, {**labelled, "spec": nonsense}]
    assert len(progress(everything, everything, everything, everything, NOW)) == 3


# --- what is read -------------------------------------------------------------------------------


def a_release() -> dict[str, Rollout]:
    """api rolls, worker has failed, admin is as it was."""
    pods = [
        *(of(OLD, well(name=f"api-{OLD}-{n}")) for n in ("k2x9p", "q8w7e")),
        of(NEW, well(name=f"api-{NEW}-x2x7k")),
        {**booting(35, name=f"api-{NEW}-m4n5b")},
        of(OLD, pod(name=f"api-{OLD}-zz1aa", metadata={"deletionTimestamp": ago(0), "labels": {
            NAME: "api", "pod-template-hash": OLD}})),
        of(NEW, pod("worker", f"worker-{NEW}-j7h6g", containers=[crashing(2, 1)])),
        of(OLD, well("admin", f"admin-{OLD}-a1s2d")),
    ]  # fmt: skip
    admin = deployed("admin")
    admin["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "7"
    worker = rolling("worker", progressing="ProgressDeadlineExceeded", readyReplicas=0)
    sets = [
        *SETS,
        replicaset("worker", NEW, "2"),
        replicaset("admin", OLD, "7", DIGEST),
    ]
    found = progress([rolling(), worker, admin], sets, pods, (), NOW, before={"admin": "7"})
    return {each.service: each for each in found}


@pytest.mark.parametrize("width", [80, 120])
def test_a_rollout_reads_as_the_golden_text(width: int) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=width, highlight=False)
    console.print(table(a_release(), "honeydue-1: no answer within 2 s"))
    read = "\n".join(line.rstrip() for line in screen.getvalue().splitlines()) + "\n"
    assert read == (GOLDEN / f"convergence-{width}.txt").read_text()


def test_without_a_terminal_a_sentence_says_the_same() -> None:
    assert [sentence(each) for each in a_release().values()] == [
        f"api: 1 of 3 ready (new pod api-{NEW}-m4n5b booting 35 s of 240 s (migration lock or "
        "database))",
        f"worker: 0 of 1 ready, failed: ProgressDeadlineExceeded (new pod worker-{NEW}-j7h6g "
        "CrashLoopBackOff: exit 2, 4 restarts)",
        "admin: untouched, 1 of 2 ready",
    ]


# --- on API servers -----------------------------------------------------------------------------


class Cluster:
    """Real HTTPS; one Deployment that a test moves on."""

    def __init__(self, folder: Path) -> None:
        self.nodes = Nodes(folder / "nodes")
        self.api = Api(dict(contexts(self.nodes.kubeconfig)))
        self._still = threading.Lock()
        self.moves(rolling(), *SETS)

    def moves(self, deployment: Json, *sets: Json, pods: tuple[Json, ...] = ()) -> None:
        kinds = self.nodes.objects.kinds
        with self._still:
            kinds["deployments"], kinds["pods"], kinds["events"] = [deployment], [*pods], []
            kinds["replicasets"] = [*sets] or kinds["replicasets"]

    def silence(self, status: int) -> None:
        """503: no API server answers; 200: they do again."""
        with self._still:
            for server in self.nodes.servers.values():
                server.status = status

    def look(self, *args: Any, **more: Any) -> dict[str, Rollout]:
        """Its four lists are of one moment: half of a move would be one line more to read."""
        with self._still:
            return look(*args, **more)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    monkeypatch.setattr("ops.convergence.look", made.look)
    with made.api:
        yield made
    made.nodes.stop()


def converged() -> Json:
    return rolling(updatedReplicas=3, replicas=3, progressing="NewReplicaSetAvailable")


def test_a_look_needs_each_list_once(cluster: Cluster) -> None:
    assert look(cluster.api, ("api", "worker"))["worker"].state == "missing"
    asked = [path for server in cluster.nodes.servers.values() for path in server.asked]
    assert sorted(path.rsplit("/", 1)[-1] for path in asked) == [
        "deployments",
        "events",
        "pods",
        "replicasets",
    ]


def until(fits: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not fits():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_in_a_pipe_every_change_is_one_line_among_the_engines(cluster: Cluster) -> None:
    out = io.StringIO()
    with Watching(
        cluster.api, Console(file=out, width=100, highlight=False), ("api",), every=0.01
    ) as watching:
        until(lambda: "api: 0 of 3 ready\n" in out.getvalue())
        watching.line("the engine's own \x1b[32mline\x1b[0m with [brackets]")
        cluster.moves(rolling(), pods=(booting(35),))
        until(lambda: "booting" in out.getvalue())
        cluster.moves(rolling(), pods=(booting(36),))  # a second later is no news
        cluster.silence(503)
        until(lambda: "still trying" in out.getvalue())
        cluster.silence(200)
        until(lambda: "again" in out.getvalue())
        changed = converged()
        changed["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "3"
        ready = of("66", well(name="api-3"))
        cluster.moves(changed, *SETS, replicaset("api", "66", "3"), pods=(ready,))
        found = watching.wait(120)
    assert found["api"].state == "converged"
    assert watching.before == {"api": "2"}
    lines = out.getvalue().splitlines()
    assert lines[3].startswith("API does not answer, still trying (no API server answers (")
    assert [*lines[:3], *lines[4:]] == [
        "api: 0 of 3 ready",
        "the engine's own line with [brackets]",
        "api: 0 of 3 ready (new pod api-new booting "
        f"{lines[2].split('booting ')[1].split(' s')[0]} s of 240 s (migration lock or database))",
        "API answers again",
        "api: 1 of 3 ready, converged",
    ]


def test_on_a_terminal_the_engine_is_one_line_and_only_what_is_wrong_stays(
    cluster: Cluster,
) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, highlight=False, force_terminal=True, color_system=None)
    with Watching(cluster.api, console, ("api",), every=0.01) as watching:
        until(lambda: "0/3 ready" in out.getvalue())
        watching.line("images-api  exporting to image")
        until(lambda: "exporting to image" in out.getvalue())
        watching.line("error: the push failed")
        watching.line("images-worker  exporting to image")
        until(lambda: "images-worker" in out.getvalue())
        before = len(out.getvalue())
        until(lambda: "images-worker" in out.getvalue()[before:])
    frame = out.getvalue()[before:]
    assert frame.index("0/3 ready") < frame.index("images-worker")
    assert "images-api" not in frame
    assert out.getvalue().count("error: the push failed") == 1
    # What stays when it is over is the table as it was last.
    last = out.getvalue().rstrip().splitlines()[-1].rsplit("\x1b[2K", 1)[-1]
    assert last.split()[:4] == ["api", "0/3", "ready", "rolling,"]


def test_waiting_while_watching_looks_once_more_and_ends_with_its_time(cluster: Cluster) -> None:
    console = Console(file=io.StringIO(), width=100)
    with Watching(cluster.api, console, ("api",), every=0.01) as watching:
        began = time.monotonic()
        assert watching.wait(0.2)["api"].state == "rolling"
        assert time.monotonic() - began >= 0.2
        cluster.moves(rolling(progressing="ProgressDeadlineExceeded"))
        assert watching.wait(120)["api"].state == "failed: ProgressDeadlineExceeded"


def test_however_short_the_time_what_was_seen_before_it_is_not_the_answer(cluster: Cluster) -> None:
    console = Console(file=io.StringIO(), width=100)
    with Watching(cluster.api, console, ("api",), every=0.01) as watching:
        until(lambda: bool(watching.rollouts))
        cluster.moves(rolling(progressing="ProgressDeadlineExceeded"))
        assert watching.wait(0)["api"].state == "failed: ProgressDeadlineExceeded"
        cluster.silence(503)
        watching.wait(0)
        assert watching.silent.startswith("no API server answers")


def test_a_cluster_that_is_away_from_the_beginning_is_watched_all_the_same(
    cluster: Cluster,
) -> None:
    cluster.silence(503)
    out = io.StringIO()
    with Watching(cluster.api, Console(file=out, width=100), ("api",), every=0.01) as watching:
        until(lambda: "still trying" in out.getvalue())
        assert watching.wait(0.05) == {}
        cluster.silence(200)
        cluster.moves(converged())
        assert watching.wait(120)["api"].state == "converged"  # of before, nothing was known
    assert watching.before == {}


def test_the_deadline_that_is_left_never_goes_below_zero() -> None:
    made = rolling()
    made["status"]["conditions"][0]["lastUpdateTime"] = ago(timedelta(hours=1).total_seconds())
    assert seen(deployment=made).left == 0
