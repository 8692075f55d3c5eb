"""Which name leads to which Service."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pulumi
from pulumi_kubernetes import core, networking

from honeydue.kubernetes.catalogue import labels
from honeydue.kubernetes.namespace import Namespace
from honeydue.settings import Dns

TLS_SECRET: Final = "honeydue-origin-tls"


class Origin(Protocol):
    """What the nodes present to Cloudflare in `strict` mode: certificate and key, both PEM."""

    @property
    def certificate(self) -> pulumi.Output[str]: ...

    @property
    def private_key(self) -> pulumi.Output[str]: ...


@dataclass(frozen=True, kw_only=True)
class IngressArgs:
    """`origin`: the nodes' certificate in `strict` mode; without it the origin speaks http."""

    namespace: Namespace
    dns: Dns
    origin: Origin | None


class Ingress(pulumi.ComponentResource):
    """One plain Ingress; in `strict` mode with the origin's certificate."""

    def __init__(
        self, name: str, args: IngressArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:kubernetes:Ingress", name, None, opts)
        child = pulumi.ResourceOptions(
            parent=self,
            # Dies with the namespace; a destroy, or a rebuild, need not reach for it first.
            deleted_with=args.namespace.resource,
        )
        if args.origin is not None:
            core.v1.Secret(
                f"{name}-tls",
                metadata={
                    "name": TLS_SECRET,
                    "namespace": args.namespace.namespace,
                    "labels": labels("ingress"),
                },
                type="kubernetes.io/tls",
                data={
                    "tls.crt": args.origin.certificate.apply(_base64),
                    "tls.key": args.origin.private_key.apply(_base64),
                },
                opts=child,
            )
        networking.v1.Ingress(
            name,
            **ingress(
                namespace=args.namespace.namespace,
                api=args.dns.api,
                admin=args.dns.admin,
                landing=args.dns.landing,
                tls=args.origin is not None,
            ),
            opts=child,
        )
        self.register_outputs({})


def ingress(
    *, namespace: pulumi.Input[str], api: str, admin: str, landing: str, tls: bool
) -> dict[str, Any]:
    """Metadata and spec. Without `tls` the routers live on port 80 alone, with it on 443 alone.

    The landing page is served by the api. No middleware: a redirect to https at the origin would
    loop for ever under Cloudflare's flexible mode.
    """
    services = {api: "api", landing: "api", admin: "admin"}
    annotations = {
        "traefik.ingress.kubernetes.io/router.entrypoints": "websecure" if tls else "web",
        # Pulumi would wait for a load balancer's address, which Traefik in the host's network,
        # without a Service, never publishes; the records in DNS point at the nodes themselves.
        "pulumi.com/skipAwait": "true",
    }
    if tls:
        annotations["traefik.ingress.kubernetes.io/router.tls"] = "true"
    spec: dict[str, Any] = {
        "ingressClassName": "traefik",
        "rules": [
            {
                "host": host,
                "http": {
                    "paths": [
                        {
                            "path": "/",
                            "pathType": "Prefix",
                            "backend": {"service": {"name": name, "port": {"name": "http"}}},
                        }
                    ]
                },
            }
            for host, name in services.items()
        ],
    }
    if tls:
        spec["tls"] = [{"hosts": list(services), "secretName": TLS_SECRET}]
    return {
        "metadata": {
            "name": "honeydue",
            "namespace": namespace,
            "labels": labels("ingress"),
            "annotations": annotations,
        },
        "spec": spec,
    }


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
