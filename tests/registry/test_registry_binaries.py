"""How Gitea, BuildKit and buildx come into the cache. Nothing here builds for real."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from rehearsal.cluster.binaries import BinariesError, Progress
from rehearsal.home import Home
from rehearsal.registry import binaries
from tests.rehearsal.test_binaries import FAKE_GO


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A Go that only pretends, and Gitea's module with a few files, read-only as Go leaves them."""
    (module,) = binaries._GITEA_STATIC.modules
    source = tmp_path / "module"
    for file in ("templates/home.tmpl", "templates/mail/issue/a.tmpl", "options/x", "public/y"):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_text(file)
        (source / file).chmod(0o444)
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(FAKE_GO.format(python=sys.executable))
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    told = {module.path: {"Dir": str(source), "Sum": module.sum}}
    monkeypatch.setenv("FAKE_GO_MODULES", json.dumps(told))
    monkeypatch.setenv("FAKE_GO_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("HONEYDUE_REHEARSAL_CACHE", str(tmp_path / "cache"))
    return Home(tmp_path / "home")


def builds(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "calls").read_text().splitlines()
    return [line for line in lines if line.startswith("build ")]


def test_what_is_missing_is_built_once_and_then_found(home: Home, tmp_path: Path) -> None:
    assert binaries.cached() is None
    tools = binaries.ensure(home)
    assert all(one.is_file() for one in (tools.gitea, tools.buildkitd, tools.buildx))
    assert len(builds(tmp_path)) == 3  # cosign is for tests alone
    assert binaries.ensure(home) == tools == binaries.cached()
    assert len(builds(tmp_path)) == 3


def test_gitea_is_built_as_its_makers_do(home: Home, tmp_path: Path) -> None:
    binaries.ensure(home)
    (gitea,) = [line for line in builds(tmp_path) if line.endswith("code.gitea.io/gitea")]
    assert "-tags sqlite,sqlite_unlock_notify" in gitea
    assert "-X main.Version=1.26.0" in gitea


def test_giteas_folders_are_copied_whole_and_can_be_deleted_again(
    home: Home,
) -> None:
    static = binaries.ensure(home).gitea_static
    files = {str(one.relative_to(static)) for one in static.rglob("*") if one.is_file()}
    assert files == {"templates/home.tmpl", "templates/mail/issue/a.tmpl", "options/x", "public/y"}
    assert (static / "options" / "x").stat().st_mode & 0o777 == 0o644


def test_a_machine_without_a_c_compiler_is_told_so(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GO_FAILS", 'cgo: C compiler "gcc" not found: exec: "gcc": not found')
    with pytest.raises(BinariesError, match=r"no C compiler\n  mend: apt-get install -y gcc"):
        binaries.ensure(home)


def test_the_line_that_is_shown_meanwhile_says_what_waits_for_it(tmp_path: Path) -> None:
    Progress("building", "gitea", 3, 9, time.time()).write(tmp_path)
    assert "images are built when it is done" in Progress.news(tmp_path)
    Progress("building", "kubernetes", 3, 9, time.time()).write(tmp_path)
    assert "the nodes boot when it is done" in Progress.news(tmp_path)
