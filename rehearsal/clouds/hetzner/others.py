"""The small kinds: ssh keys, placement groups, actions, and the catalogue's lists."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Collection
from typing import Any

from werkzeug.datastructures import MultiDict

from rehearsal.clouds.hetzner import catalogue, records, servers
from rehearsal.clouds.hetzner.cloud import Cloud
from rehearsal.clouds.hetzner.dialect import invalid, refuse
from rehearsal.clouds.http import Call, Field, Reply, State


def fingerprint(public_key: str) -> str:
    """MD5 of the key's bytes, as the API shows it. Raises invalid_input for what is no key."""
    try:
        kind, encoded, *_ = public_key.split()
        raw = base64.b64decode(encoded, validate=True)
        if not raw[4:].startswith(kind.encode()):
            raise ValueError
    except (ValueError, binascii.Error):
        raise invalid("public_key", "must be an OpenSSH public key") from None
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, 32, 2))


def declare(cloud: Cloud) -> None:
    _declare_ssh_keys(cloud)
    _declare_placement_groups(cloud)
    _declare_actions(cloud)
    _declare_catalogue(cloud)


def _declare_ssh_keys(cloud: Cloud) -> None:
    app = cloud.app
    labels = Field(dict, of=Field(str), nullable=True)

    @app.route("GET", "/ssh_keys", query={*records.LIST_QUERY, "fingerprint"})
    def list_keys(call: Call) -> Reply:
        wanted = call.query.get("fingerprint")
        keys = call.state["ssh_keys"].values()
        found = [key for key in keys if wanted in {None, key["fingerprint"]}]
        return Reply(records.listed("ssh_keys", found, call.query))

    @app.route(
        "POST",
        "/ssh_keys",
        body={
            "name": Field(str, required=True),
            "public_key": Field(str, required=True),
            "labels": labels,
        },
    )
    def create_key(call: Call) -> Reply:
        mark = fingerprint(call.body["public_key"])
        if any(key["fingerprint"] == mark for key in call.state["ssh_keys"].values()):
            raise refuse("uniqueness_error", "SSH key with the same fingerprint already exists")
        key = {
            "name": call.body["name"],
            "fingerprint": mark,
            "public_key": call.body["public_key"],
            "labels": records.check_labels(call.body.get("labels")),
        }
        return Reply({"ssh_key": records.add(call.state, "ssh_keys", call.now, key)}, 201)

    @app.route("GET", "/ssh_keys/<int:id>")
    def get_key(call: Call) -> Reply:
        return Reply({"ssh_key": records.get(call.state, "ssh_keys", call.values["id"])})

    @app.route("PUT", "/ssh_keys/<int:id>", body={"name": Field(str), "labels": labels})
    def update_key(call: Call) -> Reply:
        key = records.get(call.state, "ssh_keys", call.values["id"])
        records.rename_and_label(call.state, "ssh_keys", key, call.body)
        return Reply({"ssh_key": key})

    @app.route("DELETE", "/ssh_keys/<int:id>")
    def delete_key(call: Call) -> Reply:
        # Also when servers have it: a key is only copied into a server, at its creation.
        key = records.get(call.state, "ssh_keys", call.values["id"])
        del call.state["ssh_keys"][str(key["id"])]
        return Reply()


def _declare_placement_groups(cloud: Cloud) -> None:
    app = cloud.app
    labels = Field(dict, of=Field(str), nullable=True)

    @app.route("GET", "/placement_groups", query={*records.LIST_QUERY, "type"})
    def list_groups(call: Call) -> Reply:
        groups = call.state["placement_groups"].values()
        wanted = call.query.get("type")
        found = [
            servers.placement_group_json(call.state, group)
            for group in groups
            if wanted in {None, group["type"]}
        ]
        return Reply(records.listed("placement_groups", found, call.query))

    @app.route(
        "POST",
        "/placement_groups",
        body={
            "name": Field(str, required=True),
            "type": Field(str, required=True),
            "labels": labels,
        },
    )
    def create_group(call: Call) -> Reply:
        if call.body["type"] != "spread":
            raise invalid("type", "must be spread")
        group = {
            "name": call.body["name"],
            "type": "spread",
            "labels": records.check_labels(call.body.get("labels")),
        }
        group = records.add(call.state, "placement_groups", call.now, group)
        body = {"placement_group": servers.placement_group_json(call.state, group), "action": None}
        return Reply(body, 201)

    @app.route("GET", "/placement_groups/<int:id>")
    def get_group(call: Call) -> Reply:
        group = records.get(call.state, "placement_groups", call.values["id"])
        return Reply({"placement_group": servers.placement_group_json(call.state, group)})

    @app.route("PUT", "/placement_groups/<int:id>", body={"name": Field(str), "labels": labels})
    def update_group(call: Call) -> Reply:
        group = records.get(call.state, "placement_groups", call.values["id"])
        records.rename_and_label(call.state, "placement_groups", group, call.body)
        return Reply({"placement_group": servers.placement_group_json(call.state, group)})

    @app.route("DELETE", "/placement_groups/<int:id>")
    def delete_group(call: Call) -> Reply:
        group = records.get(call.state, "placement_groups", call.values["id"])
        if servers.placed(call.state, group["id"]):
            raise refuse("resource_in_use", "placement group still has servers")
        del call.state["placement_groups"][str(group["id"])]
        return Reply()


