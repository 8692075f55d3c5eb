"""The registry's stand-in: it answers as a real Gitea did, and breaks as one may break."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rehearsal.clouds.http import Listener
from rehearsal.clouds.registry import Gitea
from tests.clouds.gitea_conversation import (
    API,
    CONFIG,
    LAYER,
    OCI,
    V2,
    converse,
    digest_of,
    index,
    manifest,
)

GOLDEN = Path(__file__).parent / "golden/gitea-1.26.json"


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
def gitea(tmp_path: Path, clock: Clock) -> Gitea:
    return Gitea(tmp_path / "gitea", clock=clock)


@pytest.fixture
def write(gitea: Gitea) -> str:
    return gitea.token("admin", "write:package")


@pytest.fixture
def client(gitea: Gitea, write: str) -> Iterator[httpx.Client]:
    """Somebody with write:package, without any socket between."""
    transport = httpx.WSGITransport(gitea.wsgi_app)
    with httpx.Client(
        base_url="http://localhost", auth=("admin", write), transport=transport
    ) as found:
        yield found


def asking(listener: Listener, token: str) -> httpx.Client:
    auth = ("admin", token)
    return httpx.Client(base_url=listener.url, auth=auth, trust_env=False, timeout=60)


def push(client: httpx.Client, reference: str, body: bytes) -> None:
    for blob in (CONFIG, LAYER):
        stored = client.post(f"{V2}/blobs/uploads/?digest={digest_of(blob)}", content=blob)
        assert stored.status_code == 201
    kind = {"Content-Type": OCI}
    assert client.put(f"{V2}/manifests/{reference}", content=body, headers=kind).is_success


def test_it_answers_a_long_conversation_exactly_as_a_real_gitea_did(gitea: Gitea) -> None:
    scopes = {"write": "write:package", "read": "read:package", "none": "read:repository"}
    tokens = {name: gitea.token("admin", scope) for name, scope in scopes.items()}
    listener = Listener(gitea.wsgi_app).start()
    try:
        with httpx.Client(base_url=listener.url, trust_env=False, timeout=60) as client:
            heard = converse(client, tokens)
    finally:
        listener.stop()
    recorded: list[dict[str, Any]] = json.loads(GOLDEN.read_text())
    assert len(heard) == len(recorded) > 100
    for ours, theirs in zip(heard, recorded, strict=True):
        assert ours == theirs
    assert gitea.v2.unknown == []


def test_what_is_stored_outlives_a_restart(
    client: httpx.Client, tmp_path: Path, write: str
) -> None:
    push(client, "first", manifest("first"))
    again = httpx.WSGITransport(Gitea(tmp_path / "gitea").wsgi_app)
    with httpx.Client(base_url="http://localhost", auth=("admin", write), transport=again) as c:
        assert c.get(f"{V2}/manifests/first").content == manifest("first")


def test_a_token_ends_by_the_clock_and_by_its_revocation(gitea: Gitea, clock: Clock) -> None:
    short = gitea.token("admin", "read:package", expires=clock.now + 60)
    gone = gitea.token("admin", "read:package")
    transport = httpx.WSGITransport(gitea.wsgi_app)
    with httpx.Client(base_url="http://localhost", transport=transport) as client:
        for token in (short, gone):
            assert client.get("/v2/", auth=("admin", token)).status_code == 200
        bearer = client.get("/v2/token", auth=("admin", gone)).json()["token"]
        clock.now += 61
        gitea.revoke(gone)
        for token in (short, gone):
            assert client.get("/v2/", auth=("admin", token)).status_code == 401
        # As with Gitea: what was made from the token outlives it, by a day at most.
        given = {"Authorization": f"Bearer {bearer}"}
        assert client.get("/v2/", headers=given).status_code == 200
        clock.now += 24 * 3600
        assert client.get("/v2/", headers=given).status_code == 401


def test_a_user_may_push_to_nobody_else_and_an_administrator_to_everybody(gitea: Gitea) -> None:
    gitea.user("deploy")
    transport = httpx.WSGITransport(gitea.wsgi_app)
    with httpx.Client(base_url="http://localhost", transport=transport) as client:
        deploy = ("deploy", gitea.token("deploy", "write:package"))
        admin = ("admin", gitea.token("admin", "write:package"))
        for who, owner, status in (
            (deploy, "deploy", 202),
            (deploy, "admin", 401),
            (admin, "deploy", 202),
        ):
            begun = client.post(f"/v2/{owner}/image/blobs/uploads/", auth=who)
            assert begun.status_code == status, (who[0], owner)


def test_only_without_the_sign_in_setting_may_anybody_pull(tmp_path: Path) -> None:
    for required, status in ((True, 401), (False, 200)):
        gitea = Gitea(tmp_path / str(required), sign_in_required=required)
        token = gitea.token("admin", "write:package")
        transport = httpx.WSGITransport(gitea.wsgi_app)
        with httpx.Client(base_url="http://localhost", transport=transport) as client:
            client.auth = httpx.BasicAuth("admin", token)
            push(client, "first", manifest("first"))
            client.auth = httpx.Auth()
            answer = client.get("/v2/token")
            assert answer.status_code == status
            bearer = {"Authorization": f"Bearer {answer.json().get('token')}"}
            assert client.get(f"{V2}/manifests/first", headers=bearer).status_code == status
            assert client.post(f"{V2}/blobs/uploads/", headers=bearer).status_code == 401


def test_a_child_that_is_deleted_breaks_its_index(client: httpx.Client) -> None:
    child = manifest("child")
    push(client, digest_of(child), child)
    kind = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
    client.put(f"{V2}/manifests/release", content=index(child), headers=kind)
    gone = client.delete(f"{API}/container/honeydue-api/{digest_of(child)}")
    assert gone.status_code == 204
    assert client.get(f"{V2}/manifests/release").status_code == 200
    assert client.get(f"{V2}/manifests/{digest_of(child)}").status_code == 404
    assert client.get(f"{V2}/blobs/{digest_of(LAYER)}").status_code == 404


def test_a_deleted_version_frees_its_bytes_only_when_gitea_cleans_up(
    gitea: Gitea, client: httpx.Client, clock: Clock
) -> None:
    push(client, "first", manifest("first"))
    push(client, digest_of(manifest("untagged")), manifest("untagged"))
    client.delete(f"{API}/container/honeydue-api/first")
    before = set(gitea.blobs.all())
    gitea.clean_up()
    gone = before - set(gitea.blobs.all())
    # The layers are the untagged manifest's too, and that one is never collected.
    assert gone == {digest_of(manifest("first"))}
    assert client.get(f"{V2}/manifests/{digest_of(manifest('untagged'))}").status_code == 200
    client.post(f"{V2}/blobs/uploads/?digest={digest_of(b'x')}", content=b"x")
    gitea.clean_up()
    assert digest_of(b"x") in gitea.blobs.all()
    clock.now += 25 * 3600
    gitea.clean_up()
    assert digest_of(b"x") not in gitea.blobs.all()


def test_a_full_disk_is_a_500_without_a_word(client: httpx.Client) -> None:
    assert client.put("/_rehearsal/room", json={"bytes": 10}).status_code == 200
    full = client.post(f"{V2}/blobs/uploads/?digest={digest_of(LAYER)}", content=LAYER)
    assert (full.status_code, full.content) == (500, b"")
    begun = client.post(f"{V2}/blobs/uploads/")
    full = client.patch(begun.headers["Location"], content=LAYER)
    assert (full.status_code, full.content) == (500, b"")
    client.put("/_rehearsal/room", json={"bytes": None})
    push(client, "first", manifest("first"))


def test_faults_meet_the_registry_and_the_api_alike(client: httpx.Client) -> None:
    for path, asked, wordless in (
        ("/admin/*/tags/list", f"{V2}/tags/list", True),
        ("/packages/*", f"{API}?type=container", False),
    ):
        fault = {"kind": "status", "path": path, "status": 503}
        assert client.post("/_rehearsal/faults", json=fault).status_code == 201
        answer = client.get(asked)
        assert answer.status_code == 503
        assert (answer.content == b"") is wordless
        assert client.get(asked).status_code != 503


def test_an_answer_that_is_lost_leaves_the_change(gitea: Gitea, write: str) -> None:
    listener = Listener(gitea.wsgi_app).start()
    try:
        with asking(listener, write) as client:
            push(client, "first", manifest("first"))
            fault = {"kind": "drop_after_change", "method": "PUT", "path": "*/manifests/*"}
            client.post("/_rehearsal/faults", json=fault)
            with pytest.raises(httpx.TransportError):
                client.put(
                    f"{V2}/manifests/lost",
                    content=manifest("lost"),
                    headers={"Content-Type": OCI},
                )
            assert client.get(f"{V2}/manifests/lost").content == manifest("lost")
    finally:
        listener.stop()


def test_a_sender_that_breaks_off_changes_nothing_and_holds_nobody_up(
    gitea: Gitea, write: str
) -> None:
    listener = Listener(gitea.wsgi_app).start()
    try:
        with asking(listener, write) as client:
            location = client.post(f"{V2}/blobs/uploads/").headers["Location"]
            basic = base64.b64encode(f"admin:{write}".encode()).decode()
            with socket.create_connection((listener.host, listener.port)) as sender:
                head = (
                    f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
                    f"Authorization: Basic {basic}\r\n\r\nonly this"
                )
                sender.sendall(head.encode())
                # While it has not said everything, others are served.
                assert client.get(f"{V2}/manifests/none").status_code == 404
            assert "Range" not in client.get(location).headers
    finally:
        listener.stop()


def test_an_operator_sees_the_state_without_tokens_or_keys(
    gitea: Gitea, client: httpx.Client, write: str
) -> None:
    push(client, "first", manifest("first"))
    shown = client.get("/_rehearsal/state")
    assert "admin/honeydue-api" in shown.json()["packages"]
    assert write not in shown.text
    assert {"tokens", "signing_key"}.isdisjoint(shown.json())
    assert write not in gitea.store.path.read_text()


def test_what_the_stand_in_does_not_know_is_refused_and_noted(
    gitea: Gitea, client: httpx.Client
) -> None:
    assert client.get(f"{V2}/tags/list?size=3").status_code == 400
    assert client.get(f"{V2}/signatures/{digest_of(b'')}").status_code == 404
    assert len(gitea.v2.unknown) == 2
