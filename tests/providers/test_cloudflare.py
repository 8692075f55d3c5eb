"""The cloudflare provider against the stand-in: the vendor's rules, and the mend in each error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rehearsal.clouds.cloudflare import Cloudflare
from rehearsal.clouds.faults import Fault
from rehearsal.clouds.http import Listener
from rehearsal.engine.provider import UNKNOWN, CheckFailure, Context, ProviderError
from rehearsal.providers.cloudflare import CERTIFICATE, RECORD, SETTING, CloudflareProvider
from rehearsal.providers.tls import TlsProvider

TOKEN = "t" * 40
ZONE = "0123456789abcdef0123456789abcdef"
CTX = Context(urn=f"urn:pulumi:rehearsal::honeydue::{RECORD}::api-1")
PREVIEW = Context(urn=CTX.urn, dry_run=True)
API = {
    "zoneId": ZONE,
    "name": "api.myhoneydue.com",
    "type": "A",
    "content": "127.90.0.1",
    "ttl": 1,
    "proxied": True,
}
SSL = {"zoneId": ZONE, "settingId": "ssl", "value": "flexible"}


@pytest.fixture
def cloud(tmp_path: Path) -> Cloudflare:
    return Cloudflare(tmp_path / "cloudflare.json", TOKEN, {ZONE: "myhoneydue.com"})


@pytest.fixture
def url(cloud: Cloudflare) -> Iterator[str]:
    listener = Listener(cloud.wsgi_app).start()
    yield f"{listener.url}/client/v4"
    listener.stop()


@pytest.fixture
def provider(url: str) -> CloudflareProvider:
    return CloudflareProvider({"apiToken": TOKEN, "baseUrl": url})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits half a second and more before it asks again."""
    monkeypatch.setattr("cloudflare._base_client.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("cloudflare._base_client.MAX_RETRY_DELAY", 0.0)


def records(cloud: Cloudflare) -> list[dict[str, Any]]:
    return list(cloud.app.store.snapshot()["records"].values())


# Configuration


def test_the_address_may_come_from_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDFLARE_BASE_URL", url)
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", TOKEN)
    ranges = CloudflareProvider({}).invoke("cloudflare:index/getIpRanges:getIpRanges", {})
    assert len(ranges["ipv4Cidrs"]) == 15


def test_a_token_of_the_wrong_shape_is_refused_before_anything_and_not_shown() -> None:
    with pytest.raises(ProviderError) as caught:
        CloudflareProvider({"apiToken": "sesame"})
    assert "apiToken: API tokens have 40 to 80 characters" in str(caught.value)
    assert "pulumi config set --secret honeydue:cloudflareToken" in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_a_missing_token_is_an_error_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CLOUDFLARE_API_TOKEN", raising=False)
    with pytest.raises(ProviderError, match="apiToken is not set"):
        CloudflareProvider({}).create(SETTING, SSL, CTX)


def test_a_refused_token_names_what_it_must_be_allowed(url: str) -> None:
    stranger = CloudflareProvider({"apiToken": "x" * 40, "baseUrl": url})
    with pytest.raises(ProviderError) as caught:
        stranger.create(SETTING, SSL, CTX)
    assert str(caught.value).startswith("Cloudflare refused it: Authentication error (10000).")
    assert "Zone Settings:Edit" in str(caught.value)


def test_an_unknown_token_is_enough_for_a_preview() -> None:
    provider = CloudflareProvider({"apiToken": UNKNOWN})
    assert provider.create(SETTING, SSL, PREVIEW)[1]["modifiedOn"] is UNKNOWN


# DNS records


def test_a_record_is_made_read_changed_and_deleted(
    provider: CloudflareProvider, cloud: Cloudflare
) -> None:
    assert provider.check(RECORD, None, API) == (API, [])
    id_, outputs = provider.create(RECORD, API, CTX)
    [stored] = records(cloud)
    assert stored["id"] == id_
    assert outputs == API | {
        "proxiable": True,
        "settings": {},
        "tags": [],
        "meta": "{}",
        "createdOn": stored["created_on"],
        "modifiedOn": stored["modified_on"],
    }
    assert provider.read(RECORD, id_, API, outputs, CTX) == (API, outputs)
    assert provider.diff(RECORD, id_, API, outputs, API).changed == ()

    moved = API | {"content": "127.90.0.2", "comment": "moved"}
    diff = provider.diff(RECORD, id_, API, outputs, moved)
    assert set(diff.changed) == {"content", "comment"}
    assert diff.replaces == ()
    outputs = provider.update(RECORD, id_, API, outputs, moved, CTX)
    assert (outputs["content"], outputs["comment"]) == ("127.90.0.2", "moved")
    assert records(cloud)[0]["content"] == "127.90.0.2"
    assert provider.diff(RECORD, id_, moved, outputs, moved).changed == ()

    provider.delete(RECORD, id_, moved, outputs, CTX)
    assert records(cloud) == []
    assert provider.read(RECORD, id_, moved, outputs, CTX) is None
    provider.delete(RECORD, id_, moved, outputs, CTX)


def test_a_preview_asks_nobody(provider: CloudflareProvider, cloud: Cloudflare) -> None:
    id_, outputs = provider.create(RECORD, API | {"content": UNKNOWN}, PREVIEW)
    assert id_ == ""
    assert outputs["content"] is outputs["createdOn"] is UNKNOWN
    assert outputs["name"] == API["name"]
    assert list(cloud.app.requests) == []


def test_another_zone_or_type_replaces_and_an_unknown_content_does_not(
    provider: CloudflareProvider,
) -> None:
    id_, outputs = provider.create(RECORD, API, CTX)
    elsewhere = provider.diff(RECORD, id_, API, outputs, API | {"zoneId": "f" * 32})
    assert elsewhere.changed == elsewhere.replaces == ("zoneId",)
    alias = {"type": "CNAME", "content": "elsewhere.example.net"}
    retyped = provider.diff(RECORD, id_, API, outputs, API | alias)
    assert set(retyped.changed) == {"type", "content"}
    assert retyped.replaces == ("type",)
    unknown = provider.diff(RECORD, id_, API, outputs, API | {"content": UNKNOWN})
    assert (unknown.changed, unknown.replaces) == (("content",), ())


def test_what_the_vendor_fills_in_is_no_change(provider: CloudflareProvider) -> None:
    short = {**API, "name": "api", "comment": "x"}
    id_, outputs = provider.create(RECORD, short, CTX)
    assert outputs["name"] == "api"
    refreshed = provider.read(RECORD, id_, short, outputs, CTX)
    assert refreshed is not None
    inputs, outputs = refreshed
    assert (inputs["name"], outputs["name"]) == ("api", "api.myhoneydue.com")
    assert provider.diff(RECORD, id_, inputs, outputs, short).changed == ()
    assert provider.diff(RECORD, id_, inputs, outputs, short | {"tags": []}).changed == ()
    settings = short | {"settings": {"ipv4Only": False}}
    assert provider.diff(RECORD, id_, inputs, outputs, settings).changed == ()
    # But a comment that was taken away is one, and so is another name.
    bare = {name: value for name, value in short.items() if name != "comment"}
    assert provider.diff(RECORD, id_, inputs, outputs, bare).changed == ("comment",)
    assert provider.diff(RECORD, id_, inputs, outputs, short | {"name": "admin"}).changed == (
        "name",
    )


def test_a_refresh_sees_what_somebody_changed_by_hand(
    provider: CloudflareProvider, cloud: Cloudflare
) -> None:
    id_, outputs = provider.create(RECORD, API, CTX)
    with cloud.app.store.transaction() as state:
        state["records"][id_] |= {"content": "127.66.0.6", "proxied": False}
    refreshed = provider.read(RECORD, id_, API, outputs, CTX)
    assert refreshed is not None
    inputs, outputs = refreshed
    assert inputs["content"] == outputs["content"] == "127.66.0.6"
    assert set(provider.diff(RECORD, id_, inputs, outputs, API).changed) == {"content", "proxied"}


def test_an_identical_record_is_explained_with_the_one_that_is_in_the_way(
    provider: CloudflareProvider, cloud: Cloudflare
) -> None:
    provider.create(RECORD, API, CTX)
    [stored] = records(cloud)
    with pytest.raises(ProviderError) as caught:
        provider.create(RECORD, API, CTX)
    assert str(caught.value) == (
        "Cloudflare already has the record A api.myhoneydue.com → 127.90.0.1, made outside this "
        "stack: An identical record already exists. (81058). Delete it there (id "
        f"{stored['id']}), then run it again."
    )


def test_a_record_whose_answer_was_lost_is_found_again(
    provider: CloudflareProvider, cloud: Cloudflare
) -> None:
    cloud.app.faults.inject(Fault("drop_after_change", method="POST"))
    lines: list[str] = []
    id_, outputs = provider.create(RECORD, API, Context(urn=CTX.urn, progress=lines.append))
    assert [record["id"] for record in records(cloud)] == [id_]
    assert outputs["content"] == "127.90.0.1"
    assert lines == ["the first answer was lost; the record that it made is kept"]


def test_a_lost_record_is_found_by_its_name_and_content(provider: CloudflareProvider) -> None:
    assert provider.find(RECORD, API, CTX) is None
    id_, outputs = provider.create(RECORD, API, CTX)
    assert provider.find(RECORD, API, CTX) == (id_, outputs)
    assert provider.find(RECORD, API | {"content": "127.90.0.2"}, CTX) is None
    assert provider.find(SETTING, SSL, CTX) is None  # a setting is there anyway


def test_passing_trouble_is_waited_out_and_lasting_trouble_is_explained(
    provider: CloudflareProvider, cloud: Cloudflare
) -> None:
    cloud.app.faults.inject(Fault("status", status=503, times=2))
    id_, outputs = provider.create(RECORD, API, CTX)
    cloud.app.faults.inject(Fault("status", status=500, times=None))
    with pytest.raises(ProviderError, match="Cloudflare's own trouble: see cloudflarestatus"):
        provider.delete(RECORD, id_, API, outputs, CTX)
    cloud.app.faults.clear()
    cloud.app.faults.inject(Fault("drop_before_change", times=None))
    with pytest.raises(ProviderError, match="cannot reach Cloudflare"):
        provider.delete(RECORD, id_, API, outputs, CTX)


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"ttl": 5}, CheckFailure("ttl", "must be 1 (automatic), or from 60 to 86400 seconds")),
        ({"ttl": 300}, CheckFailure("ttl", "of a proxied record is always 1; set ttl=1")),
        ({"content": None}, CheckFailure("content", "is required, unless data is given")),
        ({"ttl": None}, CheckFailure("ttl", "is required")),
        (
            {"includeShadowMetadata": True},
            CheckFailure("includeShadowMetadata", "is not rehearsed; leave it out"),
        ),
        (
            {"proxy": True},
            CheckFailure("proxy", "unknown property; did you mean 'proxied'?"),
        ),
    ],
)
def test_wrong_inputs_are_refused_by_name(
    provider: CloudflareProvider, changes: dict[str, Any], failure: CheckFailure
) -> None:
    failures = provider.check(RECORD, None, API | changes)[1]
    assert failure in failures


