"""The four things of Cloudflare's package that production uses, declared here.

`import pulumi_cloudflare` runs 780 modules and 12 MB of types before the first resource is
declared: most of the time of a preview, with either engine (docs/adr/0007). What goes over the wire
is the same as from the package's own classes, which a test holds against each other. The package
stays in requirements.txt: it names the plugin, and its version is that of these classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import pulumi

VERSION = version("pulumi-cloudflare")
"""With the type's first word, this is what the engine chooses the plugin by."""


class Provider(pulumi.ProviderResource):
    def __init__(
        self,
        resource_name: str,
        *,
        api_token: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            "cloudflare",
            resource_name,
            {"apiToken": pulumi.Output.secret(api_token)},
            _options(opts, additional_secret_outputs=["apiKey", "apiToken", "apiUserServiceKey"]),
        )


class DnsRecord(pulumi.CustomResource):
    """One record. `ttl`: seconds, 1 is "automatic"; `name`: the full name."""

    def __init__(
        self,
        resource_name: str,
        *,
        zone_id: pulumi.Input[str],
        name: pulumi.Input[str],
        type: pulumi.Input[str],
        content: pulumi.Input[str],
        proxied: pulumi.Input[bool],
        ttl: pulumi.Input[float],
        comment: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            "cloudflare:index/dnsRecord:DnsRecord",
            resource_name,
            {
                "zoneId": zone_id,
                "name": name,
                "type": type,
                "content": content,
                "proxied": proxied,
                "ttl": ttl,
                "comment": comment,
            },
            # Its type's name before version 6 of the package.
            _options(opts, aliases=[pulumi.Alias(type_="cloudflare:index/record:Record")]),
        )


class ZoneSetting(pulumi.CustomResource):
    """One setting of a zone, by the name that Cloudflare's API has for it."""

    def __init__(
        self,
        resource_name: str,
        *,
        zone_id: pulumi.Input[str],
        setting_id: pulumi.Input[str],
        value: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            "cloudflare:index/zoneSetting:ZoneSetting",
            resource_name,
            {"zoneId": zone_id, "settingId": setting_id, "value": value},
            _options(opts),
        )


class OriginCaCertificate(pulumi.CustomResource):
    """What Cloudflare's own CA signs for an origin. `requested_validity`: days."""

    certificate: pulumi.Output[str]
    """PEM."""

    def __init__(
        self,
        resource_name: str,
        *,
        csr: pulumi.Input[str],
        hostnames: Sequence[pulumi.Input[str]],
        request_type: pulumi.Input[str],
        requested_validity: pulumi.Input[float],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            "cloudflare:index/originCaCertificate:OriginCaCertificate",
            resource_name,
            {
                "csr": csr,
                "hostnames": list(hostnames),
                "requestType": request_type,
                "requestedValidity": requested_validity,
                "certificate": None,  # an output: the SDK makes an attribute of each key
            },
            _options(opts),
        )


@dataclass(frozen=True, kw_only=True)
class IpRanges:
    """CIDRs of both families, as Cloudflare has them today."""

    ipv4: Sequence[str]
    ipv6: Sequence[str]


def ip_ranges(provider: Provider) -> pulumi.Output[IpRanges]:
    answer = pulumi.runtime.invoke_output(
        "cloudflare:index/getIpRanges:getIpRanges",
        {},
        pulumi.InvokeOutputOptions(provider=provider, version=VERSION),
    )
    return answer.apply(
        lambda found: IpRanges(ipv4=found.get("ipv4Cidrs") or (), ipv6=found.get("ipv6Cidrs") or ())
    )


def _options(
    opts: pulumi.ResourceOptions | None,
    *,
    additional_secret_outputs: list[str] | None = None,
    aliases: list[pulumi.Input[str | pulumi.Alias]] | None = None,
) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions.merge(
        pulumi.ResourceOptions(
            version=VERSION,
            additional_secret_outputs=additional_secret_outputs,
            aliases=aliases,
        ),
        opts,
    )
