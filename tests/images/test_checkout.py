"""Which commit it is, and that the same commit is the same bytes wherever it is staged."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from honeydue.images.checkout import CheckoutError, read, stage


class Repository:
    """A git checkout, made unless it is there, whose commits have dates of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            return
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words: str, at: int = 1_700_000_000) -> str:
        who = {f"GIT_{r}_{k}": "x@y.z" for r in ("AUTHOR", "COMMITTER") for k in ("NAME", "EMAIL")}
        dates = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), f"@{at} +0000")
        return subprocess.run(
            ["git", *words], cwd=self.path, env=os.environ | who | dates,
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    def write(self, **files: str) -> None:
        for name, content in files.items():
            file = self.path / name.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    def commit(self, at: int, **files: str) -> None:
        self.write(**files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--no-gpg-sign", "--message", "x", at=at)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "app")
    made.commit(1000, Dockerfile="FROM scratch AS api\n", api__main="one")
    return made


def listing(folder: Path) -> list[tuple[str, str, int, str]]:
    return sorted(
        (
            str(file.relative_to(folder)),
            oct(file.lstat().st_mode),
            int(file.lstat().st_mtime),
            file.read_text() if file.is_file() else "",
        )
        for file in folder.rglob("*")
    )


def test_the_tag_is_the_short_sha_that_git_says(repository: Repository) -> None:
    found = read(repository.path, allow_dirty=False)
    assert found.tag == repository.git("rev-parse", "--short", "HEAD")


def test_each_file_has_the_time_at_which_it_got_its_content(repository: Repository) -> None:
    repository.commit(2000, admin__page="one")
    repository.commit(3000, api__main="two")
    assert read(repository.path, allow_dirty=False).times == {
        "Dockerfile": 1000,
        "admin/page": 2000,
        "api/main": 3000,
    }


def test_the_same_commit_is_staged_alike_from_two_clones(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit(2000, admin__page="x", bin__run="#!/bin/sh\n")
    (repository.path / "bin/run").chmod(0o755)
    (repository.path / "link").symlink_to("admin/page")
    repository.commit(3000)
    repository.git("clone", "--quiet", str(repository.path), str(tmp_path / "clone"))
    os.umask(before := os.umask(0o077))
    try:
        os.umask(0o077)
        one = stage(read(repository.path, allow_dirty=False), tmp_path / "one")
        os.umask(0o022)
        other = stage(read(tmp_path / "clone", allow_dirty=False), tmp_path / "other")
    finally:
        os.umask(before)
    assert listing(one) == listing(other)
    assert {name for name, *_ in listing(one)} == {
        "Dockerfile", "admin", "admin/page", "api", "api/main", "bin", "bin/run", "link",
    }  # fmt: skip


def test_what_git_ignores_never_reaches_the_build(repository: Repository, tmp_path: Path) -> None:
    repository.commit(2000, **{".gitignore": ".env\n"})
    repository.write(**{".env": "POSTGRES_PASSWORD=hunter2"})
    folder = stage(read(repository.path, allow_dirty=False), tmp_path / "staged")
    assert not (folder / ".env").exists()
    assert not (folder / ".git").exists()


def test_a_content_that_comes_back_has_its_old_time(repository: Repository) -> None:
    """BuildKit's cache knows no times: with a new one a warm and a cold build would differ."""
    repository.commit(2000, api__main="two")
    repository.commit(3000, api__main="one")
    assert read(repository.path, allow_dirty=False).times["api/main"] == 1000


def test_a_conflict_that_a_merge_resolved_has_the_merges_time(repository: Repository) -> None:
    repository.git("switch", "--quiet", "--create", "side")
    repository.commit(2000, api__main="side")
    repository.git("switch", "--quiet", "main")
    repository.commit(3000, api__main="main", other="x")
    with pytest.raises(subprocess.CalledProcessError):
        repository.git("merge", "--quiet", "side")
    repository.commit(4000, api__main="both")
    times = read(repository.path, allow_dirty=False).times
    assert (times["api/main"], times["other"], times["Dockerfile"]) == (4000, 3000, 1000)


def test_what_is_staged_is_what_the_commit_holds_whatever_the_files_say(
    repository: Repository, tmp_path: Path
) -> None:
    repository.git("update-index", "--assume-unchanged", "api/main")
    repository.write(api__main="EVIL")
    checkout = read(repository.path, allow_dirty=False)
    folder = stage(checkout, tmp_path / "staged")
    assert (folder / "api/main").read_text() == "one"


def test_an_edit_between_the_look_and_the_copy_does_not_reach_the_build(
    repository: Repository, tmp_path: Path
) -> None:
    checkout = read(repository.path, allow_dirty=False)
    repository.write(api__main="edited meanwhile")
    assert (stage(checkout, tmp_path / "staged") / "api/main").read_text() == "one"


def test_line_ends_of_this_machine_do_not_reach_the_build(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit(2000, text="a\nb\n", **{".gitattributes": "* text=auto\n"})
    repository.git("config", "core.autocrlf", "true")
    folder = stage(read(repository.path, allow_dirty=False), tmp_path / "staged")
    assert (folder / "text").read_bytes() == b"a\nb\n"


def test_a_submodule_is_staged_with_its_files(repository: Repository, tmp_path: Path) -> None:
    library = Repository(tmp_path / "library")
    library.commit(1500, lib="code")
    allow = ("-c", "protocol.file.allow=always")
    repository.git(*allow, "submodule", "--quiet", "add", str(library.path), "vendored")
    repository.commit(2000)
    folder = stage(read(repository.path, allow_dirty=False), tmp_path / "staged")
    assert (folder / "vendored/lib").read_text() == "code"


def test_a_shallow_clone_is_refused(repository: Repository, tmp_path: Path) -> None:
    repository.commit(2000, api__main="two")
    url = f"file://{repository.path}"
    repository.git("clone", "--quiet", "--depth=1", url, str(tmp_path / "clone"))
    with pytest.raises(CheckoutError, match="is a shallow clone") as caught:
        read(tmp_path / "clone", allow_dirty=False)
    assert caught.value.mend == f"git -C {tmp_path / 'clone'} fetch --unshallow"


def test_no_room_is_told_and_leaves_nothing(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = read(repository.path, allow_dirty=False)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "utime", full)
    with pytest.raises(CheckoutError, match="No space left on device") as caught:
        stage(checkout, tmp_path / "staged")
    assert "free some space" in caught.value.mend
    assert [*(tmp_path / "staged").iterdir()] == []


def test_two_runs_that_stage_the_same_commit_at_once_both_get_it_whole(
    repository: Repository, tmp_path: Path
) -> None:
    checkout = read(repository.path, allow_dirty=False)
    with ThreadPoolExecutor(8) as runs:
        folders = [*runs.map(lambda _: stage(checkout, tmp_path / "staged"), range(24))]
    assert {*folders} == {tmp_path / "staged" / checkout.tag}
    assert [*(tmp_path / "staged").iterdir()] == [folders[0]]
    assert {name for name, *_ in listing(folders[0])} == {"Dockerfile", "api", "api/main"}


@pytest.mark.parametrize("change", ["edit", "new", "deleted", "staged", "mode"])
def test_a_dirty_checkout_is_refused_and_what_is_dirty_is_named(
    repository: Repository, change: str
) -> None:
    match change:
        case "edit":
            repository.write(api__main="two")
        case "new":
            repository.write(api__new="x")
        case "deleted":
            (repository.path / "api/main").unlink()
        case "staged":
            repository.write(api__main="two")
            repository.git("add", "--all")
        case "mode":
            (repository.path / "api/main").chmod(0o755)
    with pytest.raises(CheckoutError, match=r"not committed \(api/") as caught:
        read(repository.path, allow_dirty=False)
    assert "honeydue:image.allowDirty" in caught.value.mend


def test_an_allowed_dirty_checkout_is_tagged_by_its_content(repository: Repository) -> None:
    sha = repository.git("rev-parse", "--short", "HEAD")
    tags = []
    for content in ("two", "three", "two"):
        repository.write(api__main=content)
        tags.append(read(repository.path, allow_dirty=True).tag)
    assert tags[0] == tags[2] != tags[1]
    assert all(tag.startswith(f"{sha}-dirty-") for tag in tags)
    assert len(tags[0]) == len(f"{sha}-dirty-") + 12


def test_a_dirty_checkout_is_staged_as_it_stands(repository: Repository, tmp_path: Path) -> None:
    repository.write(api__main="two", api__new="x")
    (repository.path / "Dockerfile").unlink()
    folder = stage(read(repository.path, allow_dirty=True), tmp_path / "staged")
    assert {name: text for name, _, _, text in listing(folder) if text} == {
        "api/main": "two",
        "api/new": "x",
    }


def test_a_folder_of_a_repository_is_staged_alone(repository: Repository) -> None:
    repository.commit(2000, other="x")
    assert set(read(repository.path / "api", allow_dirty=False).times) == {"main"}


def test_what_is_staged_once_is_left_alone(repository: Repository, tmp_path: Path) -> None:
    """An `up` may be building from it while a preview of the same commit begins."""
    checkout = read(repository.path, allow_dirty=False)
    folder = stage(checkout, tmp_path / "staged")
    inode = (folder / "api/main").stat().st_ino
    assert stage(checkout, tmp_path / "staged") == folder
    assert (folder / "api/main").stat().st_ino == inode


def test_old_copies_are_swept(repository: Repository, tmp_path: Path) -> None:
    old, recent = tmp_path / "staged/0000000", tmp_path / "staged/1111111"
    for folder in (old, recent):
        folder.mkdir(parents=True)
    os.utime(old, (1, 1))
    stage(read(repository.path, allow_dirty=False), tmp_path / "staged")
    assert not old.exists()
    assert recent.exists()


@pytest.mark.parametrize("case", ["missing", "plain", "empty"])
def test_what_is_no_checkout_is_told_with_a_line_that_mends_it(case: str, tmp_path: Path) -> None:
    path = tmp_path / "app"
    if case == "plain":
        path.mkdir()
    if case == "empty":
        Repository(path)
    words = {"missing": "no folder", "plain": "no git checkout", "empty": "no commit"}
    with pytest.raises(CheckoutError, match=words[case]) as caught:
        read(path, allow_dirty=False)
    assert str(path) in caught.value.mend


def test_the_newest_of_some_files_dates_an_image(repository: Repository) -> None:
    repository.commit(2000, admin__page="one")
    repository.commit(3000, readme="x")
    found = read(repository.path, allow_dirty=False)
    assert found.time(["api/main", "admin/page"]) == 2000
    assert found.time(["api/main"]) == 1000
    assert found.time([]) == 3000
