"""When certificates end, from what the stack's state says in clear."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ops.diagnosis import dig, items, moment, text

SOON: Final = timedelta(days=30)  # less than this is a problem: there is a night to mend it

# Of Pulumi's resources: the output that says until when.
_ENDS: Final = {
    "tls:index/selfSignedCert:SelfSignedCert": "validityEndTime",
    "tls:index/locallySignedCert:LocallySignedCert": "validityEndTime",
    "cloudflare:index/originCaCertificate:OriginCaCertificate": "expiresOn",
}


@dataclass(frozen=True)
class Certificate:
    name: str
    ends: datetime
    mend: str


def in_state(state: Any) -> list[Certificate]:
    """Of an exported stack or a checkpoint; the first to end first. One that says no date is left
    out."""
    found = []
    exported, kept = dig(state, "deployment"), dig(state, "checkpoint", "latest")
    for resource in items(dig(exported or kept, "resources")):
        kind, urn = text(dig(resource, "type")), text(dig(resource, "urn"))
        ends = _moment(dig(resource, "outputs", _ENDS.get(kind, "")))
        if kind in _ENDS and ends is not None:
            name = urn.rsplit("::", 1)[-1]
            replace = f"`up` with --replace '{urn}' makes a new one"
            mend = replace if kind.startswith("cloudflare") else "docs/rebuild.md, before it ends"
            found.append(Certificate(name, ends, mend))
    return sorted(found, key=lambda each: each.ends)


def serving(node: str, ends: datetime) -> Certificate:
    """K3s's own, of one API server."""
    mend = (
        f"systemctl restart k3s on {node}, one node after the other: it renews them when it starts"
    )
    return Certificate(f"{node} API server", ends, mend)


def _moment(value: Any) -> datetime | None:
    """RFC 3339, or Cloudflare's `2041-11-18 10:00:00 +0000 UTC`."""
    if (found := moment(value)) is not None:
        return found
    try:
        return datetime.strptime(text(value), "%Y-%m-%d %H:%M:%S %z UTC").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
