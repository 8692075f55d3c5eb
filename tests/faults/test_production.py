"""The whole production, with its real cluster, through one long bad night. In file order.

`KILL_EVERY` (default 8): the runs of the first deployment are each killed at their n-th step;
`make faults` sets 1, so that each step is met.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.faults.lab import Lab, lab
from tests.faults.production import NODES, Production, production

pytestmark = pytest.mark.cluster
KILL_EVERY = int(os.environ.get("KILL_EVERY", "8"))
APPLY = "application/apply-patch+yaml"
MERGE = "application/strategic-merge-patch+json"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    with production(tmp_path_factory.mktemp("night")) as one:
        yield one


@pytest.fixture(scope="module")
def kills(night: Production) -> int:
    """The first deployment: how many runs were killed on its way."""
    return night.deployed_by_killed_runs(KILL_EVERY)


@pytest.fixture
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("undisturbed")) as one:
        made = one.up()
        assert made.ok, made.text
        yield one


def release(name: str) -> str:
    """A digest as the settings name it: the cluster admits the application's images by no other."""
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def converged(night: Production) -> None:
    assert night.operator.changes() == {}
    assert night.ready_nodes() == NODES


def test_runs_that_are_killed_again_and_again_end_where_an_undisturbed_one_does(
    night: Production,
    kills: int,
    undisturbed: Lab,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("killed runs", kills)
    assert kills >= 60 // KILL_EVERY
    converged(night)
    assert night.world() == undisturbed.world()
    # Immutable and named by content: a second one would be seen here.
    for group, plural, start in (
        ("/api/v1", "configmaps", "honeydue-config-api-"),
        ("/api/v1", "configmaps", "honeydue-config-worker-"),
        ("/api/v1", "configmaps", "honeydue-config-admin-"),
        ("/api/v1", "secrets", "honeydue-secrets-"),
        ("/apis/apps/v1", "replicasets", "api-"),
        ("/apis/apps/v1", "replicasets", "worker-"),
        ("/apis/apps/v1", "replicasets", "admin-"),
    ):
        assert len([n for n in night.names(group, plural) if n.startswith(start)]) == 1, start
    assert night.names("/apis/apps/v1", "deployments") == ["admin", "api", "worker"]


@pytest.mark.usefixtures("kills")
def test_a_killed_runs_lock_is_told_with_its_mend(night: Production) -> None:
    assert "That process is gone (killed?)" in night.locked
    assert "remove its lock: python -m rehearsal cancel --stack rehearsal" in night.locked


@pytest.mark.usefixtures("kills")
def test_drift_at_both_vendors_and_in_the_cluster_is_found_by_refresh_and_put_right_by_up(
    night: Production,
) -> None:
    before = night.world()
    server = night.server_id("honeydue-3")
    (there,) = night.hetzner("GET", "/servers?name=honeydue-3")["servers"]
    night.hetzner("PUT", f"/servers/{server}", {"labels": {**there["labels"], "role": "pet"}})
    (firewall,) = night.hetzner("GET", "/firewalls?name=honeydue")["firewalls"]
    everybody = {
        "direction": "in", "protocol": "tcp", "port": "6443",
        "source_ips": ["0.0.0.0/0"], "destination_ips": [],
    }  # fmt: skip
    night.hetzner(
        "POST", f"/firewalls/{firewall['id']}/actions/set_rules",
        {"rules": [*firewall["rules"], everybody]},
    )  # fmt: skip
    zone = "/zones/0123456789abcdef0123456789abcdef"
    record = night.cloudflare("GET", f"{zone}/dns_records?type=A")["result"][0]
    moved = {k: record[k] for k in ("type", "name", "ttl", "proxied")} | {"content": "192.0.2.1"}
    night.cloudflare("PUT", f"{zone}/dns_records/{record['id']}", moved)
    edit = "?fieldManager=kubectl-edit"
    container = {"name": "api", "env": [{"name": "DEBUG", "value": "true"}]}
    template = {"template": {"spec": {"containers": [container]}}}
    night.kubernetes("PATCH", night.workload("api") + edit, {"spec": template}, kind=MERGE)
    scaled = {"spec": {"replicas": 5}}
    night.kubernetes("PATCH", night.workload("admin") + edit, scaled, kind=MERGE)

    night.must("refresh", "--yes", "--skip-preview")
    plan = night.operator.changes()
    expected = {"honeydue-3", "nodes-firewall", "workloads-admin", "workloads-api"}
    names = set(plan.pop("update"))
    assert expected <= names, names
    assert [n for n in names - expected if n.endswith("-a")] == sorted(names - expected)
    assert plan == {}
    assert night.up().code == 0
    assert night.world() == before
    admin = night.kubernetes("GET", night.workload("admin"))
    assert admin["spec"]["replicas"] != 5
    api = night.kubernetes("GET", night.workload("api"))["spec"]["template"]["spec"]
    assert "DEBUG" not in {e["name"] for e in api["containers"][0].get("env", [])}
    converged(night)


@pytest.mark.usefixtures("kills")
def test_what_somebody_else_manages_is_refused_with_both_ways_out(night: Production) -> None:
    live = night.kubernetes("GET", night.workload("api"))
    container = live["spec"]["template"]["spec"]["containers"][0]
    # One that the cluster admits: what is somebody else's here is the field, not the image.
    foreign = container["image"].partition("@")[0] + "@" + release("their own")
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "api"},
        "spec": {
            "template": {"spec": {"containers": [{"name": container["name"], "image": foreign}]}}
        },
    }
    path = night.workload("api") + "?fieldManager=argo&force=true"
    night.kubernetes("PATCH", path, theirs, kind=APPLY)
    night.operator.edit("honeydue:images", lambda images: {**images, "api": release("abc1234")})
    refused = night.up()
    assert refused.code == 1
    assert "workloads-api" in refused.out
    assert "argo" in refused.out
    assert "PULUMI_K8S_ENABLE_PATCH_FORCE=true" in refused.out
    assert night.up(PULUMI_K8S_ENABLE_PATCH_FORCE="true").code == 0
    live = night.kubernetes("GET", night.workload("api"))
    assert live["spec"]["template"]["spec"]["containers"][0]["image"].endswith(release("abc1234"))
    # The SDK keeps that variable in the provider's inputs: the next `up` takes it out again.
    assert night.operator.changes() == {"update": ["kubernetes"]}
    assert night.up().code == 0
    converged(night)


