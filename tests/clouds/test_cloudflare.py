"""The Cloudflare stand-in, asked by the official client and by raw requests as Go's sends them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import cloudflare
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from werkzeug.datastructures import MultiDict

from rehearsal.clouds.cloudflare import Cloudflare
from rehearsal.clouds.cloudflare.dialect import CloudflareDialect
from rehearsal.clouds.http import Call, Listener, Refusal
from rehearsal.providers import schema
from rehearsal.providers.cloudflare import CERTIFICATE, RECORD, SETTING

TOKEN = "t" * 40
ZONE = "0123456789abcdef0123456789abcdef"
OTHER_ZONE = "f" * 32
RECORDS = f"/zones/{ZONE}/dns_records"
API = {"name": "api.myhoneydue.com", "type": "A", "content": "127.90.0.1", "ttl": 1}


class Clock:
    """Seconds since the epoch, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "cloudflare.json"


@pytest.fixture
def cloud(store: Path, clock: Clock) -> Cloudflare:
    zones = {ZONE: "myhoneydue.com", OTHER_ZONE: "example.net"}
    return Cloudflare(store, TOKEN, zones, clock=clock)


@pytest.fixture
def url(cloud: Cloudflare) -> Iterator[str]:
    listener = Listener(cloud.wsgi_app).start()
    yield f"{listener.url}/client/v4"
    listener.stop()