def _declare_actions(cloud: Cloud) -> None:
    app = cloud.app

    def page(call: Call, actions: list[dict[str, Any]]) -> Reply:
        statuses = call.query.getlist("status")
        found = [action for action in actions if not statuses or action["status"] in statuses]
        order = ("id", "command", "status", "started", "finished")
        return Reply(records.listed("actions", found, call.query, order))

    def shown(call: Call) -> list[dict[str, Any]]:
        return [records.action_json(a, call.now) for a in call.state["actions"].values()]

    @app.route("GET", "/actions", query={"id", "status", "sort", "page", "per_page"})
    def list_actions(call: Call) -> Reply:
        # Since 2025 the vendor lists actions by id only.
        wanted = set(call.query.getlist("id"))
        if not wanted or not all(id_.isdecimal() for id_ in wanted):
            raise invalid("id", "at least one action id is required")
        return page(call, [action for action in shown(call) if str(action["id"]) in wanted])

    @app.route("GET", "/actions/<int:id>")
    def get_action(call: Call) -> Reply:
        action = call.state["actions"].get(str(call.values["id"]))
        if action is None:
            raise refuse("not_found", f"action with ID '{call.values['id']}' not found")
        return Reply({"action": records.action_json(action, call.now)})

    def of_resource(kind: str, name: str) -> None:
        @app.route("GET", f"/{kind}/<int:id>/actions", query={"status", "sort", "page", "per_page"})
        def list_resource_actions(call: Call) -> Reply:
            records.get(call.state, kind, call.values["id"])
            reference = {"type": name, "id": call.values["id"]}
            return page(call, [a for a in shown(call) if reference in a["resources"]])

    for kind, name in records.KINDS.items():
        if kind not in {"ssh_keys", "placement_groups"}:  # these have no actions
            of_resource(kind, name)


def _declare_catalogue(cloud: Cloud) -> None:
    app = cloud.app

    def server_types(state: State) -> list[dict[str, Any]]:
        return [
            t.json([name for name in t.locations if f"{t.name}@{name}" in state["sold_out"]])
            for t in catalogue.SERVER_TYPES.values()
        ]

    lists: dict[str, tuple[str, Callable[[State], list[dict[str, Any]]], set[str]]] = {
        "server_types": ("server_type", server_types, set()),
        "locations": (
            "location",
            lambda _: [location.json() for location in catalogue.LOCATIONS.values()],
            set(),
        ),
        "images": (
            "image",
            lambda _: [image.json() for image in catalogue.IMAGES.values()],
            {"architecture", "type", "status", "bound_to", "include_deprecated"},
        ),
        "isos": ("iso", lambda _: [], {"architecture", "include_architecture_wildcard"}),
    }

    def declare_list(kind: str) -> None:
        one, items, filters = lists[kind]

        @app.route("GET", f"/{kind}", query={*records.LIST_QUERY, *filters})
        def list_items(call: Call) -> Reply:
            found = _filtered(items(call.state), call.query, filters)
            return Reply(records.listed(kind, found, call.query))

        @app.route("GET", f"/{kind}/<int:id>")
        def get_item(call: Call) -> Reply:
            for item in items(call.state):
                if item["id"] == call.values["id"]:
                    return Reply({one: item})
            raise refuse("not_found", f"{one} with ID '{call.values['id']}' not found")

    for kind in lists:
        declare_list(kind)

    def declare_gone(path: str, query: Collection[str] = ()) -> None:
        @app.route("GET", path, query=query)
        def refuse_gone(_call: Call) -> Reply:
            raise refuse(
                "deprecated_api_endpoint",
                "the datacenters were removed from the API",
                {"announcement": catalogue.DATACENTERS_GONE},
            )

    declare_gone("/datacenters", records.LIST_QUERY)
    declare_gone("/datacenters/<int:id>")

    @app.route("GET", "/pricing")
    def get_pricing(_call: Call) -> Reply:
        return Reply({"pricing": catalogue.pricing_json()})


def _filtered(
    items: list[dict[str, Any]], query: MultiDict[str, str], filters: set[str]
) -> list[dict[str, Any]]:
    # Nothing in the catalogue's images is deprecated, so include_deprecated changes nothing.
    for name in filters - {"include_deprecated", "include_architecture_wildcard"}:
        wanted = query.getlist(name)
        items = [item for item in items if not wanted or str(item[name]) in wanted]
    return items
