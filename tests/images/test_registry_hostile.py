"""The registry's client and a registry that answers anything at all."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from honeydue.images.registry import (
    OCI_MANIFEST,
    Login,
    Registry,
    RegistryError,
    digest_of,
)

HERE = "registry.example.org"
PASSWORD = "s3cret/with+signs"
BASIC = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
BEARER = "t0ken-of-the-registry"
IMAGE = "admin/honeydue-api"

ADDRESSES = st.sampled_from(
    [
        f"https://{HERE}/v2/",
        f"https://{HERE}:8443/elsewhere",
        f"http://{HERE}/v2/x?a=b",
        f"https://admin:pw@{HERE}/",
        f"https://{HERE}@evil.example.net/",
        "https://evil.example.net/token",
        "https://registry.example.org.evil.example.net/",
        "//evil.example.net/x",
        "/v2/next?last=x",
        "next",
        "",
        "http://[",
        "https://evil.example.net:port/",
        "file:///etc/passwd",
        "ftp://evil.example.net/",
        "https://ünïcode.example/\u2028",
        f"https://evil.example.net/?{BEARER}",
    ]
)
BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"{}",
            b"[" * 50_000,
            b'{"tags":null}',
            b'{"tags":["a","b"]}',
            b'{"tags":[{}]}',
            json.dumps({"token": BEARER}).encode(),
            b'{"token":"line\\nbreak"}',
            b'{"token":7}',
            f"echo {PASSWORD} {BASIC} {BEARER}\x1b[31m\nsecond".encode(),
            json.dumps({"errors": [{"code": "DENIED", "message": f"{PASSWORD}\u2028x"}]}).encode(),
            b'{"errors":[7]}',
            b'{"errors":{}}',
            b"<html>",
        ]
    ),
)
DIGESTS = st.sampled_from(["", "sha256:short", digest_of(b"{}"), digest_of(b"bytes"), "\x7f"])


def headers(address: str, digest: str, wanted: str) -> dict[str, str]:
    return {
        "Location": address,
        "Link": f'<{address}>; rel="next"',
        "WWW-Authenticate": {
            "bearer": f'Bearer realm="{address}",service="s",scope="*"',
            "basic": 'Basic realm="x"',
            "both": f'Bearer realm="{address}", Basic realm="x"',
            "broken": 'Bearer realm="',
            "none": "",
        }[wanted],
        "Docker-Content-Digest": digest,
    }


ANSWERS = st.builds(
    lambda status, names, given, body: (
        status,
        {n: v.encode(errors="replace") for n, v in given.items() if n in names},
        body,
    ),
    st.sampled_from(
        [200, 200, 201, 202, 204, 301, 307, 400, 401, 401, 403, 404, 404, 413, 429, 500, 503, 507]
    ),
    st.sets(
        st.sampled_from(
            ["Location", "Link", "WWW-Authenticate", "Docker-Content-Digest"],
        )
    ),
    st.builds(
        headers,
        ADDRESSES,
        DIGESTS,
        st.sampled_from(["bearer", "bearer", "basic", "both", "broken", "none"]),
    ),
    BODIES,
)
ACTS: dict[str, Callable[[Registry], object]] = {
    "digest": lambda registry: registry.digest(IMAGE, "237c6b8"),
    "manifest": lambda registry: registry.manifest(IMAGE, digest_of(b"{}")),
    "tags": lambda registry: registry.tags(IMAGE),
    "blob": lambda registry: registry.blob(IMAGE, digest_of(b"bytes")),
    "push_blob": lambda registry: registry.push_blob(IMAGE, b"bytes", "x/y"),
    "push_manifest": lambda registry: registry.push_manifest(IMAGE, "t", b"{}", OCI_MANIFEST),
}
LOGINS = st.sampled_from([None, Login("admin", PASSWORD)])


@settings(max_examples=150, deadline=None)
@given(st.lists(ANSWERS, min_size=1, max_size=8), st.sampled_from(sorted(ACTS)), LOGINS)
def test_whatever_it_answers_ends_in_words_and_gives_no_credential_away(
    answers: list[tuple[int, dict[str, bytes], bytes]], act: str, login: Login | None
) -> None:
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        status, given, body = answers[min(len(asked), len(answers)) - 1]
        return httpx.Response(status, headers=list(given.items()), content=body)  # type: ignore[arg-type]

    with Registry(
        HERE, login, transport=httpx.MockTransport(handler), sleep=lambda _seconds: None
    ) as registry:
        try:
            ACTS[act](registry)
            told = ""
        except RegistryError as error:
            told = str(error)
    for secret in (PASSWORD, BASIC) if login else ():
        assert secret not in told
    for line in told.split("\n"):
        assert line.isprintable()
    assert told == "" or re.fullmatch(r".+\n    mend   .+", told)
    for request in asked:
        given = request.headers.get("Authorization", "")
        if request.url.host != HERE or request.url.scheme != "https":
            # What an address brings along is its own; ours go nowhere else.
            assert BASIC not in given
            assert BEARER not in given
    assert len(asked) < 3000
