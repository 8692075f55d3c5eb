"""GET and PATCH /zones/<id>/settings/<name>: one value per setting, each with its allowed values.

The settings are those of a Free zone that a program like ours may set, with the value that a new
zone has. A setting always exists: it can be changed, never made or deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rehearsal.clouds.cloudflare.dialect import success, timestamp
from rehearsal.clouds.cloudflare.zones import zone_of
from rehearsal.clouds.http import App, Call, Field, Refusal, Reply

_SECONDS: Final = (
    0, 30, 60, 120, 300, 1200, 1800, 3600, 7200, 10800, 14400, 18000, 28800, 43200, 57600, 72000,
    86400, 172800, 259200, 345600, 432000, 691200, 1382400, 2073600, 2678400, 5356800, 16070400,
    31536000,
)  # fmt: skip
_ON_OFF: Final = ("on", "off")
_HSTS: Final = {
    "enabled": bool,
    "max_age": int,
    "include_subdomains": bool,
    "preload": bool,
    "nosniff": bool,
}
_NO_HSTS: Final = {
    "strict_transport_security": {
        "enabled": False,
        "max_age": 0,
        "include_subdomains": False,
        "preload": False,
        "nosniff": False,
    }
}


@dataclass(frozen=True)
class Setting:
    """`allowed` is the list of values, or decides about one."""

    initial: Any
    allowed: tuple[Any, ...] | Callable[[Any], bool] = _ON_OFF

    def takes(self, value: Any) -> bool:
        if callable(self.allowed):
            return self.allowed(value)
        # Not `in`: to Python 1 is True.
        return any(type(value) is type(known) and value == known for known in self.allowed)


def _is_hsts(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"strict_transport_security"}:
        return False
    inner = value["strict_transport_security"]
    return isinstance(inner, dict) and all(
        name in _HSTS and type(item) is _HSTS[name] for name, item in inner.items()
    )


SETTINGS: Final = {
    "0rtt": Setting("off"),
    "always_online": Setting("off"),
    "always_use_https": Setting("off"),
    "automatic_https_rewrites": Setting("on"),
    "brotli": Setting("on"),
    "browser_cache_ttl": Setting(14400, _SECONDS),
    "browser_check": Setting("on"),
    "cache_level": Setting("aggressive", ("aggressive", "basic", "simplified")),
    "challenge_ttl": Setting(1800, _SECONDS[2:]),
    "development_mode": Setting("off"),
    "early_hints": Setting("off"),
    "email_obfuscation": Setting("on"),
    "hotlink_protection": Setting("off"),
    "http3": Setting("on"),
    "ip_geolocation": Setting("on"),
    "ipv6": Setting("on"),
    "min_tls_version": Setting("1.0", ("1.0", "1.1", "1.2", "1.3")),
    "opportunistic_encryption": Setting("on"),
    "opportunistic_onion": Setting("on"),
    "pseudo_ipv4": Setting("off", ("off", "add_header", "overwrite_header")),
    "rocket_loader": Setting("off"),
    "security_header": Setting(_NO_HSTS, _is_hsts),
    "security_level": Setting(
        "medium", ("off", "essentially_off", "low", "medium", "high", "under_attack")
    ),
    "server_side_exclude": Setting("on"),
    # origin_pull needs an Enterprise zone.
    "ssl": Setting("full", ("off", "flexible", "full", "strict")),
    "tls_1_3": Setting("on", ("on", "off", "zrt")),
    "tls_client_auth": Setting("off"),
    "websockets": Setting("on"),
}


def declare(app: App) -> None:
    @app.route("GET", "/zones/<zone_id>/settings")
    def list_settings(call: Call) -> Reply:
        zone = zone_of(call)
        return success([_answer(call, zone["id"], name) for name in sorted(SETTINGS)])

    @app.route("GET", "/zones/<zone_id>/settings/<name>")
    def get_setting(call: Call) -> Reply:
        return success(_answer(call, zone_of(call)["id"], _known(call)))

    @app.route(
        "PATCH",
        "/zones/<zone_id>/settings/<name>",
        # Pulumi's plugin may send `enabled` (of ssl_recommender) as null, older ones the id.
        body={
            "value": Field(object),
            "enabled": Field(bool, nullable=True),
            "id": Field(str),
        },
    )
    def edit_setting(call: Call) -> Reply:
        zone, name = zone_of(call), _known(call)
        value = call.body.get("value")
        misused = call.body.get("enabled") is not None or call.body.get("id", name) != name
        # A PATCH without a value is what the plugin's perpetual diffs were made of: 1007, too.
        if misused or not SETTINGS[name].takes(value):
            raise Refusal(400, "1007", f"Invalid value for zone setting {name}")
        stored = {"value": value, "modified_on": timestamp(call.now)}
        call.state["settings"].setdefault(zone["id"], {})[name] = stored
        return success(_answer(call, zone["id"], name))


def _known(call: Call) -> str:
    name: str = call.values["name"]
    if name not in SETTINGS:
        raise Refusal(400, "1006", f"Unrecognized zone setting name: {name}")
    return name


def _answer(call: Call, zone_id: str, name: str) -> dict[str, Any]:
    unchanged = {"value": SETTINGS[name].initial, "modified_on": None}
    stored: dict[str, Any] = call.state["settings"].get(zone_id, {}).get(name, unchanged)
    return {"id": name, "editable": True} | stored
