"""The lock with a message: what a second operator reads, and who wins."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ops import lock
from ops.api import Api
from ops.engine import Engine
from ops.lock import held
from ops.problems import Refused
from tests.ops.api_servers import Json, Nodes
from tests.providers import api_server

NO_CLUSTER = "no lock: it is kept in the cluster, which is not there before the first `up`"
WAIT = "    mend   wait until that has ended (python -m ops status), and run it again"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setattr("ops.lock.operator", lambda: "bea@desk")
    made = Nodes(tmp_path / "nodes")
    made.objects.kinds["leases"] = []
    yield made
    made.stop()


@pytest.fixture
def api(nodes: Nodes) -> Iterator[Api]:
    with an_api(nodes.kubeconfig) as made:
        yield made


def an_api(kubeconfig: str) -> Api:
    return Api.of(Engine("pulumi", "prod"), {"kubeconfig": kubeconfig})


def quiet(_line: str) -> None:
    """Not asserted here."""


def leases(nodes: Nodes) -> list[Json]:
    return nodes.objects.kinds.get("leases", [])


def seconds_ago(seconds: float) -> str:
    return f"{datetime.now(UTC) - timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%fZ}"


def trey(
    nodes: Nodes,
    *,
    since: float = 400,
    renewed: float = 3,
    who: str = "trey@laptop 4242",
    doing: str = "deploy 237c6b8",
    machine: str = "another",
) -> None:
    """Somebody else has it."""
    annotations = {lock.DOING: doing, lock.RUN: "trey's", lock.MACHINE: machine}
    nodes.objects.kinds["leases"] = []
    nodes.objects.write(
        "POST",
        "/apis/coordination.k8s.io/v1/namespaces/honeydue/leases",
        {
            "metadata": {"name": "deploy", "annotations": annotations},
            "spec": {
                "holderIdentity": who,
                "acquireTime": seconds_ago(since),
                "renewTime": seconds_ago(renewed),
            },
        },
    )


def let_a_minute_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is held counts as stale: its machine slept, and wakes up now."""
    monkeypatch.setattr("ops.lock._stale", lambda _lease, _now: True)


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


# --- one holder ---------------------------------------------------------------------------------


def test_the_lease_says_who_does_what_and_is_gone_afterwards(nodes: Nodes, api: Api) -> None:
    began = datetime.now(UTC)
    with held(api, doing="deploy 237c6b8") as mine:
        (lease,) = leases(nodes)
        assert lease["kind"] == "Lease"
        assert lease["metadata"]["annotations"][lock.DOING] == "deploy 237c6b8"
        spec = lease["spec"]
        assert spec["holderIdentity"] == f"bea@desk {os.getpid()}"
        assert spec["leaseDurationSeconds"] == 60
        taken = datetime.fromisoformat(spec["acquireTime"])
        # The servers tell their time in whole seconds, and it was theirs a while before it is used.
        assert began - timedelta(seconds=1) <= taken <= datetime.now(UTC)
        mine.assure()
        assert mine.lost == ""
    assert leases(nodes) == []


def test_it_is_given_back_when_the_release_fails_or_is_interrupted(nodes: Nodes, api: Api) -> None:
    for wrong in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(wrong), held(api, doing="deploy 237c6b8"):
            raise wrong if leases(nodes) else AssertionError
        assert leases(nodes) == []
    assert not [t for t in threading.enumerate() if t.name == "lock"]


def test_it_is_renewed_by_itself(nodes: Nodes, api: Api) -> None:
    with held(api, doing="deploy 237c6b8", every=0.02):
        first = leases(nodes)[0]["spec"]["renewTime"]
        until(lambda: leases(nodes)[0]["spec"]["renewTime"] > first)
    assert leases(nodes) == []


def test_before_the_first_up_there_is_no_lock_and_it_is_said(nodes: Nodes, api: Api) -> None:
    nodes.objects.namespace = False
    for cluster in (None, api):
        said: list[str] = []
        with held(cluster, doing="deploy 237c6b8", say=said.append) as mine:
            mine.assure()
            assert mine.lost == ""
        assert said == [NO_CLUSTER]


# --- a second operator --------------------------------------------------------------------------


def refusal(api: Api, **how: Any) -> str:
    with pytest.raises(Refused) as caught, held(api, doing="deploy 99aa11b", **how):
        raise AssertionError("it was not refused")
    return str(caught.value)


