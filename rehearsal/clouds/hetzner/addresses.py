"""Primary IPs. An address is handed out once and never again: who still knows it is not fooled."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network
from typing import Any, Final

from rehearsal.clouds.hetzner import records
from rehearsal.clouds.hetzner.catalogue import LOCATIONS
from rehearsal.clouds.hetzner.cloud import Cloud
from rehearsal.clouds.hetzner.dialect import invalid, refuse
from rehearsal.clouds.hetzner.records import Record
from rehearsal.clouds.http import Call, Field, Reply, State

LABELS: Final = Field(dict, of=Field(str), nullable=True)
LIMIT: Final = 50


def create(
    cloud: Cloud,
    call: Call,
    *,
    name: str,
    version: str,
    location: str,
    auto_delete: bool,
    labels: dict[str, str] | None = None,
) -> Record:
    """A new, unassigned address of `version` (ipv4, ipv6)."""
    state = call.state
    if len(state["primary_ips"]) >= LIMIT:
        raise refuse("resource_limit_exceeded", "primary IP limit exceeded")
    return records.add(
        state,
        "primary_ips",
        call.now,
        {
            "name": name,
            "type": version,
            "ip": _next_ipv4(state, cloud.block) if version == "ipv4" else _next_ipv6(state),
            "location": location,
            "labels": records.check_labels(labels),
            "auto_delete": auto_delete,
            "assignee_id": None,
            "protection": {"delete": False},
            "dns_ptr": {},
        },
    )


def _next_ipv4(state: State, block: int) -> str:
    number = records.take_number(state, "next_ipv4")
    # 254 addresses of each /24: .0 and .255 look wrong to people and to some software.
    return str(IPv4Address(f"127.{block}.{(number - 1) // 254}.{(number - 1) % 254 + 1}"))


def _next_ipv6(state: State) -> str:
    number = records.take_number(state, "next_ipv6")
    return str(IPv6Network((0x20010DB8 << 96 | number << 64, 64)))


def assign(address: Record, server: Record) -> None:
    """The one place where the two records are tied. The caller has checked that it may be."""
    address["assignee_id"] = server["id"]
    server[address["type"]] = address["id"]


def unassign(state: State, address: Record) -> None:
    server = state["servers"].get(str(address["assignee_id"]))
    if server is not None:
        server[address["type"]] = None
    address["assignee_id"] = None


def check_assignable(address: Record, version: str, location: str) -> None:
    """Raises the vendor's refusal when a server in `location` cannot have this address."""
    if address["type"] != version:
        raise refuse("primary_ip_version_mismatch", f"primary IP is not of type {version}")
    if address["assignee_id"] is not None:
        raise refuse("primary_ip_assigned", "primary IP is already assigned to a server")
    if address["location"] != location:
        # The code is older than the removal of datacenters; the vendor kept it.
        raise refuse(
            "primary_ip_datacenter_mismatch",
            f"primary IP is in {address['location']}, the server in {location}",
        )


def json(address: Record) -> dict[str, Any]:
    ip = address["ip"]
    reverse = {**_default_reverse(address), **address["dns_ptr"]}
    return {
        "id": address["id"],
        "name": address["name"],
        "type": address["type"],
        "ip": ip,
        "assignee_id": address["assignee_id"],
        # Since August 2026; until then it said "server" of an address that nobody had, too.
        "assignee_type": "unassigned" if address["assignee_id"] is None else "server",
        "auto_delete": address["auto_delete"],
        "blocked": False,
        "created": address["created"],
        "dns_ptr": [{"ip": at, "dns_ptr": name} for at, name in reverse.items()],
        "labels": address["labels"],
        "location": LOCATIONS[address["location"]].json(),
        "protection": address["protection"],
    }


def _default_reverse(address: Record) -> dict[str, str]:
    if address["type"] == "ipv6":
        return {}
    backwards = ".".join(reversed(address["ip"].split(".")))
    return {address["ip"]: f"static.{backwards}.clients.your-server.de"}


