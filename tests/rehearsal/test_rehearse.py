"""The whole production on this machine, end to end, in the order in which an operator lives it.

One rehearsal serves all of these tests; each leaves it converged. They run in file order.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ops.cluster import contexts
from rehearsal import serve
from rehearsal.home import Home
from rehearsal.lose import call
from rehearsal.page import operators
from tests.rehearsal.operator import Operator

pytestmark = pytest.mark.cluster
NODES = ["honeydue-1", "honeydue-2", "honeydue-3"]


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    someone = Operator.in_folder(tmp_path_factory.mktemp("operator"))
    yield someone
    someone.run("down")


@pytest.fixture(scope="module")
def guided(operator: Operator) -> str:
    """What the newcomer's first command prints."""
    return operator.must()


def stand_in(operator: Operator, variable: str) -> dict[str, Any]:
    endpoint = operators(serve.environment(Home(operator.home))[variable])
    state: dict[str, Any] = call(endpoint, "GET", "/state")
    return state


def hetzner(operator: Operator) -> dict[str, Any]:
    return stand_in(operator, "HCLOUD_ENDPOINT")


def servers(operator: Operator) -> dict[str, dict[str, Any]]:
    return {server["name"]: server for server in hetzner(operator)["servers"].values()}


def addresses(server: dict[str, Any]) -> tuple[int, int]:
    """The primary IPs that it has, by Hetzner's ids."""
    return server["ipv4"], server["ipv6"]


def kubernetes(operator: Operator, context: str, path: str) -> Any:
    """Asks the API server that `context` of the kubeconfig output opens."""
    config = yaml.safe_load(operator.output("kubeconfig"))
    server = next(c["cluster"] for c in config["clusters"] if c["name"] == context)
    user = config["users"][0]["user"]
    tls = ssl.create_default_context(
        cadata=base64.b64decode(server["certificate-authority-data"]).decode()
    )
    memory = os.memfd_create("client")
    for part in ("client-certificate-data", "client-key-data"):
        os.write(memory, base64.b64decode(user[part]) + b"\n")
    tls.load_cert_chain(f"/proc/self/fd/{memory}")
    os.close(memory)
    with urllib.request.urlopen(server["server"] + path, context=tls, timeout=30) as answer:
        return json.loads(answer.read())


def ready_nodes(operator: Operator, context: str = "honeydue-1") -> list[str]:
    return sorted(
        node["metadata"]["name"]
        for node in kubernetes(operator, context, "/api/v1/nodes")["items"]
        if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
    )


def test_the_newcomer_sees_a_preview_an_update_an_empty_preview_and_what_runs(guided: str) -> None:
    first, _, rest = guided.partition("2  Updating")
    update, _, rest = rest.partition("3  Previewing again")
    second, _, page = rest.partition("What now runs")
    assert "honeydue-1" in first
    assert re.search(r"^\d+ to create +\(", first, re.MULTILINE), first[-500:]
    assert re.search(r"^\d+ created", update, re.MULTILINE), update[-500:]
    assert re.search(r"^no changes: \d+ unchanged", second, re.MULTILINE), second[-800:]
    for node in NODES:
        assert re.search(rf"{node}\s+Ready\s+etcd member", page), page
    assert "Kubernetes API server v1.34" in page
    assert re.search(r"honeydue/api\s+3 of 3 ready", page), page
    assert re.search(r"honeydue/worker\s+1 of 1 ready", page), page
    assert "api.honeydue.test" in page
    assert "What to try next" in page


@pytest.mark.usefixtures("guided")
def test_the_kubeconfig_opens_every_node(operator: Operator) -> None:
    for node in NODES:
        assert ready_nodes(operator, node) == NODES


@pytest.mark.usefixtures("guided")
def test_a_second_preview_and_a_refresh_change_nothing(operator: Operator) -> None:
    assert operator.changes() == {}
    operator.must("refresh", "--yes", "--skip-preview")
    assert operator.changes() == {}


