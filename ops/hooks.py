"""Scripts of the operator's own around a release: deploy/hooks/ (its README says what they get).

    before-deploy   may refuse the release: nothing is changed then
    after-deploy    the release runs and its URLs answer
    on-failure      it failed, whether or not production is back at the last good release

Only the first one's exit code counts. What is deployed well is not called bad because a chat did
not take a message.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from rich.console import Console
from rich.text import Text

from ops.child import lines
from ops.masking import Hide, hiding
from ops.problems import Problem, Refused, refused

Name = Literal["before-deploy", "after-deploy", "on-failure"]

NAMES: Final[tuple[Name, ...]] = ("before-deploy", "after-deploy", "on-failure")
FOLDER: Final = "deploy/hooks"
SECONDS: Final = 300.0
_GRACE: Final = 5.0  # seconds between SIGTERM and SIGKILL
_LAST: Final = 5  # lines in a refusal

# A hook and all that it starts inherit the environment, and a chat message needs neither the key
# of the state nor the vendors' tokens. HOOK_… is how one hands a hook a secret of its own.
_SECRET: Final = re.compile(
    r"TOKEN|SECRET|PASSPHRASE|PASSWORD|PASSWD|CREDENTIAL|PRIVATE_?KEY|ACCESS_?KEY|API_?KEY"
)
_OWN: Final = "HOOK_"
_SEQUENCE: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Image(TypedDict):
    """What a service runs: `tag` "" when it is known by its digest alone."""

    tag: str
    digest: str
    reference: str


class Release(TypedDict):
    """What a hook reads as JSON on its standard input."""

    verb: Literal["deploy", "rollback"]
    stack: str
    number: int | None  # None: it has none yet (before-deploy), or never got one
    tag: str
    services: Mapping[str, Image]
    by: str
    at: str  # RFC 3339
    urls: Mapping[str, str]
    outcome: Literal["", "succeeded", "failed", "rolled back"]  # "": not known yet
    reason: str
    rollback: Literal["", "succeeded", "failed"]  # "": there was none


@dataclass(frozen=True)
class _Ended:
    """`wrong`: "" when it ended well; else the rest of the sentence `<hook> …`."""

    wrong: str
    mend: str
    last: tuple[str, ...] = ()


def check(repository: Path) -> None:
    """Raises Refused for every hook that could not be run, before one is needed."""
    problems: list[Problem] = []
    for name in NAMES:
        try:
            find(name, repository)
        except Refused as cause:
            problems += cause.problems
    problems += _never_run(repository)
    if problems:
        raise Refused(*problems)


def find(name: Name, repository: Path) -> Path | None:
    """`before-deploy` or `before-deploy.<any>`; None: there is none. Raises Refused when there are
    two, or when it cannot be run."""
    found = [path for path in _files(repository) if _called(path) == name]
    if not found:
        return None
    shown = [f"{FOLDER}/{path.name}" for path in found]
    if len(found) > 1:
        raise refused(
            f"{' and '.join(shown)}: only one can be the hook {name}",
            f"mv {shown[-1]} {shown[-1]}.sample, which is never run",
        )
    (path,) = found
    if not path.is_file():
        raise refused(f"{shown[0]} is no file", f"rm {shown[0]}, or mend what it points to")
    if not os.access(path, os.X_OK):
        raise refused(f"{shown[0]} is not executable, so it cannot be run", f"chmod +x {shown[0]}")
    return path


def run(
    name: Name,
    release: Mapping[str, Any],
    console: Console,
    *,
    folder: Path,
    hide: Hide | None = None,
    seconds: float = SECONDS,
) -> bool:
    """Runs the hook, if there is one; whether all was well. `folder`: the repository, in which it
    runs. `hide` masks in what it prints, beside what was kept out of its environment.

    Raises Refused when before-deploy says no or cannot be run; of the others that is a warning.
    Ctrl-C ends the hook and goes on its way (KeyboardInterrupt)."""
    try:
        path = find(name, folder)
        if path is None:
            return True
        console.print(Text(f"hook {name} ({FOLDER}/{path.name})"))
        began = time.monotonic()
        show = _showing(console, hide)
        ended = _run(path, json.dumps(release, indent=2), folder, show, seconds)
        if ended.wrong:
            raise _refusal(name, path, ended)
    except Refused as cause:
        if name == "before-deploy":
            raise
        for problem in cause.problems:
            console.print(Text("warning: ", style="yellow") + Text(str(problem)), soft_wrap=True)
        return False
    console.print(Text(f"  done ({time.monotonic() - began:.1f} s)"))
    return True


def _refusal(name: Name, path: Path, ended: _Ended) -> Refused:
    so = {
        "before-deploy": "the release is refused, and nothing was changed",
        "after-deploy": "the release is as good as before",
        "on-failure": "what was told above stands",
    }[name]
    said = "".join(f"\n    | {line}" for line in ended.last) if name == "before-deploy" else ""
    return refused(f"{FOLDER}/{path.name} {ended.wrong}: {so}{said}", ended.mend)


# --- the files ----------------------------------------------------------------------------------


def _files(repository: Path) -> list[Path]:
    try:
        entries = sorted((repository / FOLDER).iterdir())
    except FileNotFoundError:
        return []
    except OSError as cause:
        raise refused(
            f"{FOLDER} cannot be read: {cause.strerror}", f"chmod u+rx {FOLDER}"
        ) from None
    return [path for path in entries if path.suffix != ".sample" and path.name[0] not in ".#"]


def _called(path: Path) -> str:
    return path.name.partition(".")[0]


def _never_run(repository: Path) -> Iterator[Problem]:
    """`pre-deploy.sh` would lie there for a year and never be run."""
    for path in _files(repository):
        if _called(path) not in NAMES and path.is_file() and os.access(path, os.X_OK):
            yield Problem(
                f"{FOLDER}/{path.name} would never be run: hooks are called {', '.join(NAMES)}",
                f"rename it; a script that a hook calls belongs into a folder: {FOLDER}/lib/",
            )


# --- the process --------------------------------------------------------------------------------


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What a hook inherits of it."""
    return {key: value for key, value in given.items() if not _kept_out(key)}