@pytest.fixture
def raw(url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def client(url: str) -> Iterator[cloudflare.Cloudflare]:
    with cloudflare.Cloudflare(api_token=TOKEN, base_url=url, max_retries=0) as client:
        yield client


def errors(response: httpx.Response) -> tuple[int, list[tuple[int, str]]]:
    body = response.json()
    assert body["success"] is False
    assert body["result"] is None
    assert body["messages"] == []
    return response.status_code, [(error["code"], error["message"]) for error in body["errors"]]


def create(raw: httpx.Client, **changes: Any) -> dict[str, Any]:
    response = raw.post(RECORDS, json=API | changes)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["result"]
    return result


# Who asks, and how often


def test_the_official_client_verifies_its_token(client: cloudflare.Cloudflare) -> None:
    verified = client.user.tokens.verify()
    assert verified is not None
    assert verified.status == "active"


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ({}, (400, [(9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")])),
        ({"Authorization": "Bearer short"}, (400, [(6003, "Invalid request headers")])),
        ({"Authorization": f"Token {TOKEN}"}, (400, [(6003, "Invalid request headers")])),
        ({"Authorization": f"Bearer {'x' * 40}"}, (403, [(10000, "Authentication error")])),
    ],
)
def test_a_wrong_token_is_refused(
    url: str, headers: dict[str, str], refusal: tuple[int, list[tuple[int, str]]]
) -> None:
    assert errors(httpx.get(f"{url}/zones", headers=headers)) == refusal


def test_the_address_ranges_need_no_token(url: str) -> None:
    assert httpx.get(f"{url}/ips").status_code == 200


def test_every_answer_tells_the_quota(raw: httpx.Client) -> None:
    first = raw.get("/ips")
    assert first.headers["Ratelimit"] == '"default";r=1199;t=300'
    assert first.headers["Ratelimit-Policy"] == '"default";q=1200;w=300'
    assert raw.get("/zones").headers["Ratelimit"] == '"default";r=1198;t=300'


def test_a_used_up_quota_is_given_again_when_its_window_ends() -> None:
    dialect = CloudflareDialect(None, quota=2)

    def ask(now: float) -> None:
        dialect.admit(Call("GET", "/ips", {}, MultiDict(), {}, {}, now))

    ask(1000)
    ask(1050)
    with pytest.raises(Refusal) as caught:
        ask(1100)
    assert (caught.value.status, caught.value.code) == (429, "971")
    assert caught.value.headers == {"Retry-After": "200"}
    ask(1300)


def test_an_injected_fault_has_the_vendors_envelope(raw: httpx.Client, url: str) -> None:
    root = url.removesuffix("/client/v4")
    httpx.post(f"{root}/_rehearsal/faults", json={"kind": "status", "status": 503})
    status, [(code, message)] = errors(raw.get("/zones"))
    assert (status, code, message) == (503, 10001, "injected by the rehearsal")
    assert raw.get("/zones").status_code == 200


def test_what_is_not_known_is_an_error_and_remembered(raw: httpx.Client, cloud: Cloudflare) -> None:
    assert errors(raw.get(f"/zones/{ZONE}/page_rules")) == (
        400,
        [
            (
                7003,
                f"Could not route to /client/v4/zones/{ZONE}/page_rules, "
                "perhaps your object identifier is invalid?",
            )
        ],
    )
    assert errors(raw.post(f"/zones/{ZONE}", json={}))[0] == 405
    response = raw.post(RECORDS, json=API | {"colour": "orange"})
    assert errors(response) == (400, [(1004, "DNS Validation Error")])
    causes = response.json()["errors"][0]["error_chain"]
    assert causes == [{"code": 9020, "message": "colour: unknown field"}]
    assert errors(raw.get(RECORDS, params={"colour": "orange"}))[0] == 400
    assert len(cloud.app.unknown) == 4


# Zones and ranges


def test_a_zone_is_found_by_its_name_and_by_its_id(client: cloudflare.Cloudflare) -> None:
    [zone] = client.zones.list(name="myhoneydue.com").result
    assert zone.id == ZONE
    assert client.zones.get(zone_id=ZONE) == zone
    assert [z.name for z in client.zones.list()] == ["example.net", "myhoneydue.com"]
    assert client.zones.list(name="nobody.org").result == []


def test_a_zone_of_nobody_is_refused_as_a_strangers_is(raw: httpx.Client) -> None:
    refusal = (403, [(9109, "Unauthorized to access requested resource")])
    assert errors(raw.get(f"/zones/{'a' * 32}")) == refusal
    assert errors(raw.get("/zones/myhoneydue.com"))[1][0][0] == 7003


def test_the_published_ranges_are_fifteen_and_seven(client: cloudflare.Cloudflare) -> None:
    ranges = client.ips.list()
    assert ranges is not None
    assert ranges.ipv4_cidrs is not None
    assert ranges.ipv6_cidrs is not None
    assert [ip_network(c).version for c in ranges.ipv4_cidrs] == [4] * 15
    assert [ip_network(c).version for c in ranges.ipv6_cidrs] == [6] * 7
    assert ranges.etag


# DNS records


def test_a_record_lives_its_life_by_the_official_client(client: cloudflare.Cloudflare) -> None:
    made = client.dns.records.create(
        zone_id=ZONE, name="api.myhoneydue.com", type="A", content="127.90.0.1", ttl=1, proxied=True
    )
    assert made is not None
    assert len(made.id) == 32
    assert (made.proxied, made.proxiable, made.ttl) == (True, True, 1)
    seen = client.dns.records.get(made.id, zone_id=ZONE)
    assert seen == made
    changed = client.dns.records.edit(
        made.id, zone_id=ZONE, name="api.myhoneydue.com", type="A", ttl=1, content="127.90.0.2"
    )
    assert changed is not None
    assert (changed.content, changed.proxied) == ("127.90.0.2", True)
    client.dns.records.delete(made.id, zone_id=ZONE)
    with pytest.raises(cloudflare.NotFoundError) as caught:
        client.dns.records.get(made.id, zone_id=ZONE)
    assert [error.code for error in caught.value.errors] == [81044]


def test_a_record_has_the_fields_of_the_vendors(raw: httpx.Client) -> None:
    record = create(raw, comment="made by a test")
    assert record == {
        "id": record["id"],
        "zone_id": ZONE,
        "zone_name": "myhoneydue.com",
        "name": "api.myhoneydue.com",
        "type": "A",
        "content": "127.90.0.1",
        "proxiable": True,
        "proxied": False,
        "ttl": 1,
        "settings": {},
        "meta": {},
        "comment": "made by a test",
        "comment_modified_on": "2027-01-15T08:00:00.000000Z",
        "tags": [],
        "created_on": "2027-01-15T08:00:00.000000Z",
        "modified_on": "2027-01-15T08:00:00.000000Z",
    }


def test_gos_put_replaces_the_whole_record_and_keeps_when_it_was_made(
    raw: httpx.Client, clock: Clock
) -> None:
    record = create(raw, proxied=True, comment="old")
    clock.now += 60
    # What MarshalForUpdate sends: every planned value, null for one that was taken away.
    body = API | {"content": "127.90.0.9", "comment": None, "priority": None, "settings": {}}
    changed = raw.put(f"{RECORDS}/{record['id']}", json=body).json()["result"]
    assert changed["content"] == "127.90.0.9"
    assert changed["proxied"] is False
    assert changed["comment"] is None
    assert "comment_modified_on" not in changed
    assert changed["created_on"] == record["created_on"]
    assert changed["modified_on"] > record["modified_on"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_records_type_is_for_life(raw: httpx.Client, method: str) -> None:
    record = create(raw, content="127.90.0.1")
    body = API | {"type": "CNAME", "content": "elsewhere.example.net"}
    assert errors(raw.request(method, f"{RECORDS}/{record['id']}", json=body)) == (
        400,
        [(9004, "Editing types after a record has been created is not allowed.")],
    )
    lower = API | {"type": "a", "content": "127.90.0.2"}
    changed = raw.request(method, f"{RECORDS}/{record['id']}", json=lower).json()["result"]
    assert (changed["type"], changed["content"]) == ("A", "127.90.0.2")


def test_the_plugins_question_for_shadows_is_answered(raw: httpx.Client, cloud: Cloudflare) -> None:
    # terraform-provider-cloudflare 5.27 has `include_shadow_metadata = false` in every record that
    # it plans: it is a query parameter, and a refresh asks with it.
    shadow = {"include_shadow_metadata": "false"}
    made = raw.post(RECORDS, json=API, params=shadow).json()["result"]
    one = f"{RECORDS}/{made['id']}"
    assert raw.get(one, params=shadow).json()["result"] == made
    assert raw.get(RECORDS, params=shadow).json()["result"] == [made]
    assert raw.put(one, json=API, params=shadow).status_code == 200
    assert raw.patch(one, json={"comment": "x"}, params=shadow).status_code == 200
    assert cloud.app.unknown == []


SENT: dict[str, dict[str, Any]] = {
    RECORD: {
        "comment": "made by a test",
        "content": "127.90.0.1",
        "data": {"flags": 0, "tag": "issue", "value": "example.org", "priority": 1, "port": 443}
        | {"weight": 1, "target": "a.example.org"},
        "name": "api.myhoneydue.com",
        "priority": 10,
        "privateRouting": False,
        "proxied": True,
        "settings": {"ipv4_only": False, "ipv6_only": False, "flatten_cname": False},
        "tags": ["a:b"],
        "ttl": 1,
        "type": "A",
    },
    SETTING: {"value": "strict", "enabled": None},
    CERTIFICATE: {
        "csr": "-----BEGIN CERTIFICATE REQUEST-----",
        "hostnames": ["api.myhoneydue.com"],
        "requestType": "origin-ecc",
        "requestedValidity": 5475,
    },
}
# Named in the path or asked in the query.
NOT_IN_THE_BODY = {"zoneId", "settingId", "includeShadowMetadata"}


@pytest.mark.parametrize(
    ("type_", "method", "path"),
    [
        (RECORD, "POST", RECORDS),
        (SETTING, "PATCH", f"/zones/{ZONE}/settings/ssl"),
        (CERTIFICATE, "POST", "/certificates"),
    ],
)
def test_whatever_the_package_can_declare_is_known_to_the_stand_in(
    raw: httpx.Client, cloud: Cloudflare, type_: str, method: str, path: str
) -> None:
    # The plugin can send nothing but the inputs of its schema, and this is the SDK of that schema:
    # an upgrade that brings a new one fails here and not in a deploy.
    assert set(SENT[type_]) == set(schema.properties(type_)) - NOT_IN_THE_BODY
    body = {re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", k): v for k, v in SENT[type_].items()}
    raw.request(method, path, json=body)
    assert cloud.app.unknown == []


def test_a_proxied_record_has_an_automatic_ttl_whatever_was_asked(raw: httpx.Client) -> None:
    assert create(raw, proxied=True, ttl=300)["ttl"] == 1


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("@", "myhoneydue.com"),
        ("myhoneydue.com", "myhoneydue.com"),
        ("api", "api.myhoneydue.com"),
        ("API.myhoneydue.com.", "api.myhoneydue.com"),
        ("*.myhoneydue.com", "*.myhoneydue.com"),
        ("api.example.org", "api.example.org.myhoneydue.com"),
    ],
)
def test_every_name_ends_in_the_zone(raw: httpx.Client, name: str, stored: str) -> None:
    assert create(raw, name=name)["name"] == stored


def test_three_nodes_share_a_name_but_no_content(raw: httpx.Client) -> None:
    for node in (1, 2, 3):
        create(raw, content=f"127.90.0.{node}")
    identical = (400, [(81058, "An identical record already exists.")])
    assert errors(raw.post(RECORDS, json=API | {"ttl": 300})) == identical
    last = create(raw, content="127.90.0.4")
    assert errors(raw.put(f"{RECORDS}/{last['id']}", json=API)) == identical
    create(raw, type="AAAA", content="2001:db8::1")


def test_a_cname_shares_its_name_with_no_address(raw: httpx.Client) -> None:
    create(raw)
    cname = API | {"type": "CNAME", "content": "elsewhere.example.net"}
    assert errors(raw.post(RECORDS, json=cname)) == (
        400,
        [(81053, "An A, AAAA, or CNAME record with that host already exists.")],
    )


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"content": "2001:db8::1"}, 9005, "Content for A record must be a valid IPv4 address."),
        ({"content": None}, 9005, "Content for A record must be a valid IPv4 address."),
        (
            {"type": "AAAA"},
            9006,
            "Content for AAAA record must be a valid IPv6 address.",
        ),
        ({"type": "CNAME", "content": "a b"}, 9007, "Content for CNAME record is invalid."),
        (
            {"ttl": 59},
            9021,
            "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic.",
        ),
        ({"name": "a..b"}, 9000, "DNS name is invalid."),
        ({"type": "Z"}, 9004, "DNS record type 'Z' is invalid."),
        (
            {"type": "TXT", "content": "x", "proxied": True},
            9041,
            "Invalid proxied mode. Record cannot be proxied",
        ),
        ({"tags": ["a"]}, 9302, "DNS record has 1 tags, exceeding the quota of 0."),
        ({"ttl": "1"}, 1004, "DNS Validation Error"),
    ],
)
def test_a_wrong_record_is_refused_with_the_vendors_code(
    raw: httpx.Client, changes: dict[str, Any], code: int, message: str
) -> None:
    assert errors(raw.post(RECORDS, json=API | changes)) == (400, [(code, message)])