# Zone settings


def test_a_setting_is_set_and_outlives_its_resource(
    provider: CloudflareProvider, cloud: Cloudflare
) -> None:
    id_, outputs = provider.create(SETTING, SSL, CTX)
    assert id_ == "ssl"
    assert outputs["value"] == "flexible"
    assert outputs["editable"] is True
    assert outputs["modifiedOn"]
    assert provider.read(SETTING, id_, SSL, outputs, CTX) == (SSL, outputs)
    assert provider.diff(SETTING, id_, SSL, outputs, SSL).changed == ()
    strict = SSL | {"value": "strict"}
    diff = provider.diff(SETTING, id_, SSL, outputs, strict)
    assert (diff.changed, diff.replaces) == (("value",), ())
    outputs = provider.update(SETTING, id_, SSL, outputs, strict, CTX)
    other = provider.diff(SETTING, id_, strict, outputs, strict | {"settingId": "http3"})
    assert other.replaces == ("settingId",)
    provider.delete(SETTING, id_, strict, outputs, CTX)
    assert cloud.app.store.snapshot()["settings"][ZONE]["ssl"]["value"] == "strict"


def test_a_setting_that_is_an_object_keeps_the_apis_names(provider: CloudflareProvider) -> None:
    value = {"strict_transport_security": {"enabled": True, "max_age": 86400}}
    inputs = {"zoneId": ZONE, "settingId": "security_header", "value": value}
    id_, outputs = provider.create(SETTING, inputs, CTX)
    assert outputs["value"] == value
    assert provider.diff(SETTING, id_, inputs, outputs, inputs).changed == ()


