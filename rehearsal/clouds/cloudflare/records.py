"""The DNS records of a zone: /zones/<id>/dns_records.

A record's rules are a pure function (`normalise`), so that a PUT, a PATCH and a POST hold the same.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Final

from rehearsal.clouds.cloudflare.dialect import (
    IDENTIFIER,
    no_such_path,
    page,
    success,
    timestamp,
)
from rehearsal.clouds.cloudflare.zones import zone_of
from rehearsal.clouds.http import App, Call, Field, Refusal, Reply

AUTOMATIC: Final = 1  # the ttl that means "automatic", and the only one of a proxied record
LONGEST_COMMENT: Final = 100  # characters, on the Free plan
PROXIABLE: Final = ("A", "AAAA", "CNAME")
TYPES: Final = (*PROXIABLE, "CAA", "MX", "NS", "SRV", "TXT")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")

_WRITABLE: Final = {
    "name": Field(str, required=True),
    "type": Field(str, required=True),
    "content": Field(str, nullable=True),
    "ttl": Field((int, float), nullable=True),
    "proxied": Field(bool, nullable=True),
    "priority": Field((int, float), nullable=True),
    "comment": Field(str, nullable=True),
    "tags": Field(list, nullable=True, of=Field(str)),
    "private_routing": Field(bool, nullable=True),
    "settings": Field(
        dict,
        nullable=True,
        fields={
            name: Field(bool, nullable=True) for name in ("ipv4_only", "ipv6_only", "flatten_cname")
        },
    ),
    "data": Field(
        dict,
        nullable=True,
        fields={
            "flags": Field((int, float, str)),
            "tag": Field(str),
            "value": Field(str),
            "priority": Field((int, float)),
            "weight": Field((int, float)),
            "port": Field((int, float)),
            "target": Field(str),
        },
    ),
}
# What only Cloudflare sets; a client that sends back what it read is not refused.
_READ_ONLY: Final = {
    name: Field(object)
    for name in (
        "id",
        "zone_id",
        "zone_name",
        "proxiable",
        "meta",
        "created_on",
        "modified_on",
        "comment_modified_on",
        "tags_modified_on",
    )
}
_BODY: Final = _WRITABLE | _READ_ONLY
_MATCHERS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "": str.__eq__,
    ".exact": str.__eq__,
    ".contains": lambda text, part: part in text,
    ".startswith": str.startswith,
    ".endswith": str.endswith,
}
_FILTERS: Final = {
    f"{field}{how}": (field, matches)
    for field in ("name", "content", "comment", "type")
    for how, matches in _MATCHERS.items()
}
# Asked by terraform-provider-cloudflare 5.27 at every record, where `false` is its default. Nothing
# is delegated away from a zone here, so that no record is shadowed by another.
_SHADOW: Final = {"include_shadow_metadata"}
_QUERY: Final = {
    *_FILTERS,
    *_SHADOW,
    *("proxied", "search", "match", "order", "direction", "page", "per_page"),
}


def normalise(body: Mapping[str, Any], zone: str) -> dict[str, Any]:
    """The stored fields of a record, as Cloudflare makes them of a body. Raises Refusal."""
    given = {name: body[name] for name in _WRITABLE if body.get(name) is not None}
    type_ = given["type"].upper()
    if type_ not in TYPES:
        raise Refusal(400, "9004", f"DNS record type {given['type']!r} is invalid.")
    name = full_name(given["name"], zone)
    proxied = given.get("proxied", False)
    if proxied and type_ not in PROXIABLE:
        raise Refusal(400, "9041", "Invalid proxied mode. Record cannot be proxied")
    ttl = given.get("ttl", AUTOMATIC)
    if ttl != AUTOMATIC and not 60 <= ttl <= 86400:
        message = "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic."
        raise Refusal(400, "9021", message)
    if len(given.get("comment", "")) > LONGEST_COMMENT:
        message = f"The comment is longer than the quota of {LONGEST_COMMENT} characters."
        raise Refusal(400, "9301", message)
    if given.get("tags"):
        message = f"DNS record has {len(given['tags'])} tags, exceeding the quota of 0."
        raise Refusal(400, "9302", message)
    record = {
        "name": name,
        "type": type_,
        "content": _content(type_, given),
        "proxiable": type_ in PROXIABLE,
        "proxied": proxied,
        "ttl": AUTOMATIC if proxied else int(ttl),
        "settings": {k: v for k, v in given.get("settings", {}).items() if v is not None},
        "meta": {},
        "comment": given.get("comment") or None,
        "tags": [],
    }
    if type_ == "MX":
        record["priority"] = int(given.get("priority", 0))
    for optional in ("data", "private_routing"):
        if optional in given:
            record[optional] = given[optional]
    return record


def full_name(name: str, zone: str) -> str:
    """`@`, `www` and `www.<zone>` are all names in the zone. So is `www.other.org`, to Cloudflare:
    it becomes `www.other.org.<zone>`."""
    plain = name.rstrip(".").lower()
    if plain in {"@", ""}:
        plain = zone
    if plain != zone and not plain.endswith(f".{zone}"):
        plain = f"{plain}.{zone}"
    labels = plain.split(".")
    if len(plain) > 253 or not all(_LABEL.fullmatch(label) for label in labels[1:]):
        raise Refusal(400, "9000", "DNS name is invalid.")
    if labels[0] != "*" and not _LABEL.fullmatch(labels[0]):
        raise Refusal(400, "9000", "DNS name is invalid.")
    return plain


def _content(type_: str, given: Mapping[str, Any]) -> str:
    content: str = given.get("content", "")
    data: Mapping[str, Any] = given.get("data", {})
    try:
        if type_ == "A":
            return str(IPv4Address(content))
        if type_ == "AAAA":
            return str(IPv6Address(content))
    except AddressValueError:
        code, kind = ("9005", "IPv4") if type_ == "A" else ("9006", "IPv6")
        message = f"Content for {type_} record must be a valid {kind} address."
        raise Refusal(400, code, message) from None
    if type_ in {"CAA", "SRV"}:
        order = ("flags", "tag", "value") if type_ == "CAA" else ("weight", "port", "target")
        if not {*order} <= {*data}:
            missing = ", ".join(name for name in order if name not in data)
            raise Refusal(400, "9101", f"{type_} record needs data: {missing} missing.")
        parts = [f'"{data[n]}"' if n == "value" else f"{data[n]}" for n in order]
        return " ".join(parts)
    if type_ in {"CNAME", "MX", "NS"}:
        target = content.rstrip(".").lower()
        if not target or not all(_LABEL.fullmatch(label) for label in target.split(".")):
            raise Refusal(400, "9007", f"Content for {type_} record is invalid.")
        return target
    if not content:
        raise Refusal(400, "9020", f"Content for {type_} record is missing.")
    return content


def declare(app: App) -> None:
    @app.route("GET", "/zones/<zone_id>/dns_records", query=_QUERY)
    def list_records(call: Call) -> Reply:
        zone = zone_of(call)
        tests = [_test(name, call.query[name]) for name in call.query if name in _FILTERS]
        if (proxied := call.query.get("proxied")) is not None:
            tests.append(lambda record: record["proxied"] == (proxied == "true"))
        combine = any if call.query.get("match") == "any" and tests else all
        found = [
            record
            for record in call.state["records"].values()
            if record["zone_id"] == zone["id"] and combine(test(record) for test in tests)
        ]
        if (text := call.query.get("search")) is not None:
            found = [r for r in found if any(text in str(r[name]) for name in ("name", "content"))]
        order = call.query.get("order", "type")
        if order not in {"type", "name", "content", "ttl", "proxied"}:
            raise Refusal(400, "1004", f"order cannot be {order}")
        found.sort(
            key=lambda record: (record[order], record["name"], record["created_on"]),
            reverse=call.query.get("direction") == "desc",
        )
        return page(call, found, default=100, most=5_000_000)

    @app.route("POST", "/zones/<zone_id>/dns_records", body=_BODY, query=_SHADOW)
    def create_record(call: Call) -> Reply:
        zone = zone_of(call)
        record = normalise(call.body, zone["name"])
        _refuse_clash(call, zone["id"], record, own_id=None)
        now = timestamp(call.now)
        record |= {"id": uuid.uuid4().hex, "zone_id": zone["id"], "zone_name": zone["name"]}
        record |= {"created_on": now, "modified_on": now}
        if record["comment"]:
            record["comment_modified_on"] = now
        call.state["records"][record["id"]] = record
        return success(record)

    @app.route("GET", "/zones/<zone_id>/dns_records/<record_id>", query=_SHADOW)
    def get_record(call: Call) -> Reply:
        return success(_record_of(call))

    def change(call: Call, body: Mapping[str, Any]) -> Reply:
        old = _record_of(call)
        new = normalise(body, old["zone_name"])
        if new["type"] != old["type"]:
            # Since 2026-06-30 (developers.cloudflare.com/fundamentals/api/reference/deprecations).
            # The sentence is the one of before it was allowed; the code is our guess.
            message = "Editing types after a record has been created is not allowed."
            raise Refusal(400, "9004", message)
        _refuse_clash(call, old["zone_id"], new, own_id=old["id"])
        now = timestamp(call.now)
        kept = ("id", "zone_id", "zone_name", "created_on")
        new |= {name: old[name] for name in kept} | {"modified_on": now}
        if new["comment"]:
            same = new["comment"] == old["comment"]
            new["comment_modified_on"] = old["comment_modified_on"] if same else now
        call.state["records"][old["id"]] = new
        return success(new)

    @app.route("PUT", "/zones/<zone_id>/dns_records/<record_id>", body=_BODY, query=_SHADOW)
    def overwrite_record(call: Call) -> Reply:
        return change(call, call.body)

    partial = _BODY | {"name": Field(str), "type": Field(str)}

    @app.route("PATCH", "/zones/<zone_id>/dns_records/<record_id>", body=partial, query=_SHADOW)
    def edit_record(call: Call) -> Reply:
        return change(call, _record_of(call) | call.body)

    @app.route("DELETE", "/zones/<zone_id>/dns_records/<record_id>", body={})
    def delete_record(call: Call) -> Reply:
        record = _record_of(call)
        del call.state["records"][record["id"]]
        return success({"id": record["id"]})


def _test(query: str, wanted: str) -> Callable[[dict[str, Any]], bool]:
    field, matches = _FILTERS[query]
    return lambda record: matches(record[field] or "", wanted)


def _record_of(call: Call) -> dict[str, Any]:
    zone, record_id = zone_of(call), call.values["record_id"]
    if not IDENTIFIER.fullmatch(record_id):
        raise no_such_path(call.path)
    record: dict[str, Any] | None = call.state["records"].get(record_id)
    if record is None or record["zone_id"] != zone["id"]:
        raise Refusal(404, "81044", "Record does not exist.")
    return record


def _refuse_clash(call: Call, zone_id: str, new: dict[str, Any], own_id: str | None) -> None:
    """A records may share a name, but not their content; a CNAME shares its name with none."""
    for record in call.state["records"].values():
        if record["zone_id"] != zone_id or record["id"] == own_id or record["name"] != new["name"]:
            continue
        if (record["type"], record["content"]) == (new["type"], new["content"]):
            raise Refusal(400, "81058", "An identical record already exists.")
        if "CNAME" in {record["type"], new["type"]} and {record["type"], new["type"]} <= {
            *PROXIABLE
        }:
            message = "An A, AAAA, or CNAME record with that host already exists."
            raise Refusal(400, "81053", message)
