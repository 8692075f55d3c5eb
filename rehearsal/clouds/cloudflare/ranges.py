"""GET /ips: the ranges that Cloudflare's proxies come from, as published in November 2026."""

from __future__ import annotations

from typing import Final

from rehearsal.clouds.cloudflare.dialect import success
from rehearsal.clouds.http import App, Call, Refusal, Reply

ETAG: Final = "38f79d050aa027e3be3865e495dcc9bc"
IPV4_CIDRS: Final = (
    "173.245.48.0/20",
    "103.21.244.0/22",
    "103.22.200.0/22",
    "103.31.4.0/22",
    "141.101.64.0/18",
    "108.162.192.0/18",
    "190.93.240.0/20",
    "188.114.96.0/20",
    "197.234.240.0/22",
    "198.41.128.0/17",
    "162.158.0.0/15",
    "104.16.0.0/13",
    "104.24.0.0/14",
    "172.64.0.0/13",
    "131.0.72.0/22",
)
IPV6_CIDRS: Final = (
    "2400:cb00::/32",
    "2606:4700::/32",
    "2803:f800::/32",
    "2405:b500::/32",
    "2405:8100::/32",
    "2a06:98c0::/29",
    "2c0f:f248::/32",
)


def declare(app: App) -> None:
    @app.route("GET", "/ips", query={"networks"})
    def ips(call: Call) -> Reply:
        networks = call.query.get("networks")
        result = {"etag": ETAG, "ipv4_cidrs": IPV4_CIDRS, "ipv6_cidrs": IPV6_CIDRS}
        if networks == "jdcloud":
            # The stand-in has no data centres in China: the list is there, and empty.
            return success(result | {"jdcloud_cidrs": []})
        if networks is not None:
            raise Refusal(400, "1004", f"networks must be jdcloud, not {networks}")
        return success(result)
