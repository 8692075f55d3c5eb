"""The registry's client: against the stand-in for Gitea, and against what other registries say."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from honeydue.images import registry as registry_module
from honeydue.images.registry import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Login,
    Registry,
    RegistryError,
    digest_of,
    nearest,
    scheme,
)
from rehearsal.clouds.faults import Fault
from rehearsal.clouds.http import Listener
from rehearsal.clouds.registry import Gitea
from tests.registry.forge import free_port

API = "admin/honeydue-api"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


class Clock:
    """Seconds since the epoch, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Forge:
    """A stand-in for Gitea that listens, and clients for it that do not really wait."""

    gitea: Gitea
    clock: Clock
    listener: Listener
    waits: list[float] = field(default_factory=list)

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.listener.port}"

    def client(self, *scopes: str, token: str | None = None, timeout: float = 60.0) -> Registry:
        password = token or self.gitea.token("admin", *(scopes or ("write:package",)))
        login = Login("admin", password)
        # Its patience is by the clock of this machine, which may stand still for a while.
        return Registry(self.server, login, timeout=timeout, patience=3600, sleep=self.waits.append)

    def fault(self, kind: str, **more: object) -> None:
        self.gitea.v2.faults.inject(Fault.parse({"kind": kind} | more))

    def asked(self, method: str, part: str = "") -> list[str]:
        return [r for r in self.gitea.v2.requests if r.startswith(method) and part in r]


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    clock = Clock()
    gitea = Gitea(tmp_path / "gitea", clock=clock, sleep=lambda _seconds: None)
    listener = Listener(gitea.wsgi_app).start()
    yield Forge(gitea, clock, listener)
    listener.stop()


def manifest(config: Descriptor, *layers: Descriptor, name: str = "") -> bytes:
    def shown(blob: Descriptor) -> dict[str, object]:
        return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}

    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": shown(config),
            "layers": [shown(layer) for layer in layers],
            "annotations": {"name": name},
        }
    ).encode()


def push(client: Registry, tag: str, repository: str = API) -> str:
    config = client.push_blob(repository, b"{}", CONFIG_TYPE)
    layer = client.push_blob(repository, f"layer of {tag}".encode(), LAYER_TYPE)
    return client.push_manifest(repository, tag, manifest(config, layer, name=tag), OCI_MANIFEST)


def told(client: Registry, act: Callable[[Registry], object]) -> RegistryError:
    """What the operator reads when `act` fails."""
    with client, pytest.raises(RegistryError) as caught:
        act(client)
    return caught.value


# Asking and pushing


def test_what_was_pushed_is_found_by_tag_and_by_digest_and_comes_back_as_it_was(
    forge: Forge,
) -> None:
    with forge.client() as client:
        digest = push(client, "237c6b8")
        assert client.digest(API, "237c6b8") == digest == client.digest(API, digest)
        found = client.manifest(API, "237c6b8")
        assert found is not None
        assert found == client.manifest(API, digest)
        assert (found.digest, found.media_type) == (digest, OCI_MANIFEST)
        assert digest_of(found.body) == digest
        layer = json.loads(found.body)["layers"][0]["digest"]
        assert client.blob(API, layer) == b"layer of 237c6b8"


def test_a_tag_an_image_and_an_owner_that_are_not_there_are_no_errors(forge: Forge) -> None:
    with forge.client("read:package") as client:
        for repository in (API, "admin/nothing", "nobody/nothing"):
            assert client.digest(repository, "237c6b8") is None
            assert client.manifest(repository, digest_of(b"")) is None
            assert client.tags(repository) == []