def test_a_second_operator_reads_who_does_what_since_when(nodes: Nodes, api: Api) -> None:
    trey(nodes)
    since = datetime.fromisoformat(leases(nodes)[0]["spec"]["acquireTime"])
    what, mend = refusal(api).splitlines()
    assert re.sub(r"\d+ s ago", "… s ago", what) == (
        f"trey@laptop deploys 237c6b8 since {since:%H:%M} UTC (7 min); renewed … s ago"
    )
    assert mend == WAIT
    assert leases(nodes)[0]["spec"]["holderIdentity"] == "trey@laptop 4242"


def test_a_rollback_is_told_as_one(nodes: Nodes, api: Api) -> None:
    trey(nodes, doing="rollback to 11")
    assert refusal(api).startswith("trey@laptop rolls back to 11 since ")
    trey(nodes, doing="config set")
    assert refusal(api).startswith("trey@laptop does config set since ")


def test_a_stale_lock_is_told_from_a_fresh_one_and_still_not_taken(nodes: Nodes, api: Api) -> None:
    trey(nodes, renewed=420)
    said = refusal(api)
    assert "; not renewed for 7 min: that run is likely gone\n" in said
    assert said.endswith("mend   make sure that it is, then run the same with --take-over")
    assert leases(nodes)[0]["spec"]["holderIdentity"] == "trey@laptop 4242"


def test_a_clock_that_is_wrong_makes_no_lock_look_old(nodes: Nodes, api: Api) -> None:
    """The cluster's clocks are an hour behind this machine's; trey's lock is fresh by them."""
    for server in nodes.servers.values():
        server.behind = 3600
    trey(nodes, since=3700, renewed=3603)
    assert "; renewed " in refusal(api)


def test_what_others_wrote_is_one_line_of_print(nodes: Nodes, api: Api) -> None:
    trey(nodes, who="e\x1b[31mve\n", doing="deploy \x1b[2J")
    assert refusal(api).startswith("e?[31mve? deploys ?[2J since ")
    nodes.objects.kinds["leases"][0]["spec"] = {}
    nodes.objects.kinds["leases"][0]["metadata"]["annotations"] = {}
    assert refusal(api).startswith("somebody does something; never renewed: that run is likely")


# --- taking over --------------------------------------------------------------------------------


def test_take_over_takes_it_and_says_from_whom(nodes: Nodes, api: Api) -> None:
    trey(nodes, renewed=420)
    said: list[str] = []
    with held(api, doing="deploy 99aa11b", take_over=True, say=said.append):
        (lease,) = leases(nodes)
        assert lease["spec"]["holderIdentity"].startswith("bea@desk")
        assert lease["spec"]["leaseTransitions"] == 1
    assert said[0].startswith("the lock is taken over from trey@laptop deploys 237c6b8 since ")
    assert leases(nodes) == []


def test_one_that_is_renewed_is_not_taken_over(nodes: Nodes, api: Api) -> None:
    """Two may have read the same stale lock: whoever took it over first is at work since."""
    trey(nodes, since=40)
    with (
        pytest.raises(Refused) as caught,
        held(api, doing="deploy 99aa11b", take_over=True, say=quiet),
    ):
        pass
    said = str(caught.value)
    assert " s ago: that run is alive, and is not taken over\n" in said
    assert said.endswith(
        "    mend   press Ctrl-C there and run the same again; where nobody can reach that "
        "machine: kubectl -n honeydue delete lease deploy"
    )
    assert leases(nodes)[0]["spec"]["holderIdentity"] == "trey@laptop 4242"


