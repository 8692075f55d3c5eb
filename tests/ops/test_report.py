"""What an operator reads when a deploy has failed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from honeydue.images.references import TAG_ANNOTATION
from honeydue.kubernetes.catalogue import NAME
from ops import report
from ops.api import Api
from ops.cluster import contexts
from ops.plan import Image
from ops.report import Collected, Part, Report, Running, collect, compose, headline, next_up
from ops.urls import Checked
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
    image,
    node,
    pod,
    waiting,
    well,
)

GOLDEN = Path(__file__).parent / "golden"
PASSWORD = "hunter2-canary-password"
OLD_TAG, NEW_TAG = "1a2b3c4", "237c6b8"
OLD, NEW = Image(OLD_TAG, DIGEST), Image(NEW_TAG, OTHER)
PINS = {name: f"{OLD_TAG}@{DIGEST}" for name in ("api", "worker", "admin")}


def owner(made: Json, tag: str) -> Json:
    made["metadata"].setdefault("annotations", {})[TAG_ANNOTATION] = tag
    return made


def remembered(service: str, digest: str, tag: str) -> Json:
    """A ReplicaSet."""
    made = deployed(service, digest)
    metadata = {"name": f"{service}-{digest[7:12]}", "labels": {NAME: service}, "annotations": {}}
    return owner({"metadata": metadata, "spec": made["spec"], "status": {}}, tag)


class Production:
    """api has rolled, worker crashes, admin was not reached."""

    def __init__(self, folder: Path) -> None:
        self.nodes = Nodes(folder / "nodes")
        self.api = Api(dict(contexts(self.nodes.kubeconfig)))
        kinds = self.kinds = self.nodes.objects.kinds
        kinds["nodes"] = [node(f"honeydue-{n}") for n in (1, 2, 3)]
        kinds["deployments"] = [
            owner(deployed("api", OTHER), NEW_TAG),
            owner(
                deployed(
                    "worker",
                    OTHER,
                    progressing="ProgressDeadlineExceeded",
                    message='ReplicaSet "worker-bbbbb" has timed out progressing.',
                ),
                NEW_TAG,
            ),
            owner(deployed("admin"), OLD_TAG),
        ]
        kinds["replicasets"] = [
            remembered(service, digest, tag)
            for service in ("api", "worker", "admin")
            for digest, tag in ((DIGEST, OLD_TAG), (OTHER, NEW_TAG))
        ]
        kinds["pods"] = [
            *(well("api", f"api-new-{n}", OTHER) for n in range(3)),
            pod("worker", "worker-new", OTHER, containers=[crashing(2, 1)]),
            *(well("admin", f"admin-old-{n}") for n in range(2)),
        ]
        kinds["events"] = [
            event("Scheduled", "Successfully assigned worker-new to honeydue-1", "worker-new", 900),
            event("Pulled", f'Image "{image("worker", OTHER)}" present', "worker-new", 800),
            event("Killing", f"told it {PASSWORD}", "worker-new", 60),
            event("BackOff", "Back-off restarting failed container", "worker-new", 30),
        ]
        value = "aHVudGVyMi1jYW5hcnktcGFzc3dvcmQ="
        kinds["secrets"] = [{"metadata": {"name": "s"}, "data": {"DATABASE_PASSWORD": value}}]
        self.nodes.objects.logs["worker-new", True] = [
            f"2026-11-22T03:00:0{n}.1Z {said}"
            for n, said in enumerate(
                ["one", "two", "three", "connecting", f"postgres://u:{PASSWORD}@db/h", "panic: no"]
            )
        ]

    def collected(self) -> Collected:
        return collect(self.api, now=NOW)


@pytest.fixture
def prod(tmp_path: Path) -> Iterator[Production]:
    made = Production(tmp_path)
    with made.api:
        yield made
    made.nodes.stop()


def read(told: Report, width: int = 100) -> str:
    screen = io.StringIO()
    report.show(told, Console(file=screen, width=width, highlight=False))
    assert PASSWORD not in screen.getvalue()
    assert PASSWORD not in json.dumps(report.document(told))
    return "\n".join(line.rstrip() for line in screen.getvalue().splitlines()) + "\n"


def failed(prod: Production, **more: Any) -> Report:
    found = prod.collected()
    given: dict[str, Any] = {
        "phase": "rollout",
        "what": "worker did not converge within the Deployment's own 600 s",
        "failure": found,
        "now": found,
        "wanted": dict.fromkeys(("api", "worker", "admin"), NEW),
        "settings": dict.fromkeys(("api", "worker", "admin"), f"{NEW_TAG}@{OTHER}"),
        **more,
    }
    return compose(**given)


@pytest.mark.parametrize("width", [80, 120])
def test_a_release_that_failed_half_way_reads_as_the_golden_text(
    prod: Production, width: int
) -> None:
    checked = [
        Checked(name="api", url="https://api.myhoneydue.com/api/health/", status=200, ms=80),
        Checked(
            name="admin",
            url="https://admin.myhoneydue.com/",
            status=503,
            why="503: no pod of it is ready, or it says itself that its database or Redis is away",
            mend="python -m ops logs admin",
        ),
    ]
    told = failed(prod, checked=checked, outcome="No rollback: --no-rollback was given.")
    assert read(told, width) == (GOLDEN / f"report-{width}.txt").read_text()


def test_the_release_is_one_and_each_service_is_told_by_what_serves(prod: Production) -> None:
    assert headline(failed(prod)) == (
        "the release is one: api 237c6b8 (new), worker has nothing ready, admin 1a2b3c4 (old)"
    )


def test_old_pods_that_still_serve_beside_a_broken_new_one_are_what_runs(prod: Production) -> None:
    prod.kinds["deployments"][0] = owner(deployed("api", OTHER), NEW_TAG)
    prod.kinds["pods"] = [
        *(well("api", f"api-old-{n}") for n in range(3)),
        pod("api", "api-new", OTHER, containers=[waiting("ImagePullBackOff", "not found")]),
        well("worker", "worker-old"),
        *(well("admin", f"admin-old-{n}") for n in range(2)),
    ]
    told = failed(prod)
    api = next(each for each in told.now.running if each.service == "api")
    assert api == Running("api", 3, NEW, (Part(NEW, 0, 1), Part(OLD, 3, 3)))
    assert headline(told) == (
        "the release is one: api 1a2b3c4 (old), worker 1a2b3c4 (old), admin 1a2b3c4 (old)"
    )


def test_a_service_that_the_release_did_not_change_is_called_so(prod: Production) -> None:
    assert headline(failed(prod, wanted={"api": NEW})).endswith("admin 1a2b3c4 (unchanged)")


def test_an_image_that_up_built_itself_is_known_by_its_tag(prod: Production) -> None:
    built = dict.fromkeys(("api", "worker", "admin"), Image(NEW_TAG, ""))
    assert "api 237c6b8 (new)" in headline(failed(prod, wanted=built))
    assert "admin 1a2b3c4 (old)" in headline(failed(prod, wanted=built))


def test_of_a_failing_pod_the_last_five_lines_and_three_events_are_told_masked(
    prod: Production,
) -> None:
    found = prod.collected()
    assert found.logs["worker-new"] == [
        "two",
        "three",
        "connecting",
        "postgres://u:[secret]@db/h",
        "panic: no",
    ]
    assert [line.split(":")[0] for line in found.events["worker-new"]] == [
        "Pulled",
        "Killing",
        "BackOff",
    ]
    assert found.events["worker-new"][1] == "Killing: told it [secret] (4 times, 60 s ago)"


def test_what_cannot_be_masked_is_not_told(prod: Production) -> None:
    for server in prod.nodes.servers.values():
        server.refuses = ("secrets",)
    found = prod.collected()
    assert found.logs == {}
    assert all("not shown" in line for line in found.events["worker-new"])
    assert PASSWORD not in str(found)


def test_only_the_services_that_are_asked_for_are_told(prod: Production) -> None:
    found = collect(prod.api, ("api",), now=NOW)
    assert [each.service for each in found.running] == ["api"]
    assert found.findings == ()


def test_a_cluster_that_does_not_answer_is_said_and_not_hidden(prod: Production) -> None:
    for server in prod.nodes.servers.values():
        server.status = 503
    gone = prod.collected()
    told = compose(
        phase="rollout",
        what="the API servers went away",
        failure=gone,
        now=gone,
        wanted={},
        settings={},
    )
    said = read(told)
    assert "not known: no API server answers (honeydue-1: etcdserver: no leader" in said
    assert "not known: the cluster does not say what runs" in said
    assert report.document(told)["notAsked"].startswith("no API server answers")


def test_a_pod_that_still_boots_is_told_only_where_nothing_graver_is(prod: Production) -> None:
    running = {"running": {"startedAt": ago(35)}}
    boots = pod("admin", "admin-new", OTHER, containers=[container("admin", state=running)])
    prod.kinds["pods"].append(boots)
    assert "booting" not in read(failed(prod))
    prod.kinds["pods"] = [boots]
    prod.kinds["deployments"] = prod.kinds["deployments"][2:]
    assert "admin: booting" in read(failed(prod))


def test_what_was_only_stopped_is_not_called_a_failure(prod: Production) -> None:
    told = failed(prod, phase="", outcome="Stopped by Ctrl-C, and nothing was rolled back.")
    said = read(told)
    assert "FAILED" not in said
    assert said.startswith("Stopped by Ctrl-C, and nothing was rolled back.")
    assert report.document(told)["phase"] in ("", None)


# --- what comes next ----------------------------------------------------------------------------


def runs(**wanted: Image) -> list[Running]:
    return [Running(name, 1, found, (Part(found, 1, 1),)) for name, found in wanted.items()]


def test_after_a_rollback_the_next_up_changes_nothing() -> None:
    assert list(next_up(runs(api=OLD, worker=OLD), PINS)) == [
        "changes no image: the settings name what runs"
    ]


@pytest.mark.parametrize("named", [DIGEST, f"{OLD_TAG}@{DIGEST}", OLD_TAG, f"other@{DIGEST}"])
def test_an_image_is_the_same_by_digest_else_by_tag(named: str) -> None:
    assert list(next_up(runs(api=OLD), {"api": named})) == [
        "changes no image: the settings name what runs"
    ]


def test_pins_that_differ_from_what_runs_are_rolled_to() -> None:
    settings = PINS | {"admin": f"{NEW_TAG}@{OTHER}"}
    assert list(next_up(runs(api=NEW, worker=NEW, admin=OLD), settings)) == [
        "rolls api and worker to 1a2b3c4, as the settings say",
        "rolls admin to 237c6b8, as the settings say",
    ]


def test_a_service_without_a_pin_is_built() -> None:
    assert list(next_up(runs(api=OLD, worker=OLD, admin=OLD), {"api": PINS["api"]})) == [
        "builds worker and admin from the checkout's HEAD, and rolls what differs: the settings "
        "name no image"
    ]


def test_a_broken_service_that_the_settings_still_want_stays_broken() -> None:
    broken = Running("worker", 1, OLD, (Part(OLD, 0, 1),))
    (line,) = next_up([*runs(api=OLD), broken], PINS)
    assert line == (
        "leaves worker as it is, although it is not ready: the settings name what its Deployment "
        "has; mend the cause, or python -m ops rollback"
    )


def test_a_deployment_that_is_gone_is_made_anew() -> None:
    (line,) = next_up([Running("api", 0, None, ())], PINS)
    assert line == "rolls api to 1a2b3c4, as the settings say"


def test_the_document_for_programs_has_the_same(prod: Production) -> None:
    told = report.document(failed(prod, outcome="rolled back to 11"))
    assert told["phase"] == "rollout"
    assert told["outcome"] == "rolled back to 11"
    crash = next(each for each in told["findings"] if each["symptom"] == "CrashLoopBackOff")
    assert crash["pods"][0]["name"] == "worker-new"
    assert crash["pods"][0]["log"][-1] == "panic: no"
    assert told["running"][0] == {
        "service": "api",
        "desired": 3,
        "images": [
            {"tag": NEW_TAG, "digest": OTHER, "ready": 3, "pods": 3, "release": "new"},
        ],
    }
    assert told["notAsked"] is None
