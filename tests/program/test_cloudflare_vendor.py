"""`honeydue.cloudflare.vendor` against the package whose place it takes: the same on the wire."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pulumi
import pytest
from google.protobuf import json_format

from honeydue.cloudflare import vendor

from . import recording

Wire = list[dict[str, Any]]

RANGES = {"ipv4Cidrs": ["198.41.128.0/17"], "ipv6Cidrs": ["2606:4700::/32"]}
RECORD = {
    "zone_id": "0123456789abcdef0123456789abcdef",
    "name": "api.honeydue.test",
    "type": "A",
    "content": "203.0.113.1",
    "proxied": True,
    "ttl": 1,
    "comment": "honeydue-1",
}
SETTING = {"zone_id": RECORD["zone_id"], "setting_id": "ssl", "value": "strict"}
CERTIFICATE = {
    "csr": "-----BEGIN CERTIFICATE REQUEST-----",
    "hostnames": ["api.honeydue.test"],
    "request_type": "origin-ecc",
    "requested_validity": 5475,
}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Wire]:
    """What a program puts on the wire, whole: every field of every request, in order of name."""

    def run(program: Callable[[], Any]) -> Wire:
        wire: Wire = []
        for method in ("RegisterResource", "Invoke"):
            original = getattr(recording._Monitor, method)

            def listen(self: Any, request: Any, original: Any = original) -> Any:
                message = json_format.MessageToDict(request)
                if message.get("type") != "pulumi:pulumi:Stack":
                    wire.append({**message, "sourcePosition": None, "stackTrace": None})
                return original(self, request)

            monkeypatch.setattr(recording._Monitor, method, listen)
        recording.record(program, call=lambda _token, _arguments: RANGES)
        monkeypatch.undo()
        return sorted(wire, key=lambda message: (message.get("name", ""), message.get("tok", "")))

    return run


def _production(package: ModuleType, ranges: Callable[[Any], Any]) -> Callable[[], None]:
    def program() -> None:
        provider = package.Provider("cloudflare", api_token="t" * 40)
        opts = pulumi.ResourceOptions(provider=provider, protect=True)
        package.DnsRecord("record", **RECORD, opts=opts)
        package.ZoneSetting("setting", **SETTING, opts=opts)
        package.OriginCaCertificate("certificate", **CERTIFICATE, opts=opts)
        ranges(provider)

    return program


def test_our_classes_send_what_the_packages_own_classes_send(
    sent: Callable[[Callable[[], Any]], Wire],
) -> None:
    import pulumi_cloudflare  # noqa: PLC0415 - two seconds, and this test alone needs it

    def theirs(provider: Any) -> Any:
        options = pulumi.InvokeOutputOptions(provider=provider)
        return pulumi_cloudflare.get_ip_ranges_output(opts=options)

    ours = sent(_production(vendor, vendor.ip_ranges))
    assert [message.get("name", message.get("tok")) for message in ours] == [
        "cloudflare:index/getIpRanges:getIpRanges",
        "certificate",
        "cloudflare",
        "record",
        "setting",
    ]
    assert ours == sent(_production(pulumi_cloudflare, theirs))


def test_the_engine_is_told_which_plugin_to_take(
    sent: Callable[[Callable[[], Any]], Wire],
) -> None:
    for message in sent(_production(vendor, vendor.ip_ranges)):
        assert message["version"] == vendor.VERSION


def test_the_answer_of_the_vendor_reaches_the_program() -> None:
    seen: list[Any] = []

    def program() -> None:
        provider = vendor.Provider("cloudflare", api_token="t" * 40)
        opts = pulumi.ResourceOptions(provider=provider)
        certificate = vendor.OriginCaCertificate("certificate", **CERTIFICATE, opts=opts)  # type: ignore[arg-type]  # of many types
        pulumi.Output.all(certificate.certificate, vendor.ip_ranges(provider)).apply(seen.extend)

    recording.record(
        program,
        outputs=lambda r: {"certificate": "PEM"} if r.name == "certificate" else {},
        call=lambda _token, _arguments: RANGES,
    )
    assert seen == [
        "PEM",
        vendor.IpRanges(ipv4=["198.41.128.0/17"], ipv6=["2606:4700::/32"]),
    ]


def test_the_program_imports_the_package_nowhere() -> None:
    """Two seconds of every preview, with either engine (docs/adr/0007)."""

    asked = "import sys, honeydue.cloudflare.edge, honeydue.providers, honeydue.cloudflare.ranges"
    done = subprocess.run(
        [sys.executable, "-c", f"{asked}; print('pulumi_cloudflare' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
