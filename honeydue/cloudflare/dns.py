"""The names of production: proxied A and AAAA records, one per name and node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from honeydue.cloudflare import vendor as cloudflare
from honeydue.hetzner.addresses import NodeAddress


@dataclass(frozen=True, kw_only=True)
class DnsArgs:
    zone_id: str
    hosts: Sequence[str]
    """Full names. Their logical names are theirs, so a renamed host is a new record."""
    addresses: Sequence[NodeAddress]
    stack: str


class Dns(pulumi.ComponentResource):
    """Cloudflare spreads requests over all records of a name and retries the next on a refused
    connection, so every node is in every name. Nothing here waits for a server."""

    urls: tuple[str, ...]

    def __init__(
        self, name: str, args: DnsArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:cloudflare:Dns", name, None, opts)
        for host in args.hosts:
            for node in args.addresses:
                for kind, content in (("A", node.ipv4), ("AAAA", node.ipv6)):
                    cloudflare.DnsRecord(
                        f"{host}-{node.name}-{kind.lower()}",
                        zone_id=args.zone_id,
                        name=host,
                        type=kind,
                        content=content,
                        proxied=True,  # the nodes' firewall lets only Cloudflare in
                        ttl=1,  # "automatic", the only value that a proxied record may have
                        comment=f"{node.name}, made by Pulumi stack {args.stack}",
                        opts=pulumi.ResourceOptions(parent=self),
                    )
        self.urls = tuple(f"https://{host}" for host in args.hosts)
        self.register_outputs({"urls": list(self.urls)})
