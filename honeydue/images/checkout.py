"""The application's checkout: which commit it is, and a clean copy of it to build from.

An image tagged 237c6b8 must hold what commit 237c6b8 holds, and the same commit must give the same
bytes on every machine. So BuildKit never sees the checkout itself, where ignored files lie (a .env
with passwords), .git changes with every fetch, and each file's time says when it was cloned:

    stage()   writes what the commit holds to .build/<commit>, each file with the time at which a
              commit first gave it that content

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
from contextlib import suppress
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
    tree: str
    """git's name of what the commit holds below `path`; empty: dirty, so the files count."""
    times: Mapping[str, int]
    """File, relative to `path` → when a commit first gave it the content that it has, in seconds
    since 1970. Every tracked file; of a dirty checkout also what is neither tracked nor ignored."""

    def time(self, files: Collection[str]) -> int:
        """When the newest of `files` came to be (of all, when there is none to choose from): what
        SOURCE_DATE_EPOCH should be for an image that is made from them. A content that comes back
        (a revert) has its old time, so that the image is the old one too."""
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
    if _git(path, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise CheckoutError(
            f"{path} is a shallow clone: without the history nothing says how old a file is, and "
            "the same commit would give other images than elsewhere",
            f"git -C {path} fetch --unshallow",
        )
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
    times = _times(path, files, changed=changed)
    if changed:
        return Checkout(path, f"{sha}-dirty-{_content(path, files)[:12]}", "", times)
    return Checkout(path, sha, _git(path, "rev-parse", "HEAD:./").strip(), times)


def stage(checkout: Checkout, into: Path) -> Path:
    """The folder to build from: `<into>/<tag>`. Made once, then left alone.

    Two runs may make it at once: each works under a name of its own, and the first to finish wins.
    Raises CheckoutError, also when there is no room.
    """
    folder = into / checkout.tag
    work: Path | None = None
    try:
        into.mkdir(parents=True, exist_ok=True)
        _sweep(into, keep=folder)
        if not folder.is_dir():
            work = Path(tempfile.mkdtemp(prefix=f".{checkout.tag}-", dir=into))
            _fill(work, checkout)
            with suppress(OSError):  # the other run was faster
                work.rename(folder)
        os.utime(folder)
    except OSError as error:
        raise CheckoutError(
            f"{checkout.path} cannot be copied to {into}: {error.strerror or error}",
            f"free some space, or make it writable: {into}",
        ) from None
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _fill(work: Path, checkout: Checkout) -> None:
    if checkout.tree:
        # From git itself, not from the files: these may differ in ways that `status` does not tell
        # (assume-unchanged, line ends of this machine), or be edited at this moment.
        index = {"GIT_INDEX_FILE": str(work.resolve() / ".index")}
        _git(checkout.path, "read-tree", checkout.tree, environment=index)
        git = _git(checkout.path, "rev-parse", "--absolute-git-dir").strip()
        place = ("--git-dir", git, "--work-tree", str(work.resolve()))
        plain = ("-c", "core.autocrlf=false", "-c", "core.eol=lf")
        out = ("checkout-index", "--all", "--force")
        _git(work, *place, *plain, *out, environment={"GIT_INDEX_FILE": ".index"})
        (work / ".index").unlink()
    for name, seconds in sorted(checkout.times.items()):
        target = work / name
        if not (target.is_file() or target.is_symlink()):  # dirty, or a submodule's
            _copy(checkout.path / name, target)
        if not target.is_symlink() and target.is_file():
            # git knows of a mode's bits only the executable one; the rest is each machine's umask.
            target.chmod(0o755 if target.stat().st_mode & stat.S_IXUSR else 0o644)
        os.utime(target, (seconds, seconds), follow_symlinks=False)
    _settle(work)
    os.utime(work)  # or another run's sweep would take it for an old one


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
    else:
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


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
        with suppress(FileNotFoundError):  # another run sweeps as well
            # A copy under way is dated back while it is made; when it was begun nobody changes.
            seen = entry.stat()
            age = time.time() - (seen.st_ctime if entry.name.startswith(".") else seen.st_mtime)
            if entry != keep and age > KEPT_SECONDS:
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


def _times(path: Path, files: Collection[str], changed: Collection[str]) -> dict[str, int]:
    """One walk over the history: the oldest commit that gave a file the content it has now.

    What no commit names (a submodule's file, one that is not committed) has the time of the commit
    that is checked out.
    """
    blobs = {}
    for line in _git(path, "ls-files", "--stage", "-z").split("\0"):
        about, _, name = line.partition("\t")
        if name and name not in changed:
            blobs[name] = about.split()[1]
    times: dict[str, int] = {}
    # Each merge against each of its parents, or a conflict's resolution would have no time.
    what = ("--format=%x01%ct", "--raw", "-z", "--no-abbrev", "--no-renames", "-m", "--relative")
    log = _git(path, "log", *what, "HEAD", "--", ".")
    seconds = head = int(_git(path, "log", "-1", "--format=%ct", "HEAD"))
    blob = ""
    for part in log.split("\0"):
        word = part.strip("\n")
        if word.startswith("\x01"):
            seconds = int(word[1:])
        elif word.startswith(":"):
            blob = word.split(" ")[3]
        elif word and blobs.get(word) == blob:
            times[word] = min(seconds, times.get(word, seconds))
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


def _git(
    path: Path, *arguments: str, check: bool = True, environment: Mapping[str, str] | None = None
) -> str:
    """Without the operator's own git settings where these could change what is read."""
    done = subprocess.run(
        ["git", "-C", str(path), "-c", "core.quotePath=false", *arguments],
        capture_output=True,
        check=False,
        env=os.environ | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"} | dict(environment or {}),
    )
    if check and done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise CheckoutError(
            f"git {arguments[0]} fails in {path}: {said[-1] if said else 'it says nothing'}",
            f"git -C {path} status",
        )
    return done.stdout.decode(errors="surrogateescape")
