"""Where the registry and the builder cannot run, one sentence says why and one line mends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rehearsal.home import Home
from rehearsal.registry import base, binaries, buildkit, service
from rehearsal.registry.gitea import ForgeError
from rehearsal.registry.service import Forge


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where nothing is missing, whatever this one has; its only folder of programs."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(buildkit, "_SYSTEM_PATHS", ())
    monkeypatch.setattr(buildkit, "_capabilities", lambda: 1 << 21)
    monkeypatch.setattr(base, "_go", lambda: (Path("/usr/local/go"), "1.26.8"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("runc", "busybox", "git"):
        (tmp_path / name).write_text("stands alone")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_nothing_is_said_of_a_machine_that_has_all_of_it(machine: Path) -> None:
    assert machine
    assert service.why_not() == ""


@pytest.mark.parametrize(
    ("absent", "cause", "mend"),
    [
        ("runc", "there is none", "apt-get install -y --no-install-recommends runc"),
        ("busybox", "no static busybox", "apt-get install -y busybox-static"),
        ("git", "without git", "apt-get install -y git"),
    ],
)
def test_what_is_not_installed_is_named_with_its_package(
    machine: Path, absent: str, cause: str, mend: str
) -> None:
    (machine / absent).unlink()
    said, _, mended = service.why_not().partition("\n  mend: ")
    assert cause in said
    assert mended == mend


def test_a_busybox_that_needs_a_c_library_will_not_do(machine: Path) -> None:
    (machine / "busybox").write_bytes(b"\x7fELF" + b"\0" * 60 + b"/lib64/ld-linux-x86-64.so.2")
    assert "no static busybox" in service.why_not()


def test_without_root_it_says_so(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in service.why_not()
    assert "mend: sudo make rehearse IMAGES=1" in service.why_not()


def test_a_root_that_may_not_mount_is_told_apart(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine
    monkeypatch.setattr(buildkit, "_capabilities", lambda: 0xA80425FB)  # Docker's default
    assert "CAP_SYS_ADMIN" in service.why_not()


def test_on_another_system_it_says_so(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine
    monkeypatch.setattr("sys.platform", "darwin")
    assert "Linux only" in service.why_not()


def test_whoever_waits_for_it_hears_the_reason(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    forge = Forge(Home(machine / "home"), 1)
    with pytest.raises(ForgeError, match="was not started"):
        forge.wait(0)
    forge.start()
    with pytest.raises(ForgeError, match="needs root"):
        forge.wait(60)
    with pytest.raises(ForgeError, match="needs root"):
        _ = forge.tokens
    assert forge.status().phase == "failed"
    forge.stop()


def test_the_programs_are_upstreams_own_and_pinned() -> None:
    for program in (binaries._GITEA, binaries._BUILDKITD, binaries._BUILDX, binaries._COSIGN):
        lines = (program.source / "go.mod").read_text().splitlines()
        assert f"tool {program.package}" in lines
        assert (program.source / "go.sum").stat().st_size > 10_000
        assert program.key()
    pins = {
        "gitea": f"code.gitea.io/gitea v{binaries.GITEA_VERSION}",
        "buildkitd": f"github.com/moby/buildkit {binaries.BUILDKIT_VERSION}",
        "buildx": f"github.com/docker/buildx {binaries.BUILDX_VERSION}",
        "cosign": f"github.com/sigstore/cosign/v2 {binaries.COSIGN_VERSION}",
    }
    for name, pin in pins.items():
        assert pin in (binaries.WRAPPERS / name / "go.mod").read_text()