@pytest.mark.usefixtures("kills")
def test_a_deployment_that_never_becomes_ready_says_why_and_an_interrupt_loses_nothing(
    night: Production,
) -> None:
    def cordon(on: bool) -> None:
        for node in NODES:
            body = {"spec": {"unschedulable": on}}
            night.kubernetes("PATCH", f"/api/v1/nodes/{node}", body, kind=MERGE)

    cordon(True)
    night.operator.edit("honeydue:images", lambda images: {**images, "api": release("def5678")})
    with night.started("up", "--yes", "--skip-preview") as process:
        said = night.until(process, r"workloads-api.*(unschedulable|Unschedulable)")
        process.send_signal(signal.SIGINT)
        said += night.rest(process)
        assert process.returncode == 1
    assert "workloads-api" in said
    assert "unschedulable" in said.lower()
    assert "`up` goes on from it" in said
    cordon(False)
    assert night.up().code == 0
    converged(night)


@pytest.mark.usefixtures("kills")
def test_without_the_api_nodes_api_server_up_says_so_and_another_node_can_be_chosen(
    night: Production,
) -> None:
    server = night.server_id("honeydue-1")
    night.hetzner("POST", f"/servers/{server}/actions/poweroff")
    night.wait_for(lambda: not api_servers(night, "honeydue-1"), "honeydue-1 is off")
    # A Secret, and no rollout: that one would wait five minutes until pods leave the dead node.
    night.operator.edit("honeydue:registry", lambda registry: {**registry, "username": "another"})
    refused = night.up()
    assert refused.code == 1
    assert "configured Kubernetes cluster is unreachable" in refused.out
    assert "apiNode" in refused.out, refused.out
    night.operator.edit("honeydue:cluster", lambda c: {**c, "apiNode": "honeydue-2"})
    assert night.up().code == 0
    night.hetzner("POST", f"/servers/{server}/actions/poweron")
    night.wait_for(lambda: night.ready_nodes("honeydue-1") == NODES, "honeydue-1 is back")
    night.operator.edit(
        "honeydue:cluster", lambda c: {k: v for k, v in c.items() if k != "apiNode"}
    )
    assert night.up().code == 0
    converged(night)


