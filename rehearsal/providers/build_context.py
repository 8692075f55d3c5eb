"""What of a checkout a build depends on: its hash, its ignore rules, its Dockerfile's syntax.

The hash is byte for byte that of the `docker-build` plugin (`contextHash`), so a state written by
either is unchanged for the other. It covers, in the order of a directory walk, each file's bytes,
its path and its mode as Go prints it; of a symbolic link the bytes behind it. The Dockerfile's own
bytes come first, without its name, because `.dockerignore` may exclude it.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, Protocol

_CHUNK: Final = 1 << 20  # bytes


class ContextError(Exception):
    """Why a context cannot be hashed: the file and the system's reason."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def context_hash(context: str, dockerfile: str, named: Mapping[str, str]) -> str:
    """64 hex digits. What is not on this disk (a URL, an unknown location) adds nothing.

    Raises ContextError.
    """
    digest = hashlib.sha256()
    # An empty location is an unknown one; Path("") would be the current folder.
    folder = Path(context) if context else None
    file = Path(dockerfile) if dockerfile else None
    try:
        rules = ignore_rules(folder, file)
        if file is not None and file.is_file():
            digest.update(file.read_bytes())
        if folder is not None and folder.is_dir():
            _add(digest, folder, rules)
        for _, location in sorted(named.items()):
            if location and Path(location).is_dir():
                _add(digest, Path(location), ignore_rules(Path(location), None))
    except OSError as error:
        raise ContextError(f"{error.filename}: {error.strerror}") from None
    except re.error as error:
        raise ContextError(f".dockerignore: {error.pattern!r} is no pattern: {error.msg}") from None
    return digest.hexdigest()


def _add(
    digest: _Hash, root: Path, rules: Sequence[str], at: str = "", above: Sequence[bool] = ()
) -> None:
    """Each folder's entries in the order of their names' bytes, deeper ones in their place."""
    with os.scandir(root / at) as entries:
        ordered = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in ordered:
        path = posixpath.join(at, entry.name)
        out, fitted = judged(path, rules, above)
        if entry.is_dir(follow_symlinks=False):
            # A `!rule` may take something back in, so only then is an excluded one looked into.
            if not out or any(rule.startswith("!") for rule in rules):
                _add(digest, root, rules, path, fitted)
            continue
        mode = entry.stat(follow_symlinks=False).st_mode
        if out or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            continue
        try:
            with Path(entry.path).open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except IsADirectoryError:
            continue  # a symbolic link to a folder
        except FileNotFoundError:
            return  # one that leads nowhere: the plugin's walk leaves the rest of this folder out
        digest.update(os.fsencode(path) + _go_mode(mode).encode())


def _go_mode(mode: int) -> str:
    """Go's `FileMode.String()` of a file or link: `-rw-r--r--`, `Lrwxrwxrwx`, `urwxr-xr-x`."""
    marks = "".join(
        letter
        for letter, is_set in (
            ("L", stat.S_ISLNK(mode)),
            ("u", mode & stat.S_ISUID),
            ("g", mode & stat.S_ISGID),
            ("t", mode & stat.S_ISVTX),
        )
        if is_set
    )
    bits = "".join(
        letter if mode >> (8 - place) & 1 else "-" for place, letter in enumerate("rwxrwxrwx")
    )
    return (marks or "-") + bits


# --- .dockerignore -------------------------------------------------------------------------------


