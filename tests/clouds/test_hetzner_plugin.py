"""Pulumi's hcloud plugin as the stand-in sees it: its requests, recorded, byte for byte in shape.

The sequence is that of terraform-provider-hcloud with hcloud-go v2 (checked against hcloud-go 2.49
itself, which decoded every answer). Go decodes strictly by type, so the shapes are asserted here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clouds.hetzner_cloud import KEY, TOKEN, Running, running


@pytest.fixture
def hetzner(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, action_seconds=0.05) as found:
        yield found


def settle(hetzner: Running, answer: dict[str, Any]) -> None:
    """hcloud-go's ActionClient.WaitFor: one list of all that still run, until none does."""
    actions = answer.get("actions") or [answer["action"], *answer.get("next_actions", [])]
    running_ids = {action["id"] for action in actions if action and action["status"] == "running"}
    while running_ids:
        query = "&".join(f"id={id_}" for id_ in sorted(running_ids))
        status, answer = hetzner.ask(
            "GET", f"/actions?{query}&sort=status&sort=id&page=1&per_page=50"
        )
        assert status == 200
        assert {action["id"] for action in answer["actions"]} == running_ids
        running_ids = {a["id"] for a in answer["actions"] if a["status"] == "running"}


def post(hetzner: Running, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    status, answer = hetzner.ask("POST", path, body)
    assert status == 201, answer
    if answer.get("action") or answer.get("actions"):
        settle(hetzner, answer)
    return answer


def test_the_plugins_whole_up_and_destroy(hetzner: Running) -> None:
    network = post(
        hetzner,
        "/networks",
        {
            "name": "honeydue",
            "ip_range": "10.10.0.0/16",
            "labels": {"stack": "test"},
            "expose_routes_to_vswitch": False,
        },
    )["network"]
    subnet = {"type": "cloud", "ip_range": "10.10.1.0/24", "network_zone": "eu-central"}
    post(hetzner, f"/networks/{network['id']}/actions/add_subnet", subnet)
    post(hetzner, f"/networks/{network['id']}/actions/change_protection", {"delete": True})
    group = post(hetzner, "/placement_groups", {"name": "honeydue", "labels": {}, "type": "spread"})
    key = post(hetzner, "/ssh_keys", {"name": "operator", "public_key": KEY, "labels": {}})
    rule = {"direction": "in", "source_ips": ["0.0.0.0/0"], "protocol": "tcp", "port": "443"}
    firewall = post(hetzner, "/firewalls", {"name": "honeydue", "labels": {}, "rules": [rule]})
    addresses = {}
    for version in ("ipv4", "ipv6"):
        address: dict[str, Any] = {"name": f"honeydue-1-{version}", "type": version}
        address |= {"location": "nbg1", "labels": {}, "auto_delete": False}
        made = post(hetzner, "/primary_ips", address)
        assert made["action"] is None
        assert assignee(made["primary_ip"]) == (None, "unassigned")
        addresses[version] = made["primary_ip"]["id"]

    _, types = hetzner.ask("GET", "/server_types?name=cx33")
    assert types["server_types"][0]["architecture"] == "x86"
    query = "/images?architecture=x86&include_deprecated=true&name=ubuntu-24.04"
    _, images = hetzner.ask("GET", query)
    _, keys = hetzner.ask("GET", "/ssh_keys?name=operator")
    server = post(
        hetzner,
        "/servers",
        {
            "name": "honeydue-1",
            "server_type": types["server_types"][0]["id"],
            "image": images["images"][0]["id"],
            "ssh_keys": [keys["ssh_keys"][0]["id"]],
            "location": "nbg1",
            "user_data": "#cloud-config\n",
            "labels": {"stack": "test"},
            "firewalls": [{"firewall": firewall["firewall"]["id"]}],
            "placement_group": group["placement_group"]["id"],
            "public_net": {"enable_ipv4": True, "enable_ipv6": True, **addresses},
        },
    )["server"]
    path = f"/servers/{server['id']}"
    attach = {"network": network["id"], "ip": "10.10.1.11"}
    post(hetzner, f"{path}/actions/attach_to_network", attach)
    both = {"rebuild": True, "delete": True}
    post(hetzner, f"{path}/actions/change_protection", both)
    _, read = hetzner.ask("GET", path)
    expect_go_shape(read["server"])
    assert read["server"]["private_net"][0]["ip"] == "10.10.1.11"

    for id_ in addresses.values():
        _, found = hetzner.ask("GET", f"/primary_ips/{id_}")
        assert assignee(found["primary_ip"]) == (server["id"], "server")

    # refresh: one GET per resource
    for kind, id_ in (
        ("networks", network["id"]),
        ("placement_groups", group["placement_group"]["id"]),
        ("ssh_keys", key["ssh_key"]["id"]),
        ("firewalls", firewall["firewall"]["id"]),
        ("primary_ips", addresses["ipv4"]),
    ):
        assert hetzner.ask("GET", f"/{kind}/{id_}")[0] == 200

    # destroy: refused while protected, as the real API does
    assert hetzner.refusal("DELETE", path) == (423, "protected")
    post(hetzner, f"{path}/actions/change_protection", {"rebuild": False, "delete": False})
    status, deleted = hetzner.ask("DELETE", path)
    assert status == 200
    settle(hetzner, deleted)
    for version in ("ipv4", "ipv6"):
        assert hetzner.ask("DELETE", f"/primary_ips/{addresses[version]}")[0] == 204
    assert hetzner.ask("DELETE", f"/firewalls/{firewall['firewall']['id']}")[0] == 204
    unsubnet = {"ip_range": "10.10.1.0/24"}
    post(hetzner, f"/networks/{network['id']}/actions/delete_subnet", unsubnet)
    post(hetzner, f"/networks/{network['id']}/actions/change_protection", {"delete": False})
    assert hetzner.ask("DELETE", f"/networks/{network['id']}")[0] == 204
    assert hetzner.operate("GET", "/unknown") == {"unknown": []}


def test_the_plugins_updates_in_the_words_of_hcloud_go(hetzner: Running) -> None:
    """Each body as hcloud-go 2.49 wrote it when it was run against this stand-in."""
    network = post(hetzner, "/networks", {"name": "n", "ip_range": "10.10.0.0/16"})["network"]["id"]
    subnet = {"type": "cloud", "ip_range": "10.10.1.0/24", "network_zone": "eu-central"}
    post(hetzner, f"/networks/{network}/actions/add_subnet", subnet)
    firewall = post(hetzner, "/firewalls", {"name": "f", "labels": {}})["firewall"]["id"]
    body = {"name": "ip", "type": "ipv4", "auto_delete": False, "location": "nbg1"}
    address = post(hetzner, "/primary_ips", body)["primary_ip"]["id"]
    public = {"enable_ipv4": True, "enable_ipv6": False, "ipv4": address}
    body = {"name": "a", "server_type": 115, "image": 161547269, "location": "nbg1"}
    server = post(
        hetzner,
        "/servers",
        {**body, "firewalls": [{"firewall": firewall}], "public_net": public},
    )["server"]["id"]
    labels = {"cluster": "honeydue", "managed-by": "pulumi", "stack": "prod"}
    for path, update, one in (
        (f"/servers/{server}", {"labels": labels}, "server"),
        (f"/networks/{network}", {"labels": labels}, "network"),
        (f"/firewalls/{firewall}", {"labels": labels}, "firewall"),
        (f"/primary_ips/{address}", {"labels": labels, "auto_delete": False}, "primary_ip"),
        (f"/primary_ips/{address}", {}, "primary_ip"),  # always sent, to read the answer
    ):
        status, answer = hetzner.ask("PUT", path, update)
        assert (status, answer[one]["labels"]) == (200, labels)
    here = f"/servers/{server}/actions"
    me = [{"type": "server", "server": {"id": server}}]
    ping = {"direction": "in", "source_ips": ["0.0.0.0/0", "::/0"], "protocol": "icmp"}
    for path, act in (
        (f"{here}/attach_to_network", {"network": network, "ip": "10.10.1.11"}),
        (f"{here}/change_alias_ips", {"network": network, "alias_ips": ["10.10.1.99"]}),
        (f"{here}/detach_from_network", {"network": network}),
        (f"{here}/attach_to_network", {"network": network, "ip_range": "10.10.1.0/24"}),
        (f"/firewalls/{firewall}/actions/set_rules", {"rules": [{**ping, "description": "ping"}]}),
        (f"/firewalls/{firewall}/actions/remove_from_resources", {"remove_from": me}),
        (f"/firewalls/{firewall}/actions/apply_to_resources", {"apply_to": me}),
        (f"{here}/poweroff", None),
        (f"{here}/change_type", {"server_type": "cx43", "upgrade_disk": False}),
    ):
        post(hetzner, path, act)
    _, read = hetzner.ask("GET", f"/servers/{server}")
    expect_go_shape(read["server"])
    # The plugin sends no poweron after change_type: the vendor starts the server itself.
    assert (read["server"]["status"], read["server"]["server_type"]["name"]) == ("running", "cx43")
    assert read["server"]["primary_disk_size"] == 80  # keep_disk
    assert [f["id"] for f in read["server"]["public_net"]["firewalls"]] == [firewall]

    # An address that is deleted while a server has it (the plugin: off, unassign, on, delete).
    post(hetzner, f"{here}/poweroff")
    post(hetzner, f"/primary_ips/{address}/actions/unassign")
    _, found = hetzner.ask("GET", f"/primary_ips/{address}")
    assert assignee(found["primary_ip"]) == (None, "unassigned")
    assert hetzner.ask("DELETE", f"/primary_ips/{address}")[0] == 204
    assert hetzner.operate("GET", "/unknown") == {"unknown": []}


def assignee(address: dict[str, Any]) -> tuple[int | None, str]:
    """The type is "unassigned" while nobody has it, since August 2026 (hcloud-go 2.39)."""
    return address["assignee_id"], address["assignee_type"]


def expect_go_shape(server: dict[str, Any]) -> None:
    """Types that hcloud-go's schema.Server needs to decode; null only where it has a pointer."""
    integers = ("id", "primary_disk_size", "included_traffic")
    assert all(isinstance(server[name], int) for name in integers)
    assert all(isinstance(server[name], str) for name in ("name", "status", "created"))
    assert isinstance(server["public_net"]["ipv4"]["dns_ptr"], str)
    if server["public_net"]["ipv6"]:
        assert isinstance(server["public_net"]["ipv6"]["dns_ptr"], list)
    assert {*server["private_net"][0]} == {"network", "ip", "alias_ips", "mac_address"}
    assert isinstance(server["server_type"]["memory"], float)
    assert isinstance(server["server_type"]["deprecated"], bool)
    assert {*server["server_type"]["locations"][0]} >= {"name", "available", "deprecation"}
    assert isinstance(server["location"]["latitude"], float)
    if server["placement_group"]:
        assert isinstance(server["placement_group"]["servers"], list)
    assert "datacenter" not in server  # gone from the API since July 2026


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.05])
def test_a_killed_stand_in_comes_back_with_whole_records(tmp_path: Path, moment: float) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rehearsal.clouds.hetzner import Hetzner\n"
        "from rehearsal.clouds.http import Listener\n"
        "from rehearsal.clouds.machines import IdleDatacenter\n"
        "cloud = Hetzner(Path(sys.argv[1]), None, IdleDatacenter(), 90, action_seconds=0)\n"
        "print(Listener(cloud.wsgi_app).start().url, flush=True)\n"
        "sys.stdin.read()\n"
    )
    store = tmp_path / "hetzner.json"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        kept: list[str] = []
        stop = time.monotonic() + moment
        with requests.Session() as session:
            while not kept or time.monotonic() < stop:
                body = {"name": f"g{len(kept)}", "type": "spread"}
                answer = session.post(
                    f"{url}/v1/placement_groups", json=body, headers=headers, timeout=60
                )
                kept.append(answer.json()["placement_group"]["name"])
            os.kill(process.pid, signal.SIGKILL)
    with running(tmp_path) as hetzner:
        names = [group.name for group in hetzner.client.placement_groups.get_all()]
    assert names == kept  # whatever was answered is there