def test_lists_are_filtered_sorted_and_paged(
    raw: httpx.Client, client: cloudflare.Cloudflare
) -> None:
    for node in range(1, 8):
        create(raw, content=f"127.90.0.{node}", proxied=node == 1)
    create(raw, name="admin", content="127.90.0.1")
    listed = raw.get(f"{RECORDS}?name=api.myhoneydue.com&per_page=5&page=2").json()
    assert listed["result_info"] == {
        "page": 2,
        "per_page": 5,
        "count": 2,
        "total_count": 7,
        "total_pages": 2,
    }
    pages = client.dns.records.list(zone_id=ZONE, per_page=3, order="content")
    assert [record.content for record in pages] == [
        f"127.90.0.{node}" for node in (1, 1, 2, 3, 4, 5, 6, 7)
    ]
    [proxied] = client.dns.records.list(zone_id=ZONE, proxied=True).result
    assert proxied.content == "127.90.0.1"
    exact = client.dns.records.list(zone_id=ZONE, content={"exact": "127.90.0.1"}).result
    assert {record.name for record in exact} == {"api.myhoneydue.com", "admin.myhoneydue.com"}
    assert client.dns.records.list(zone_id=OTHER_ZONE).result == []


def test_a_record_is_not_found_in_another_zone(raw: httpx.Client) -> None:
    record = create(raw)
    path = f"/zones/{OTHER_ZONE}/dns_records/{record['id']}"
    assert errors(raw.delete(path)) == (404, [(81044, "Record does not exist.")])
    assert errors(raw.get(f"{RECORDS}/645577699"))[1][0][0] == 7003


