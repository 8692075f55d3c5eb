"""The example application by itself: its own tests, its Dockerfile, and its processes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from honeydue.images import dockerfile
from honeydue.kubernetes.catalogue import PRE_STOP_SECONDS
from rehearsal.cluster.binaries import find_go
from tests.examples.application import (
    CANARY,
    SECONDS,
    SERVICES,
    SOURCE,
    answer,
    compiler_settings,
    copy,
    go,
    instructions,
    lines,
    logged,
    running,
    terminated,
)
from tests.registry.forge import free_port


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that has nothing of this repository around it."""
    return copy(tmp_path_factory.mktemp("checkout") / "app")


@pytest.fixture(scope="module")
def binaries(outside: Path) -> Path:
    """The folder with the three programs, compiled as the Dockerfile says."""
    built = outside.parent / "built"
    go(outside, "build", "-o", f"{built}/", "./...", extra=compiler_settings())
    return built


# --- its sources ---


def test_its_own_tests_pass_outside_the_repository_and_without_a_network(outside: Path) -> None:
    go(outside, "vet", "./...")
    said = go(outside, "test", "./...").splitlines()
    assert len(said) == 6
    assert all(line.startswith("ok ") for line in said), said


def test_it_is_formatted() -> None:
    gofmt = Path(find_go((1, 25))).resolve().with_name("gofmt")
    said = subprocess.run([gofmt, "-l", SOURCE], capture_output=True, text=True, check=True)
    assert said.stdout == ""


def test_it_needs_no_module_but_its_own(outside: Path) -> None:
    assert go(outside, "list", "-m", "all").splitlines() == ["honeydue.example/app"]


# --- its Dockerfile ---


def test_each_target_is_made_from_what_it_compiles_only() -> None:
    """What the program dates an image by: so a commit that touches others leaves this digest."""
    text = (SOURCE / "Dockerfile").read_text()
    assert {service: dockerfile.sources(text, service) for service in SERVICES} == {
        "api": {"go.mod", "internal", "api"},
        "worker": {"go.mod", "internal/service", "worker"},
        "admin": {"go.mod", "internal", "admin"},
    }


def test_every_base_image_is_a_build_argument_and_nothing_else_is_asked_of_a_registry() -> None:
    first = (SOURCE / "Dockerfile").read_text().splitlines()[0]
    assert not first.replace(" ", "").startswith("#syntax=")
    said = instructions()
    arguments = {line.removeprefix("ARG ").split("=")[0] for line in said if "ARG" in line}
    assert {"GO_IMAGE", "RUNTIME_IMAGE", "ADMIN_IMAGE"} <= arguments
    stages = set(dockerfile.targets("\n".join(said)))
    bases = {
        word
        for line in said
        if line.startswith("FROM ")
        for word in line.split()[1:-2]
        if not word.startswith("--")
    }
    assert bases - stages == {"${GO_IMAGE}", "${RUNTIME_IMAGE}", "${ADMIN_IMAGE}"}


def test_no_step_needs_a_shell() -> None:
    """A base image of Go alone has none, and scratch has nothing at all."""
    steps = [line for line in instructions() if line.startswith(("RUN ", "CMD ", "ENTRYPOINT "))]
    assert len(steps) == 6
    for step in steps:
        words = [word for word in step.split()[1:] if not word.startswith("--")]
        assert words[0].startswith("["), step


def test_nothing_enters_the_build_that_is_not_named() -> None:
    ignored = (SOURCE / ".dockerignore").read_text().split()
    assert "*" in ignored, "a list of what is let in, not of what is kept out"
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    assert let_in == {"go.mod", "internal", "api", "worker", "admin"}


# --- its processes ---


def test_the_same_sources_are_the_same_programs_wherever_they_are_compiled(
    binaries: Path, tmp_path: Path
) -> None:
    elsewhere = copy(tmp_path / "somewhere" / "else", umask=0o077)
    # A commit more or less, and files that nobody tracks, are no part of a program either.
    subprocess.run(["git", "init", "-q", elsewhere], check=True)
    (elsewhere / "api" / "notes.txt").write_text("not compiled")
    go(elsewhere, "build", "-o", f"{tmp_path}/built/", "./...", extra=compiler_settings())
    for service in SERVICES:
        assert (binaries / service).read_bytes() == (tmp_path / "built" / service).read_bytes()


@pytest.mark.parametrize("service", [w.name for w in SERVICES.values() if w.health])
def test_it_answers_where_the_probe_asks_and_ends_when_it_is_told(
    binaries: Path, tmp_path: Path, service: str
) -> None:
    health = SERVICES[service].health
    assert health is not None
    port, log = free_port(), tmp_path / "log"
    with running([str(binaries / service)], log, {"PORT": str(port)}) as process:
        logged(process, log, "listening")
        status, headers, body = answer(port, "GET", health.path)
        assert (status, bool(body)) == (200, True)
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert answer(port, "HEAD", health.path)[::2] == (200, b"")
        assert answer(port, "DELETE", health.path)[0] == 405
        assert terminated(process) == 0
    draining, stopped = lines(log)[-2:]
    assert (draining["msg"], stopped["msg"]) == ("draining", "stopped")
    seconds = int(draining["at_most"].removesuffix("s"))
    assert PRE_STOP_SECONDS + seconds < SERVICES[service].grace_seconds, "SIGKILL comes first"
    assert {line["service"] for line in lines(log)} == {service}


def test_the_worker_says_which_settings_it_has_and_never_what_they_are(
    binaries: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    environment = {"REDIS_URL": f"redis://:{CANARY}@redis:6379/0", "POSTGRES_PASSWORD": CANARY}
    with running([str(binaries / "worker")], log, environment) as process:
        said = logged(process, log, "settings")
        logged(process, log, "heartbeat")
        assert terminated(process) == 0
    assert set(said["set"]) == set(environment)
    assert "DB_HOST" in said["missing"]
    assert CANARY not in log.read_text()


@pytest.mark.parametrize(
    ("service", "setting", "value"),
    [
        ("api", "PORT", "http"),
        ("admin", "PORT", "70000"),
        ("admin", "NEXT_PUBLIC_API_URL", "api.honeydue.test"),
    ],
)
def test_a_setting_that_is_wrong_is_named_and_nothing_is_served(
    binaries: Path, tmp_path: Path, service: str, setting: str, value: str
) -> None:
    log = tmp_path / "log"
    with running([str(binaries / service)], log, {setting: value}) as process:
        assert process.wait(SECONDS) == 1
    last = lines(log)[-1]
    assert last["level"] == "ERROR"
    assert f'{setting}="{value}"' in last["cause"]


def test_a_port_that_is_taken_ends_the_process(binaries: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    environment = {"PORT": str(free_port())}
    with running([str(binaries / "api")], first, environment) as one:
        logged(one, first, "listening")
        with running([str(binaries / "api")], second, environment) as other:
            assert other.wait(SECONDS) == 1
    assert "address already in use" in lines(second)[-1]["cause"]


def test_a_repository_of_its_own_has_every_file(tmp_path: Path) -> None:
    """The rehearsal commits a copy: its own .gitignore must not hide a service's folder."""
    folder = copy(tmp_path / "app")
    for arguments in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)
    tracked = subprocess.run(
        ["git", "-C", str(folder), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.split()
    shutil.rmtree(folder / ".git")
    assert sorted(tracked) == sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )
