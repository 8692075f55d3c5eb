"""The zone's TLS: between the client and Cloudflare, and between Cloudflare and the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pulumi
import pulumi_tls as tls

from honeydue.cloudflare import vendor as cloudflare

ORIGIN_DAYS: Final = 5475  # fifteen years, the longest that Cloudflare's Origin CA gives


@dataclass(frozen=True, kw_only=True)
class ZoneArgs:
    zone_id: str
    hosts: Sequence[str]
    ssl: Literal["flexible", "strict"]
    min_tls: str
    protect: bool


@dataclass(frozen=True, kw_only=True)
class OriginPair:
    """What the nodes present to Cloudflare in `strict` mode; both PEM, the key secret."""

    certificate: pulumi.Output[str]
    private_key: pulumi.Output[str]


class Zone(pulumi.ComponentResource):
    """`flexible` (the book's way): Cloudflare speaks http to the nodes, so the Ingress must never
    redirect http to https, which would loop for ever; the redirect is made at the edge, by
    always_use_https. `strict`: the nodes have a certificate that Cloudflare checks.
    """

    origin: OriginPair | None
    """None in `flexible` mode."""

    def __init__(
        self, name: str, args: ZoneArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:cloudflare:Zone", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.origin = self._origin(name, args) if args.ssl == "strict" else None
        # Deleting a zone setting does nothing at Cloudflare: the last value stays.
        for setting, value in (
            ("ssl", args.ssl),
            ("min_tls_version", args.min_tls),
            ("always_use_https", "on"),
        ):
            cloudflare.ZoneSetting(
                f"{name}-{setting.replace('_', '-')}",
                zone_id=args.zone_id,
                setting_id=setting,
                value=value,
                opts=child,
            )
        self.register_outputs({})

    def _origin(self, name: str, args: ZoneArgs) -> OriginPair:
        child = pulumi.ResourceOptions(parent=self)
        key = tls.PrivateKey(
            f"{name}-origin-key", algorithm="ECDSA", ecdsa_curve="P256", opts=child
        )
        # The API token needs Zone > SSL and Certificates > Edit for this one.
        request = tls.CertRequest(
            f"{name}-origin-request",
            private_key_pem=key.private_key_pem,
            dns_names=list(args.hosts),
            subject=tls.CertRequestSubjectArgs(common_name=args.hosts[0]),
            opts=child,
        )
        certificate = cloudflare.OriginCaCertificate(
            f"{name}-origin",
            csr=request.cert_request_pem,
            # Cloudflare gives them back in this order, and another one would be a replacement
            # (terraform-provider-cloudflare issues 5392 and 6239).
            hostnames=sorted(args.hosts),
            request_type="origin-ecc",
            requested_validity=ORIGIN_DAYS,
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=args.protect,  # without it `strict` answers 526 on every name
            ),
        )
        return OriginPair(
            certificate=certificate.certificate,
            private_key=pulumi.Output.secret(key.private_key_pem),
        )
