"""Private networks and the addresses in them. Rules: docs.hetzner.com, Cloud, Networks, FAQ."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any, Final

from rehearsal.clouds.hetzner import records
from rehearsal.clouds.hetzner.catalogue import LOCATIONS, NETWORK_ZONES
from rehearsal.clouds.hetzner.cloud import Cloud
from rehearsal.clouds.hetzner.dialect import invalid, refuse
from rehearsal.clouds.hetzner.records import Record
from rehearsal.clouds.http import Call, Field, Reply, State

PRIVATE: Final = [IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
PUBLIC_GATEWAY: Final = IPv4Address("172.31.1.1")  # of every server's public interface
SUBNET_TYPES: Final = {"cloud", "server"}
LIMIT: Final = 50
MOST_MEMBERS: Final = 100
MOST_ALIASES: Final = 5

SUBNET: Final = {
    "type": Field(str, required=True),
    "ip_range": Field(str, nullable=True),
    "network_zone": Field(str, required=True),
    "vswitch_id": Field(int, nullable=True),
}


def json(state: State, network: Record) -> dict[str, Any]:
    return {
        "id": network["id"],
        "name": network["name"],
        "created": network["created"],
        "ip_range": network["ip_range"],
        "subnets": [
            {**subnet, "gateway": str(gateway(network)), "vswitch_id": None}
            for subnet in network["subnets"]
        ],
        "routes": [],
        "servers": [server["id"] for server, _ in members(state, network["id"])],
        "load_balancers": [],
        "protection": network["protection"],
        "labels": network["labels"],
        "expose_routes_to_vswitch": network["expose_routes_to_vswitch"],
    }


def gateway(network: Record) -> IPv4Address:
    """The first address of the whole network serves every subnet."""
    return IPv4Network(network["ip_range"])[1]


def members(state: State, network_id: int) -> list[tuple[Record, Record]]:
    """(server, its attachment) of everyone in the network."""
    return [
        (server, attached)
        for server in state["servers"].values()
        for attached in server["private_net"]
        if attached["network"] == network_id
    ]


def attach(
    state: State, network: Record, server: Record, ip: str | None, aliases: Iterable[str]
) -> Record:
    """Gives the server an address in a subnet of its own network zone, or refuses."""
    if any(attached["network"] == network["id"] for attached in server["private_net"]):
        raise refuse("server_already_attached", "server is already attached to network")
    zone = LOCATIONS[server["location"]].network_zone
    subnets = [IPv4Network(s["ip_range"]) for s in network["subnets"] if s["network_zone"] == zone]
    present = members(state, network["id"])
    if not subnets or len(present) >= MOST_MEMBERS:
        raise refuse("no_subnet_available", f"network has no subnet with free addresses in {zone}")
    taken = {gateway(network), PUBLIC_GATEWAY}
    for _, other in present:
        taken |= {IPv4Address(address) for address in (other["ip"], *other["alias_ips"])}
    wanted = [_host(address, subnets, taken, "ip") for address in ([ip] if ip else [])]
    if not wanted:
        free = (host for subnet in subnets for host in subnet.hosts() if host not in taken)
        if (first := next(free, None)) is None:
            raise refuse("no_subnet_available", "no free address in the network's subnets")
        wanted = [first]
    taken.add(wanted[0])
    attached = {
        "network": network["id"],
        "ip": str(wanted[0]),
        "alias_ips": _aliases(aliases, subnets, taken),
        "mac_address": f"86:00:00:{server['id'] >> 16 & 255:02x}:{server['id'] >> 8 & 255:02x}"
        f":{server['id'] & 255:02x}",
    }
    server["private_net"].append(attached)
    return attached


def _aliases(
    wanted: Iterable[str], subnets: list[IPv4Network], taken: set[IPv4Address]
) -> list[str]:
    result: list[str] = []
    for text in wanted:
        address = _host(text, subnets, taken, "alias_ips")
        taken.add(address)
        result.append(str(address))
    if len(result) > MOST_ALIASES:
        raise invalid("alias_ips", f"at most {MOST_ALIASES}")
    return result


def _host(
    text: str, subnets: list[IPv4Network], taken: set[IPv4Address], field: str
) -> IPv4Address:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise invalid(field, "not a valid IPv4 address") from None
    subnet = next((subnet for subnet in subnets if address in subnet), None)
    if subnet is None:
        raise invalid(field, f"{text} is in none of the network's subnets in the server's zone")
    if address in taken or address in {subnet.network_address, subnet.broadcast_address}:
        raise refuse("ip_not_available", f"IP {text} is not available")
    return address


def _range(text: str, field: str, longest: int) -> IPv4Network:
    try:
        found = IPv4Network(text)
    except ValueError:
        raise invalid(field, "must be an IPv4 network like 10.0.0.0/16 without host bits") from None
    if not any(found.subnet_of(private) for private in PRIVATE):
        raise invalid(field, "must be in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16 (RFC 1918)")
    if found.prefixlen > longest:
        raise invalid(field, f"must be /{longest} or larger")
    return found


def _add_subnet(network: Record, body: dict[str, Any]) -> None:
    """Checks and appends one subnet; without `ip_range` the first free /24."""
    whole = IPv4Network(network["ip_range"])
    others = [IPv4Network(subnet["ip_range"]) for subnet in network["subnets"]]
    if body["type"] not in SUBNET_TYPES or body.get("vswitch_id"):
        raise invalid("type", "must be cloud or server (the rehearsal has no vSwitch)")
    if body["network_zone"] not in NETWORK_ZONES:
        raise invalid("network_zone", f"must be one of {', '.join(sorted(NETWORK_ZONES))}")
    if any(subnet["network_zone"] != body["network_zone"] for subnet in network["subnets"]):
        raise invalid("network_zone", "all subnets of a network are in one network zone")
    if body.get("ip_range"):
        subnet = _range(body["ip_range"], "ip_range", longest=30)
    else:
        free = (s for s in whole.subnets(new_prefix=24) if not any(map(s.overlaps, others)))
        if (found := next(free, None)) is None:
            raise refuse("no_subnet_available", "no free /24 in the network")
        subnet = found
    if not subnet.subnet_of(whole):
        raise invalid("ip_range", f"{subnet} is not inside the network's {whole}")
    if any(subnet.overlaps(other) for other in others):
        raise invalid("ip_range", f"{subnet} overlaps another subnet of the network")
    network["subnets"].append(
        {"type": body["type"], "ip_range": str(subnet), "network_zone": body["network_zone"]}
    )


def declare(cloud: Cloud) -> None:  # noqa: PLR0915 - a list of routes
    app = cloud.app

    @app.route("GET", "/networks", query=records.LIST_QUERY)
    def list_networks(call: Call) -> Reply:
        items = [json(call.state, network) for network in call.state["networks"].values()]
        return Reply(records.listed("networks", items, call.query))

    @app.route(
        "POST",
        "/networks",
        body={
            "name": Field(str, required=True),
            "ip_range": Field(str, required=True),
            "labels": Field(dict, of=Field(str), nullable=True),
            "subnets": Field(list, of=Field(dict, fields=SUBNET)),
            "expose_routes_to_vswitch": Field(bool, nullable=True),
        },
    )
    def create_network(call: Call) -> Reply:
        if len(call.state["networks"]) >= LIMIT:
            raise refuse("resource_limit_exceeded", "network limit exceeded")
        network = records.add(
            call.state,
            "networks",
            call.now,
            {
                "name": call.body["name"],
                "ip_range": str(_range(call.body["ip_range"], "ip_range", longest=24)),
                "labels": records.check_labels(call.body.get("labels")),
                "subnets": [],
                "protection": {"delete": False},
                "expose_routes_to_vswitch": bool(call.body.get("expose_routes_to_vswitch")),
            },
        )
        for subnet in call.body.get("subnets", []):
            _add_subnet(network, subnet)
        return Reply({"network": json(call.state, network)}, 201)

    @app.route("GET", "/networks/<int:id>")
    def get_network(call: Call) -> Reply:
        network = records.get(call.state, "networks", call.values["id"])
        return Reply({"network": json(call.state, network)})

    @app.route(
        "PUT",
        "/networks/<int:id>",
        body={
            "name": Field(str),
            "labels": Field(dict, of=Field(str), nullable=True),
            "expose_routes_to_vswitch": Field(bool),
        },
    )
    def update_network(call: Call) -> Reply:
        network = records.get(call.state, "networks", call.values["id"])
        records.rename_and_label(call.state, "networks", network, call.body)
        if "expose_routes_to_vswitch" in call.body:
            network["expose_routes_to_vswitch"] = call.body["expose_routes_to_vswitch"]
        return Reply({"network": json(call.state, network)})

    @app.route("DELETE", "/networks/<int:id>")
    def delete_network(call: Call) -> Reply:
        network = cloud.unlocked(call, "networks")
        if network["protection"]["delete"]:
            raise refuse("protected", "network deletion is protected")
        # As documented: servers that are attached are detached, and that is no error.
        for server, attached in members(call.state, network["id"]):
            server["private_net"].remove(attached)
            cloud.tell_update(call, server)
        del call.state["networks"][str(network["id"])]
        return Reply()

    @app.route("POST", "/networks/<int:id>/actions/add_subnet", body=SUBNET)
    def add_subnet(call: Call) -> Reply:
        network = cloud.unlocked(call, "networks")
        _add_subnet(network, call.body)
        return cloud.acted(call, "add_subnet", ("network", network["id"]))

    @app.route(
        "POST",
        "/networks/<int:id>/actions/delete_subnet",
        body={"ip_range": Field(str, required=True)},
    )
    def delete_subnet(call: Call) -> Reply:
        network = cloud.unlocked(call, "networks")
        found = [s for s in network["subnets"] if s["ip_range"] == call.body["ip_range"]]
        if not found:
            raise refuse("not_found", "subnet not found in network")
        inside = IPv4Network(found[0]["ip_range"])
        if any(IPv4Address(a["ip"]) in inside for _, a in members(call.state, network["id"])):
            # The plugin waits and retries on this code and these words.
            raise refuse("service_error", "cannot remove subnet because servers are attached to it")
        network["subnets"].remove(found[0])
        return cloud.acted(call, "delete_subnet", ("network", network["id"]))

    @app.route(
        "POST",
        "/networks/<int:id>/actions/change_ip_range",
        body={"ip_range": Field(str, required=True)},
    )
    def change_ip_range(call: Call) -> Reply:
        network = cloud.unlocked(call, "networks")
        wider = _range(call.body["ip_range"], "ip_range", longest=24)
        if not IPv4Network(network["ip_range"]).subnet_of(wider):
            raise invalid("ip_range", "a network can only be extended")
        network["ip_range"] = str(wider)
        return cloud.acted(call, "change_ip_range", ("network", network["id"]))

    @app.route("POST", "/networks/<int:id>/actions/change_protection", body={"delete": Field(bool)})
    def change_protection(call: Call) -> Reply:
        network = cloud.unlocked(call, "networks")
        network["protection"]["delete"] = call.body.get("delete", network["protection"]["delete"])
        return cloud.acted(call, "change_protection", ("network", network["id"]))

    # A server's side of it.

    @app.route(
        "POST",
        "/servers/<int:id>/actions/attach_to_network",
        body={
            "network": Field(int, required=True),
            "ip": Field(str, nullable=True),
            "alias_ips": Field(list, of=Field(str), nullable=True),
            "ip_range": Field(str, nullable=True),
        },
    )
    def attach_to_network(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        network = records.get(call.state, "networks", call.body["network"])
        attached = attach(
            call.state, network, server, call.body.get("ip"), call.body.get("alias_ips") or ()
        )
        chosen = call.body.get("ip_range")
        if chosen is not None and IPv4Address(attached["ip"]) not in _range(chosen, "ip_range", 30):
            raise invalid("ip_range", "address and subnet do not fit")
        cloud.tell_update(call, server)
        return cloud.acted(
            call, "attach_to_network", ("server", server["id"]), ("network", network["id"])
        )

    @app.route(
        "POST",
        "/servers/<int:id>/actions/detach_from_network",
        body={"network": Field(int, required=True)},
    )
    def detach_from_network(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        server["private_net"].remove(_attachment(server, call.body["network"]))
        cloud.tell_update(call, server)
        return cloud.acted(
            call, "detach_from_network", ("server", server["id"]), ("network", call.body["network"])
        )

    @app.route(
        "POST",
        "/servers/<int:id>/actions/change_alias_ips",
        body={
            "network": Field(int, required=True),
            "alias_ips": Field(list, of=Field(str), required=True),
        },
    )
    def change_alias_ips(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        network = records.get(call.state, "networks", call.body["network"])
        attached = _attachment(server, network["id"])
        attached["alias_ips"] = []
        taken = {gateway(network), PUBLIC_GATEWAY}
        for _, other in members(call.state, network["id"]):
            taken |= {IPv4Address(address) for address in (other["ip"], *other["alias_ips"])}
        subnets = [IPv4Network(subnet["ip_range"]) for subnet in network["subnets"]]
        attached["alias_ips"] = _aliases(call.body["alias_ips"], subnets, taken)
        return cloud.acted(
            call, "change_alias_ips", ("server", server["id"]), ("network", network["id"])
        )


def _attachment(server: Record, network_id: int) -> Record:
    for attached in server["private_net"]:
        if attached["network"] == network_id:
            found: Record = attached
            return found
    raise refuse("not_found", "server is not attached to network")