def test_tags_are_listed_to_the_last_page(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_TAGS_A_PAGE", 3)
    with forge.client() as client:
        made = sorted(f"{number:07x}" for number in range(10))
        for tag in made:
            push(client, tag)
        assert client.tags(API) == made
    assert len(forge.asked("GET", "tags/list")) == 5  # Gitea links to a page after the last one


def test_one_token_serves_many_questions_and_a_pushing_one_is_asked_for_when_needed(
    forge: Forge,
) -> None:
    with forge.client() as client:
        for _ in range(3):
            client.tags(API)
            client.digest(API, "237c6b8")
        assert len(forge.asked("GET", "/v2/token")) == 1
        push(client, "237c6b8")
        push(client, "237c6b9")
    assert len(forge.asked("GET", "/v2/token")) == 2


def test_a_token_that_ran_out_meanwhile_is_fetched_anew(forge: Forge) -> None:
    with forge.client() as client:
        digest = push(client, "237c6b8")
        forge.clock.now += 25 * 3600  # Gitea's are good for a day
        assert client.digest(API, "237c6b8") == digest


def test_a_blob_that_is_there_is_not_sent_again(forge: Forge) -> None:
    with forge.client() as client:
        first = client.push_blob(API, b"bytes", LAYER_TYPE)
        assert first == Descriptor(LAYER_TYPE, digest_of(b"bytes"), 5)
        assert client.push_blob(API, b"bytes", LAYER_TYPE) == first
    assert len(forge.asked("PUT")) == 1


def test_an_index_is_taken_as_it_is(forge: Forge) -> None:
    with forge.client() as client:
        child = push(client, "237c6b8")
        found = client.manifest(API, child)
        assert found is not None
        one = {"mediaType": OCI_MANIFEST, "digest": child, "size": len(found.body)}
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [one]})
        digest = client.push_manifest(API, "index", body.encode(), OCI_INDEX)
        assert client.manifest(API, "index") == client.manifest(API, digest)


def test_a_manifest_is_not_pushed_under_a_digest_that_is_not_its_own(forge: Forge) -> None:
    with forge.client() as client, pytest.raises(ValueError, match="has the digest"):
        client.push_manifest(API, digest_of(b"other"), b"{}", OCI_MANIFEST)
    assert forge.asked("PUT") == []


def test_two_deploys_of_one_commit_and_three_images_of_one_deploy_do_not_disturb_each_other(
    forge: Forge,
) -> None:
    repositories = [f"admin/honeydue-{service}" for service in ("api", "worker", "admin")]
    with forge.client() as one, forge.client() as other_one, ThreadPoolExecutor(6) as pool:
        pushed = [
            (repository, pool.submit(push, client, "237c6b8", repository))
            for client in (one, other_one)
            for repository in repositories
        ]
        for repository, future in pushed:
            digest = future.result()
            assert one.digest(repository, "237c6b8") == digest


# Credentials


@pytest.mark.parametrize("how", ["wrong", "expired", "revoked", "for repositories only"])
def test_a_token_that_is_not_accepted_is_told_with_the_setting_that_mends_it(
    forge: Forge, how: str
) -> None:
    gitea = forge.gitea
    scope = "read:repository" if how.startswith("for") else "write:package"
    token = gitea.token("admin", scope, expires=forge.clock.now + 60 if how == "expired" else None)
    if how == "wrong":
        token = "0" * 40
    if how == "revoked":
        gitea.revoke(token)
    forge.clock.now += 61
    error = told(forge.client(token=token), lambda client: push(client, "237c6b8"))
    assert error.kind == "credentials"
    assert str(error) == (
        f"pushing 2 bytes to {API} failed: {forge.server} does not accept the token of admin "
        "(it answered 401: UNAUTHORIZED): the token is wrong, has expired or was revoked, or is "
        "for no packages at all\n"
        "    mend   set honeydue:registry.token to a token with write:package"
    )
    assert token not in repr(error)
    assert forge.waits == []


def test_no_credentials_where_some_are_wanted_are_told(forge: Forge) -> None:
    error = told(Registry(forge.server, None), lambda client: client.digest(API, "237c6b8"))
    assert error.kind == "credentials"
    assert error.why.endswith(f"{forge.server} wants credentials and there are none")