@pytest.mark.usefixtures("kills")
def test_an_api_server_that_is_killed_during_up_comes_back_and_up_waits_for_it(
    night: Production,
) -> None:
    night.operator.edit("honeydue:images", lambda images: {**images, "api": release("1111111")})
    with night.started("up", "--yes", "--skip-preview") as process:
        night.until(process, r"workloads-api")
        (pid,) = api_servers(night, "honeydue-1")
        os.kill(pid, signal.SIGKILL)
        said = night.rest(process)
    night.wait_for(lambda: night.ready_nodes("honeydue-1") == NODES, "it is back")
    if process.returncode:  # it met the gap in the middle of a request
        assert "the API server stopped answering" in said
        assert night.up().code == 0
    converged(night)


def api_servers(night: Production, name: str) -> list[int]:
    """The pids of that node's API server: one, or none when it is off."""
    found = []
    folder = f"/nodes/{night.server_id(name)}/"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                line = file.read()
        except OSError:
            continue
        if "kube-apiserver" in line and f"{night.operator.home}{folder}" in line:
            found.append(int(pid))
    return found


@pytest.mark.usefixtures("kills")
def test_the_vendors_apis_killed_in_the_middle_of_up_are_served_again_by_the_next(
    night: Production,
) -> None:
    fault = {"kind": "die_after_change", "method": "POST", "path": "/firewalls/*"}
    night.standing("hetzner", "POST", "/faults", fault)
    night.operator.edit(
        "honeydue:operator", lambda operator: {**operator, "apiCidrs": ["192.0.2.9/32"]}
    )
    failed = night.up()
    assert failed.code == 1
    assert "nodes-firewall" in failed.out
    assert "no answer from the Hetzner Cloud API" in failed.out
    assert "run it again" in failed.out
    again = night.up()
    assert again.code == 0, again.text
    night.wait_for(lambda: night.ready_nodes("honeydue-1") == NODES, "the nodes are back")
    converged(night)


@pytest.mark.skipif(KILL_EVERY != 1, reason="minutes of waiting for a dead node: make faults")
@pytest.mark.usefixtures("kills")
def test_a_node_that_is_lost_during_a_rollout_is_named_stops_nobody_else_and_is_made_again(
    night: Production,
) -> None:
    kubeconfig = night.kubeconfig()
    night.operator.edit("honeydue:images", lambda images: {**images, "api": release("2222222")})
    with night.started("up", "--yes", "--skip-preview") as process:
        night.until(process, r"workloads-api")
        night.standing("hetzner", "DELETE", "/servers/honeydue-3")
        # The rollout could wait five minutes for a pod on it; the operator has seen enough.
        night.wait_for(lambda: "honeydue-3" not in night.ready_nodes(), "it is missed")
        process.send_signal(signal.SIGINT)
        said = night.rest(process)
    if process.returncode:
        assert "on honeydue-3" in said, said
    night.kubernetes("GET", "/api/v1/nodes")  # two of three are a quorum
    night.must("refresh", "--yes", "--skip-preview")
    plan = night.operator.changes()
    assert "honeydue-3" in plan["create"], plan
    assert not {"honeydue-1", "honeydue-2"} & {n for names in plan.values() for n in names}, plan
    healed = night.up()
    assert healed.code == 0, healed.text
    assert night.kubeconfig() == kubeconfig
    converged(night)


@pytest.mark.usefixtures("kills")
def test_no_secret_was_seen_in_all_of_this(night: Production) -> None:
    night.run("preview", "--diff")
    night.run("preview", "--json")
    night.run("stack", "export")
    night.run("stack", "output")
    night.run("stack", "history", "--json")
    night.witness.look_at_files()
    canaries = night.canaries()
    assert len(canaries) > 50
    assert night.witness.looked > 10
    assert any("kube-apiserver" in where for where in night.witness.seen())
    assert night.witness.leaks(canaries) == []
