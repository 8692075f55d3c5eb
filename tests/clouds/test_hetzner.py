"""The Hetzner stand-in, driven by the vendor's own Python client over HTTP."""

# The client types every attribute as optional: a bound object may not be loaded yet. Here it is,
# and a None would fail the test.
# mypy: disable-error-code="union-attr, index, arg-type"

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hcloud import APIException
from hcloud.firewalls import FirewallResource, FirewallRule
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.networks import NetworkSubnet
from hcloud.placement_groups import PlacementGroup
from hcloud.server_types import ServerType
from hcloud.servers import BoundServer, ServerCreatePublicNetwork
from hcloud.ssh_keys import SSHKey

from tests.clouds.hetzner_cloud import BASE, KEY, TOKEN, Running, running


@pytest.fixture
def hetzner(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as found:
        yield found


def make_server(hetzner: Running, name: str = "honeydue-1") -> BoundServer:
    created = hetzner.client.servers.create(
        name=name,
        server_type=ServerType(name="cx33"),
        image=Image(name="ubuntu-24.04"),
        location=Location(name="nbg1"),
        user_data="#cloud-config\n",
        labels={"role": "manager"},
    )
    created.action.wait_until_finished()
    return created.server


def make_network(hetzner: Running) -> int:
    network = hetzner.client.networks.create(name="honeydue", ip_range="10.10.0.0/16")
    network.add_subnet(
        NetworkSubnet(type="cloud", ip_range="10.10.1.0/24", network_zone="eu-central")
    ).wait_until_finished()
    assert network.id is not None
    return network.id


def test_the_official_client_makes_a_production_and_takes_it_down(hetzner: Running) -> None:
    client = hetzner.client
    network_id = make_network(hetzner)
    network = client.networks.get_by_id(network_id)
    assert network.subnets[0].gateway == "10.10.0.1"
    group = client.placement_groups.create(name="honeydue", type="spread").placement_group
    key = client.ssh_keys.create(name="operator", public_key=KEY)
    rule = FirewallRule("in", "tcp", ["0.0.0.0/0", "::/0"], port="443")
    firewall = client.firewalls.create(name="honeydue", rules=[rule]).firewall
    address = client.primary_ips.create(
        type="ipv4", name="honeydue-1", location=Location(name="nbg1"), auto_delete=False
    ).primary_ip
    assert address.ip == "127.90.0.1"

    created = client.servers.create(
        name="honeydue-1",
        server_type=ServerType(name="cx33"),
        image=Image(name="ubuntu-24.04"),
        location=Location(name="nbg1"),
        ssh_keys=[SSHKey(id=key.id)],
        user_data="#cloud-config\n",
        labels={"role": "manager"},
        firewalls=[firewall],
        placement_group=PlacementGroup(id=group.id),
        public_net=ServerCreatePublicNetwork(ipv4=address, enable_ipv6=False),
    )
    server = created.server
    assert created.root_password is None
    machine = hetzner.diary.last_machine
    assert (machine.public_ipv4, machine.public_ipv6) == ("127.90.0.1", None)
    assert (machine.private_ipv4, machine.user_data) == (None, "#cloud-config\n")
    assert (machine.cores, machine.memory_gb, machine.disk_gb) == (4, 8.0, 80)

    server.attach_to_network(network, ip="10.10.1.11").wait_until_finished()
    assert hetzner.diary.verbs == ["start", "update"]
    assert hetzner.diary.last_machine.private_ipv4 == "10.10.1.11"
    server.reload()
    assert server.status == "running"
    assert server.private_net[0].ip == "10.10.1.11"
    assert server.public_net.firewalls[0].firewall.id == firewall.id
    assert server.placement_group.id == group.id
    assert client.primary_ips.get_by_id(address.id).assignee_id == server.id

    server.delete().wait_until_finished()
    assert hetzner.diary.entries[-1] == ("destroy", server.id)
    address.reload()
    assert address.assignee_id is None
    for thing in (address, firewall, key, group, network):
        thing.delete()
    left = hetzner.operate("GET", "/state")
    kinds = ("servers", "networks", "firewalls", "primary_ips", "ssh_keys", "placement_groups")
    assert [left[kind] for kind in kinds] == [{}] * 6
    assert hetzner.operate("GET", "/unknown") == {"unknown": []}


def test_a_server_without_given_addresses_gets_its_own_which_die_with_it(
    hetzner: Running,
) -> None:
    server = make_server(hetzner)
    assert server.public_net.ipv4.ip == "127.90.0.1"
    assert server.public_net.ipv6.ip == "2001:db8:0:1::/64"
    assert hetzner.diary.last_machine.public_ipv6 == "2001:db8:0:1::1"
    server.delete()
    assert hetzner.client.primary_ips.get_all() == []
    assert make_server(hetzner).public_net.ipv4.ip == "127.90.0.2"  # never the same again


def test_an_action_runs_for_its_time_and_locks_the_server(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    with running(tmp_path, action_seconds=4.0, clock=lambda: now) as hetzner:
        _, created = hetzner.ask("POST", "/servers", {"name": "a", **BASE})
        server, action = created["server"]["id"], created["action"]["id"]
        assert created["action"]["status"] == "running"
        assert created["server"]["status"] == "initializing"
        assert [a["command"] for a in created["next_actions"]] == ["start_server"]
        assert hetzner.refusal("POST", f"/servers/{server}/actions/poweroff") == (423, "locked")
        now += 1
        assert hetzner.ask("GET", f"/actions?id={action}")[1]["actions"][0]["progress"] == 25
        now += 3
        done = hetzner.ask("GET", f"/actions/{action}")[1]["action"]
        assert (done["status"], done["progress"], done["error"]) == ("success", 100, None)
        status, answer = hetzner.ask("GET", f"/servers/{server}")
        assert (status, answer["server"]["status"]) == (200, "running")
        assert not answer["server"]["locked"]


def test_a_restarted_stand_in_knows_everything_and_powers_on_what_was_on(tmp_path: Path) -> None:
    with running(tmp_path) as hetzner:
        on, off = make_server(hetzner, "on"), make_server(hetzner, "off")
        off.power_off().wait_until_finished()
    with running(tmp_path) as hetzner:
        hetzner.cloud.resume()
        assert [s.name for s in hetzner.client.servers.get_all()] == ["on", "off"]
        assert hetzner.diary.verbs == ["start"]
        assert hetzner.diary.last_machine.id == on.id


def test_names_are_unique_per_type(hetzner: Running) -> None:
    make_server(hetzner)
    with pytest.raises(APIException, match="already used") as refused:
        make_server(hetzner)
    assert refused.value.code == "uniqueness_error"
    hetzner.client.networks.create(name="honeydue-1", ip_range="10.0.0.0/16")  # another type


@pytest.mark.parametrize(
    ("field", "value", "refusal"),
    [
        ("name", "under_score", (422, "invalid_input")),
        ("name", "-dash", (422, "invalid_input")),
        ("name", "a" * 64, (422, "invalid_input")),
        ("user_data", "x" * (32 * 1024 + 1), (422, "invalid_input")),
        ("server_type", "cx99", (422, "invalid_input")),
        ("server_type", "cpx21", (422, "invalid_server_type")),
        ("server_type", "cpx31", (422, "invalid_input")),
        ("image", "windows-11", (422, "invalid_input")),
        ("location", "mars1", (422, "invalid_input")),
        ("ssh_keys", [7], (422, "invalid_input")),
        ("firewalls", [{"firewall": 7}], (404, "not_found")),
        ("placement_group", 7, (404, "not_found")),
        ("labels", {"no spaces": "x"}, (422, "invalid_input")),
        ("datacenter", "nbg1-dc3", (422, "invalid_input")),
        ("public_net", {"enable_ipv4": True, "ipv4": 7}, (404, "not_found")),
    ],
)
def test_a_server_that_cannot_be_is_refused(
    hetzner: Running, field: str, value: object, refusal: tuple[int, str]
) -> None:
    assert hetzner.refusal("POST", "/servers", {"name": "a", **BASE, field: value}) == refusal
    assert hetzner.ask("GET", "/servers")[1]["servers"] == []
    assert hetzner.operate("GET", "/state")["primary_ips"] == {}


def test_user_data_of_exactly_32_kib_is_taken(hetzner: Running) -> None:
    body = {"name": "a", **BASE, "user_data": "x" * 32 * 1024}
    assert hetzner.ask("POST", "/servers", body)[0] == 201


def test_a_sold_out_type_is_refused_there_and_shown_as_unavailable(hetzner: Running) -> None:
    sold = {"server_type": "cx33", "location": "nbg1", "sold_out": True}
    hetzner.operate("PUT", "/sold-out", sold)
    body = {"name": "a", **BASE}
    assert hetzner.refusal("POST", "/servers", body) == (412, "resource_unavailable")
    server_type = hetzner.client.server_types.get_by_name("cx33")
    available = {place.location.name: place.available for place in server_type.locations}
    assert available == {"fsn1": True, "nbg1": False, "hel1": True}
    assert hetzner.ask("POST", "/servers", {**body, "location": "fsn1"})[0] == 201
    hetzner.operate("PUT", "/sold-out", {**sold, "sold_out": False})
    assert hetzner.ask("POST", "/servers", {"name": "b", **BASE})[0] == 201


def test_a_primary_ip_serves_one_server_of_its_own_location(hetzner: Running) -> None:
    def address(name: str, location: str) -> int:
        body = {"name": name, "type": "ipv4", "assignee_type": "server", "location": location}
        found: int = hetzner.ask("POST", "/primary_ips", body)[1]["primary_ip"]["id"]
        return found

    def server(name: str, ipv4: int) -> tuple[int, str]:
        public = {"enable_ipv4": True, "enable_ipv6": False, "ipv4": ipv4}
        return hetzner.refusal("POST", "/servers", {"name": name, **BASE, "public_net": public})

    here, there = address("here", "nbg1"), address("there", "fsn1")
    assert server("a", there) == (422, "primary_ip_datacenter_mismatch")
    public = {"enable_ipv4": True, "enable_ipv6": False, "ipv4": here}
    _, made = hetzner.ask("POST", "/servers", {"name": "a", **BASE, "public_net": public})
    assert server("b", here) == (422, "primary_ip_assigned")
    assert hetzner.refusal("DELETE", f"/primary_ips/{here}") == (422, "must_be_unassigned")
    unassign = f"/primary_ips/{here}/actions/unassign"
    assert hetzner.refusal("POST", unassign) == (422, "server_not_stopped")
    hetzner.ask("POST", f"/servers/{made['server']['id']}/actions/poweroff")
    assert hetzner.ask("POST", unassign)[0] == 201
    assert hetzner.ask("DELETE", f"/primary_ips/{here}")[0] == 204


def test_protection_refuses_deletion_and_rebuild_until_it_is_lifted(hetzner: Running) -> None:
    server = make_server(hetzner)
    path = f"/servers/{server.id}"
    half = {"delete": True}
    protect = f"{path}/actions/change_protection"
    assert hetzner.refusal("POST", protect, half) == (422, "invalid_input")
    server.change_protection(delete=True, rebuild=True).wait_until_finished()
    assert hetzner.refusal("DELETE", path) == (423, "protected")
    rebuild = (f"{path}/actions/rebuild", {"image": "debian-13"})
    assert hetzner.refusal("POST", *rebuild) == (423, "protected")
    server.change_protection(delete=False, rebuild=False).wait_until_finished()
    assert hetzner.ask("POST", *rebuild)[0] == 201
    assert hetzner.ask("DELETE", path)[0] == 200


@pytest.mark.parametrize("kind", ["networks", "primary_ips"])
def test_a_protected_resource_is_not_deleted(hetzner: Running, kind: str) -> None:
    body = {
        "networks": {"name": "n", "ip_range": "10.0.0.0/16"},
        "primary_ips": {
            "name": "p",
            "type": "ipv6",
            "assignee_type": "server",
            "location": "hel1",
        },
    }[kind]
    _, made = hetzner.ask("POST", f"/{kind}", body)
    path = f"/{kind}/{made[kind[:-1]]['id']}"
    assert hetzner.ask("POST", f"{path}/actions/change_protection", {"delete": True})[0] == 201
    assert hetzner.refusal("DELETE", path) == (423, "protected")


def test_a_rebuild_brings_new_user_data_and_keeps_id_and_addresses(hetzner: Running) -> None:
    server = make_server(hetzner)
    before = server.public_net.ipv4.ip
    body = {"image": "ubuntu-24.04", "user_data": "#cloud-config\n# second\n"}
    assert hetzner.ask("POST", f"/servers/{server.id}/actions/rebuild", body)[0] == 201
    assert hetzner.diary.verbs[-1] == "rebuild"
    machine = hetzner.diary.last_machine
    assert (machine.id, machine.public_ipv4) == (server.id, before)
    assert machine.user_data.endswith("# second\n")


def test_the_type_changes_only_when_off_and_never_to_a_smaller_disk_and_it_is_started_again(
    hetzner: Running,
) -> None:
    server = make_server(hetzner)
    path = f"/servers/{server.id}/actions"
    bigger = {"server_type": "cx43", "upgrade_disk": True}
    assert hetzner.refusal("POST", f"{path}/change_type", bigger) == (422, "server_not_stopped")
    server.power_off().wait_until_finished()
    assert hetzner.ask("POST", f"{path}/change_type", bigger)[0] == 201
    assert hetzner.diary.verbs == ["start", "stop", "start"]
    assert (hetzner.diary.last_machine.cores, hetzner.diary.last_machine.disk_gb) == (8, 160)
    server.power_on().wait_until_finished()
    assert hetzner.diary.verbs == ["start", "stop", "start"], "on is on"
    server.power_off().wait_until_finished()
    smaller = {"server_type": "cx33", "upgrade_disk": False}
    assert hetzner.refusal("POST", f"{path}/change_type", smaller) == (422, "invalid_server_type")
    arm = {"server_type": "cax31", "upgrade_disk": False}
    assert hetzner.refusal("POST", f"{path}/change_type", arm) == (422, "invalid_server_type")
    assert hetzner.diary.verbs[-1] == "stop", "what is refused starts nothing"


def test_private_addresses_are_in_a_subnet_free_and_not_the_gateway(hetzner: Running) -> None:
    network = make_network(hetzner)
    first, second = make_server(hetzner, "a"), make_server(hetzner, "b")

    def attach(server: BoundServer, ip: str | None) -> str:
        body = {"network": network, "ip": ip}
        status, answer = hetzner.ask(
            "POST", f"/servers/{server.id}/actions/attach_to_network", body
        )
        return "" if status == 201 else answer["error"]["code"]

    assert attach(first, "10.10.0.1") == "invalid_input"  # the gateway, in no subnet either
    assert attach(first, "10.10.9.1") == "invalid_input"
    assert attach(first, "10.10.1.255") == "ip_not_available"
    assert attach(first, "10.10.1.11") == ""
    assert attach(first, "10.10.1.12") == "server_already_attached"
    assert attach(second, "10.10.1.11") == "ip_not_available"
    assert attach(second, None) == ""
    assert hetzner.diary.last_machine.private_ipv4 == "10.10.1.1"
    remove = (f"/networks/{network}/actions/delete_subnet", {"ip_range": "10.10.1.0/24"})
    status, answer = hetzner.ask("POST", *remove)
    assert (status, answer["error"]["code"]) == (500, "service_error")
    assert "servers are attached" in answer["error"]["message"]  # what the plugin waits for
    # Deleting the whole network detaches, as the vendor documents.
    assert hetzner.ask("DELETE", f"/networks/{network}")[0] == 204
    assert hetzner.diary.last_machine.private_ipv4 is None


def test_the_gateway_inside_a_subnet_is_not_given_away(hetzner: Running) -> None:
    subnet = {"type": "cloud", "ip_range": "10.20.0.0/24", "network_zone": "eu-central"}
    body = {"name": "n", "ip_range": "10.20.0.0/16", "subnets": [subnet]}
    network = hetzner.ask("POST", "/networks", body)[1]["network"]["id"]
    path = f"/servers/{make_server(hetzner).id}/actions/attach_to_network"
    wanted = {"network": network, "ip": "10.20.0.1"}
    assert hetzner.refusal("POST", path, wanted) == (422, "ip_not_available")
    assert hetzner.ask("POST", path, {"network": network})[0] == 201
    assert hetzner.diary.last_machine.private_ipv4 == "10.20.0.2"


@pytest.mark.parametrize(
    ("ip_range", "subnet", "zone"),
    [
        ("8.8.0.0/16", None, None),
        ("10.0.0.1/16", None, None),
        ("10.0.0.0/28", None, None),
        ("10.0.0.0/16", "10.1.0.0/24", "eu-central"),
        ("10.0.0.0/16", "10.0.0.0/24", "moon"),
        ("10.0.0.0/16", "10.0.0.0/31", "eu-central"),
    ],
)
def test_a_network_that_cannot_be_is_refused(
    hetzner: Running, ip_range: str, subnet: str | None, zone: str | None
) -> None:
    subnets = [{"type": "cloud", "ip_range": subnet, "network_zone": zone}] if subnet else []
    body = {"name": "n", "ip_range": ip_range, "subnets": subnets}
    assert hetzner.refusal("POST", "/networks", body) == (422, "invalid_input")


def test_the_subnets_of_a_network_are_in_one_zone_and_do_not_overlap(hetzner: Running) -> None:
    path = f"/networks/{make_network(hetzner)}/actions/add_subnet"
    body = {"type": "cloud", "ip_range": "10.10.2.0/24", "network_zone": "us-east"}
    assert hetzner.refusal("POST", path, body) == (422, "invalid_input")
    body = {"type": "cloud", "ip_range": "10.10.1.128/25", "network_zone": "eu-central"}
    assert hetzner.refusal("POST", path, body) == (422, "invalid_input")


RULE = {"direction": "in", "protocol": "tcp", "port": "443", "source_ips": ["10.0.0.0/8"]}


@pytest.mark.parametrize(
    "rules",
    [
        [{**RULE, "source_ips": []}],
        [{**RULE, "source_ips": ["10.0.0.1/8"]}],
        [{**RULE, "source_ips": ["10.0.0.1"]}],
        [{**RULE, "port": None}],
        [{**RULE, "port": "0"}],
        [{**RULE, "port": "90-80"}],
        [{**RULE, "protocol": "icmp"}],
        [{**RULE, "direction": "sideways"}],
        [{**RULE, "destination_ips": ["10.0.0.0/8"]}],
        [RULE] * 51,
        [{**RULE, "source_ips": [f"10.0.{n}.0/24" for n in range(101)]}],
        [{**RULE, "source_ips": [f"10.0.{n}.0/24" for n in range(100)]}] * 6,
        [{**RULE, "sources": []}],
    ],
)
def test_a_firewall_rule_that_cannot_be_is_refused(
    hetzner: Running, rules: list[dict[str, object]]
) -> None:
    body = {"name": "f", "rules": rules}
    assert hetzner.refusal("POST", "/firewalls", body) == (422, "invalid_input")


def test_a_firewall_in_use_is_not_deleted(hetzner: Running) -> None:
    server = make_server(hetzner)
    firewall = hetzner.client.firewalls.create(name="f").firewall
    resource = FirewallResource(type="server", server=server)
    for action in firewall.apply_to_resources([resource]):
        action.wait_until_finished()
    assert hetzner.refusal("DELETE", f"/firewalls/{firewall.id}") == (422, "resource_in_use")
    firewall.remove_from_resources([resource])
    assert firewall.delete()


def test_a_firewall_by_label_follows_the_servers(hetzner: Running) -> None:
    selector = {"type": "label_selector", "label_selector": {"selector": "role=manager"}}
    body = {"name": "f", "apply_to": [selector]}
    firewall = hetzner.ask("POST", "/firewalls", body)[1]["firewall"]["id"]
    server = make_server(hetzner)
    server.reload()
    assert [f.firewall.id for f in server.public_net.firewalls] == [firewall]
    server.update(labels={})
    server.reload()
    assert server.public_net.firewalls == []


def test_a_placement_group_holds_ten_servers(hetzner: Running) -> None:
    group = hetzner.client.placement_groups.create(name="g", type="spread").placement_group
    body = {**BASE, "placement_group": group.id}
    for number in range(10):
        assert hetzner.ask("POST", "/servers", {"name": f"s{number}", **body})[0] == 201
    assert hetzner.refusal("POST", "/servers", {"name": "s10", **body}) == (412, "placement_error")
    assert hetzner.refusal("DELETE", f"/placement_groups/{group.id}") == (422, "resource_in_use")


def test_the_same_ssh_key_cannot_be_there_twice(hetzner: Running) -> None:
    hetzner.client.ssh_keys.create(name="a", public_key=KEY)
    again = {"name": "b", "public_key": KEY}
    assert hetzner.refusal("POST", "/ssh_keys", again) == (409, "uniqueness_error")
    nonsense = {"name": "c", "public_key": "ssh-rsa nonsense"}
    assert hetzner.refusal("POST", "/ssh_keys", nonsense) == (422, "invalid_input")


def test_lists_are_paged_sorted_and_filtered(hetzner: Running) -> None:
    for number in range(7):
        labels = {"role": "manager" if number < 3 else "worker", "n": str(number)}
        body = {"name": f"g{number}", "type": "spread", "labels": labels}
        assert hetzner.ask("POST", "/placement_groups", body)[0] == 201

    def names(query: str) -> list[str]:
        return [g["name"] for g in hetzner.ask("GET", f"/placement_groups?{query}")[1][kind]]

    kind = "placement_groups"
    assert len(hetzner.client.placement_groups.get_all()) == 7
    assert names("page=2&per_page=3&sort=name:desc") == ["g3", "g2", "g1"]
    assert names("name=g4") == ["g4"]
    assert names("label_selector=role=manager,n!=1") == ["g0", "g2"]
    assert names("label_selector=n in (1,5)") == ["g1", "g5"]
    assert names("label_selector=!role") == []
    _, answer = hetzner.ask("GET", "/placement_groups?page=2&per_page=3")
    assert answer["meta"]["pagination"] == {
        "page": 2,
        "per_page": 3,
        "previous_page": 1,
        "next_page": 3,
        "last_page": 3,
        "total_entries": 7,
    }
    assert hetzner.refusal("GET", "/servers?per_page=51") == (422, "invalid_input")
    assert hetzner.refusal("GET", "/servers?sort=colour") == (422, "invalid_input")


def test_without_the_right_token_nothing_is_answered(hetzner: Running) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = requests.get(f"{hetzner.endpoint}/servers", headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


def test_what_it_does_not_know_is_refused_by_name_and_noted(hetzner: Running) -> None:
    assert hetzner.refusal("GET", "/volumes") == (404, "not_found")
    assert hetzner.refusal("PATCH", "/servers") == (405, "method_not_allowed")
    assert hetzner.refusal("GET", "/servers?colour=red") == (422, "invalid_input")
    _, answer = hetzner.ask("POST", "/networks", {"name": "n", "ip_range": "10.0.0.0/8", "x": 1})
    assert answer["error"]["details"]["fields"] == [{"name": "x", "messages": ["unknown field"]}]
    assert hetzner.operate("GET", "/unknown")["unknown"] == [
        "GET /v1/volumes: no such route",
        "PATCH /v1/servers: no such route",
        "GET /v1/servers: unknown query parameter 'colour'",
        "POST /v1/networks: unknown field 'x'",
    ]


def test_the_quota_is_counted_in_headers_and_refills(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    with running(tmp_path, clock=lambda: now) as hetzner:
        first = hetzner.session.get(f"{hetzner.endpoint}/locations", timeout=60)
        assert first.headers["RateLimit-Limit"] == "3600"
        assert first.headers["RateLimit-Remaining"] == "3599"
        assert first.headers["RateLimit-Reset"] == str(int(now) + 1)
        now += 1
        second = hetzner.session.get(f"{hetzner.endpoint}/locations", timeout=60)
        assert second.headers["RateLimit-Remaining"] == "3599"


def test_an_injected_fault_hits_its_route_as_often_as_told(hetzner: Running) -> None:
    fault = {"kind": "status", "method": "POST", "path": "/networks", "status": 503}
    hetzner.operate("POST", "/faults", fault)
    hetzner.operate("POST", "/faults", {"kind": "rate_limit", "path": "/servers*"})
    body = {"name": "n", "ip_range": "10.0.0.0/16"}
    assert hetzner.ask("GET", "/networks")[0] == 200
    assert hetzner.ask("POST", "/networks", body)[0] == 503
    assert hetzner.refusal("GET", "/servers/1") == (429, "rate_limit_exceeded")
    assert hetzner.operate("GET", "/faults") == {"faults": []}
    assert hetzner.ask("POST", "/networks", body)[0] == 201


def test_a_connection_can_break_after_the_change_was_made(hetzner: Running) -> None:
    hetzner.operate("POST", "/faults", {"kind": "drop_after_change", "path": "/networks"})
    body = {"name": "n", "ip_range": "10.0.0.0/16"}
    with pytest.raises(requests.ConnectionError):
        hetzner.ask("POST", "/networks", body)
    assert hetzner.refusal("POST", "/networks", body) == (409, "uniqueness_error")
    hetzner.operate("POST", "/faults", {"kind": "drop_before_change", "path": "/firewalls"})
    with pytest.raises(requests.ConnectionError):
        hetzner.ask("POST", "/firewalls", {"name": "f"})
    assert hetzner.ask("POST", "/firewalls", {"name": "f"})[0] == 201


def test_a_lost_server_is_gone_protected_or_not_and_its_own_addresses_stay(
    hetzner: Running,
) -> None:
    address = {"name": "p", "type": "ipv4", "assignee_type": "server", "location": "nbg1"}
    ipv4 = hetzner.ask("POST", "/primary_ips", address)[1]["primary_ip"]["id"]
    public = {"enable_ipv4": True, "enable_ipv6": False, "ipv4": ipv4}
    _, made = hetzner.ask("POST", "/servers", {"name": "a", **BASE, "public_net": public})
    protect = f"/servers/{made['server']['id']}/actions/change_protection"
    assert hetzner.ask("POST", protect, {"delete": True, "rebuild": True})[0] == 201
    assert hetzner.operate("DELETE", "/servers/a")["lost"] == "a"
    assert hetzner.diary.verbs[-1] == "destroy"
    assert hetzner.ask("GET", "/servers")[1]["servers"] == []
    left = hetzner.ask("GET", f"/primary_ips/{ipv4}")[1]["primary_ip"]
    assert (left["ip"], left["assignee_id"]) == ("127.90.0.1", None)


def test_a_failed_request_changes_nothing_on_disk(hetzner: Running, tmp_path: Path) -> None:
    make_server(hetzner)
    before = (tmp_path / "hetzner.json").read_text()
    # The addresses are made before the unknown firewall is noticed: they must not stay.
    wrong = {"name": "b", **BASE, "firewalls": [{"firewall": 7}]}
    assert hetzner.refusal("POST", "/servers", wrong) == (404, "not_found")
    assert (tmp_path / "hetzner.json").read_text() == before
    assert (tmp_path / "hetzner.json").stat().st_mode & 0o777 == 0o600
