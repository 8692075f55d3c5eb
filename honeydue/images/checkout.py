"""The application's checkout: which commit it is, and a clean copy of it to build from.

An image tagged 237c6b8 must hold what commit 237c6b8 holds, and the same commit must give the same
bytes on every machine. So BuildKit never sees the checkout itself, where ignored files lie (a .env
with passwords), .git changes with every fetch, and each file's time says when it was cloned:

    stage()   copies what git tracks to .build/<commit>, each file with the time of the last commit
              that touched it

A folder per commit also means that a preview of another commit never changes what an `up` that runs
at the same time is building.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEPT_SECONDS: Final = 7 * 24 * 3600
"""A staged copy that no run has used for so long is removed."""


class CheckoutError(Exception):
    """Why nothing can be built from the checkout; `mend` is the line that helps."""

    def __init__(self, wrong: str, mend: str) -> None:
        super().__init__(wrong)
        self.wrong = wrong
        self.mend = mend


@dataclass(frozen=True)
class Checkout:
    """A checkout as it was when the run began."""

    path: Path
    tag: str
    """`237c6b8`, or `237c6b8-dirty-<12 hex digits of what is not committed>`."""
    times: Mapping[str, int]
    """File, relative to `path` → time of the last commit that touched it, seconds since 1970.
    Every tracked file; of a dirty checkout also those that are neither tracked nor ignored."""

    def time(self, files: Collection[str]) -> int:
        """When the newest of `files` changed (all, when there is none to choose from): what
        SOURCE_DATE_EPOCH should be for an image that is made from them."""
        return max((self.times[file] for file in files), default=max(self.times.values()))


def read(path: Path, *, allow_dirty: bool) -> Checkout:
    """Raises CheckoutError: no checkout, no commit, or something in it is not committed."""
    if not path.is_dir():
        raise CheckoutError(
            f"there is no folder {path}", "git clone <the application> " + str(path)
        )
    if shutil.which("git") is None:
        raise CheckoutError("git is not installed, and it names what is built", "install git")
    if _git(path, "rev-parse", "--is-inside-work-tree", check=False).strip() != "true":
        raise CheckoutError(f"{path} is no git checkout", f"git clone <the application> {path}")
    sha = _git(path, "rev-parse", "--verify", "--quiet", "--short", "HEAD", check=False).strip()
    if not sha:
        raise CheckoutError(f"{path} has no commit yet", f"git -C {path} commit")
    changed = [
        line[3:]
        for line in _git(path, "status", "--porcelain", "-z", "--no-renames", "--", ".").split("\0")
        if line
    ]
    if changed and not allow_dirty:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if changed[5:] else "")
        raise CheckoutError(
            f"{path} holds what is not committed ({shown}): a tag could not say what was built",
            f"git -C {path} commit, or git -C {path} stash; "
            "to try it out all the same: honeydue:image.allowDirty true",
        )
    files = _files(path, dirty=bool(changed))
    if not files:
        raise CheckoutError(f"{path} tracks no file at commit {sha}", f"git -C {path} add")
    times = _times(path, files)
    tag = f"{sha}-dirty-{_content(path, files)[:12]}" if changed else sha
    return Checkout(path, tag, times)


def stage(checkout: Checkout, into: Path) -> Path:
    """The folder to build from: `<into>/<tag>`. Made once, then left alone.

    Two runs may make it at once: each works under a name of its own, and the first to finish wins.
    """
    folder = into / checkout.tag
    into.mkdir(parents=True, exist_ok=True)
    _sweep(into, keep=folder)
    if not folder.is_dir():
        work = Path(tempfile.mkdtemp(prefix=f".{checkout.tag}-", dir=into))
        for name in sorted(checkout.times):
            _copy(checkout.path / name, work / name, checkout.times[name])
        _settle(work)
        try:
            work.rename(folder)
        except OSError:  # the other run was faster
            shutil.rmtree(work)
    os.utime(folder)
    return folder


def _copy(source: Path, target: Path, seconds: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
    elif source.is_file():
        shutil.copyfile(source, target)
        # git knows of a mode's bits only the executable one; the rest is each machine's umask.
        target.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)
    os.utime(target, (seconds, seconds), follow_symlinks=False)


def _settle(folder: Path) -> float:
    """Folders alike everywhere, as `COPY` keeps theirs too: one mode, the newest entry's time."""
    times = [
        _settle(entry) if entry.is_dir() and not entry.is_symlink() else entry.lstat().st_mtime
        for entry in folder.iterdir()
    ]
    newest = max(times, default=0.0)
    folder.chmod(0o755)
    os.utime(folder, (newest, newest))
    return newest


def _sweep(into: Path, keep: Path) -> None:
    for entry in into.iterdir():
        if entry != keep and time.time() - entry.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)


def _files(path: Path, *, dirty: bool) -> list[str]:
    """Relative to `path`. Submodules' files belong to them; a deleted file is no file."""
    listed = _git(path, "ls-files", "-z", "--recurse-submodules").split("\0")
    if dirty:
        listed += _git(path, "ls-files", "-z", "--others", "--exclude-standard").split("\0")
    return sorted(
        {
            name
            for name in listed
            if name and ((path / name).is_file() or (path / name).is_symlink())
        }
    )


def _times(path: Path, files: Collection[str]) -> dict[str, int]:
    """One walk over the history, newest first: the first commit that names a file touched it last.

    What no commit names (a conflict's resolution in a merge, a submodule's file, an uncommitted
    one) has the time of the commit that is checked out.
    """
    wanted = set(files)
    times: dict[str, int] = {}
    log = _git(
        path, "log", "--format=%x01%ct", "--name-only", "-z", "--relative", "HEAD", "--", "."
    )
    seconds = head = int(_git(path, "log", "-1", "--format=%ct", "HEAD"))
    for part in log.split("\0"):
        for word in part.strip("\n").split("\n"):
            if word.startswith("\x01"):
                seconds = int(word[1:])
            elif word in wanted and word not in times:
                times[word] = seconds
    return {file: times.get(file, head) for file in files}


def _content(path: Path, files: Collection[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        file = path / name
        content = os.readlink(file).encode() if file.is_symlink() else file.read_bytes()
        executable = bool(file.lstat().st_mode & stat.S_IXUSR)
        digest.update(f"{name}\0{len(content)}\0{executable}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _git(path: Path, *arguments: str, check: bool = True) -> str:
    """Without the operator's own git settings where these could change what is read."""
    done = subprocess.run(
        ["git", "-C", str(path), "-c", "core.quotePath=false", *arguments],
        capture_output=True,
        check=False,
        env=os.environ | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
    )
    if check and done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise CheckoutError(
            f"git {arguments[0]} fails in {path}: {said[-1] if said else 'it says nothing'}",
            f"git -C {path} status",
        )
    return done.stdout.decode(errors="surrogateescape")