def ignore_rules(context: Path | None, dockerfile: Path | None) -> list[str]:
    """`<Dockerfile>.dockerignore` if there is one, else the context's `.dockerignore`."""
    candidates = [Path(f"{dockerfile}.dockerignore")] if dockerfile is not None else []
    if context is not None and context.is_dir():
        candidates.append(context / ".dockerignore")
    for file in candidates:
        if file.is_file():
            return _parse_rules(file.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    return []


def _parse_rules(text: str) -> list[str]:
    rules = []
    for line in text.split("\n"):
        rule = line.strip()
        if not rule or line.startswith("#"):
            continue
        mark = "!" if rule.startswith("!") else ""
        rule = rule.removeprefix("!").strip()
        if rule:
            rule = posixpath.normpath(rule)
            rule = rule.lstrip("/") if len(rule) > 1 else rule
        rules.append(mark + rule)
    return rules


def judged(path: str, rules: Sequence[str], above: Sequence[bool]) -> tuple[bool, tuple[bool, ...]]:
    """Whether a path is left out, and which rules fitted it; `above`: those of the folder it is in.

    The last rule that fits decides. What fitted a folder fits all that is in it; but a rule that
    could change nothing at the folder was not tried there, and is not tried on its behalf later (so
    `*.md` and `!docs` leave `docs/a.md` out). BuildKit chooses by the same walk what it sends.
    """
    out = False
    fitted = []
    for rule, fits_above in zip(rules, above or [False] * len(rules), strict=True):
        back = rule.startswith("!")
        fits = fits_above or (out is back and bool(_expression(rule[back:]).fullmatch(path)))
        fitted.append(fits)
        if fits:
            out = not back
    return out, tuple(fitted)


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    """Docker's patterns: `*` and `?` within one name, `**` over any number of folders."""
    out, at = "", 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*" and pattern[at : at + 1] == "*":
            at += 1
            at += pattern[at : at + 1] == "/"
            out += ".*" if at >= len(pattern) else "(.*/)?"
        elif letter in "*?":
            out += "[^/]*" if letter == "*" else "[^/]"
        elif letter == "\\" and at < len(pattern):
            out += re.escape(pattern[at])
            at += 1
        else:
            out += letter if letter in "[]^-" else re.escape(letter)
    return re.compile(out, re.S)


# --- the Dockerfile's syntax ---------------------------------------------------------------------

# How many words an instruction needs at least.
_INSTRUCTIONS: Final = {
    "ADD": 2,
    "ARG": 1,
    "CMD": 0,
    "COPY": 2,
    "ENTRYPOINT": 0,
    "ENV": 1,
    "EXPOSE": 1,
    "FROM": 1,
    "HEALTHCHECK": 1,
    "LABEL": 1,
    "MAINTAINER": 1,
    "ONBUILD": 1,
    "RUN": 1,
    "SHELL": 1,
    "STOPSIGNAL": 1,
    "USER": 1,
    "VOLUME": 1,
    "WORKDIR": 1,
}
_WITH_HEREDOC: Final = frozenset({"RUN", "COPY", "ADD"})
_HEREDOC: Final = re.compile(r"""\d*<<-?(["']?)([A-Za-z_][A-Za-z0-9_]*)\1""")
_DIRECTIVE: Final = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")


def dockerfile_problem(text: str) -> str | None:
    """What makes BuildKit refuse the file before it builds anything, or None.

    The plugin has BuildKit's own parser; this one knows the instructions, how many words they
    need, continued lines, heredocs and where a stage begins. What it lets pass, the build finds.
    """
    staged = False
    try:
        for number, words in _instructions(text):
            name = words[0].upper()
            needed = _INSTRUCTIONS.get(name)
            if needed is None:
                return f"dockerfile parse error on line {number}: unknown instruction: {words[0]}"
            given = [word for word in words[1:] if not word.startswith("--")]
            if len(given) < needed and not (given and given[0].startswith("[")):
                few = "one argument" if needed == 1 else "two arguments"
                return f"dockerfile parse error on line {number}: {name} requires at least {few}"
            if name == "FROM":
                if len(given) != 1 and (len(given) != 3 or given[1].upper() != "AS"):
                    return (
                        f"dockerfile parse error on line {number}: "
                        "FROM requires either one or three arguments"
                    )
                staged = True
            elif not staged and name != "ARG":
                return f"dockerfile parse error on line {number}: no build stage in current context"
    except EOFError as error:
        return str(error)
    return None if staged else "file with no instructions"


def _instructions(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, words) of each instruction. EOFError: a heredoc that does not end."""
    lines = text.removeprefix("\ufeff").split("\n")
    escape, at = _escape(lines), 0
    while at < len(lines):
        first = at + 1
        parts: list[str] = []
        continued = True
        while continued and at < len(lines):
            line = lines[at]
            at += 1
            # Comments and empty lines may stand between the parts of one instruction.
            if line.lstrip().startswith("#") or (parts and not line.strip()):
                continued = bool(parts)
                continue
            continued = line.rstrip().endswith(escape)
            parts.append(line.rstrip().removesuffix(escape) if continued else line)
        if not (words := " ".join(parts).split()):
            continue
        if words[0].upper() in _WITH_HEREDOC:
            at = _after_heredocs(words, lines, at)
        yield first, words


def _escape(lines: Sequence[str]) -> str:
    """A backslash, unless a directive at the very top says otherwise."""
    for line in lines:
        found = _DIRECTIVE.fullmatch(line.strip())
        if found is None:
            break
        if found[1].lower() == "escape":
            return found[2]
    return "\\"


def _after_heredocs(words: Sequence[str], lines: Sequence[str], at: int) -> int:
    try:
        quoted = shlex.split(" ".join(words), posix=False)  # a quoted `<<` begins nothing
    except ValueError:
        quoted = list(words)
    for found in filter(None, map(_HEREDOC.fullmatch, quoted)):
        start = at
        while at < len(lines) and lines[at].lstrip("\t").rstrip("\r") != found[2]:
            at += 1
        if at == len(lines):
            raise EOFError(f"dockerfile parse error on line {start}: unterminated heredoc")
        at += 1
    return at