@pytest.mark.usefixtures("guided")
def test_what_is_changed_by_hand_is_drift_until_the_line_that_it_prints_takes_it_back(
    operator: Operator,
) -> None:
    assert drift(operator) == []
    ((_, api), *_rest) = contexts(operator.output("kubeconfig"))
    with api:
        api.patch(
            "/apis/apps/v1/namespaces/honeydue/deployments/admin?fieldManager=kubectl-edit",
            content=b'{"spec": {"replicas": 1}}',
            headers={"Content-Type": "application/merge-patch+json"},
        ).raise_for_status()
    records = next(iter(stand_in(operator, "CLOUDFLARE_BASE_URL")["records"].values()))
    config = json.loads(operator.run("config", "--show-secrets", "--json").out)
    httpx.delete(
        f"{serve.environment(Home(operator.home))['CLOUDFLARE_BASE_URL']}/zones/"
        f"{records['zone_id']}/dns_records/{records['id']}",
        headers={"Authorization": f"Bearer {config['honeydue:cloudflareToken']['value']}"},
    ).raise_for_status()
    gone, changed = drift(operator)
    assert (gone["said"], gone["how"]) == ("missing", "deleted by hand")
    assert (changed["what"], changed["said"]) == ("admin", "replicas 2 → 1")
    assert changed["how"] == "changed by hand, field manager kubectl-edit"
    assert changed["do"] == (
        "python -m rehearsal refresh --stack rehearsal && "
        "PULUMI_K8S_ENABLE_PATCH_FORCE=true python -m rehearsal up --stack rehearsal"
    )
    operator.must("refresh", "--yes", "--skip-preview")
    assert [each["what"] for each in drift(operator)] == [gone["what"], "admin"]
    operator.must("up", "--yes", "--skip-preview", PULUMI_K8S_ENABLE_PATCH_FORCE="true")
    assert drift(operator) == []
    operator.must("up", "--yes", "--skip-preview")  # the provider without force, as it was


def drift(operator: Operator) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "ops", "status", "--json", "--stack", "rehearsal"],
        cwd=operator.checkout, env=operator.environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(done.stdout)["drift"]
    return found


@pytest.mark.usefixtures("guided")
def test_an_exported_stack_holds_no_secret_in_clear(operator: Operator) -> None:
    exported = operator.must("stack", "export")
    json.loads(exported)
    config = yaml.safe_load(operator.output("kubeconfig"))
    key = base64.b64decode(config["users"][0]["user"]["client-key-data"]).decode()
    assert "PRIVATE KEY" not in exported
    assert key.splitlines()[1] not in exported
    assert not re.search(r"K10[0-9a-f]{64}::", exported)


@pytest.mark.usefixtures("guided")
def test_a_change_of_user_data_alone_replaces_no_server(operator: Operator) -> None:
    # The boot scripts change with the node image's settings; here the registry's user does.
    before = servers(operator)
    operator.edit("honeydue:registry", lambda registry: {**registry, "username": "another"})
    plan = operator.changes()
    assert not set(plan.get("replace", [])) & set(NODES), plan
    operator.must("up", "--yes", "--skip-preview")
    assert {name: s["id"] for name, s in servers(operator).items()} == {
        name: s["id"] for name, s in before.items()
    }
    operator.edit("honeydue:registry", lambda registry: {**registry, "username": "admin"})
    operator.must("up", "--yes", "--skip-preview")


@pytest.mark.usefixtures("guided")
def test_a_raised_generation_replaces_that_one_node_even_when_it_is_protected(
    operator: Operator,
) -> None:
    operator.edit("honeydue:protect", lambda _: True)
    operator.must("up", "--yes", "--skip-preview")
    before = servers(operator)
    assert all(server["protection"]["delete"] for server in before.values())
    kubeconfig = operator.output("kubeconfig")

    def raise_second(cluster: dict[str, Any] | None) -> dict[str, Any]:
        nodes = [{"name": name, "generation": 2 if name == "honeydue-2" else 1} for name in NODES]
        return {**(cluster or {}), "nodes": nodes}

    operator.edit("honeydue:cluster", raise_second)
    plan = operator.changes()
    assert "honeydue-2" in plan["replace"], plan
    assert not {"honeydue-1", "honeydue-3"} & {n for names in plan.values() for n in names}, plan
    operator.must("up", "--yes", "--skip-preview")
    after = servers(operator)
    assert {name for name in NODES if after[name]["id"] != before[name]["id"]} == {"honeydue-2"}
    assert after["honeydue-2"]["protection"]["delete"]
    assert addresses(after["honeydue-2"]) == addresses(before["honeydue-2"])
    assert operator.output("kubeconfig") == kubeconfig
    assert ready_nodes(operator) == NODES
    assert operator.changes() == {}


