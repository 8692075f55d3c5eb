"""The stand-in's records: numbering, look-up, actions, lists. Pure functions over the store's dict.

{"next_id": 1, "next_action": 1, "next_ipv4": 1, "next_ipv6": 1, "sold_out": ["cx33@fsn1"],
 "servers": {"1": {...}}, "networks": {}, "firewalls": {}, "primary_ips": {}, "ssh_keys": {},
 "placement_groups": {}, "actions": {}}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from hcloud.helpers.labels import LabelValidator
from werkzeug.datastructures import MultiDict

from rehearsal.clouds.hetzner.dialect import invalid, refuse
from rehearsal.clouds.http import State

Record = dict[str, Any]

KINDS: Final = {
    "servers": "server",
    "networks": "network",
    "firewalls": "firewall",
    "primary_ips": "primary_ip",
    "ssh_keys": "ssh_key",
    "placement_groups": "placement_group",
}
REMEMBERED_ACTIONS: Final = 1000
LIST_QUERY: Final = frozenset({"name", "label_selector", "sort", "page", "per_page"})


def empty() -> State:
    return {
        "next_id": 100_001,
        "next_action": 1,
        "next_ipv4": 1,
        "next_ipv6": 1,
        "sold_out": [],
        "actions": {},
        **{kind: {} for kind in KINDS},
    }


def without_user_data(state: State) -> State:
    """user_data holds the cluster's keys: the operator's view has only a digest, to compare."""
    for server in state["servers"].values():
        text = server.pop("user_data")
        server["user_data_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return state


def take_number(state: State, counter: str) -> int:
    number: int = state[counter]
    state[counter] = number + 1
    return number


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def get(state: State, kind: str, id_: int) -> Record:
    """A record of the kind (`servers`), or not_found."""
    found: Record | None = state[kind].get(str(id_))
    if found is None:
        raise refuse("not_found", f"{KINDS[kind]} with ID '{id_}' not found")
    return found


def add(state: State, kind: str, now: float, record: Record) -> Record:
    """Numbers and dates a new record; its name must be new among its kind."""
    check_name(state, kind, record["name"])
    record = {"id": take_number(state, "next_id"), "created": timestamp(now), **record}
    state[kind][str(record["id"])] = record
    return record


def check_name(state: State, kind: str, name: str, but: int | None = None) -> None:
    if not name:
        raise invalid("name", "must not be empty")
    for other in state[kind].values():
        if other["name"] == name and other["id"] != but:
            label = KINDS[kind].replace("_", " ")
            raise refuse("uniqueness_error", f"{label} name is already used")


def check_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    ok, why = LabelValidator.validate_verbose(dict(labels or {}))
    if not ok:
        raise invalid("labels", why)
    return dict(labels or {})


def rename_and_label(state: State, kind: str, record: Record, body: Mapping[str, Any]) -> None:
    """What `PUT /<kind>/<id>` does for every kind."""
    if body.get("name") is not None:
        check_name(state, kind, body["name"], but=record["id"])
        record["name"] = body["name"]
    if body.get("labels") is not None:
        record["labels"] = check_labels(body["labels"])


# Actions: the change is made when it is asked for; the action that reports it takes its time.


def start_action(
    state: State, now: float, command: str, seconds: float, *resources: tuple[str, int]
) -> Record:
    id_ = take_number(state, "next_action")
    action = {
        "id": id_,
        "command": command,
        "started": now,
        "seconds": seconds,
        "resources": [{"type": kind, "id": id_} for kind, id_ in resources],
    }
    state["actions"][str(id_)] = action
    state["actions"].pop(str(id_ - REMEMBERED_ACTIONS), None)
    return action


def action_json(action: Record, now: float) -> dict[str, Any]:
    elapsed = now - action["started"]
    done = elapsed >= action["seconds"]
    error = action.get("error") if done else None
    return {
        "id": action["id"],
        "command": action["command"],
        "status": "error" if error else "success" if done else "running",
        "progress": 100 if done else min(99, int(100 * max(0.0, elapsed) / action["seconds"])),
        "started": timestamp(action["started"]),
        "finished": timestamp(action["started"] + action["seconds"]) if done else None,
        "resources": action["resources"],
        "error": error,
    }


def running_commands(state: State, now: float, kind: str, id_: int) -> list[str]:
    """The commands of the unfinished actions of one resource."""
    reference = {"type": kind, "id": id_}
    return [
        action["command"]
        for action in state["actions"].values()
        if reference in action["resources"] and now - action["started"] < action["seconds"]
    ]


# Lists


def listed(
    name: str,
    items: Iterable[dict[str, Any]],
    query: MultiDict[str, str],
    sort_by: Iterable[str] = ("id", "name", "created"),
) -> dict[str, Any]:
    """Filters by name and labels, sorts, and cuts one page with its `meta`."""
    found = list(items)
    if "name" in query:
        found = [item for item in found if item["name"] == query["name"]]
    if "label_selector" in query:
        fits = label_selector(query["label_selector"])
        found = [item for item in found if fits(item.get("labels", {}))]
    for order in reversed(query.getlist("sort") or ["id"]):
        field, _, direction = order.partition(":")
        if field not in sort_by or direction not in {"", "asc", "desc"}:
            raise invalid("sort", f"must be one of {', '.join(sort_by)}, with :asc or :desc")
        found.sort(key=lambda item, by=field: item[by], reverse=direction == "desc")  # type: ignore[misc]
    page, per_page = _number(query, "page", 1, 2**31), _number(query, "per_page", 25, 50)
    last = max(1, -(-len(found) // per_page))
    return {
        name: found[(page - 1) * per_page : page * per_page],
        "meta": {
            "pagination": {
                "page": page,
                "per_page": per_page,
                "previous_page": page - 1 if page > 1 else None,
                "next_page": page + 1 if page < last else None,
                "last_page": last,
                "total_entries": len(found),
            }
        },
    }


def _number(query: MultiDict[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise invalid(name, f"must be a number from 1 to {most}")
    return int(text)


def label_selector(selector: str) -> Callable[[Mapping[str, str]], bool]:
    """`a`, `!a`, `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, joined by commas (and)."""
    terms = [_term(term.strip()) for term in re.split(r",(?![^(]*\))", selector) if term.strip()]
    return lambda labels: all(term(labels) for term in terms)


def _term(term: str) -> Callable[[Mapping[str, str]], bool]:
    if match := re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", term):
        key, verb, listed_values = match.groups()
        values = {value.strip() for value in listed_values.split(",")}
        return lambda labels: (labels.get(key) in values) == (verb == "in")
    if match := re.fullmatch(r"([^\s=!]+)\s*(!=|==|=)\s*([^\s=!]*)", term):
        key, verb, value = match.groups()
        return lambda labels: (labels.get(key) == value) != (verb == "!=")
    if match := re.fullmatch(r"(!?)([^\s=!()]+)", term):
        absent, key = match.groups()
        return lambda labels: (key in labels) != bool(absent)
    raise invalid("label_selector", f"cannot be read at {term!r}")
