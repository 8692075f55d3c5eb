# ruff: noqa: PLR0917 - a test takes its fixtures by name
"""Issue 5's honest edges: what the operator reads on a bad day, and what did not happen.

A real Gitea behind a proxy that has bad days, a real BuildKit, the program's own release on the
rehearsal's engine. A test begins with a release that runs (tests/images/deploys.py).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from honeydue.images import keys, signing
from honeydue.images.references import SERVICES, path_of
from honeydue.images.registry import Login, Registry
from rehearsal.engine.errors import EngineError
from rehearsal.home import REPOSITORY, Home, cache_folder
from rehearsal.registry import binaries, trivy_standin
from rehearsal.registry.service import Forge, folder_of
from tests.images.bad_days import (
    BadDays,
    Conversation,
    answers,
    breaks_off,
    goes_down,
    goes_down_afterwards,
    loses_the_answer,
    waits_for,
)
from tests.images.deploys import BIG, Stack, Told, in_registry, signed
from tests.registry.forge import holding, push_tiny, snapshots

pytestmark = pytest.mark.images

API = path_of("admin", "api")
PACKAGES = {
    "api__etc__os-release": "ID=alpine\nVERSION_ID=3.22.1\n",
    "api__lib__apk__db__installed": "P:openssl\nV:3.5.1-r0\n\nP:musl\nV:1.2.5-r10\n",
}
CRITICAL = {
    "id": "CVE-2026-0001",
    "package": "openssl",
    "fixed": "3.5.4-r0",
    "severity": "CRITICAL",
    "title": "planted",
}


@pytest.fixture(scope="module")
def registry(forge: Forge) -> Iterator[BadDays]:
    with BadDays(forge.server) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def writer(forge: Forge) -> Login:
    return Login("admin", forge.tokens.write)


@pytest.fixture(scope="module")
def machine(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The operator's machine: a home and a Docker configuration that nobody has written to."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "home").mkdir()
    (folder / "docker").mkdir()
    (folder / "advisories.json").write_text(json.dumps({"end_of_life": [], "advisories": []}))
    trivy_standin.launcher(folder / "bin", folder / "trivy")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            **forge.environment(),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "DOCKER_CONFIG": str(folder / "docker"),
            "HONEYDUE_REHEARSAL_CACHE": str(cache_folder()),
            "TRIVY_CACHE_DIR": str(folder / "trivy"),
            "TRIVY_DB_REPOSITORY": str(folder / "advisories.json"),
            "PYTHONPATH": str(REPOSITORY),
            "HONEYDUE_PYTHON": sys.executable,
            # Nobody listens there: a release asks neither cloud.
            "HCLOUD_ENDPOINT": "http://127.0.0.1:9/v1",
            "CLOUDFLARE_BASE_URL": "http://127.0.0.1:9/client/v4",
            "PULUMI_CONFIG_PASSPHRASE": "rehearsal",
        }.items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture(scope="module")
def released(
    machine: Path, registry: BadDays, writer: Login, tmp_path_factory: pytest.TempPathFactory
) -> Stack:
    """A stack whose first release runs."""
    assert machine
    stack = Stack(tmp_path_factory.mktemp("released"))
    stack.write(registry.server, writer.password)
    # Of these tests alone: whatever the registry and the builder had before is of no use to them.
    nobodys = secrets.token_hex(4)
    stack.commit(**{f"{service}__first": nobodys for service in SERVICES})
    must(stack.up())
    return stack


@pytest.fixture
def stack(released: Stack, registry: BadDays, tmp_path: Path) -> Iterator[Stack]:
    """A copy of it, for one test to do with as it likes."""
    registry.heal()
    yield released.copied(tmp_path / "stack")
    registry.heal()


@dataclass(frozen=True)
class Database:
    """Trivy's vulnerability database: what is on this machine, and where a newer one comes from."""

    cache: Path
    source: Path

    def publish(self) -> None:
        self.source.write_text(json.dumps({"end_of_life": [], "advisories": [CRITICAL]}))

    def cannot_be_had(self, days: int | None) -> None:
        """On this machine is one that is so old, or none."""
        if days is not None:
            made = datetime.now(UTC) - timedelta(days=days, minutes=1)
            published = json.loads(self.source.read_text()) | {"UpdatedAt": made.isoformat()}
            self.source.write_text(json.dumps(published))
            subprocess.run(["trivy", "image", "--download-db-only"], check=True)
        self.source.unlink()