@pytest.mark.usefixtures("guided")
def test_a_lost_server_comes_back_as_itself_while_the_others_answer(operator: Operator) -> None:
    operator.must("lose", "server", "honeydue-3")
    kubernetes(operator, "honeydue-1", "/api/v1/nodes")
    operator.must("refresh", "--yes", "--skip-preview")
    plan = operator.changes()
    assert "honeydue-3" in plan["create"], plan
    assert not {"honeydue-1", "honeydue-2"} & {n for names in plan.values() for n in names}, plan
    operator.must("up", "--yes", "--skip-preview")
    assert ready_nodes(operator) == NODES
    assert operator.changes() == {}


@pytest.mark.usefixtures("guided")
def test_a_lost_state_is_rebuilt_from_the_history(operator: Operator) -> None:
    kubeconfig = operator.output("kubeconfig")
    operator.must("lose", "state")
    kept = sorted(operator.home.rglob("history/**/*.checkpoint.json"), key=os.path.getmtime)
    shutil.copy(kept[-1], operator.home / "state/.pulumi/stacks/honeydue/rehearsal.json")
    operator.must("refresh", "--yes", "--skip-preview")
    assert operator.changes() == {}
    assert operator.output("kubeconfig") == kubeconfig


@pytest.mark.usefixtures("guided")
def test_when_all_servers_are_lost_the_rebuild_has_the_same_addresses_pki_and_kubeconfig(
    operator: Operator,
) -> None:
    before, kubeconfig = servers(operator), operator.output("kubeconfig")
    operator.must("lose", "servers")
    operator.must("refresh", "--yes", "--skip-preview", PULUMI_K8S_DELETE_UNREACHABLE="true")
    operator.must("up", "--yes", "--skip-preview")
    after = servers(operator)
    assert sorted(after) == NODES
    for name in NODES:
        assert after[name]["id"] != before[name]["id"]
        assert addresses(after[name]) == addresses(before[name])
    assert operator.output("kubeconfig") == kubeconfig
    assert ready_nodes(operator) == NODES
    assert operator.changes() == {}


@pytest.mark.usefixtures("guided")
def test_no_secret_of_the_settings_is_on_disk_in_clear_outside_the_nodes(
    operator: Operator,
) -> None:
    config = yaml.safe_load(operator.output("kubeconfig"))
    key = base64.b64decode(config["users"][0]["user"]["client-key-data"]).decode().splitlines()[1]
    # The stand-in's store holds user_data, as Hetzner does; a node's disk holds its own keys.
    for folder in ("state", "logs"):
        for path in (operator.home / folder).rglob("*"):
            if path.is_file():
                assert key not in path.read_text(errors="replace"), path


@pytest.mark.usefixtures("guided")
def test_destroy_leaves_both_stand_ins_empty_and_down_leaves_no_process(
    operator: Operator,
) -> None:
    operator.edit("honeydue:protect", lambda _: False)
    operator.must("up", "--yes", "--skip-preview")
    operator.must("destroy", "--yes", "--skip-preview")
    state = hetzner(operator)
    for kind in ("servers", "networks", "firewalls", "primary_ips", "ssh_keys", "placement_groups"):
        assert state[kind] == {}, kind
    assert stand_in(operator, "CLOUDFLARE_BASE_URL")["records"] == {}
    operator.must("down")
    mine = str(operator.home).encode()
    left = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if mine in read_or_nothing(path) or mine in read_or_nothing(path.parent / "environ")
    ]
    assert left == []


def read_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
