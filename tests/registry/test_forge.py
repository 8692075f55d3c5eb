"""The real registry and builder: who may do what, what a build pushes, and what outlives what."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.cluster.processes import Identity
from rehearsal.home import REPOSITORY, Home
from rehearsal.registry import binaries
from rehearsal.registry.buildkit import BuildKit
from rehearsal.registry.gitea import ForgeError
from rehearsal.registry.service import Forge, end_strays, environment, folder_of, forget
from tests.registry.forge import Answer, ask, free_port, holding, push_tiny, snapshots

pytestmark = pytest.mark.images


@pytest.fixture(scope="module")
def tiny(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of admin/tiny:one, in the registry."""
    return push_tiny(forge, tmp_path_factory.mktemp("tiny"), "tiny:one", "one")


# --- who may do what ---


def upload(forge: Forge, password: str, username: str = "admin") -> Answer:
    blob = os.urandom(64)
    digest = hashlib.sha256(blob).hexdigest()
    return ask(
        forge.server,
        "POST",
        f"/v2/admin/tiny/blobs/uploads/?digest=sha256:{digest}",
        password,
        username=username,
        body=blob,
    )


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/admin/tiny/manifests/one", "/v2/admin/tiny/tags/list", "/v2/token"]
)
def test_whoever_gives_no_token_gets_nothing(forge: Forge, tiny: str, path: str) -> None:
    assert tiny
    assert ask(forge.server, "GET", path).status == 401


def test_nobody_lists_packages_without_a_token(forge: Forge) -> None:
    assert ask(forge.server, "GET", "/api/v1/packages/admin").status in (401, 403)


def test_a_wrong_token_gets_nothing(forge: Forge, tiny: str) -> None:
    assert tiny
    wrong = forge.tokens.read[:-1] + ("0" if forge.tokens.read[-1] != "0" else "1")
    assert ask(forge.server, "GET", "/v2/admin/tiny/manifests/one", wrong).status == 401
    assert upload(forge, wrong).status == 401


def test_a_right_token_under_another_name_is_still_the_token(forge: Forge, tiny: str) -> None:
    """Gitea looks at the token alone, so a wrong REGISTRY_USERNAME goes unnoticed here as there."""
    path = f"/v2/admin/tiny/manifests/{tiny}"
    assert ask(forge.server, "GET", path, forge.tokens.read, username="other").status == 200


def test_the_reading_token_pulls_and_does_not_push(forge: Forge, tiny: str) -> None:
    path = f"/v2/admin/tiny/manifests/{tiny}"
    assert ask(forge.server, "GET", path, forge.tokens.read).status == 200
    assert upload(forge, forge.tokens.read).status in (401, 403)


def test_the_writing_token_pushes_and_pulls(forge: Forge, tiny: str) -> None:
    assert upload(forge, forge.tokens.write).status == 201
    path = f"/v2/admin/tiny/manifests/{tiny}"
    assert ask(forge.server, "GET", path, forge.tokens.write).status == 200


def test_tokens_open_packages_and_nothing_else(forge: Forge) -> None:
    for token in (forge.tokens.read, forge.tokens.write):
        assert ask(forge.server, "GET", "/api/v1/packages/admin", token).status == 200
        assert ask(forge.server, "GET", "/api/v1/user", token).status == 403
        assert ask(forge.server, "GET", "/api/v1/admin/users", token).status == 403


def test_only_the_file_of_secrets_holds_a_token_and_only_its_owner_reads_it(
    forge: Forge, forge_home: Home, tiny: str
) -> None:
    assert tiny  # something was pushed
    secrets = folder_of(forge_home) / "gitea" / "secrets.json"
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert (folder_of(forge_home) / "gitea" / "app.ini").stat().st_mode & 0o777 == 0o600
    needles = []
    for token in (forge.tokens.read, forge.tokens.write):
        login = base64.b64encode(f"admin:{token}".encode())
        needles += [token.encode(), login]
        assert token not in repr(forge.tokens)
    found = holding(needles, forge_home.root, without=[snapshots(forge_home)])
    assert found == [secrets]


# --- what a build pushes ---


def test_a_build_without_provenance_is_pushed_as_a_plain_manifest(forge: Forge, tiny: str) -> None:
    answer = ask(forge.server, "GET", "/v2/admin/tiny/manifests/one", forge.tokens.read)
    assert answer.headers["Docker-Content-Digest"] == tiny
    assert "sha256:" + hashlib.sha256(answer.body).hexdigest() == tiny
    manifest = answer.json()
    assert "manifests" not in manifest  # not an index
    assert [layer["size"] > 0 for layer in manifest["layers"]] == [True]


def test_the_packages_api_lists_a_plain_manifest_as_its_tag(forge: Forge, tiny: str) -> None:
    """And by that alone: Gitea lists digests only of what no tag names (children of an index)."""
    assert tiny
    answer = ask(forge.server, "GET", "/api/v1/packages/admin?type=container", forge.tokens.read)
    versions = [one["version"] for one in answer.json() if one["name"] == "tiny"]
    assert versions == ["one"]


