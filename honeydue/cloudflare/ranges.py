"""Cloudflare's own addresses: the only ones that may speak http(s) to a node, and the only proxies
that Traefik believes about a client's address.

They are asked for at every run, because Cloudflare changes them, and are measured against a pinned
copy, because an empty or mangled answer would either close production or open it.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Final

import pulumi

from honeydue.cloudflare import vendor as cloudflare

# https://www.cloudflare.com/ips-v4 and /ips-v6, from a mirror of 2026-02-11.
PINNED: Final = (
    "103.21.244.0/22",
    "103.22.200.0/22",
    "103.31.4.0/22",
    "104.16.0.0/13",
    "104.24.0.0/14",
    "108.162.192.0/18",
    "131.0.72.0/22",
    "141.101.64.0/18",
    "162.158.0.0/15",
    "172.64.0.0/13",
    "173.245.48.0/20",
    "188.114.96.0/20",
    "190.93.240.0/20",
    "197.234.240.0/22",
    "198.41.128.0/17",
    "2400:cb00::/32",
    "2405:8100::/32",
    "2405:b500::/32",
    "2606:4700::/32",
    "2803:f800::/32",
    "2a06:98c0::/29",
    "2c0f:f248::/32",
)

# A prefix shorter than these is no CDN's: 0.0.0.0/0 in the answer would open the firewall.
SHORTEST: Final = {4: 10, 6: 24}
# One Hetzner rule takes 100 sources at most (and a firewall 500 effective rules).
MOST: Final = 100


class UnusableRangesError(ValueError):
    """Cloudflare's answer cannot be believed; the message says why and what to do."""


def checked(live: Sequence[str]) -> list[str]:
    """The ranges, valid and in one order (so that a shuffled answer is no change).

    Raises UnusableRangesError for anything but networks of a plausible size, for too many of them,
    and when more than half of the pinned ones are gone.
    """
    networks = set()
    for text in live:
        try:
            network = ip_network(text)
        except ValueError:
            raise UnusableRangesError(
                f"Cloudflare's list of its ranges has {text!r}, which is not a network. "
                "Try again; if it stays, compare with https://www.cloudflare.com/ips"
            ) from None
        if network.prefixlen < SHORTEST[network.version] or not network.is_global:
            raise UnusableRangesError(
                f"Cloudflare's list of its ranges has {text}, which no firewall should let in. "
                "Nothing was changed; compare with https://www.cloudflare.com/ips"
            )
        networks.add(str(network))
    kept = len(networks.intersection(PINNED))
    if kept * 2 < len(PINNED) or len(networks) > MOST:
        raise UnusableRangesError(
            f"Cloudflare's list of its ranges has {len(networks)} networks, {kept} of the "
            f"{len(PINNED)} known ones. If https://www.cloudflare.com/ips says the same, bring "
            "PINNED in honeydue/cloudflare/ranges.py up to date"
        )
    return sorted(networks, key=lambda text: (ip_network(text).version, int(ip_network(text)[0])))


def ranges(provider: cloudflare.Provider) -> pulumi.Output[list[str]]:
    """Today's ranges, both families. Stops the run (RunError) when they cannot be believed."""

    def believe(found: cloudflare.IpRanges) -> list[str]:
        try:
            return checked([*found.ipv4, *found.ipv6])
        except UnusableRangesError as error:
            raise pulumi.RunError(str(error)) from None

    return cloudflare.ip_ranges(provider).apply(believe)