def test_a_refused_value_is_said_in_the_vendors_words(provider: CloudflareProvider) -> None:
    with pytest.raises(ProviderError, match=r"Invalid value for zone setting ssl \(1007\)"):
        provider.create(SETTING, SSL | {"value": "stricter"}, CTX)


# Origin CA certificates


def test_an_origin_certificate_is_issued_replaced_on_change_and_revoked(
    provider: CloudflareProvider, cloud: Cloudflare
) -> None:
    tls = TlsProvider({})
    key = tls.create(
        "tls:index/privateKey:PrivateKey", {"algorithm": "ECDSA", "ecdsaCurve": "P256"}, CTX
    )[1]
    csr = tls.create(
        "tls:index/certRequest:CertRequest", {"privateKeyPem": key["privateKeyPem"]}, CTX
    )[1]["certRequestPem"]
    inputs = {"csr": csr, "hostnames": ["*.myhoneydue.com"], "requestType": "origin-ecc"}
    assert provider.check(CERTIFICATE, None, inputs)[1] == []
    id_, outputs = provider.create(CERTIFICATE, inputs, CTX)
    assert outputs["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    assert outputs["requestedValidity"] == 5475
    assert provider.read(CERTIFICATE, id_, inputs, outputs, CTX) == (inputs, outputs)
    assert provider.find(CERTIFICATE, inputs, CTX) == (id_, outputs)
    assert provider.diff(CERTIFICATE, id_, inputs, outputs, inputs).changed == ()
    diff = provider.diff(CERTIFICATE, id_, inputs, outputs, inputs | {"requestedValidity": 90})
    assert diff.changed == diff.replaces == ("requestedValidity",)
    provider.delete(CERTIFICATE, id_, inputs, outputs, CTX)
    assert cloud.app.store.snapshot()["certificates"] == {}
    assert provider.read(CERTIFICATE, id_, inputs, outputs, CTX) is None
    assert provider.find(CERTIFICATE, inputs, CTX) is None
    wrong = provider.check(CERTIFICATE, None, inputs | {"requestedValidity": 31})[1]
    assert [failure.property for failure in wrong] == ["requestedValidity"]


# Functions


def test_the_ranges_have_the_sdks_names(provider: CloudflareProvider) -> None:
    ranges = provider.invoke("cloudflare:index/getIpRanges:getIpRanges", {"networks": None})
    assert (len(ranges["ipv4Cidrs"]), len(ranges["ipv6Cidrs"])) == (15, 7)
    assert ranges["etag"]


def test_a_zone_is_looked_up_by_name_or_id(provider: CloudflareProvider) -> None:
    token = "cloudflare:index/getZone:getZone"
    by_name = provider.invoke(token, {"filter": {"name": "myhoneydue.com", "match": "all"}})
    assert by_name["zoneId"] == by_name["id"] == ZONE
    assert by_name["nameServers"]
    assert provider.invoke(token, {"zoneId": ZONE})["name"] == "myhoneydue.com"
    with pytest.raises(ProviderError, match="0 zones fit the filter"):
        provider.invoke(token, {"filter": {"name": "nobody.org"}})
    with pytest.raises(ProviderError, match="does not know the argument 'zone'"):
        provider.invoke(token, {"zone": ZONE})


def test_an_unknown_type_or_function_is_an_error(provider: CloudflareProvider) -> None:
    with pytest.raises(ProviderError, match="has no type 'cloudflare:index/zone:Zone'"):
        provider.check("cloudflare:index/zone:Zone", None, {})
    with pytest.raises(ProviderError, match="has no function"):
        provider.invoke("cloudflare:index/getUser:getUser", {})