def test_the_base_image_builds_a_go_program_that_runs(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text('package main\n\nfunc main() { print("built here") }\n')
    (tmp_path / "Dockerfile").write_text(
        "ARG GO_IMAGE\nARG RUNTIME_IMAGE\n"
        "FROM ${GO_IMAGE} AS build\nWORKDIR /src\nCOPY main.go .\n"
        "RUN CGO_ENABLED=0 go build -trimpath -o /program main.go\n"
        "FROM ${RUNTIME_IMAGE}\nCOPY --from=build /program /program\n"
    )
    given = [f"--build-arg={name}={value}" for name, value in forge.build_args.items()]
    out = tmp_path / "out"
    arguments = ["--provenance=false", "--output", f"type=local,dest={out}", *given]
    forge.builder.build([*arguments, str(tmp_path)], forge.server, forge.tokens)
    assert [file.name for file in out.iterdir()] == ["program"]
    ran = subprocess.run([out / "program"], capture_output=True, text=True, check=True)
    assert ran.stderr == "built here"


def test_a_build_that_fails_says_its_last_lines(forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY absent /\n")
    with pytest.raises(ForgeError, match=r"buildx failed:\n(.*\n)*.*absent"):
        forge.builder.build([str(tmp_path)], forge.server, forge.tokens)


def test_buildx_finds_the_builder_by_the_environment_alone(
    forge: Forge, forge_home: Home, tmp_path: Path
) -> None:
    assert forge.environment() == environment(forge_home)
    tools = binaries.cached()
    assert tools
    said = subprocess.run(
        [tools.buildx, "inspect", "honeydue-builder"],
        env={"HOME": str(tmp_path), **forge.environment()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(r"^Driver:\s+remote$", said, re.M)
    assert re.search(r"^Status:\s+running$", said, re.M)
    assert list(tmp_path.iterdir()) == []


def test_the_real_cosign_is_there_to_judge() -> None:
    said = subprocess.run(
        [binaries.ensure_cosign(), "version", "--json"], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(said)["gitVersion"] == binaries.COSIGN_VERSION


# --- what outlives what ---


def test_images_tokens_and_the_base_image_outlive_a_restart(
    forge: Forge, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, build_args = forge.tokens, forge.build_args
    forge.stop()
    assert forge.status().phase == "off"

    def builds(*_: object) -> None:
        raise ForgeError("it is built again")

    with monkeypatch.context() as patch:
        patch.setattr(BuildKit, "build", builds)
        forge.start()
        forge.wait()
    assert (forge.tokens, forge.build_args) == (tokens, build_args)
    path = f"/v2/admin/tiny/manifests/{tiny}"
    assert ask(forge.server, "GET", path, tokens.read).status == 200


def test_a_process_that_dies_is_started_again(forge: Forge) -> None:
    before = forge.builder.pid
    assert before
    os.kill(before, 9)
    limit = time.monotonic() + 120
    while forge.builder.pid in (before, None) and time.monotonic() < limit:
        time.sleep(0.05)
    assert forge.builder.pid not in (before, None)
    forge.wait(120)


def test_a_port_that_is_taken_is_named_with_what_mends_it(forge: Forge, tmp_path: Path) -> None:
    port = forge.server.rpartition(":")[2]
    second = Forge(Home(tmp_path), int(port))
    second.start()
    with pytest.raises(ForgeError, match=rf"port {port} .*is taken\n  mend: .*sport = :{port}"):
        second.wait(120)
    assert second.status().phase == "failed"
    second.stop()


@pytest.fixture
def doomed(tmp_path: Path, forge: Forge) -> Iterator[Home]:
    assert forge  # where that cannot run, this cannot either
    home = Home(tmp_path / "home")
    yield home
    forget(home)


@pytest.mark.parametrize("phase", ["registry", "builder", "base-image"])
def test_whoever_is_stopped_while_it_starts_leaves_nothing_that_runs(
    doomed: Home, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), Forge._go_on

    def goes_on(forge: Forge, to: str, line: str) -> None:
        go_on(forge, to, line)
        if to == phase:
            reached.set()

    monkeypatch.setattr(Forge, "_go_on", goes_on)
    forge = Forge(doomed, free_port())
    forge.start()
    assert reached.wait(300), forge.status()
    forge.stop()  # in that phase; on a machine that stalls, a little later
    assert forge.status().phase == "off"
    assert not [pid for pid in processes() if str(doomed.root) in command(pid)]
    assert str(doomed.root) not in Path("/proc/self/mounts").read_text()
    with pytest.raises(ForgeError):
        forge.wait(0)


KILLED = """
import sys
from pathlib import Path
from rehearsal.home import Home
from rehearsal.registry.service import Forge
forge = Forge(Home(Path(sys.argv[1])), int(sys.argv[2]))
forge.start()
forge.wait()
image = forge.build_args["GO_IMAGE"]
Path(sys.argv[3], "Dockerfile").write_text(f"FROM {image}\\nRUN sleep 54321\\n")
forge.builder.build([sys.argv[3]], forge.server, forge.tokens)
"""


def test_a_killed_serving_process_leaves_nothing_that_runs_or_is_mounted(
    forge: Forge, forge_home: Home, tmp_path: Path
) -> None:
    root, port, tokens = forge_home.root, forge.server.rpartition(":")[2], forge.tokens
    forge.stop()
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root), port, str(tmp_path)], cwd=REPOSITORY
    )
    try:
        step = until_step_runs(folder_of(forge_home), child)
    finally:
        child.kill()
        child.wait()
        end_strays(forge_home)
    assert not step.lives()
    assert str(root) not in Path("/proc/self/mounts").read_text()
    assert not [pid for pid in processes() if str(root) in command(pid)]
    forge.start()
    forge.wait(300)
    assert forge.tokens == tokens


def until_step_runs(folder: Path, child: subprocess.Popen[bytes]) -> Identity:
    """The `sleep` that a build step of this folder's buildkitd runs."""
    limit = time.monotonic() + 300
    while time.monotonic() < limit:
        assert child.poll() is None
        for pid in processes():
            if command(pid) == "sleep 54321" and str(folder) in mounts(pid):
                identity = Identity.of(pid, "sleep")
                assert identity
                return identity
        time.sleep(0.1)
    raise AssertionError("the build step did not start")


def processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace")


def mounts(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return ""