def _kept_out(key: str) -> bool:
    return not key.startswith(_OWN) and _SECRET.search(key.upper()) is not None


Show = Callable[[str], str]


def _showing(console: Console, hide: Hide | None) -> Show:
    """Prints a line, and gives it back as it was shown."""
    own = hiding(value for key, value in os.environ.items() if _kept_out(key))

    def show(line: str) -> str:
        bare = _CONTROL.sub("", _SEQUENCE.sub("", line.expandtabs(4))).rstrip()
        shown = own(hide(bare) if hide is not None else bare)
        console.print(Text(f"    {shown}"), soft_wrap=True)
        return shown

    return show


def _run(path: Path, release: str, folder: Path, show: Show, seconds: float) -> _Ended:
    last: deque[str] = deque(maxlen=_LAST)
    limit, in_time = time.monotonic() + seconds, True
    # Files and no pipes: a hook need not read what it gets, nor end together with what it starts.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as told:
        given.write(release.encode() + b"\n")
        given.seek(0)
        try:
            child = subprocess.Popen(
                [str(path.resolve())],
                cwd=folder,
                env=environment(os.environ),
                stdin=given,
                stdout=told,
                stderr=subprocess.STDOUT,
                # A group of its own, so that what it has started ends with it.
                start_new_session=True,
            )
        except OSError as cause:
            return _not_begun(path, cause)
        try:
            for line in lines(told, child):
                if line is not None:
                    last.append(show(line))
                elif in_time and time.monotonic() > limit:
                    in_time = False
                    _end(child)
        except BaseException:
            _end(child)
            raise
    if not in_time:
        wrong = f"was not done within {seconds:g} s, and was ended"
        return _Ended(wrong, "let it do less, or go on by itself (nohup … &)", tuple(last))
    if child.returncode < 0:
        wrong = f"was ended by {signal.Signals(-child.returncode).name}"
    else:
        wrong = f"ended with {child.returncode}" if child.returncode else ""
    shown = f"{FOLDER}/{path.name}"
    mend = f"mend what it says; or without it: mv {shown} {shown}.sample"
    return _Ended(wrong, mend, tuple(last))


def _not_begun(path: Path, cause: OSError) -> _Ended:
    """The kernel's words for a script are about its first line."""
    first = ""
    with suppress(OSError), path.open("rb") as file:
        first = file.readline(200).decode(errors="replace").strip()
    shown = f"{FOLDER}/{path.name}"
    if not first.startswith("#!"):
        wrong = f"cannot be run ({cause.strerror}): its first line names no interpreter"
        return _Ended(wrong, f"{shown}: #!/bin/sh as its first line")
    return _Ended(f"cannot be run: {first}: {cause.strerror}", f"{shown}: mend its first line")


def _end(child: subprocess.Popen[bytes]) -> None:
    """With all of its group."""
    for how, grace in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, how)
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace)
            return
