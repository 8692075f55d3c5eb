"""GET /zones and /zones/<id>. Zones are seeded: making one needs a registrar and a nameserver."""

from __future__ import annotations

from typing import Any, Final

from rehearsal.clouds.cloudflare.account import ACCOUNT
from rehearsal.clouds.cloudflare.dialect import (
    IDENTIFIER,
    no_such_path,
    page,
    success,
    timestamp,
)
from rehearsal.clouds.http import App, Call, Refusal, Reply, State

_FREE_PLAN: Final = {
    "id": "0feeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
    "name": "Free Website",
    "price": 0,
    "currency": "USD",
    "frequency": "",
    "is_subscribed": False,
    "can_subscribe": False,
    "legacy_id": "free",
    "legacy_discount": False,
    "externally_managed": False,
}


def seed(state: State, zone_id: str, name: str, now: float) -> None:
    """Adds a zone, or does nothing when it is there. Raises ValueError for what is no zone."""
    if not IDENTIFIER.fullmatch(zone_id):
        raise ValueError(f"a zone id has 32 hex digits, not {zone_id!r}")
    known = state["zones"].get(zone_id)
    if known is not None:
        if known["name"] != name:
            raise ValueError(f"zone {zone_id} is {known['name']} in this store, not {name}")
        return
    made = timestamp(now)
    state["zones"][zone_id] = {
        "id": zone_id,
        "name": name,
        "status": "active",
        "paused": False,
        "type": "full",
        "development_mode": 0,
        "name_servers": ["ada.ns.cloudflare.com", "bob.ns.cloudflare.com"],
        "original_name_servers": None,
        "original_registrar": None,
        "original_dnshost": None,
        "created_on": made,
        "modified_on": made,
        "activated_on": made,
        "meta": {
            "step": 2,
            "custom_certificate_quota": 0,
            "page_rule_quota": 3,
            "phishing_detected": False,
            "cdn_only": False,
            "dns_only": False,
            "foundation_dns": False,
        },
        "owner": {"id": None, "type": "user", "email": None},
        "account": ACCOUNT,
        "tenant": {"id": None, "name": None},
        "tenant_unit": {"id": None},
        "permissions": ["#dns_records:edit", "#dns_records:read", "#zone:read", "#ssl:edit"],
        "plan": _FREE_PLAN,
    }


def zone_of(call: Call) -> dict[str, Any]:
    """The zone that the path names. Raises Refusal."""
    zone_id = call.values["zone_id"]
    if not IDENTIFIER.fullmatch(zone_id):
        raise no_such_path(call.path)
    zone: dict[str, Any] | None = call.state["zones"].get(zone_id)
    if zone is None:
        # A zone of somebody else and one that does not exist look the same from here.
        raise Refusal(403, "9109", "Unauthorized to access requested resource")
    return zone


_QUERY: Final = {"name", "status", "account.id", "account.name", "type", "match", "order"} | {
    "direction",
    "page",
    "per_page",
}


def declare(app: App) -> None:
    @app.route("GET", "/zones", query=_QUERY)
    def list_zones(call: Call) -> Reply:
        wanted = {
            name: call.query[name]
            for name in ("name", "status", "account.id", "account.name", "type")
            if name in call.query
        }
        combine = any if call.query.get("match") == "any" and wanted else all
        found = [
            zone
            for zone in call.state["zones"].values()
            if combine(_value(zone, name) == value for name, value in wanted.items())
        ]
        found.sort(
            key=lambda zone: str(_value(zone, call.query.get("order", "name"))),
            reverse=call.query.get("direction") == "desc",
        )
        return page(call, found, default=20, most=50)

    @app.route("GET", "/zones/<zone_id>")
    def get_zone(call: Call) -> Reply:
        return success(zone_of(call))


def _value(zone: dict[str, Any], path: str) -> Any:
    value: Any = zone
    for name in path.split("."):
        value = value.get(name)
    return value