def test_a_token_that_may_only_read_is_told_the_scope_that_it_lacks(forge: Forge) -> None:
    with forge.client() as client:
        digest = push(client, "237c6b8")
    error = told(forge.client("read:package"), lambda client: push(client, "237c6b9"))
    assert error.kind == "scope"
    assert str(error) == (
        f"pushing 16 bytes to {API} failed: {forge.server} answered 401 (reqPackageAccess), "
        "although it knows the token of admin: the token lacks write:package, or its owner has "
        "no right to do this there\n"
        "    mend   set honeydue:registry.token to a token with write:package"
    )
    with forge.client("read:package") as client:
        assert client.digest(API, "237c6b8") == digest
        assert client.tags(API) == ["237c6b8"]


def test_anothers_packages_may_be_read_and_not_written(forge: Forge) -> None:
    forge.gitea.user("deploy")
    with forge.client() as client:
        digest = push(client, "237c6b8")
    login = Login("deploy", forge.gitea.token("deploy", "write:package"))
    with Registry(forge.server, login) as client:
        assert client.digest(API, "237c6b8") == digest
    error = told(Registry(forge.server, login), lambda client: push(client, "237c6b9"))
    assert error.kind == "scope"
    assert "its owner has no right" in error.why


def test_a_namespace_that_nobody_has_is_told_by_its_setting(forge: Forge) -> None:
    error = told(forge.client(), lambda client: push(client, "237c6b8", "admim/honeydue-api"))
    assert error.kind == "broken"
    assert "honeydue:registry.namespace" in error.mend


# The registry is down: before, during, after


def test_a_registry_that_is_down_is_tried_for_seven_seconds_and_told() -> None:
    server = f"127.0.0.1:{free_port()}"
    waits: list[float] = []
    client = Registry(server, None, patience=3600, sleep=waits.append)
    error = told(client, lambda client: client.digest(API, "237c6b8"))
    assert error.kind == "unreachable"
    assert str(error) == (
        f"asking for {API}:237c6b8 failed: {server} refuses connections: the registry is down\n"
        f"    mend   see what http://{server}/v2/ answers; the registry's name is the setting "
        "honeydue:registry.server"
    )
    assert 5 < sum(waits) < 10


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_is_over_in_a_moment_is_waited_for(forge: Forge, status: int) -> None:
    forge.fault("status", path="*/manifests/*", times=3, status=status)
    with forge.client() as client:
        assert client.digest(API, "237c6b8") is None
    assert forge.waits == [0.25, 0.5, 1.0]


def test_a_registry_that_asks_for_patience_gets_it(forge: Forge) -> None:
    forge.fault("rate_limit", path="*/manifests/*")
    with forge.client() as client:
        assert client.digest(API, "237c6b8") is None
    assert forge.waits == [1.0]


def test_a_registry_that_stays_broken_is_told_with_its_status(forge: Forge) -> None:
    forge.fault("status", path="/token", times=None, status=503)
    error = told(forge.client(), lambda client: client.digest(API, "237c6b8"))
    assert error.kind == "unreachable"
    assert error.why.endswith(f"{forge.server} answered 503")


def test_an_error_that_stays_is_not_asked_for_again(forge: Forge) -> None:
    forge.fault("status", path="*/manifests/*", status=500)
    error = told(forge.client(), lambda client: client.digest(API, "237c6b8"))
    assert error.kind == "unreachable"
    assert forge.waits == []


def test_a_connection_closed_in_the_middle_of_an_upload_is_met_by_another_upload(
    forge: Forge,
) -> None:
    forge.fault("drop_before_change", method="PUT", path="*/blobs/uploads/*")
    large = b"x" * (4 << 20)  # more than the sockets hold, so that it breaks while it is sent
    with forge.client() as client:
        stored = client.push_blob(API, large, LAYER_TYPE)
        assert client.blob(API, stored.digest) == large
    assert len(forge.asked("POST", "blobs/uploads")) == 2


def test_a_registry_that_goes_down_while_it_is_pushed_to_is_told(forge: Forge) -> None:
    forge.fault("drop_before_change", method="PUT", times=None)
    error = told(forge.client(), lambda client: client.push_blob(API, b"bytes", LAYER_TYPE))
    assert error.kind == "unreachable"
    assert str(error).startswith(
        f"pushing 5 bytes to {API} failed: {forge.server} closed the connection before it had "
        "answered\n"
    )


