"""Servers: create, power, type, rebuild, protection, delete, and the two ways to lose one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from rehearsal.clouds.hetzner import addresses, firewalls, networks, records
from rehearsal.clouds.hetzner.catalogue import IMAGES, LOCATIONS, SERVER_TYPES, Image, ServerType
from rehearsal.clouds.hetzner.cloud import Cloud
from rehearsal.clouds.hetzner.dialect import invalid, refuse
from rehearsal.clouds.hetzner.records import Record
from rehearsal.clouds.http import Call, Field, Refusal, Reply, State

USER_DATA_BYTES: Final = 32 * 1024
LIMIT: Final = 25
MOST_IN_PLACEMENT_GROUP: Final = 10
HOST_NAME: Final = re.compile(
    r"(?=.{1,253}$)([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)"
    r"(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)
# What the API calls a server while one of its actions runs.
TRANSITIONS: Final = {
    "create_server": "initializing",
    "start_server": "starting",
    "stop_server": "stopping",
    "shutdown_server": "stopping",
    "rebuild_server": "rebuilding",
    "change_server_type": "migrating",
}
ID_OR_NAME: Final = Field((int, str), required=True)


def json(state: State, server: Record, now: float) -> dict[str, Any]:
    running = records.running_commands(state, now, "server", server["id"])
    status = next((TRANSITIONS[c] for c in running if c in TRANSITIONS), None)
    ipv4, ipv6 = (_public(state, server[version]) for version in ("ipv4", "ipv6"))
    group = state["placement_groups"].get(str(server["placement_group"]))
    server_type = SERVER_TYPES[server["server_type"]]
    return {
        "id": server["id"],
        "name": server["name"],
        "status": status or ("running" if server["power"] == "on" else "off"),
        "created": server["created"],
        "public_net": {
            "ipv4": ipv4 and {**ipv4, "dns_ptr": ipv4["dns_ptr"][0]["dns_ptr"]},
            "ipv6": ipv6,
            "floating_ips": [],
            "firewalls": [
                {"id": id_, "status": "applied"} for id_ in firewalls.applied_to(state, server)
            ],
        },
        "private_net": server["private_net"],
        "server_type": server_type.json(_sold_out(state, server_type)),
        "location": LOCATIONS[server["location"]].json(),
        "image": IMAGES[server["image"]].json(),
        "iso": None,
        "rescue_enabled": False,
        "locked": bool(running),
        "backup_window": server["backup_window"],
        "outgoing_traffic": 0,
        "ingoing_traffic": 0,
        "included_traffic": 20 * 2**40,
        "primary_disk_size": server["primary_disk_size"],
        "protection": server["protection"],
        "labels": server["labels"],
        "volumes": [],
        "load_balancers": [],
        "placement_group": group and placement_group_json(state, group),
    }


def _public(state: State, address_id: int | None) -> dict[str, Any] | None:
    if address_id is None:
        return None
    address = addresses.json(state["primary_ips"][str(address_id)])
    return {name: address[name] for name in ("id", "ip", "blocked", "dns_ptr")}


def placement_group_json(state: State, group: Record) -> dict[str, Any]:
    return {**group, "servers": placed(state, group["id"])}


def placed(state: State, group_id: int) -> list[int]:
    return [s["id"] for s in state["servers"].values() if s["placement_group"] == group_id]


def _sold_out(state: State, server_type: ServerType) -> list[str]:
    return [
        name for name in server_type.locations if f"{server_type.name}@{name}" in state["sold_out"]
    ]


def find_server_type(wanted: int | str) -> ServerType:
    for server_type in SERVER_TYPES.values():
        if str(wanted) in {server_type.name, str(server_type.id)}:
            return server_type
    raise invalid("server_type", f"server type {wanted!r} does not exist")


def _find_image(wanted: int | str, architecture: str) -> Image:
    for image in IMAGES.values():
        if str(wanted) == str(image.id) or (
            wanted == image.name and image.architecture == architecture
        ):
            if image.architecture != architecture:
                raise invalid("image", f"image is for {image.architecture}, not {architecture}")
            return image
    raise invalid("image", f"image {wanted!r} does not exist for {architecture}")


def _check_orderable(state: State, server_type: ServerType, location: str) -> None:
    if location not in LOCATIONS:
        raise invalid("location", f"location {location!r} does not exist")
    if location not in server_type.locations:
        raise invalid("location", "unsupported location for server type")
    if server_type.retired:
        raise refuse("invalid_server_type", f"server type {server_type.name} is deprecated")
    if location in _sold_out(state, server_type):
        raise refuse("resource_unavailable", "error during placement")


def _check_name(name: str) -> None:
    if not HOST_NAME.fullmatch(name):
        raise invalid("name", "must be a valid hostname as per RFC 1123")


def _check_user_data(text: str | None) -> str:
    if text is not None and len(text.encode()) > USER_DATA_BYTES:
        raise invalid("user_data", f"must not be longer than {USER_DATA_BYTES} bytes")
    return text or ""


def _password(server_id: int) -> str:
    # Nothing can log in with it; the vendor mails one to whoever gives no ssh key.
    return f"rehearsal-{server_id}"


def _public_addresses(
    cloud: Cloud, call: Call, location: str, wanted: Mapping[str, Any]
) -> list[Record]:
    """The addresses of a new server: the given primary IPs, new ones that die with it, or none."""
    found = []
    for version in ("ipv4", "ipv6"):
        given = wanted.get(version)
        if not wanted.get(f"enable_{version}", True):
            if given:
                raise invalid(f"public_net.{version}", f"enable_{version} is false")
        elif given:
            address = records.get(call.state, "primary_ips", given)
            addresses.check_assignable(address, version, location)
            found.append(address)
        else:
            name = f"primary_ip-{call.state['next_id']}"
            found.append(
                addresses.create(
                    cloud, call, name=name, version=version, location=location, auto_delete=True
                )
            )
    return found


def _delete(cloud: Cloud, call: Call, server: Record) -> None:
    state = call.state
    for version in ("ipv4", "ipv6"):
        address = state["primary_ips"].get(str(server[version]))
        if address is not None:
            addresses.unassign(state, address)
            if address["auto_delete"]:
                del state["primary_ips"][str(address["id"])]
    firewalls.forget_server(state, server["id"])
    del state["servers"][str(server["id"])]
    call.after(lambda: cloud.datacenter.destroy(server["id"]))


def _power_on(cloud: Cloud, call: Call, server: Record) -> None:
    server["power"] = "on"
    cloud.after(call, server, cloud.datacenter.start)


def _power_off(cloud: Cloud, call: Call, server: Record) -> None:
    server["power"] = "off"
    call.after(lambda: cloud.datacenter.stop(server["id"]))


def declare(cloud: Cloud) -> None:  # noqa: PLR0915 - a list of routes
    app = cloud.app

    @app.route("GET", "/servers", query={*records.LIST_QUERY, "status"})
    def list_servers(call: Call) -> Reply:
        items = [json(call.state, server, call.now) for server in call.state["servers"].values()]
        statuses = call.query.getlist("status")
        found = [item for item in items if not statuses or item["status"] in statuses]
        return Reply(records.listed("servers", found, call.query))

    @app.route("GET", "/servers/<int:id>")
    def get_server(call: Call) -> Reply:
        server = records.get(call.state, "servers", call.values["id"])
        return Reply({"server": json(call.state, server, call.now)})

    @app.route(
        "POST",
        "/servers",
        body={
            "name": Field(str, required=True),
            "server_type": ID_OR_NAME,
            "image": ID_OR_NAME,
            "location": Field(str, nullable=True),
            "ssh_keys": Field(list, of=Field((int, str))),
            "user_data": Field(str, nullable=True),
            "start_after_create": Field(bool),
            "labels": Field(dict, of=Field(str), nullable=True),
            "automount": Field(bool),
            "volumes": Field(list, of=Field(int)),
            "networks": Field(list, of=Field(int)),
            "firewalls": Field(
                list, of=Field(dict, fields={"firewall": Field(int, required=True)})
            ),
            "placement_group": Field(int, nullable=True),
            "public_net": Field(
                dict,
                nullable=True,
                fields={
                    "enable_ipv4": Field(bool),
                    "enable_ipv6": Field(bool),
                    "ipv4": Field(int, nullable=True),
                    "ipv6": Field(int, nullable=True),
                },
            ),
        },
    )
    def create_server(call: Call) -> Reply:
        state, body = call.state, call.body
        _check_name(body["name"])
        records.check_name(state, "servers", body["name"])
        if len(state["servers"]) >= LIMIT:
            raise refuse("resource_limit_exceeded", "server limit exceeded")
        if body.get("volumes"):
            raise invalid("volumes", "the rehearsal has no volumes")
        server_type = find_server_type(body["server_type"])
        image = _find_image(body["image"], server_type.architecture)
        # Without a location the vendor chooses one that has the type.
        location = body.get("location") or server_type.locations[0]
        _check_orderable(state, server_type, location)
        group = body.get("placement_group") or None
        if group is not None:
            records.get(state, "placement_groups", group)
            if len(placed(state, group)) >= MOST_IN_PLACEMENT_GROUP:
                raise refuse("placement_error", "placement group has no room for another server")
        keys = [_ssh_key(state, key)["id"] for key in body.get("ssh_keys", [])]
        public = _public_addresses(cloud, call, location, body.get("public_net") or {})
        if not public and not body.get("networks") and body.get("start_after_create", True):
            raise invalid("public_net", "server must have a public or a private network to start")
        start = body.get("start_after_create", True)
        server = records.add(
            state,
            "servers",
            call.now,
            {
                "name": body["name"],
                "server_type": server_type.name,
                "image": image.id,
                "location": location,
                "power": "on" if start else "off",
                "user_data": _check_user_data(body.get("user_data")),
                "ssh_keys": keys,
                "labels": records.check_labels(body.get("labels")),
                "ipv4": None,
                "ipv6": None,
                "private_net": [],
                "placement_group": group,
                "primary_disk_size": server_type.disk,
                "backup_window": None,
                "protection": {"delete": False, "rebuild": False},
            },
        )
        for address in public:
            addresses.assign(address, server)
        for given in body.get("firewalls", []):
            firewalls.apply_to_server(state, given["firewall"], server)
        for network_id in body.get("networks", []):
            networks.attach(state, records.get(state, "networks", network_id), server, None, ())
        action = cloud.act(call, "create_server", ("server", server["id"]))
        following = [cloud.act(call, "start_server", ("server", server["id"]))] if start else []
        if server["power"] == "on":
            cloud.after(call, server, cloud.datacenter.start)
        return Reply(
            {
                "server": json(state, server, call.now),
                "action": action,
                "next_actions": following,
                "root_password": None if keys else _password(server["id"]),
            },
            201,
        )

    @app.route(
        "PUT",
        "/servers/<int:id>",
        body={"name": Field(str), "labels": Field(dict, of=Field(str), nullable=True)},
    )
    def update_server(call: Call) -> Reply:
        server = records.get(call.state, "servers", call.values["id"])
        if "name" in call.body:
            _check_name(call.body["name"])
        records.rename_and_label(call.state, "servers", server, call.body)
        cloud.tell_update(call, server)
        return Reply({"server": json(call.state, server, call.now)})

    @app.route("DELETE", "/servers/<int:id>")
    def delete_server(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        if server["protection"]["delete"]:
            raise refuse("protected", "server deletion is protected")
        _delete(cloud, call, server)
        return Reply({"action": cloud.act(call, "delete_server", ("server", server["id"]))})

    def power(command: str, action: str, turn: Any, wanted_off: bool | None) -> None:
        @app.route("POST", f"/servers/<int:id>/actions/{command}")
        def change_power(call: Call) -> Reply:
            server = cloud.unlocked(call, "servers")
            if wanted_off is None:
                _power_off(cloud, call, server)
            # Power that is already as wanted is no error to the vendor and no news to the machine.
            if wanted_off is None or (server["power"] == "off") != wanted_off:
                turn(cloud, call, server)
            return cloud.acted(call, action, ("server", server["id"]))

    power("poweron", "start_server", _power_on, wanted_off=False)
    power("poweroff", "stop_server", _power_off, wanted_off=True)
    power("shutdown", "shutdown_server", _power_off, wanted_off=True)
    power("reboot", "reboot_server", _power_on, wanted_off=None)
    power("reset", "reset_server", _power_on, wanted_off=None)

    @app.route(
        "POST",
        "/servers/<int:id>/actions/change_type",
        body={"server_type": ID_OR_NAME, "upgrade_disk": Field(bool, required=True)},
    )
    def change_type(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        wanted = find_server_type(call.body["server_type"])
        if server["power"] == "on":
            raise refuse("server_not_stopped", "server is not stopped")
        if wanted.architecture != SERVER_TYPES[server["server_type"]].architecture:
            raise refuse("invalid_server_type", "server type has another architecture")
        if wanted.disk < server["primary_disk_size"]:
            raise refuse("invalid_server_type", "disk of the server type is too small")
        _check_orderable(call.state, wanted, server["location"])
        server["server_type"] = wanted.name
        if call.body["upgrade_disk"]:
            server["primary_disk_size"] = wanted.disk
        # As documented: "this copies the content of its disk, and starts it again". The plugin
        # (terraform-provider-hcloud, resourceServerUpdate) counts on it: it powers off only.
        _power_on(cloud, call, server)
        return cloud.acted(call, "change_server_type", ("server", server["id"]))

    @app.route(
        "POST",
        "/servers/<int:id>/actions/rebuild",
        body={"image": ID_OR_NAME, "user_data": Field(str, nullable=True)},
    )
    def rebuild(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        if server["protection"]["rebuild"]:
            raise refuse("protected", "server rebuild is protected")
        architecture = SERVER_TYPES[server["server_type"]].architecture
        server["image"] = _find_image(call.body["image"], architecture).id
        if call.body.get("user_data") is not None:
            server["user_data"] = _check_user_data(call.body["user_data"])
        server["power"] = "on"
        cloud.after(call, server, cloud.datacenter.rebuild)
        action = cloud.act(call, "rebuild_server", ("server", server["id"]))
        password = None if server["ssh_keys"] else _password(server["id"])
        return Reply({"action": action, "root_password": password}, 201)

    @app.route(
        "POST",
        "/servers/<int:id>/actions/change_protection",
        body={"delete": Field(bool), "rebuild": Field(bool)},
    )
    def change_protection(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        wanted = {**server["protection"], **call.body}
        if wanted["delete"] != wanted["rebuild"]:
            raise invalid("rebuild", "delete and rebuild protection must have the same value")
        server["protection"] = wanted
        return cloud.acted(call, "change_protection", ("server", server["id"]))

    @app.route("POST", "/servers/<int:id>/actions/enable_backup")
    def enable_backup(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        server["backup_window"] = "22-02"
        return cloud.acted(call, "enable_backup", ("server", server["id"]))

    @app.route("POST", "/servers/<int:id>/actions/disable_backup")
    def disable_backup(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        server["backup_window"] = None
        return cloud.acted(call, "disable_backup", ("server", server["id"]))

    @app.route(
        "POST",
        "/servers/<int:id>/actions/add_to_placement_group",
        body={"placement_group": Field(int, required=True)},
    )
    def add_to_placement_group(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        group = records.get(call.state, "placement_groups", call.body["placement_group"])
        if server["power"] == "on":
            raise refuse("server_not_stopped", "server is not stopped")
        if len(placed(call.state, group["id"])) >= MOST_IN_PLACEMENT_GROUP:
            raise refuse("placement_error", "placement group has no room for another server")
        server["placement_group"] = group["id"]
        return cloud.acted(call, "add_to_placement_group", ("server", server["id"]))

    @app.route("POST", "/servers/<int:id>/actions/remove_from_placement_group")
    def remove_from_placement_group(call: Call) -> Reply:
        server = cloud.unlocked(call, "servers")
        server["placement_group"] = None
        return cloud.acted(call, "remove_from_placement_group", ("server", server["id"]))

    # The operator's side.

    @app.operator("DELETE", "/servers/<wanted>")
    def lose_server(call: Call) -> Reply:
        for server in call.state["servers"].values():
            if call.values["wanted"] in {server["name"], str(server["id"])}:
                _delete(cloud, call, server)
                return Reply({"lost": server["name"], "id": server["id"]})
        names = ", ".join(sorted(s["name"] for s in call.state["servers"].values())) or "none"
        message = f"there is no server {call.values['wanted']!r}; there are: {names}"
        raise Refusal(404, "not_found", message)

    @app.operator(
        "PUT",
        "/sold-out",
        body={
            "server_type": Field(str, required=True),
            "location": Field(str, required=True),
            "sold_out": Field(bool, required=True),
        },
    )
    def sell_out(call: Call) -> Reply:
        server_type, location = find_server_type(call.body["server_type"]), call.body["location"]
        if location not in server_type.locations:
            raise invalid("location", f"{server_type.name} is sold in {server_type.locations}")
        pair = f"{server_type.name}@{location}"
        remaining = {*call.state["sold_out"]} - {pair}
        call.state["sold_out"] = sorted(remaining | ({pair} if call.body["sold_out"] else set()))
        return Reply({"sold_out": call.state["sold_out"]})

    @app.operator(
        "PUT",
        "/failing-action",
        body={
            "command": Field(str, required=True),
            "code": Field(str),
            "message": Field(str),
        },
    )
    def failing_action(call: Call) -> Reply:
        code = call.body.get("code", "action_failed")
        message = call.body.get("message", "Action failed")
        cloud.failing[call.body["command"]] = {"code": code, "message": message}
        return Reply({"failing": cloud.failing})

    @app.operator("PUT", "/action-seconds", body={"seconds": Field((int, float), required=True)})
    def action_seconds(call: Call) -> Reply:
        cloud.action_seconds = float(call.body["seconds"])
        return Reply({"seconds": cloud.action_seconds})


def _ssh_key(state: State, wanted: int | str) -> Record:
    for key in state["ssh_keys"].values():
        if wanted in {key["id"], key["name"], str(key["id"])}:
            found: Record = key
            return found
    raise invalid("ssh_keys", f"ssh key {wanted!r} does not exist")