# Zone settings


def test_a_setting_is_changed_never_made(client: cloudflare.Cloudflare) -> None:
    before: Any = client.zones.settings.get("ssl", zone_id=ZONE)
    assert (before.value, before.modified_on) == ("full", None)
    edited: Any = client.zones.settings.edit("ssl", zone_id=ZONE, value="flexible")
    assert (edited.id, edited.value, edited.editable) == ("ssl", "flexible", True)
    assert edited.modified_on is not None
    after: Any = client.zones.settings.get("ssl", zone_id=ZONE)
    assert after.to_dict() == edited.to_dict()
    other: Any = client.zones.settings.get("ssl", zone_id=OTHER_ZONE)
    assert other.value == "full"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("ssl", {"value": "strict", "enabled": None}),
        ("ssl", {"value": "strict", "id": "ssl"}),
        ("min_tls_version", {"value": "1.2"}),
        ("always_use_https", {"value": "on"}),
        ("automatic_https_rewrites", {"value": "on"}),
        ("tls_1_3", {"value": "zrt"}),
        ("http3", {"value": "on"}),
        ("brotli", {"value": "off"}),
        ("browser_cache_ttl", {"value": 0}),
        (
            "security_header",
            {"value": {"strict_transport_security": {"enabled": True, "max_age": 86400}}},
        ),
    ],
)
def test_gos_patch_of_a_setting_is_taken(
    raw: httpx.Client, name: str, body: dict[str, Any]
) -> None:
    response = raw.patch(f"/zones/{ZONE}/settings/{name}", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["result"]["value"] == body["value"]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("ssl", {"value": "full_strict"}),
        ("ssl", {}),
        ("ssl", {"value": "strict", "enabled": True}),
        ("min_tls_version", {"value": 1.2}),
        ("always_use_https", {"value": True}),
        ("browser_cache_ttl", {"value": False}),
        ("security_header", {"value": {"hsts": {}}}),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(
    raw: httpx.Client, name: str, body: dict[str, Any]
) -> None:
    assert errors(raw.patch(f"/zones/{ZONE}/settings/{name}", json=body)) == (
        400,
        [(1007, f"Invalid value for zone setting {name}")],
    )


def test_an_unknown_setting_is_refused(raw: httpx.Client) -> None:
    assert errors(raw.get(f"/zones/{ZONE}/settings/h2_prioritization")) == (
        400,
        [(1006, "Unrecognized zone setting name: h2_prioritization")],
    )


# Origin CA certificates


def request_for(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("kind", ["origin-ecc", "origin-rsa"])
def test_an_origin_certificate_is_really_signed_and_revoked(
    client: cloudflare.Cloudflare, cloud: Cloudflare, kind: Any
) -> None:
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "origin-ecc"
        else rsa.generate_private_key(65537, 2048)
    )
    names = ["myhoneydue.com", "*.myhoneydue.com"]
    made = client.origin_ca_certificates.create(
        csr=request_for(key), hostnames=names, request_type=kind, requested_validity=365
    )
    assert made is not None
    assert made.id is not None
    assert made.certificate is not None
    signed = x509.load_pem_x509_certificate(made.certificate.encode())
    assert signed.public_key() == key.public_key()
    assert str(signed.serial_number) == made.id
    assert (signed.not_valid_after_utc - signed.not_valid_before_utc).days == 365
    assert made.expires_on == f"{signed.not_valid_after_utc:%Y-%m-%d %H:%M:%S} +0000 UTC"
    found = signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == names
    authority = cloud.app.store.snapshot()["authorities"][kind]["certificate"]
    signed.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))

    assert client.origin_ca_certificates.get(made.id) == made
    assert [c.id for c in client.origin_ca_certificates.list(zone_id=ZONE)] == [made.id]
    revoked = client.origin_ca_certificates.delete(made.id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert client.origin_ca_certificates.list(zone_id=ZONE).result == []
    assert cloud.app.store.snapshot()["certificates"] == {}


def test_a_wrong_certificate_request_is_refused(raw: httpx.Client) -> None:
    csr = request_for(ec.generate_private_key(ec.SECP256R1()))
    good = {"csr": csr, "hostnames": ["myhoneydue.com"], "request_type": "origin-ecc"}

    def code(**changes: Any) -> int:
        return errors(raw.post("/certificates", json=good | changes))[1][0][0]

    assert code(csr="nonsense") == 1003
    assert code(request_type="origin-rsa") == 1003
    assert code(requested_validity=8) == 1003
    assert code(hostnames=[]) == 1003
    assert code(hostnames=["example.org"]) == 1010
    assert errors(raw.get("/certificates/1"))[0] == 404
    assert raw.post("/certificates", json=good).json()["result"]["requested_validity"] == 5475


# What is kept


def test_everything_is_there_after_a_restart(raw: httpx.Client, store: Path, clock: Clock) -> None:
    record = create(raw)
    raw.patch(f"/zones/{ZONE}/settings/ssl", json={"value": "strict"})
    again = Cloudflare(store, TOKEN, {ZONE: "myhoneydue.com", "d" * 32: "third.org"}, clock=clock)
    state = again.app.store.snapshot()
    assert state["records"] == {record["id"]: record}
    assert state["settings"][ZONE]["ssl"]["value"] == "strict"
    assert {zone["name"] for zone in state["zones"].values()} == {
        "myhoneydue.com",
        "example.net",
        "third.org",
    }


def test_a_zone_that_is_none_is_refused(store: Path) -> None:
    with pytest.raises(ValueError, match="32 hex digits"):
        Cloudflare(store, None, {"short": "myhoneydue.com"})