class Administrator:
    """Of Gitea: makes and revokes tokens, as its pages do."""

    def __init__(self, home: Home) -> None:
        self._folder = folder_of(home) / "gitea"
        self._made: dict[str, str] = {}

    def token(self, scope: str) -> str:
        name = f"{scope} {secrets.token_hex(4)}"
        about = ["--username", "admin", "--token-name", name, "--scopes", scope, "--raw"]
        token = self._say("admin", "user", "generate-access-token", *about).split()[-1]
        self._made[token] = name
        return token

    def revoke(self, token: str) -> None:
        """As the API does it: `DELETE /users/admin/tokens/<name>` deletes this row."""
        with contextlib.closing(sqlite3.connect(self._folder / "data/gitea.db")) as database:
            gone = database.execute(
                "DELETE FROM access_token WHERE name = ?", (self._made.pop(token),)
            ).rowcount
            database.commit()
        assert gone == 1

    def _say(self, *arguments: str) -> str:
        tools = binaries.cached()
        assert tools
        return subprocess.run(
            [tools.gitea, "--config", self._folder / "app.ini", *arguments],
            env={"HOME": str(self._folder), "PATH": os.environ["PATH"], "USER": "root"},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def gitea(forge: Forge, forge_home: Home) -> Administrator:
    assert forge
    return Administrator(forge_home)


def first_tag(released: Stack) -> str:
    return released.head


def show(said: str) -> None:
    print(said)


def must(told: Told) -> Told:
    assert told.ok, told.said
    return told


def refused(told: Told) -> str:
    assert not told.ok, "it went well"
    return told.said


# --- the token ------------------------------------------------------------------------------------


def test_a_wrong_token_pushes_nothing_and_the_error_says_which_setting_mends_it(
    stack: Stack, registry: BadDays, writer: Login
) -> None:
    before, tag = stack.running(), stack.commit_all("with a wrong token")
    stack.set("registry", "token", to="f" * 40, secret=True)
    said = refused(stack.up())
    show(said)
    assert said.count(f"the registry {registry.server} refuses the registry's user or token") == 3
    assert "wrong, expired, or of another user" in said
    assert "honeydue:registry.token" in said
    assert "f" * 40 not in said
    assert stack.running() == before
    assert in_registry(registry.server, writer, tag) == {}


def test_a_revoked_token_pushes_nothing_although_the_builder_has_pushed_with_it(
    stack: Stack, registry: BadDays, writer: Login, gitea: Administrator
) -> None:
    token = gitea.token("write:package")
    stack.set("registry", "token", to=token, secret=True)
    stack.commit(api__main="pushed with a token")
    must(stack.up())
    before = stack.running()
    gitea.revoke(token)
    tag = stack.commit_all("after the token is gone")
    said = refused(stack.up())
    show(said)
    assert "refuses the registry's user or token: wrong, expired, or of another user" in said
    assert token not in said
    assert stack.running() == before
    assert in_registry(registry.server, writer, tag) == {}


def test_a_token_that_only_reads_is_told_apart_from_a_wrong_one(
    stack: Stack, registry: BadDays, writer: Login, forge: Forge
) -> None:
    before, tag = stack.running(), stack.commit_all("with a reading token")
    stack.set("registry", "token", to=forge.tokens.read, secret=True)
    said = refused(stack.up())
    show(said)
    assert said.count("lets this token read, but not push: it lacks write:package") == 3
    assert "make a token with write:package" in said
    assert stack.running() == before
    assert in_registry(registry.server, writer, tag) == {}


def test_prebuilt_tags_and_a_wrong_token_are_refused_before_anything_is_declared(
    stack: Stack, released: Stack
) -> None:
    before, tag = stack.running(), first_tag(released)
    stack.run_prebuilt(**dict.fromkeys(SERVICES, tag))
    stack.set("registry", "token", to="f" * 40, secret=True)
    said = refused(stack.preview())
    show(said)
    assert "does not accept the token of admin" in said
    assert "honeydue:registry.token" in said
    assert "f" * 40 not in said
    assert "Nothing was declared" in said
    assert stack.running() == before


# --- the registry is down -------------------------------------------------------------------------


def test_a_registry_that_is_down_stops_the_up_and_not_the_preview_of_a_build(
    stack: Stack, registry: BadDays
) -> None:
    before = stack.running()
    stack.commit_all("before a registry that is down")
    registry.down()
    must(stack.preview())  # it pushes nothing, so it needs none
    said = refused(stack.up())
    show(said)
    assert said.count(f"the registry {registry.server} does not answer") == 3
    assert "mend: see that it runs, then run again" in said
    assert stack.running() == before


def test_a_registry_that_is_down_stops_the_preview_of_prebuilt_tags_and_not_of_digests(
    stack: Stack, registry: BadDays, released: Stack
) -> None:
    stack.run_prebuilt(**dict.fromkeys(SERVICES, first_tag(released)))
    registry.down()
    said = refused(stack.preview())
    show(said)
    assert f"{registry.server} refuses connections: the registry is down" in said
    assert "pulumi stack output release" in said
    stack.run_prebuilt(**released.engine.outputs()["release"])
    must(stack.preview())


def test_a_push_that_is_broken_off_and_answers_that_are_lost_change_nothing(
    stack: Stack, registry: BadDays, writer: Login
) -> None:
    tag = stack.commit(api__main="big " * (BIG // 4) + "broken off, and answers lost")
    registry.on("*", "*/honeydue-api/blobs/uploads/?*", breaks_off)
    registry.on("PUT", f"*/honeydue-worker/manifests/{tag}", loses_the_answer)
    registry.on("PUT", "*/honeydue-api/manifests/sha256-*.sig", loses_the_answer)
    must(stack.up())
    assert registry.acts == 3
    assert stack.digests() == in_registry(registry.server, writer, tag)
    assert not [path for method, path in registry.seen if method == "DELETE"]


def test_a_registry_that_goes_down_during_the_push_and_then_after_it_leaves_the_old_release_running(
    stack: Stack, registry: BadDays, writer: Login
) -> None:
    before = stack.running()
    tag = stack.commit_all("big " * (BIG // 4) + "down during the push")
    registry.on("*", "*/honeydue-worker/blobs/uploads/?*", goes_down)
    said = refused(stack.up())
    show(said)
    assert f"the registry {registry.server} does not answer, or broke off" in said
    assert stack.running() == before
    # Pushed, and never signed: nothing may run it yet.
    registry.heal()
    registry.on("PUT", f"*/honeydue-worker/manifests/{tag}", goes_down_afterwards)
    refused(stack.up())
    assert stack.running() == before
    registry.heal()
    pushed = in_registry(registry.server, writer, tag)["worker"]
    assert not signed(registry.server, writer, {"worker": pushed})
    must(stack.up())
    assert stack.digests() == in_registry(registry.server, writer, tag)
    assert stack.digests()["worker"] == pushed


# --- a release is one -----------------------------------------------------------------------------


def test_when_the_push_of_one_image_fails_none_of_the_three_rolls(
    stack: Stack, registry: BadDays, writer: Login
) -> None:
    before = stack.running()
    tag = stack.commit_all("half a release")
    others, proven = {"release-api-verified", "release-admin-verified"}, threading.Event()

    def done(name: str) -> None:
        others.discard(name)
        if not others:
            proven.set()

    def refuses(conversation: Conversation) -> None:
        """As a proxy before the registry does when a layer is too large for it; so late that the
        two others would be running by then, if they were let."""
        assert proven.wait(300)
        time.sleep(1)
        conversation.answer(413, b"")

    registry.on("*", "*/honeydue-worker/blobs/uploads/*", refuses, times=None)
    said = refused(stack.up(on_done=done))
    show(said)
    assert proven.is_set()
    assert "images-worker  docker-build:Image" in said
    assert f"{registry.server}/admin/honeydue-worker:{tag}" in said
    assert "413" in said
    assert "client_max_body_size" in said
    assert stack.running() == before
    # `plan` sends the operator there when the registry is down.
    release = stack.engine.outputs()["release"]
    assert {s: name.partition("@")[2] for s, name in release.items()} == stack.digests()
    assert in_registry(registry.server, writer, tag).keys() == {"api", "admin"}
    registry.heal()
    must(stack.up())
    assert stack.digests() == in_registry(registry.server, writer, tag)


def test_a_full_disk_is_named_and_nothing_rolls(
    stack: Stack, registry: BadDays, writer: Login
) -> None:
    """Gitea answers 500 without a word then; what is before it may answer 507."""
    before, tag = stack.running(), stack.commit_all("and the disk is full")
    registry.on("*", "*/honeydue-api/blobs/uploads/*", answers(507), times=None)
    registry.on("*", "*/blobs/uploads/*", answers(500), times=None)
    said = refused(stack.up())
    show(said)
    assert "has no room left: it answers 507" in said
    assert said.count("answers 500 Internal Server Error: the fault is its own, a full disk") == 2
    assert "python -m ops images prune" in said
    assert stack.running() == before
    assert in_registry(registry.server, writer, tag) == {}


def test_a_disk_that_fills_up_before_the_signature_is_named_and_nothing_rolls(
    stack: Stack, registry: BadDays, writer: Login
) -> None:
    before, tag = stack.running(), stack.commit_all("and no room for the signature")
    registry.on("P*", "*/honeydue-api/manifests/sha256-*", answers(500), times=None)
    said = refused(stack.up())
    show(said)
    assert "its disk is full" in said
    assert "python -m ops images prune" in said
    assert stack.running() == before
    pushed = in_registry(registry.server, writer, tag)
    assert "api" not in signed(registry.server, writer, pushed)


# --- the scan -------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Trivy's, of this test alone; it holds one critical vulnerability."""
    found = Database(tmp_path / "trivy", tmp_path / "advisories.json")
    found.publish()
    monkeypatch.setenv("TRIVY_CACHE_DIR", str(found.cache))
    monkeypatch.setenv("TRIVY_DB_REPOSITORY", str(found.source))
    return found


def accept(stack: Stack, until: date) -> None:
    entry = {"id": CRITICAL["id"], "expired_at": until, "statement": "no TLS in the api"}
    file = stack.project / "deploy/trivyignore.yaml"
    file.write_text(yaml.safe_dump({"vulnerabilities": [entry]}))


@pytest.mark.usefixtures("database")
def test_a_critical_vulnerability_is_not_signed_and_rolls_nothing_also_once_its_exception_expired(
    stack: Stack, registry: BadDays, writer: Login
) -> None:
    before, tag = stack.running(), stack.commit(**PACKAGES)
    said = refused(stack.up())
    show(said)
    digest = in_registry(registry.server, writer, tag)["api"]
    assert f"{registry.server}/admin/honeydue-api@{digest} (tag {tag})" in said
    assert "CVE-2026-0001  openssl  3.5.1-r0  3.5.4-r0" in said
    assert "raise openssl to 3.5.4-r0" in said
    assert "It was not signed, nothing was rolled out" in said
    accept(stack, until=datetime.now(UTC).date())
    said = refused(stack.up())
    show(said)
    assert "expired in the ignore file, so not accepted any more" in said
    assert "no TLS in the api" in said
    assert stack.running() == before
    assert not signed(registry.server, writer, {"api": digest})


@pytest.mark.usefixtures("database")
def test_a_vulnerability_that_is_accepted_until_a_day_to_come_lets_the_release_go_on(
    stack: Stack, registry: BadDays, writer: Login
) -> None:
    tag = stack.commit(api__word="accepted", **PACKAGES)
    accept(stack, until=datetime.now(UTC).date() + timedelta(days=2))  # midnight may come
    told = must(stack.up())
    show(told.meanwhile)
    assert "accepted by the ignore file" in told.meanwhile
    for service, reference in stack.running().items():
        assert f"verified: {reference} as {tag}" in told.meanwhile, service
    assert "[secret]" not in told.meanwhile
    assert stack.digests() == in_registry(registry.server, writer, tag)


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (None, "Trivy has no vulnerability database, and it cannot be had now"),
        (8, "Trivy's vulnerability database is 8 days old, more than 7"),
    ],
)
def test_without_a_recent_vulnerability_database_nothing_is_signed_and_nothing_rolls(
    stack: Stack, registry: BadDays, writer: Login, database: Database, days: int | None, words: str
) -> None:
    before, tag = stack.running(), stack.commit(api__main=f"database of {days} days")
    database.cannot_be_had(days)
    said = refused(stack.up())
    show(said)
    assert words in said
    assert "trivy image --download-db-only" in said
    assert stack.running() == before
    pushed = in_registry(registry.server, writer, tag)
    assert not signed(registry.server, writer, {"api": pushed["api"]})


def test_a_database_of_three_days_ago_does_and_the_operator_is_warned(
    stack: Stack, registry: BadDays, writer: Login, database: Database
) -> None:
    tag = stack.commit(api__main="database of three days")
    database.cannot_be_had(3)
    told = must(stack.up())
    show(told.said)
    assert "warning: release-api-vouched: a newer vulnerability database cannot be had" in told.said
    assert "3 days old" in told.said
    assert stack.digests() == in_registry(registry.server, writer, tag)


# --- the signature --------------------------------------------------------------------------------


def pushed_by_hand(forge: Forge, folder: Path, tag: str) -> str:
    """The digest of admin/honeydue-api:<tag>, whose bytes nobody else ever pushed."""
    return push_tiny(forge, folder, f"honeydue-api:{tag}", f"by hand {secrets.token_hex(8)}")


@pytest.mark.parametrize("signature", ["none", "of another key", "of another image"])
def test_a_tag_that_was_pushed_by_hand_is_refused_by_name(
    stack: Stack, registry: BadDays, writer: Login, forge: Forge, tmp_path: Path, signature: str
) -> None:
    before, tag = stack.running(), secrets.token_hex(4)
    digest = pushed_by_hand(forge, tmp_path / "byhand", tag)
    expected = "is not signed: the registry has no signature beside it"
    with Registry(registry.server, writer) as client:
        if signature == "of another key":
            signing.sign(client, API, digest, tag, keys.generate())
            expected = "is signed by another key than signing.publicKey"
        elif signature == "of another image":
            first = stack.digests()["api"]
            found = client.manifest(API, signing.beside(first, "sig"))
            assert found
            client.push_manifest(API, signing.beside(digest, "sig"), found.body, found.media_type)
            expected = f"our key's signature is for another image, {first}"
    stack.run_prebuilt(**stack.digests() | {"api": tag})
    said = refused(stack.up())
    show(said)
    assert f"{registry.server}/{API}@{digest} (tag {tag})" in said
    assert expected in said
    assert "Nothing was rolled out" in said
    assert stack.running() == before


def test_a_tag_overwritten_after_it_was_signed_is_refused_and_both_digests_are_named(
    stack: Stack, registry: BadDays, forge: Forge, tmp_path: Path
) -> None:
    tag = stack.commit(api__main="signed, then overwritten")
    must(stack.up())
    before = stack.running()
    digest = pushed_by_hand(forge, tmp_path / "byhand", tag)
    stack.run_prebuilt(**dict.fromkeys(SERVICES, tag))
    said = refused(stack.up())
    show(said)
    assert f"{registry.server}/{API}@{digest} (tag {tag}) is not signed" in said
    assert f"Our key signed {tag} as {stack.digests()['api']}" in said
    assert stack.running() == before
    # Gitea forgets a digest with its last tag; the pin has kept it, and it runs by its digest.
    assert f"honeydue:images.api {tag}@{stack.digests()['api']}" in said
    stack.run_prebuilt(**stack.engine.outputs()["release"])
    must(stack.up())
    assert stack.running() == before


def test_a_rotated_token_builds_and_proves_and_rolls_nothing(
    stack: Stack, gitea: Administrator
) -> None:
    stack.set("registry", "token", to=gitea.token("write:package"), secret=True)
    told = must(stack.preview())
    show(told.said)
    assert "no changes" in told.said


# --- several runs, and runs that end early --------------------------------------------------------


def test_two_deploys_of_the_same_commit_at_once_end_well_with_one_digest(
    stack: Stack, registry: BadDays, writer: Login, tmp_path: Path
) -> None:
    tag = stack.commit_all("twice at once")
    other = stack.copied(tmp_path / "other")
    together = threading.Barrier(2)
    registry.on("PUT", f"*/honeydue-api/manifests/{tag}", waits_for(together), times=2)
    process = other.start()
    told = stack.up()
    said = process.communicate(timeout=300)[0]
    show(told.said + said)
    assert told.ok
    assert process.returncode == 0
    assert not together.broken, "they were not at it at once"
    assert stack.running() == other.running()
    assert stack.digests() == in_registry(registry.server, writer, tag)


def test_ctrl_c_and_then_kill_9_in_the_middle_of_a_push_leave_nothing_at_work_and_up_completes_it(
    stack: Stack, registry: BadDays, writer: Login
) -> None:
    before, tag = stack.running(), stack.commit(api__main="interrupted, then killed")
    cancelled, stopped, reached, dead = (threading.Event() for _ in range(4))

    def interrupts(conversation: Conversation) -> None:
        cancelled.set()
        stopped.wait(120)  # the push is slow enough to be interrupted
        conversation.hang_up()

    registry.on("POST", "*/honeydue-api/blobs/uploads/*", interrupts)
    said = refused(stack.up(cancelled))
    stopped.set()
    show(said)
    assert "the build was stopped because the update was cancelled" in said
    assert "`up` goes on from it" in said
    assert at_work(tag) == []

    def holds(conversation: Conversation) -> None:
        reached.set()
        dead.wait(300)
        conversation.hang_up()

    registry.on("PUT", "*/honeydue-api/*", holds)
    process = stack.start()
    try:
        assert reached.wait(120)
        assert at_work(tag)
    finally:
        process.kill()
        process.communicate()
    limit = time.monotonic() + 120
    while at_work(tag) and time.monotonic() < limit:
        time.sleep(0.05)
    assert at_work(tag) == []
    dead.set()
    with pytest.raises(EngineError, match="That process is gone"):
        stack.up()
    assert stack.engine.cancel() == 1
    assert stack.running() == before
    told = must(stack.up())
    assert "images-api" in told.said
    assert "was being updated when the last run ended: `up` does it again" in told.said
    assert stack.digests() == in_registry(registry.server, writer, tag)


def at_work(word: str) -> list[str]:
    """The command lines of this machine's processes that have the word in them."""
    return [line for line in command_lines() if word in line]


def command_lines() -> Iterator[str]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield file.read_bytes().replace(b"\0", b" ").decode(errors="replace")


# --- no credential is left lying about ------------------------------------------------------------


def test_a_whole_run_leaves_no_credential_on_disk_and_shows_none_in_a_process_list(
    stack: Stack, registry: BadDays, forge_home: Home, tmp_path: Path, machine: Path
) -> None:
    for name in ("home", "docker", "tmp"):
        (tmp_path / name).mkdir()
    password = secrets.token_urlsafe(24)
    stack.set("signing", "password", to=password, secret=True)
    configured = json.loads(stack.engine.configuration().values["honeydue:signing"])
    token = json.loads(stack.engine.configuration().values["honeydue:registry"])["token"]
    private = [line for line in configured["privateKey"].splitlines() if "-----" not in line]
    login = base64.b64encode(f"admin:{token}".encode()).decode()
    there = set(Path(tempfile.gettempdir()).iterdir())
    stack.commit_all("searched for credentials")

    seen, looking = set[str](), Looking()
    for method, path in (("GET", "*"), ("PUT", "*/manifests/*")):
        registry.on(method, path, looking.once, times=None)
    process = stack.start(
        HOME=str(tmp_path / "home"),
        DOCKER_CONFIG=str(tmp_path / "docker"),
        TMPDIR=str(tmp_path / "tmp"),
    )
    with ThreadPoolExecutor(1) as reading:
        printed = reading.submit(process.communicate)
        while not printed.done():
            with looking:
                seen |= set(command_lines())
            time.sleep(0.05)
    said = printed.result()[0]
    assert process.returncode == 0, said
    needles = [token, login, password, *private, *registry.credentials]
    needles += [base64.b64encode(n.encode()).decode().rstrip("=") for n in needles]

    for program in ("buildx build", "images.gate vouch", "images.gate verify", "trivy_standin"):
        assert any(program in line for line in seen), f"{program} was never seen"
    assert [line for line in seen if any(needle in line for needle in needles)] == []
    assert [needle for needle in needles if needle in said] == []

    new = [p for p in Path(tempfile.gettempdir()).iterdir() if p not in there]
    places = [tmp_path, machine, forge_home.root, *new]
    without = [folder_of(forge_home) / "gitea", snapshots(forge_home)]
    assert holding([needle.encode() for needle in needles], *places, without=without) == []


class Looking:
    """`with looking: …` is one look. Whoever asks the registry is answered when a whole one has
    been taken since: so none of those that ask is too short-lived to be seen."""

    def __init__(self) -> None:
        self._begun = self._ended = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._begun += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = self._begun
            self._changed.notify_all()

    def once(self, conversation: Conversation) -> None:
        with self._changed:
            asked = self._begun
            self._changed.wait_for(lambda: self._ended > asked, timeout=60)
        conversation.pass_on()
