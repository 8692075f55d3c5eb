"""Firewalls: rules, their limits, and what they are applied to (servers, or labels of servers)."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any, Final

from rehearsal.clouds.hetzner import records
from rehearsal.clouds.hetzner.cloud import Cloud
from rehearsal.clouds.hetzner.dialect import invalid, refuse
from rehearsal.clouds.hetzner.records import Record
from rehearsal.clouds.http import Call, Field, Reply, State

MOST_RULES: Final = 50  # of one firewall
MOST_EFFECTIVE_RULES: Final = 500  # one per rule and CIDR; of a firewall and of a server
MOST_CIDRS: Final = 100  # of one rule
MOST_FIREWALLS: Final = 5  # of one server
LIMIT: Final = 50

RULE: Final = {
    "direction": Field(str, required=True),
    "protocol": Field(str, required=True),
    "port": Field(str, nullable=True),
    "source_ips": Field(list, of=Field(str)),
    "destination_ips": Field(list, of=Field(str)),
    "description": Field(str, nullable=True),
}
RULES: Final = Field(list, of=Field(dict, fields=RULE))
RESOURCE: Final = {
    "type": Field(str, required=True),
    "server": Field(dict, fields={"id": Field(int, required=True)}, nullable=True),
    "label_selector": Field(dict, fields={"selector": Field(str, required=True)}, nullable=True),
}
RESOURCES: Final = Field(list, of=Field(dict, fields=RESOURCE))


def applied_to(state: State, server: Record) -> list[int]:
    """The ids of the firewalls of a server, directly or by its labels."""
    return [
        firewall["id"]
        for firewall in state["firewalls"].values()
        if server["id"] in firewall["servers"]
        or any(records.label_selector(s)(server["labels"]) for s in firewall["selectors"])
    ]


def apply_to_server(state: State, firewall_id: int, server: Record) -> None:
    firewall = records.get(state, "firewalls", firewall_id)
    if server["id"] not in firewall["servers"]:
        if server["ipv4"] is None and server["ipv6"] is None:
            raise refuse("private_net_only_server", "server has no public interface")
        firewall["servers"].append(server["id"])
        _check_server_limits(state, server)


def forget_server(state: State, server_id: int) -> None:
    for firewall in state["firewalls"].values():
        if server_id in firewall["servers"]:
            firewall["servers"].remove(server_id)


def effective(rules: list[dict[str, Any]]) -> int:
    """How many rules the network sees: one for each CIDR."""
    return sum(len(rule["source_ips"]) + len(rule["destination_ips"]) for rule in rules)


def _check_server_limits(state: State, server: Record) -> None:
    found = [state["firewalls"][str(id_)] for id_ in applied_to(state, server)]
    if len(found) > MOST_FIREWALLS:
        raise refuse("resource_limit_exceeded", f"at most {MOST_FIREWALLS} firewalls per server")
    if sum(effective(firewall["rules"]) for firewall in found) > MOST_EFFECTIVE_RULES:
        raise refuse(
            "resource_limit_exceeded", f"at most {MOST_EFFECTIVE_RULES} effective rules per server"
        )


def _rules(wanted: list[dict[str, Any]], at: str) -> list[dict[str, Any]]:
    """The rules as the API gives them back, or invalid_input that names the field."""
    if len(wanted) > MOST_RULES:
        raise invalid(at, f"at most {MOST_RULES} rules per firewall")
    found = [_rule(rule, f"{at}[{index}]") for index, rule in enumerate(wanted)]
    if effective(found) > MOST_EFFECTIVE_RULES:
        raise invalid(at, f"at most {MOST_EFFECTIVE_RULES} effective rules (one per rule and CIDR)")
    return found


def _rule(rule: dict[str, Any], at: str) -> dict[str, Any]:
    direction, protocol, port = rule["direction"], rule["protocol"], rule.get("port")
    if direction not in {"in", "out"}:
        raise invalid(f"{at}.direction", "must be one of in, out")
    if protocol not in {"tcp", "udp", "icmp", "esp", "gre"}:
        raise invalid(f"{at}.protocol", "must be one of tcp, udp, icmp, esp, gre")
    if (port is not None) != (protocol in {"tcp", "udp"}):
        raise invalid(f"{at}.port", "is required for tcp and udp, and must be absent otherwise")
    if port is not None and not _is_port(port):
        raise invalid(f"{at}.port", "must be a port, a range like 80-85, or any")
    if len(rule.get("description") or "") > 255:
        raise invalid(f"{at}.description", "must not be longer than 255 characters")
    used, unused = "source_ips", "destination_ips"
    if direction == "out":
        used, unused = unused, used
    if rule.get(unused):
        raise invalid(f"{at}.{unused}", f"must be empty for direction {direction}")
    if not 1 <= len(rule.get(used) or []) <= MOST_CIDRS:
        raise invalid(f"{at}.{used}", f"must have from 1 to {MOST_CIDRS} CIDRs")
    for cidr in rule[used]:
        try:
            if "/" not in cidr:
                raise ValueError
            ip_network(cidr)
        except ValueError:
            raise invalid(f"{at}.{used}", f"{cidr!r} is not a CIDR without host bits") from None
    return {
        "direction": direction,
        "protocol": protocol,
        "port": port,
        "source_ips": rule.get("source_ips") or [],
        "destination_ips": rule.get("destination_ips") or [],
        "description": rule.get("description"),
    }


def _is_port(port: str) -> bool:
    if port == "any":
        return True
    numbers = port.split("-")
    return (
        len(numbers) <= 2
        and all(n.isdecimal() and 1 <= int(n) <= 65535 for n in numbers)
        and int(numbers[0]) <= int(numbers[-1])
    )


def json(state: State, firewall: Record) -> dict[str, Any]:
    servers = state["servers"].values()
    return {
        "id": firewall["id"],
        "name": firewall["name"],
        "labels": firewall["labels"],
        "created": firewall["created"],
        "rules": firewall["rules"],
        "applied_to": [
            *({"type": "server", "server": {"id": id_}} for id_ in firewall["servers"]),
            *(
                {
                    "type": "label_selector",
                    "label_selector": {"selector": selector},
                    "applied_to_resources": [
                        {"type": "server", "server": {"id": server["id"]}}
                        for server in servers
                        if records.label_selector(selector)(server["labels"])
                    ],
                }
                for selector in firewall["selectors"]
            ),
        ],
    }


def _apply(state: State, firewall: Record, resources: list[dict[str, Any]]) -> list[int]:
    """Applies to each resource and returns the ids of the servers named directly."""
    touched = []
    for resource in resources:
        match resource["type"]:
            case "server" if resource.get("server"):
                id_ = resource["server"]["id"]
                if str(id_) not in state["servers"]:
                    raise refuse("firewall_resource_not_found", f"server with ID '{id_}' not found")
                if id_ in firewall["servers"]:
                    raise refuse("firewall_already_applied", "firewall is already applied")
                apply_to_server(state, firewall["id"], state["servers"][str(id_)])
                touched.append(id_)
            case "label_selector" if resource.get("label_selector"):
                selector = resource["label_selector"]["selector"]
                records.label_selector(selector)  # refuses one that cannot be read
                if selector in firewall["selectors"]:
                    raise refuse("firewall_already_applied", "firewall is already applied")
                firewall["selectors"].append(selector)
            case _:
                raise invalid("type", "must be server or label_selector, with the matching field")
    return touched


def _remove(state: State, firewall: Record, resources: list[dict[str, Any]]) -> list[int]:
    touched = []
    for resource in resources:
        if resource["type"] == "server" and resource.get("server"):
            id_ = resource["server"]["id"]
            if id_ in firewall["servers"]:
                firewall["servers"].remove(id_)
            elif (server := state["servers"].get(str(id_))) and firewall["id"] in applied_to(
                state, server
            ):
                raise refuse(
                    "firewall_managed_by_label_selector", "firewall is applied by a label selector"
                )
            touched.append(id_)  # not applied any more: no error since August 2025
        elif resource["type"] == "label_selector" and resource.get("label_selector"):
            selector = resource["label_selector"]["selector"]
            if selector in firewall["selectors"]:
                firewall["selectors"].remove(selector)
        else:
            raise invalid("type", "must be server or label_selector, with the matching field")
    return touched


def declare(cloud: Cloud) -> None:
    app = cloud.app
    labels = Field(dict, of=Field(str), nullable=True)

    def actions(call: Call, command: str, firewall: Record, servers: list[int]) -> list[Any]:
        """One action per server that has (or had) the firewall."""
        return [
            cloud.act(call, command, ("firewall", firewall["id"]), ("server", id_))
            for id_ in servers
            if str(id_) in call.state["servers"]
        ]

    @app.route("GET", "/firewalls", query=records.LIST_QUERY)
    def list_firewalls(call: Call) -> Reply:
        items = [json(call.state, firewall) for firewall in call.state["firewalls"].values()]
        return Reply(records.listed("firewalls", items, call.query))

    @app.route(
        "POST",
        "/firewalls",
        body={
            "name": Field(str, required=True),
            "labels": labels,
            "rules": RULES,
            "apply_to": RESOURCES,
        },
    )
    def create_firewall(call: Call) -> Reply:
        if len(call.state["firewalls"]) >= LIMIT:
            raise refuse("resource_limit_exceeded", "firewall limit exceeded")
        firewall = records.add(
            call.state,
            "firewalls",
            call.now,
            {
                "name": call.body["name"],
                "labels": records.check_labels(call.body.get("labels")),
                "rules": _rules(call.body.get("rules", []), "rules"),
                "servers": [],
                "selectors": [],
            },
        )
        touched = _apply(call.state, firewall, call.body.get("apply_to", []))
        started = [cloud.act(call, "set_firewall_rules", ("firewall", firewall["id"]))]
        started += actions(call, "apply_firewall", firewall, touched)
        return Reply({"firewall": json(call.state, firewall), "actions": started}, 201)

    @app.route("GET", "/firewalls/<int:id>")
    def get_firewall(call: Call) -> Reply:
        firewall = records.get(call.state, "firewalls", call.values["id"])
        return Reply({"firewall": json(call.state, firewall)})

    @app.route("PUT", "/firewalls/<int:id>", body={"name": Field(str), "labels": labels})
    def update_firewall(call: Call) -> Reply:
        firewall = records.get(call.state, "firewalls", call.values["id"])
        records.rename_and_label(call.state, "firewalls", firewall, call.body)
        return Reply({"firewall": json(call.state, firewall)})

    @app.route("DELETE", "/firewalls/<int:id>")
    def delete_firewall(call: Call) -> Reply:
        firewall = records.get(call.state, "firewalls", call.values["id"])
        if firewall["servers"] or firewall["selectors"]:
            raise refuse("resource_in_use", f"firewall with ID {firewall['id']} is still in use")
        del call.state["firewalls"][str(firewall["id"])]
        return Reply()

    @app.route(
        "POST",
        "/firewalls/<int:id>/actions/set_rules",
        body={"rules": Field(list, required=True, of=RULES.of, nullable=True)},
    )
    def set_rules(call: Call) -> Reply:
        firewall = records.get(call.state, "firewalls", call.values["id"])
        # hcloud-go sends null for a firewall without rules.
        firewall["rules"] = _rules(call.body["rules"] or [], "rules")
        servers = [
            server
            for server in call.state["servers"].values()
            if firewall["id"] in applied_to(call.state, server)
        ]
        for server in servers:
            _check_server_limits(call.state, server)
        started = [cloud.act(call, "set_firewall_rules", ("firewall", firewall["id"]))]
        return Reply({"actions": started}, 201)

    @app.route(
        "POST",
        "/firewalls/<int:id>/actions/apply_to_resources",
        body={"apply_to": Field(list, required=True, of=RESOURCES.of)},
    )
    def apply_to_resources(call: Call) -> Reply:
        firewall = records.get(call.state, "firewalls", call.values["id"])
        touched = _apply(call.state, firewall, call.body["apply_to"])
        return Reply({"actions": actions(call, "apply_firewall", firewall, touched)}, 201)

    @app.route(
        "POST",
        "/firewalls/<int:id>/actions/remove_from_resources",
        body={"remove_from": Field(list, required=True, of=RESOURCES.of)},
    )
    def remove_from_resources(call: Call) -> Reply:
        firewall = records.get(call.state, "firewalls", call.values["id"])
        touched = _remove(call.state, firewall, call.body["remove_from"])
        return Reply({"actions": actions(call, "remove_firewall", firewall, touched)}, 201)
