"""logs, pause, resume and restart, as the operator meets them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops import daily
from ops.api import FIELD_MANAGER, Api
from ops.cli import main
from ops.engine import Engine
from ops.masking import hiding, values_of
from rehearsal.engine.state import Backend
from rehearsal.providers.kubernetes.managers import handed_over
from tests.ops.api_servers import Nodes
from tests.ops.kubernetes_json import Json, container, deployed, pod, well
from tests.ops.pulumi import Pulumi

Ops = Callable[..., tuple[int, str]]
PASSWORD = "hunter2-canary-password"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    made = Nodes(tmp_path / "nodes")
    (tmp_path / "state").mkdir()
    pulumi = Pulumi(tmp_path / "bin").answers(
        whoami={"url": f"file://{tmp_path / 'state'}"},
        stack_output={"kubeconfig": made.kubeconfig},
    )
    monkeypatch.setenv("PATH", str(pulumi.folder), prepend=os.pathsep)
    made.objects.kinds["deployments"] = [deployed(s) for s in ("api", "worker", "admin")]
    made.objects.kinds["pods"] = [well(name="api-a"), well(name="api-b"), well("worker", "w-a")]
    secret = {"DATABASE_PASSWORD": "aHVudGVyMi1jYW5hcnktcGFzc3dvcmQ="}
    made.objects.kinds["secrets"] = [{"metadata": {"name": "s"}, "data": secret}]
    made.objects.logs = {
        ("api-a", False): [f"2026-11-22T03:00:0{n}.000000001Z a says {n}" for n in (1, 3)],
        ("api-b", False): [f"2026-11-22T03:00:0{n}.000000001Z b says {n}" for n in (2, 4)],
        ("api-b", True): ["2026-11-22T02:59:59.000000001Z panic: b"],
    }
    yield made
    made.stop()


@pytest.fixture
def ops(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> Ops:
    def run(*words: str) -> tuple[int, str]:
        assert nodes
        code = main([*words, "--stack", "prod"])
        printed = capsys.readouterr()
        assert PASSWORD not in printed.out + printed.err
        return code, printed.out + printed.err

    return run


def found(nodes: Nodes, service: str) -> Json:
    deployment = nodes.objects.one(f"/deployments/{service}")
    assert deployment is not None
    return deployment


# --- logs ---------------------------------------------------------------------------------------


def test_the_lines_of_all_pods_are_in_the_order_in_which_they_were_written(ops: Ops) -> None:
    code, read = ops("logs", "api")
    assert code == 0
    assert read.splitlines() == [
        "api-a  a says 1",
        "api-b  b says 2",
        "api-a  a says 3",
        "api-b  b says 4",
    ]


def test_tail_counts_for_each_pod(ops: Ops) -> None:
    assert ops("logs", "api", "--tail", "1")[1] == "api-a  a says 3\napi-b  b says 4\n"


def test_previous_asks_only_the_pods_that_were_restarted(nodes: Nodes, ops: Ops) -> None:
    code, read = ops("logs", "api", "--previous")
    assert code == 1
    assert "no pod of api was restarted" in read
    again = pod(name="api-b", containers=[container(restartCount=2)])
    nodes.objects.kinds["pods"] = [well(name="api-a"), again]
    assert ops("logs", "api", "--previous") == (0, "api-b  panic: b\n")


def test_followed_lines_come_until_the_pods_end(ops: Ops) -> None:
    code, read = ops("logs", "api", "--follow")
    assert code == 0
    assert sorted(read.splitlines())[0] == "api-a  a says 1"
    assert len(read.splitlines()) == 4


def test_ctrl_c_ends_following_in_peace(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    for server in nodes.servers.values():
        server.released.clear()
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        if len(told) == 4:
            raise KeyboardInterrupt

    with Api.of(Engine("pulumi", "prod")) as api:
        daily.logs(api, "api", say, follow=True)
    assert len(told) == 4
    for server in nodes.servers.values():
        server.released.set()
    for thread in [t for t in threading.enumerate() if t.name.startswith("log of ")]:
        thread.join(60)
        assert not thread.is_alive()
    assert capsys.readouterr().err == ""


def test_json_is_an_object_a_line(ops: Ops) -> None:
    said = [json.loads(line) for line in ops("logs", "api", "--json")[1].splitlines()]
    assert said[0] == {"at": "2026-11-22T03:00:01.000000001Z", "pod": "api-a", "line": "a says 1"}


def test_a_secret_that_the_application_logs_is_masked(nodes: Nodes, ops: Ops) -> None:
    nodes.objects.logs["api-a", False] = [f"2026-11-22T03:00:00Z the password is {PASSWORD}!"]
    assert "api-a  the password is [secret]!" in ops("logs", "api")[1]


def test_one_pod_without_a_log_does_not_hide_the_others(nodes: Nodes, ops: Ops) -> None:
    del nodes.objects.logs["api-a", False]
    code, read = ops("logs", "api")
    assert code == 1
    assert "api-b  b says 2" in read
    assert 'api-a: its log cannot be had: container "api" in pod "api-a" is waiting to' in read


def test_a_service_without_a_pod_and_one_that_does_not_exist(ops: Ops) -> None:
    assert ops("logs", "redis") == (
        1,
        "error: redis has no pod, and so no log\n    mend   python -m ops status says why there is "
        "none\n",
    )
    assert ops("logs", "postgres")[0] == 2
    assert ops("logs", "api", "--previous", "--follow")[0] == 2


# --- pause, resume, restart ---------------------------------------------------------------------


def test_pause_and_resume(nodes: Nodes, ops: Ops) -> None:
    code, read = ops("pause", "api")
    assert code == 0
    assert "no new pod is made" in read
    assert "python -m ops resume api" in read
    assert found(nodes, "api")["spec"]["paused"] is True
    assert ops("pause", "api") == (0, "api is paused already; nothing was changed\n")
    code, read = ops("resume", "api")
    assert code == 0
    # As if it had never been: not `false`, which somebody would then own.
    assert "paused" not in found(nodes, "api")["spec"]
    assert ops("resume", "api") == (0, "api is not paused; nothing was changed\n")
    assert len(nodes.objects.patches) == 2


def test_restart_changes_the_pod_template_as_kubectl_does(nodes: Nodes, ops: Ops) -> None:
    before = json.dumps(found(nodes, "api"))
    code, read = ops("restart", "api")
    assert code == 0
    assert "3 pods, one after the other" in read
    ((path, body, query),) = nodes.objects.patches
    assert path == "/apis/apps/v1/namespaces/honeydue/deployments/api"
    annotations = body["spec"]["template"]["metadata"]["annotations"]
    assert list(annotations) == ["kubectl.kubernetes.io/restartedAt"]
    assert query == {"fieldManager": [FIELD_MANAGER]}
    after = found(nodes, "api")
    del after["spec"]["template"]["metadata"]["annotations"]
    assert json.dumps(after) == before


@pytest.mark.parametrize(("manager", "taken"), [(FIELD_MANAGER, False), ("kubectl-rollout", True)])
def test_pulumi_leaves_alone_what_ops_has_set_and_not_what_kubectl_has(
    manager: str, taken: bool
) -> None:
    """What it takes over, its next apply removes: that would roll the pods once more."""
    applied = {"manager": "pulumi-kubernetes-1f2e", "operation": "Apply", "fieldsV1": {}}
    annotated = {"manager": manager, "operation": "Update", "fieldsV1": {"f:spec": {}}}
    live = {"metadata": {"managedFields": [applied, annotated]}}
    assert (handed_over(live, "pulumi-kubernetes-1f2e") is not None) is taken


def test_the_restart_of_the_singleton_says_that_it_is_away_meanwhile(ops: Ops) -> None:
    assert "its pod ends before the new one starts" in ops("restart", "worker")[1]


@pytest.mark.parametrize("verb", ["pause", "restart"])
def test_a_dry_run_is_judged_by_the_cluster_and_changes_nothing(
    nodes: Nodes, ops: Ops, verb: str
) -> None:
    before = json.dumps(found(nodes, "api"))
    code, read = ops(verb, "api", "--dry-run")
    assert code == 0
    assert "nothing was changed (--dry-run)" in read
    assert nodes.objects.patches[0][2]["dryRun"] == ["All"]
    assert json.dumps(found(nodes, "api")) == before


def test_a_paused_service_is_not_restarted(nodes: Nodes, ops: Ops) -> None:
    ops("pause", "api")
    code, read = ops("restart", "api")
    assert code == 1
    assert "api is paused" in read
    assert "python -m ops resume api" in read
    assert len(nodes.objects.patches) == 1


def test_nothing_is_restarted_beside_a_run_of_the_stack(
    nodes: Nodes, ops: Ops, tmp_path: Path
) -> None:
    with Backend(tmp_path / "state").lock("honeydue", "prod"):
        code, read = ops("restart", "api")
        assert code == 1
        assert "locked by" in read
        # Holding a rollout is what `pause` is for.
        assert ops("pause", "api")[0] == 0
    assert len(nodes.objects.patches) == 1


def test_a_service_that_is_not_in_the_cluster(nodes: Nodes, ops: Ops) -> None:
    nodes.objects.kinds["deployments"] = [deployed("api")]
    for verb in ("pause", "resume", "restart"):
        code, read = ops(verb, "admin")
        assert code == 1
        assert "there is no Deployment admin in the cluster" in read


@pytest.mark.parametrize("fault", ["down", "no leader"])
def test_when_one_api_server_fails_the_next_is_asked(nodes: Nodes, ops: Ops, fault: str) -> None:
    first = nodes.servers["honeydue-1"]
    if fault == "down":
        first.stop()
    else:
        first.status = 503
    assert ops("pause", "api")[0] == 0
    assert ops("logs", "api", "--tail", "1")[1] == "api-a  a says 3\napi-b  b says 4\n"


def test_when_none_answers_each_is_named(nodes: Nodes, ops: Ops) -> None:
    nodes.stop()
    code, read = ops("restart", "api")
    assert code == 1
    for name in nodes.servers:
        assert name in read
    assert "operator.apiCidrs" in read


# --- masking ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "plain: se/cret+value 1",
        "in a URL: postgres://u:se%2Fcret%2Bvalue%201@db/x",
        "in base64: c2UvY3JldCt2YWx1ZSAx",
        'in JSON: {"a": "se/cret+value 1"}',
    ],
)
def test_a_secret_is_masked_in_each_form_in_which_it_is_written(line: str) -> None:
    hidden = hiding(["se/cret+value 1"])(line)
    assert hidden.startswith(line.split(":", maxsplit=1)[0])
    assert "[secret]" in hidden
    for form in ("cret", "c2Uv"):
        assert form not in hidden.split(":", 1)[1].replace("[secret]", "")


def test_logins_are_masked_whoever_knows_them() -> None:
    hide = hiding([])
    assert hide("redis://:abc@r:6379") == "redis://:[secret]@r:6379"
    assert hide("Authorization: Bearer abcdefgh.ijk") == "Authorization: Bearer [secret]"
    assert hide("GET https://api.example.com/a:b") == "GET https://api.example.com/a:b"


def test_short_values_and_the_pem_frame_are_no_secrets() -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqG\n-----END PRIVATE KEY-----\n"
    hide = hiding(["true", "587", pem])
    assert hide("tls true on 587 -----BEGIN PRIVATE KEY-----").count("[secret]") == 0
    assert hide("key MIGHAgEAMBMGByqGSM49AgEGCCqG") == "key [secret]"


def test_what_is_no_text_in_a_secret_is_passed_by() -> None:
    assert list(values_of([{"data": {"a": "////", "b": "no base64!", "c": None}}, {}, "x"])) == []