def declare(cloud: Cloud) -> None:  # noqa: PLR0915 - a list of routes
    app = cloud.app

    def stopped_assignee(state: State, server_id: int) -> Record:
        server = records.get(state, "servers", server_id)
        if server["power"] == "on":
            raise refuse("server_not_stopped", "server is not stopped")
        return server

    @app.route("GET", "/primary_ips", query={*records.LIST_QUERY, "ip"})
    def list_addresses(call: Call) -> Reply:
        items = map(json, call.state["primary_ips"].values())
        found = [item for item in items if call.query.get("ip") in {None, item["ip"]}]
        return Reply(records.listed("primary_ips", found, call.query))

    @app.route(
        "POST",
        "/primary_ips",
        body={
            "name": Field(str, required=True),
            "type": Field(str, required=True),
            "assignee_type": Field(str),
            "assignee_id": Field(int, nullable=True),
            "labels": LABELS,
            "auto_delete": Field(bool),
            "location": Field(str, nullable=True),
        },
    )
    def create_address(call: Call) -> Reply:
        body = call.body
        if body["type"] not in {"ipv4", "ipv6"}:
            raise invalid("type", "must be one of ipv4, ipv6")
        if body.get("assignee_type", "server") != "server":
            raise invalid("assignee_type", "must be server")
        location, assignee = body.get("location"), body.get("assignee_id")
        if (location is None) == (assignee is None):
            raise invalid("location", "exactly one of location and assignee_id must be given")
        server = stopped_assignee(call.state, assignee) if assignee else None
        location = server["location"] if server else location
        if location not in LOCATIONS:
            raise invalid("location", f"location {location!r} does not exist")
        address = create(
            cloud,
            call,
            name=body["name"],
            version=body["type"],
            location=location,
            auto_delete=body.get("auto_delete", False),
            labels=body.get("labels"),
        )
        action = None
        if server:
            if server[address["type"]]:
                raise refuse(f"server_has_{body['type']}", f"server already has an {body['type']}")
            assign(address, server)
            action = cloud.act(
                call, "assign_primary_ip", ("primary_ip", address["id"]), ("server", server["id"])
            )
        return Reply({"primary_ip": json(address), "action": action}, 201)

    @app.route("GET", "/primary_ips/<int:id>")
    def get_address(call: Call) -> Reply:
        return Reply(
            {"primary_ip": json(records.get(call.state, "primary_ips", call.values["id"]))}
        )

    @app.route(
        "PUT",
        "/primary_ips/<int:id>",
        body={"name": Field(str), "labels": LABELS, "auto_delete": Field(bool)},
    )
    def update_address(call: Call) -> Reply:
        address = records.get(call.state, "primary_ips", call.values["id"])
        records.rename_and_label(call.state, "primary_ips", address, call.body)
        address["auto_delete"] = call.body.get("auto_delete", address["auto_delete"])
        return Reply({"primary_ip": json(address)})

    @app.route("DELETE", "/primary_ips/<int:id>")
    def delete_address(call: Call) -> Reply:
        address = cloud.unlocked(call, "primary_ips")
        if address["protection"]["delete"]:
            raise refuse("protected", "primary IP deletion is protected")
        if address["assignee_id"] is not None:
            # Until May 2026 the API unassigned it itself.
            raise refuse("must_be_unassigned", "primary IP must be unassigned before deletion")
        del call.state["primary_ips"][str(address["id"])]
        return Reply()

    @app.route(
        "POST",
        "/primary_ips/<int:id>/actions/change_protection",
        body={"delete": Field(bool, required=True)},
    )
    def change_protection(call: Call) -> Reply:
        address = cloud.unlocked(call, "primary_ips")
        address["protection"]["delete"] = call.body["delete"]
        return cloud.acted(call, "change_protection", ("primary_ip", address["id"]))

    @app.route(
        "POST",
        "/primary_ips/<int:id>/actions/assign",
        body={
            "assignee_id": Field(int, required=True),
            "assignee_type": Field(str, required=True),
        },
    )
    def assign_address(call: Call) -> Reply:
        address = cloud.unlocked(call, "primary_ips")
        server = stopped_assignee(call.state, call.body["assignee_id"])
        check_assignable(address, address["type"], server["location"])
        if server[address["type"]]:
            raise refuse(f"server_has_{address['type']}", "server already has such an address")
        assign(address, server)
        return cloud.acted(
            call, "assign_primary_ip", ("primary_ip", address["id"]), ("server", server["id"])
        )

    @app.route("POST", "/primary_ips/<int:id>/actions/unassign")
    def unassign_address(call: Call) -> Reply:
        address = cloud.unlocked(call, "primary_ips")
        if address["assignee_id"] is None:
            raise refuse("primary_ip_not_assigned", "primary IP is not assigned")
        server = stopped_assignee(call.state, address["assignee_id"])
        unassign(call.state, address)
        return cloud.acted(
            call, "unassign_primary_ip", ("primary_ip", address["id"]), ("server", server["id"])
        )

    @app.route(
        "POST",
        "/primary_ips/<int:id>/actions/change_dns_ptr",
        body={"ip": Field(str, required=True), "dns_ptr": Field(str, nullable=True, required=True)},
    )
    def change_reverse(call: Call) -> Reply:
        address = cloud.unlocked(call, "primary_ips")
        address["dns_ptr"].pop(call.body["ip"], None)
        if call.body["dns_ptr"] is not None:
            address["dns_ptr"][call.body["ip"]] = call.body["dns_ptr"]
        return cloud.acted(call, "change_dns_ptr", ("primary_ip", address["id"]))