@pytest.mark.parametrize("path", ["*/blobs/uploads/*", "*/manifests/*"])
def test_a_push_whose_answer_was_lost_is_repeated_without_harm(forge: Forge, path: str) -> None:
    forge.fault("drop_after_change", method="PUT", path=path)
    with forge.client() as client:
        digest = push(client, "237c6b8")
        assert client.digest(API, "237c6b8") == digest
        assert client.tags(API) == ["237c6b8"]
        assert push(client, "237c6b8") == digest


def test_a_registry_that_does_not_answer_is_given_up_after_the_time_out(forge: Forge) -> None:
    quiet = threading.Event()

    def sleep(_seconds: float) -> None:
        quiet.wait(60)

    forge.gitea.v2._sleep = sleep
    forge.fault("timeout", path="*/manifests/*", times=None)
    client = forge.client(timeout=0.05)
    error = told(client, lambda client: client.digest(API, "237c6b8"))
    quiet.set()
    assert error.kind == "unreachable"
    assert error.why.endswith(f"{forge.server} did not answer within 0.05 s")


# No room


def test_a_full_disk_is_told_although_gitea_says_nothing(forge: Forge) -> None:
    forge.gitea.blobs.room = 10
    error = told(forge.client(), lambda client: push(client, "237c6b8"))
    assert error.kind == "full"
    assert str(error) == (
        f"pushing 16 bytes to {API} failed: {forge.server} answered 500 without a word, as Gitea "
        "does when its disk is full\n"
        f"    mend   see the log of {forge.server}; make room there, or raise its limits; "
        "`python -m ops images prune` deletes old releases"
    )
    forge.gitea.blobs.room = None
    with forge.client() as client:
        push(client, "237c6b8")


def test_a_quota_that_is_used_up_is_told_although_gitea_says_nothing(forge: Forge) -> None:
    forge.fault("status", method="PUT", status=403)
    error = told(forge.client(), lambda client: push(client, "237c6b8"))
    assert error.kind == "full"
    assert "403 without a word, as Gitea does when a quota is used up" in error.why


def test_what_a_registry_says_of_its_disk_is_kept_on_one_line_and_without_the_token(
    forge: Forge,
) -> None:
    token = forge.gitea.token("admin", "write:package")
    words = f"write /data/{token}: no space left on device\nsecond line"
    forge.fault("status", method="PUT", status=507, code="UNKNOWN", message=words)
    error = told(forge.client(token=token), lambda client: push(client, "237c6b8"))
    assert error.kind == "full"
    assert "answered 507 (UNKNOWN: write /data/***: no space left on device)" in error.why
    assert "second line" not in str(error)


def test_a_body_too_large_for_the_proxy_is_told(forge: Forge) -> None:
    forge.fault("status", method="PUT", status=413)
    error = told(forge.client(), lambda client: push(client, "237c6b8"))
    assert error.kind == "broken"
    assert "client_max_body_size" in error.mend


# Bytes that are not those of their digest


def spoil(forge: Forge, digest: str) -> None:
    forge.gitea.blobs.path(digest).write_bytes(b"other bytes")


def test_a_manifest_whose_bytes_were_changed_is_refused(forge: Forge) -> None:
    with forge.client() as client:
        digest = push(client, "237c6b8")
    spoil(forge, digest)
    for reference in ("237c6b8", digest):
        named = f"{API}@{digest}" if reference == digest else f"{API}:237c6b8"
        error = told(forge.client(), lambda client, r=reference: client.manifest(API, r))  # type: ignore[misc]
        assert error.kind == "broken"
        assert error.why == (
            f"fetching {named} failed: the bytes are not those of their digest: {digest} was "
            f"wanted, {digest_of(b'other bytes')} came"
        )


