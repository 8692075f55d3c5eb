"""Everything that stands at Cloudflare: the zone's TLS and the names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from honeydue.cloudflare.dns import Dns, DnsArgs
from honeydue.cloudflare.zone import OriginPair, Zone, ZoneArgs
from honeydue.hetzner.addresses import NodeAddress
from honeydue.settings import Settings


@dataclass(frozen=True, kw_only=True)
class EdgeArgs:
    settings: Settings
    addresses: Sequence[NodeAddress]


class Edge(pulumi.ComponentResource):
    origin: OriginPair | None
    """What the nodes present to Cloudflare in `strict` mode; None in `flexible`."""
    urls: dict[str, str]
    """By what they are for: api, admin, landing."""

    def __init__(
        self, name: str, args: EdgeArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:cloudflare:Edge", name, None, opts)
        dns, child = args.settings.dns, pulumi.ResourceOptions(parent=self)
        hosts = {"api": dns.api, "admin": dns.admin, "landing": dns.landing}
        names = list(dict.fromkeys(hosts.values()))
        zone = Zone(
            name,
            ZoneArgs(
                zone_id=dns.zone_id,
                hosts=names,
                ssl=dns.ssl,
                min_tls=dns.min_tls,
                protect=args.settings.protect,
            ),
            child,
        )
        Dns(
            name,
            DnsArgs(
                zone_id=dns.zone_id,
                hosts=names,
                addresses=args.addresses,
                stack=args.settings.stack,
            ),
            child,
        )
        self.origin = zone.origin
        self.urls = {what: f"https://{host}" for what, host in hosts.items()}
        self.register_outputs({"urls": self.urls})
