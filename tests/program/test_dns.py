from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pulumi
import pytest

from honeydue.cloudflare.ranges import MOST, PINNED, UnusableRangesError, checked

from .production import HOSTS, cloudflare_says, declare, production, variant, vendor
from .recording import Recorded, record


def records() -> list[Recorded]:
    return production().all("DnsRecord")


def test_every_name_points_at_every_node_by_both_families() -> None:
    assert len(records()) == len(HOSTS) * 3 * 2
    for host in HOSTS:
        found = {r.inputs["content"] for r in records() if r.inputs["name"] == host}
        assert found == {f"203.0.113.{i}" for i in (1, 2, 3)} | {
            f"2001:db8:{i}::1" for i in (1, 2, 3)
        }


def test_a_records_kind_fits_its_content() -> None:
    for r in records():
        assert r.inputs["type"] == ("AAAA" if ":" in r.inputs["content"] else "A")


def test_every_record_is_proxied_with_the_ttl_that_such_records_have() -> None:
    for r in records():
        assert (r.inputs["proxied"], r.inputs["ttl"]) == (True, 1)
        assert r.inputs["comment"]


def test_dns_never_waits_for_a_server() -> None:
    servers = {s.urn for s in production().all("Server")}
    for r in records():
        assert not production().closure(r) & servers


def test_zone_settings_are_one_resource_each() -> None:
    settings = {s.inputs["settingId"]: s.inputs["value"] for s in production().all("ZoneSetting")}
    assert settings == {"ssl": "flexible", "min_tls_version": "1.2", "always_use_https": "on"}


def test_flexible_needs_no_certificate() -> None:
    assert production().all("OriginCaCertificate") == []


def test_strict_makes_a_certificate_of_fifteen_years_for_every_name() -> None:
    strict = variant(ssl="strict")
    certificate = strict.one("OriginCaCertificate")
    assert certificate.inputs["hostnames"] == sorted(HOSTS)  # Cloudflare's own order
    assert certificate.inputs["requestedValidity"] == 5475
    assert certificate.inputs["requestType"] == "origin-ecc"
    assert certificate.protect is True
    assert strict.exports["origin"] == "origin certificate\n"
    assert {s.inputs["settingId"]: s.inputs["value"] for s in strict.all("ZoneSetting")}[
        "ssl"
    ] == "strict"


# --- Cloudflare's ranges ---


def test_the_pinned_copy_has_the_shape_of_the_published_one() -> None:
    networks = [ip_network(text) for text in PINNED]
    assert [n.version for n in networks].count(4) == 15
    assert [n.version for n in networks].count(6) == 7
    assert len(set(networks)) == len(networks)
    assert set(checked(PINNED)) == set(PINNED)


def test_a_shuffled_answer_is_no_change() -> None:
    assert checked(PINNED) == checked(list(reversed(PINNED)))


def test_a_new_range_is_taken_over() -> None:
    assert "199.27.128.0/21" in checked([*PINNED, "199.27.128.0/21"])


@pytest.mark.parametrize(
    ("live", "said"),
    [
        ([], "has 0 networks, 0 of the 22 known ones"),
        (PINNED[:10], "has 10 networks, 10 of the 22 known ones"),
        ([*PINNED, "0.0.0.0/0"], "has 0.0.0.0/0, which no firewall should let in"),
        ([*PINNED, "::/0"], "has ::/0, which no firewall should let in"),
        ([*PINNED, "10.0.0.0/16"], "has 10.0.0.0/16, which no firewall should let in"),
        ([*PINNED, "<html>"], "has '<html>', which is not a network"),
        ([*PINNED, "104.16.0.1/13"], "has '104.16.0.1/13', which is not a network"),
        (
            [*PINNED, *(f"199.{i}.0.0/16" for i in range(MOST))],
            "has 122 networks, 22 of the 22 known ones",
        ),
    ],
)
def test_an_unbelievable_answer_is_refused(live: list[str], said: str) -> None:
    with pytest.raises(UnusableRangesError) as refused:
        checked(live)
    assert said in str(refused.value)


def test_an_unbelievable_answer_stops_the_program_without_a_firewall() -> None:
    def nonsense(_token: str, _arguments: Any) -> dict[str, Any]:
        return {"ipv4Cidrs": ["0.0.0.0/0"], "ipv6Cidrs": []}

    with pytest.raises(pulumi.RunError, match="which no firewall should let in"):
        record(declare, outputs=vendor, call=nonsense)


def test_the_ranges_are_asked_for_through_the_explicit_provider() -> None:
    asked = record(declare, outputs=vendor, call=cloudflare_says).calls
    assert len(asked) == 1
    assert "pulumi:providers:cloudflare::cloudflare" in asked[0][2]