def test_a_blob_whose_bytes_were_changed_is_refused(forge: Forge) -> None:
    with forge.client() as client:
        stored = client.push_blob(API, b"bytes", LAYER_TYPE)
    spoil(forge, stored.digest)
    error = told(forge.client(), lambda client: client.blob(API, stored.digest))
    assert error.kind == "broken"
    assert digest_of(b"other bytes") in error.why


def test_a_blob_that_the_registry_lost_is_told(forge: Forge) -> None:
    error = told(forge.client(), lambda client: client.blob(API, digest_of(b"lost")))
    assert error.kind == "broken"
    assert "does not have this blob" in error.why


@pytest.mark.parametrize("digest", ["sha256:../../secrets", "sha512:" + "0" * 128, "latest"])
def test_what_is_no_digest_is_asked_for_nowhere(forge: Forge, digest: str) -> None:
    error = told(forge.client(), lambda client: client.blob(API, digest))
    assert error.kind == "broken"
    assert list(forge.gitea.v2.requests) == []


def test_a_tag_that_was_overwritten_has_another_digest_and_the_old_one_is_gone(
    forge: Forge,
) -> None:
    with forge.client() as client:
        before = push(client, "237c6b8")
        config = client.push_blob(API, b"{}", CONFIG_TYPE)
        after = client.push_manifest(API, "237c6b8", manifest(config), OCI_MANIFEST)
        assert client.digest(API, "237c6b8") == after != before
        assert client.manifest(API, before) is None


# What other registries do


Handler = Callable[[httpx.Request], httpx.Response]


def other(
    handler: Handler, *, server: str = "registry.example.org", login: bool = True
) -> Registry:
    return Registry(
        server,
        Login("admin", "s3cret") if login else None,
        transport=httpx.MockTransport(handler),
        sleep=lambda _seconds: None,
    )


def challenge(*wanted: str) -> httpx.Response:
    return httpx.Response(401, headers=[("WWW-Authenticate", value) for value in wanted])