def test_the_one_it_was_taken_from_learns_of_it_and_leaves_it_alone(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_a_minute_pass(monkeypatch)
    with ExitStack() as stack:
        first, second = (stack.enter_context(an_api(nodes.kubeconfig)) for _ in range(2))
        hers = stack.enter_context(ExitStack())
        # Beats that are closer than two requests could keep anybody from taking it over.
        with held(first, doing="deploy 237c6b8", every=1.0) as mine:
            hers.enter_context(held(second, doing="rollback to 11", take_over=True, say=quiet))
            until(lambda: bool(mine.lost))
            assert mine.lost == "bea@desk has taken over the lock (rollback to 11)"
            with pytest.raises(Refused) as caught:
                mine.assure()
        assert str(caught.value) == (
            "bea@desk has taken over the lock (rollback to 11): this run goes no further\n"
            "    mend   python -m ops status shows what runs; speak with each other, then run it "
            "again"
        )
        assert len(leases(nodes)) == 1  # hers
    assert leases(nodes) == []


def test_assure_does_not_wait_for_the_next_beat(nodes: Nodes, api: Api) -> None:
    with held(api, doing="deploy 237c6b8", every=3600) as mine:
        trey(nodes)
        assert mine.lost == ""
        with pytest.raises(Refused, match="trey@laptop has taken over the lock"):
            mine.assure()
    assert leases(nodes)[0]["spec"]["holderIdentity"] == "trey@laptop 4242"


GONE = "the lock is gone: somebody took it over and is done, or deleted it"


@pytest.mark.parametrize("answers", [404, 409])
def test_a_lease_that_is_gone_is_not_made_again_and_the_run_goes_no_further(
    nodes: Nodes, api: Api, answers: int
) -> None:
    """Somebody took it over, deployed, and gave it back. A PUT that names a uid is answered with
    404 or with 409, as the API server sees it."""
    nodes.objects.gone = answers
    said: list[str] = []
    with held(api, doing="deploy 237c6b8", every=3600, say=said.append) as mine:
        leases(nodes).clear()
        with pytest.raises(Refused) as caught:
            mine.assure()
        assert str(caught.value) == (
            f"{GONE}: this run goes no further\n"
            "    mend   python -m ops status shows what runs; speak with each other, then run it "
            "again"
        )
        assert leases(nodes) == []
    assert (leases(nodes), said) == ([], [])


def test_one_that_was_taken_over_and_given_back_between_two_beats_is_lost(
    nodes: Nodes, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_a_minute_pass(monkeypatch)
    with an_api(nodes.kubeconfig) as other, held(api, doing="deploy 237c6b8", every=3600) as mine:
        with held(other, doing="rollback to 11", take_over=True, say=quiet):
            pass
        with pytest.raises(Refused, match=GONE):
            mine.assure()
        assert leases(nodes) == []


# --- after kill -9 ------------------------------------------------------------------------------

_HOLDER = """
import sys, time
import httpx
from ops import api, lock
from ops.api import Api
from ops.engine import Engine
api._TIMEOUT = httpx.Timeout(60)
lock.operator = lambda: "bea@desk"
api = Api.of(Engine("pulumi", "prod"), {"kubeconfig": open(sys.argv[1]).read()})
with lock.held(api, doing="deploy 237c6b8"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_after_kill_9_the_same_operator_takes_it_without_being_told_to(
    nodes: Nodes, api: Api, tmp_path: Path
) -> None:
    (tmp_path / "kubeconfig").write_text(nodes.kubeconfig)
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "kubeconfig")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert "bea@desk deploys 237c6b8" in refusal(api)  # it is alive
        child.kill()
    said: list[str] = []
    with held(api, doing="deploy 237c6b8", say=said.append):
        pass
    assert said == [f"the earlier run (pid {child.pid}: deploy 237c6b8) is gone: its lock is taken"]
    assert leases(nodes) == []


@pytest.mark.parametrize(
    ("who", "machine"), [("bea@desk", "another"), ("trey@desk", ""), ("bea@laptop", "")]
)
def test_a_pid_says_nothing_about_another_person_or_machine(
    nodes: Nodes, api: Api, who: str, machine: str
) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    trey(nodes, who=f"{who} {gone.pid}", machine=machine or lock._machine())
    assert f"{who} deploys" in refusal(api)


# --- API servers that fail ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE"])
def test_an_answer_that_is_lost_is_not_somebody_elses_lock(
    nodes: Nodes, api: Api, verb: str
) -> None:
    """The first node does it and dies before it has answered; the next one finds it done."""
    nodes.servers["honeydue-1"].loses = verb
    with held(api, doing="deploy 237c6b8", every=3600) as mine:
        mine.assure()
        mine.assure()
        assert mine.lost == ""
        assert len(leases(nodes)) == 1
    assert leases(nodes) == []


def test_a_node_that_ends_in_the_middle_is_no_matter(nodes: Nodes, api: Api) -> None:
    with held(api, doing="deploy 237c6b8", every=0.02) as mine:
        nodes.servers["honeydue-1"].stop()
        nodes.servers["honeydue-2"].status = 503
        mine.assure()
        first = leases(nodes)[0]["spec"]["renewTime"]
        until(lambda: leases(nodes)[0]["spec"]["renewTime"] > first)
    assert leases(nodes) == []


def test_while_nobody_answers_it_is_kept_and_in_the_end_it_is_said(nodes: Nodes, api: Api) -> None:
    said: list[str] = []
    with held(api, doing="deploy 237c6b8", every=0.02, say=said.append) as mine:
        for server in nodes.servers.values():
            server.status = 503
        mine.assure()
        assert mine.lost == ""
    (line,) = said
    assert line.startswith("the lock could not be given back, and goes stale in a minute (no API")
    assert line.endswith("; your next run on this machine takes it by itself")


def test_when_nobody_answers_before_it_is_taken_nothing_begins(nodes: Nodes, api: Api) -> None:
    nodes.stop()
    assert refusal(api).startswith("no API server answers (honeydue-1: ")


# --- many at once -------------------------------------------------------------------------------


def contest(kubeconfig: str, count: int, *, take_over: bool) -> tuple[int, list[str]]:
    """How many had the lock at the same time at most; what the others read."""
    inside, most, refused = 0, 0, list[str]()
    counting, together = threading.Lock(), threading.Barrier(count, timeout=120)
    over = threading.Event()

    def operator(_number: int) -> None:
        nonlocal inside, most
        with an_api(kubeconfig) as api:
            api.get("/api/v1/namespaces/honeydue")  # connected
            together.wait()
            try:
                with held(api, doing="deploy 237c6b8", take_over=take_over, say=quiet):
                    with counting:
                        inside += 1
                        most = max(most, inside)
                    over.wait(120)
                    with counting:
                        inside -= 1
            except Refused as cause:
                with counting:
                    refused.append(str(cause))
                    if len(refused) == count - 1:
                        over.set()

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(operator, range(count)))
    return most, refused


def test_of_many_that_start_together_exactly_one_wins(nodes: Nodes) -> None:
    most, refused = contest(nodes.kubeconfig, 12, take_over=False)
    assert most == 1
    assert len(refused) == 11
    assert all(each.startswith("bea@desk deploys 237c6b8 since ") for each in refused)
    assert leases(nodes) == []


def test_of_many_that_take_over_a_stale_lock_together_exactly_one_wins(nodes: Nodes) -> None:
    for server in nodes.servers.values():
        server.delay = 0.5  # most have read it before the first one writes; the rest meet his
    trey(nodes, renewed=420)
    most, refused = contest(nodes.kubeconfig, 8, take_over=True)
    assert most == 1
    assert len(refused) == 7
    assert leases(nodes) == []


@pytest.mark.cluster
def test_a_real_api_server_lets_exactly_one_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.lock.operator", lambda: "bea@desk")
    with api_server.running(tmp_path) as kubeconfig, an_api(kubeconfig) as api:
        path = "/apis/coordination.k8s.io/v1/namespaces/honeydue/leases/deploy"
        said: list[str] = []
        with held(api, doing="deploy 237c6b8", say=said.append):
            pass
        assert said == [NO_CLUSTER]
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "honeydue"}}
        assert api.create("/api/v1/namespaces", namespace) is not None

        most, refused = contest(kubeconfig, 12, take_over=False)
        assert (most, len(refused)) == (1, 11)
        assert api.get(path) is None

        with held(api, doing="deploy 237c6b8", every=1.0) as mine:
            first = api.get(path)["spec"]["renewTime"]
            until(lambda: bool(api.get(path)["spec"]["renewTime"] > first))
            let_a_minute_pass(monkeypatch)
            with (
                an_api(kubeconfig) as other,
                held(other, doing="rollback to 11", take_over=True, say=quiet),
            ):
                until(lambda: bool(mine.lost))
                assert api.get(path)["spec"]["leaseTransitions"] == 1
            assert api.get(path) is None
        assert api.get(path) is None

        with held(api, doing="deploy 237c6b8", every=3600) as mine:
            assert api.delete(path)
            with pytest.raises(Refused, match=GONE):
                mine.assure()
            assert api.get(path) is None