def basic_only(handler: Handler) -> Handler:
    """A registry that wants Basic and nothing else, as the reference one with htpasswd."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host != "registry.example.org":
            return handler(request)
        if request.headers.get("Authorization") != "Basic YWRtaW46czNjcmV0":
            return challenge('Basic realm="Registry"')
        return httpx.Response(200) if request.url.path == "/v2/" else handler(request)

    return answer


def test_a_registry_that_wants_basic_gets_it() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, headers={"Docker-Content-Digest": digest_of(b"x")})

    with other(basic_only(handler)) as client:
        assert client.digest(API, "237c6b8") == digest_of(b"x")
    assert seen[0].url == f"https://registry.example.org/v2/{API}/manifests/237c6b8"
    assert OCI_MANIFEST in seen[0].headers["Accept"]


def test_a_wrong_password_for_basic_is_told_with_the_page_where_tokens_are_made() -> None:
    error = told(
        other(lambda _request: challenge('Basic realm="Registry"')),
        lambda client: client.digest(API, "237c6b8"),
    )
    assert error.kind == "credentials"
    assert error.mend == (
        "set honeydue:registry.token to a token with read:package, made at "
        "https://registry.example.org/-/user/settings/applications"
    )


def test_a_registry_that_wants_nothing_gets_nothing() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert "Authorization" not in request.headers
        return httpx.Response(200, json={"tags": None})

    with other(handler) as client:
        assert client.tags(API) == []


def bearer_at(realm: str, handler: Handler) -> Handler:
    def answer(request: httpx.Request) -> httpx.Response:
        if "Bearer" not in request.headers.get("Authorization", "") and request.url != realm:
            return challenge(f'Bearer realm="{realm}",service="hub", Basic realm="x"')
        return handler(request)

    return answer


def test_a_token_service_is_asked_for_the_repository_and_the_right() -> None:
    asked: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            asked.append(request)
            return httpx.Response(200, json={"access_token": "t0ken"})
        assert request.headers["Authorization"] == "Bearer t0ken"
        return httpx.Response(201 if request.method == "PUT" else 404)

    realm = "https://registry.example.org/token"

    def without_query(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return handler(request)
        return bearer_at(realm, handler)(request)

    with other(without_query) as client:
        assert client.digest(API, "237c6b8") is None
        client.push_manifest(API, "237c6b8", b"{}", OCI_MANIFEST)
    assert [request.url.params["scope"] for request in asked] == [
        f"repository:{API}:pull",
        f"repository:{API}:pull,push",
    ]
    assert {request.url.params["service"] for request in asked} == {"hub"}


@pytest.mark.parametrize(
    "realm", ["https://auth.example.net/token", "https://registry.example.org.evil.net/token"]
)
def test_credentials_go_to_no_other_host_whatever_the_registry_says(realm: str) -> None:
    hosts: set[str] = set()

    def handler(request: httpx.Request) -> httpx.Response:
        hosts.add(request.url.host)
        return challenge(f'Bearer realm="{realm}"')

    error = told(other(handler), lambda client: client.digest(API, "237c6b8"))
    assert error.kind == "credentials"
    assert "nothing was sent there" in error.why
    assert hosts == {"registry.example.org"}


def test_a_realm_on_the_same_host_but_without_tls_is_asked_with_tls() -> None:
    # Gitea behind a proxy that does not tell it about https names itself http.
    seen: list[httpx.URL] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        if request.url.path == "/v2/token":
            return httpx.Response(200, json={"token": "t0ken"})
        if "Authorization" not in request.headers:
            return challenge('Bearer realm="http://registry.example.org/v2/token"')
        return httpx.Response(404)

    with other(handler) as client:
        assert client.digest(API, "237c6b8") is None
    assert {url.scheme for url in seen} == {"https"}


def test_a_token_service_may_have_a_port_of_its_own_on_the_same_host() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.port == 8443:
            assert request.headers["Authorization"].startswith("Basic ")
            return httpx.Response(200, json={"token": "t0ken"})
        if "Authorization" not in request.headers:
            return challenge('Bearer realm="https://registry.example.org:8443/jwt/auth"')
        assert request.headers["Authorization"] == "Bearer t0ken"
        return httpx.Response(404)

    with other(handler) as client:
        assert client.digest(API, "237c6b8") is None


def test_a_page_that_asks_to_log_in_is_no_manifest() -> None:
    error = told(
        other(lambda _request: httpx.Response(200, html="<h1>Sign in</h1>")),
        lambda client: client.digest(API, "237c6b8"),
    )
    assert error.kind == "broken"
    assert error.why.endswith("the answer is not a registry's JSON")


def test_an_anonymous_token_may_come_from_another_host() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "auth.docker.io":
            assert "Authorization" not in request.headers
            return httpx.Response(200, json={"token": "public"})
        if "Authorization" not in request.headers:
            return challenge('Bearer realm="https://auth.docker.io/token",service="hub"')
        return httpx.Response(200, headers={"Docker-Content-Digest": digest_of(b"x")})

    with other(handler, login=False) as client:
        assert client.digest("library/alpine", "3") == digest_of(b"x")


def test_a_redirected_download_takes_no_credential_along() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "store.example.net":
            assert "Authorization" not in request.headers
            assert request.url.params["signature"] == "abc"
            return httpx.Response(200, content=b"bytes")
        where = "https://store.example.net/blob?signature=abc"
        return httpx.Response(307, headers={"Location": where})

    with other(basic_only(handler)) as client:
        assert client.blob(API, digest_of(b"bytes")) == b"bytes"


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("http://store.example.net/blob", "points from https to plain http"),
        ("/v2/again", "redirected again and again"),
        ("https://store.example.net:port/", "points to an address that is none"),
        ("file:///etc/passwd", "points to an address that is none"),
    ],
)
def test_a_redirection_to_nowhere_good_is_not_followed(where: str, why: str) -> None:
    error = told(
        other(basic_only(lambda _request: httpx.Response(307, headers={"Location": where}))),
        lambda client: client.blob(API, digest_of(b"bytes")),
    )
    assert error.kind == "broken"
    assert why in error.why


@pytest.mark.parametrize(
    ("location", "put_to", "credential"),
    [
        (
            "/v2/x/uploads/1?_state=a%2Fb",
            "https://registry.example.org/v2/x/uploads/1?_state=a%2Fb&digest=",
            True,
        ),
        ("1", f"https://registry.example.org/v2/{API}/blobs/uploads/1?digest=", True),
        ("https://registry.example.org/u", "https://registry.example.org/u?digest=", True),
        ("http://registry.example.org/u", "https://registry.example.org/u?digest=", True),
        ("https://store.example.net/u?s=1", "https://store.example.net/u?s=1&digest=", False),
    ],
)
def test_an_upload_goes_where_the_registry_says_and_the_credential_only_to_itself(
    location: str, put_to: str, credential: bool
) -> None:
    puts: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": location})
        if request.method == "PUT":
            puts.append(request)
            return httpx.Response(201)
        return httpx.Response(404)

    with other(basic_only(handler)) as client:
        client.push_blob(API, b"bytes", LAYER_TYPE)
    assert str(puts[0].url).replace("%3A", ":") == put_to + digest_of(b"bytes")
    assert puts[0].content == b"bytes"
    assert ("Authorization" in puts[0].headers) is credential


def test_a_push_that_is_denied_by_403_is_a_matter_of_scope() -> None:
    denied = {"errors": [{"code": "DENIED", "message": "requested access is denied"}]}

    def handler(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, json=denied)

    error = told(
        other(basic_only(handler)),
        lambda client: client.push_manifest(API, "237c6b8", b"{}", OCI_MANIFEST),
    )
    assert error.kind == "scope"
    assert "403 (DENIED: requested access is denied)" in error.why


def test_a_quota_that_a_registry_speaks_of_is_no_matter_of_scope() -> None:
    # Harbor's words.
    words = (
        "adding 3.4 MiB of storage resource, which when updated to current usage of 9.7 MiB "
        "will exceed the configured upper limit of 10.0 MiB: quota exceeded"
    )

    def handler(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, json={"errors": [{"code": "DENIED", "message": words}]})

    error = told(
        other(basic_only(handler)),
        lambda client: client.push_manifest(API, "237c6b8", b"{}", OCI_MANIFEST),
    )
    assert error.kind == "full"


def test_a_digest_that_is_not_announced_is_computed() -> None:
    body = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json"}'
    with other(basic_only(lambda _request: httpx.Response(200, content=body))) as client:
        assert client.digest(API, "237c6b8") == digest_of(body)
        found = client.manifest(API, "237c6b8")
        assert found is not None
        assert found.media_type == OCI_INDEX


@pytest.mark.parametrize(
    "announced", ["", "sha256:short", digest_of(b"other"), "sha512:" + "0" * 128]
)
def test_a_digest_that_is_none_or_another_one_is_refused(announced: str) -> None:
    def stored(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(201, content=b"{}", headers={"Docker-Content-Digest": announced})

    def found(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"{}", headers={"Docker-Content-Digest": announced})

    wanted = digest_of(b"{}")
    acts: list[tuple[Handler, Callable[[Registry], object]]] = [
        (found, lambda client: client.digest(API, wanted)),
        (found, lambda client: client.manifest(API, "237c6b8")),
        (stored, lambda client: client.push_manifest(API, "237c6b8", b"{}", OCI_MANIFEST)),
    ]
    for answers, act in acts:
        assert told(other(basic_only(answers)), act).kind == "broken"


def test_pages_of_tags_are_followed_on_this_host_only() -> None:
    links = {
        "": '</v2/x/tags/list?last=b>; rel="next"',
        "b": '<http://registry.example.org/v2/x/tags/list?last=d>; rel="next"',
        "d": '<https://other.example.net/v2/x/tags/list?last=f>; rel="next"',
    }
    pages = {"": ["a", "b"], "b": ["c", "d"], "d": ["e", "f"]}

    def handler(request: httpx.Request) -> httpx.Response:
        last = request.url.params.get("last", "")
        link = {"Link": links[last]} if last in links else {}
        return httpx.Response(200, json={"tags": pages[last]}, headers=link)

    error = told(other(basic_only(handler)), lambda client: client.tags(API))
    assert "the next page would be on another host" in error.why
    del links["d"]
    with other(basic_only(handler)) as client:
        assert client.tags(API) == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<h1>Welcome to nginx!</h1>"),
        httpx.Response(200, json=["a"]),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(400, content=b"[" * 100_000),
        httpx.Response(200, json={"tags": [1]}),
        httpx.Response(200, json={"tags": "a"}),
        httpx.Response(302, headers={}),
        httpx.Response(418, text="I'm a teapot"),
    ],
)
def test_an_answer_that_no_registry_gives_is_told(answer: httpx.Response) -> None:
    error = told(other(basic_only(lambda _request: answer)), lambda client: client.tags(API))
    assert error.kind == "broken"
    assert "<" not in error.why
    assert "https://registry.example.org/v2/" in error.mend


def test_a_host_that_is_no_registry_is_not_taken_for_one_without_the_tag() -> None:
    error = told(
        other(lambda _request: httpx.Response(404, html="<h1>Not Found</h1>")),
        lambda client: client.digest(API, "237c6b8"),
    )
    assert error.kind == "broken"
    assert "is no registry: its /v2/ answered 404" in error.why


def test_more_bytes_than_a_manifest_may_have_are_not_read() -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 20
            yield b"x" * (1 << 20)

    error = told(
        other(basic_only(lambda _request: httpx.Response(200, content=endless()))),
        lambda client: client.manifest(API, "237c6b8"),
    )
    assert "more than 4194304 bytes" in error.why
    assert sent <= 6 << 20


def failing(error: Exception) -> Handler:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(str(error), request=request) from error

    return handler


@pytest.mark.parametrize(
    ("cause", "why"),
    [
        (
            ssl.SSLCertVerificationError(1, "certificate verify failed"),
            "the certificate of registry.example.org is not good",
        ),
        (
            ssl.SSLError(1, "wrong version number"),
            "registry.example.org does not speak TLS as it should",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "the name registry.example.org cannot be resolved",
        ),
    ],
)
def test_tls_and_names_are_told_for_what_they_are_and_at_once(cause: Exception, why: str) -> None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        cause.verify_message = "unable to get local issuer certificate"
    waits: list[float] = []
    client = Registry(
        "registry.example.org",
        None,
        transport=httpx.MockTransport(failing(cause)),
        sleep=waits.append,
    )
    error = told(client, lambda client: client.digest(API, "237c6b8"))
    assert error.kind == "unreachable"
    assert why in error.why
    assert waits == []


# Names


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ("gitea.treytartt.com", "https"),
        ("gitea.treytartt.com:3000", "https"),
        ("10.10.1.11:3000", "https"),
        ("127.0.0.1", "http"),
        ("127.90.0.1:5000", "http"),
        ("localhost:3000", "http"),
        ("[::1]:3000", "http"),
        ("localhost.example.org", "https"),
        ("127.0.0.1.example.org", "https"),
    ],
)
def test_only_loopback_is_spoken_to_without_tls(server: str, found: str) -> None:
    assert scheme(server) == found


def test_the_nearest_tags_begin_alike_and_are_releases() -> None:
    signature = "sha256-" + "2" * 64
    tags = [
        "237c6b9",
        "237ffff",
        "1111111",
        "buildcache",
        "buildcache-api",
        f"{signature}.sig",
        f"{signature}.att",
        f"{signature}.sbom",
        signature,
        "337c6b8",
    ]
    assert nearest("237c6b8", tags) == ["237c6b9", "237ffff", "337c6b8"]
    assert nearest("237c6b8", tags, n=1) == ["237c6b9"]
    assert nearest("237c6b8", []) == []


def test_a_login_does_not_show_its_password() -> None:
    login = Login("admin", "s3cret")
    assert "s3cret" not in f"{login!r} {login} {[login]}"
