"""What a Dockerfile says about its targets: which there are, and which files each is made from.

Only what `COPY`, `ADD` and bind mounts take from the build context is looked at; everything that is
not understood (a variable in a source, say) counts as "the whole context", which is never wrong,
only less sharp. Reference: docs.docker.com/reference/dockerfile.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

EVERYTHING = "**"


@dataclass
class Stage:
    """One `FROM … AS name`: what it builds on, and what it takes from the context."""

    name: str
    base: str
    sources: set[str] = field(default_factory=set)
    from_stages: set[str] = field(default_factory=set)


def stages(text: str) -> list[Stage]:
    """In the file's order. Unnamed ones go by their number, as Docker lets them be referred to."""
    found: list[Stage] = []
    for instruction, rest in _instructions(text):
        if instruction == "FROM":
            words = [word for word in rest.split() if not word.startswith("--")]
            name = words[2] if len(words) == 3 and words[1].upper() == "AS" else str(len(found))
            found.append(Stage(name=name.lower(), base=words[0].lower() if words else ""))
        elif found and instruction in ("COPY", "ADD"):
            _copied(found[-1], rest)
        elif found and instruction == "RUN":
            _mounted(found[-1], rest)
    return found


def targets(text: str) -> list[str]:
    """The names that `target` may be."""
    return [stage.name for stage in stages(text) if not stage.name.isdigit()]


def sources(text: str, target: str) -> set[str]:
    """Patterns below the context's root that `target` is made from, itself or by other stages."""
    by_name: dict[str, Stage] = {}
    for number, stage in enumerate(stages(text)):
        by_name[str(number)] = stage
        by_name[stage.name] = stage  # a later stage of the same name hides the earlier, as Docker's
    wanted: set[str] = set()
    todo, seen = [target.lower()], set[str]()
    while todo:
        name = todo.pop()
        if name in seen or name not in by_name:
            continue  # another image, not a stage
        seen.add(name)
        stage = by_name[name]
        wanted |= stage.sources
        todo += [stage.base, *stage.from_stages]
    return wanted


def matching(patterns: Collection[str], files: Iterable[str]) -> Iterator[str]:
    """The files that a pattern covers: the file itself, what lies below it, or a wildcard's."""
    for file in files:
        if any(_covers(pattern, file) for pattern in patterns):
            yield file


def not_ignored(dockerignore: str, files: Iterable[str]) -> Iterator[str]:
    """The files that a `.dockerignore` lets into the context: the last pattern that fits counts,
    and one fits a file also by a folder above it (docs.docker.com, "Build context")."""
    rules: list[tuple[bool, re.Pattern[str]]] = []
    for raw in dockerignore.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        lets_in = line.startswith("!")
        pattern = line.removeprefix("!").strip().strip("/").removeprefix("./")
        rules.append((lets_in, re.compile(_regular(pattern) + "(/.*)?", re.DOTALL)))
    for file in files:
        fitting = [lets_in for lets_in, rule in rules if rule.fullmatch(file)]
        if not fitting or fitting[-1]:
            yield file


def _regular(pattern: str) -> str:
    words = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(words.get(part, re.escape(part)) for part in parts)


def _covers(pattern: str, file: str) -> bool:
    if pattern in (EVERYTHING, file) or file.startswith(pattern + "/"):
        return True
    # fnmatch's `*` also crosses `/`, Docker's does not: more files than needed, never fewer.
    return fnmatchcase(file, pattern) or fnmatchcase(file, pattern + "/*")


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """(`COPY`, everything behind it) with continued lines joined and here-documents left out."""
    escape = "`" if re.match(r"(?:#.*\n)*#\s*escape\s*=\s*`", text, re.IGNORECASE) else "\\"
    lines = iter(text.splitlines())
    for first in lines:
        line = first.strip()
        if not line or line.startswith("#"):
            continue
        while line.endswith(escape):
            line = line[: -len(escape)]
            for more in lines:
                if more.strip() and not more.lstrip().startswith("#"):
                    line += " " + more.strip()
                    break
            else:
                break
        instruction, _, rest = line.partition(" ")
        for word in re.findall(r"<<-?[\"']?([A-Za-z_][A-Za-z0-9_]*)[\"']?", rest):
            for body in lines:
                if body.strip() == word:
                    break
        yield instruction.upper(), rest.strip()


def _copied(stage: Stage, rest: str) -> None:
    flags, words = _flags(rest)
    if "from" in flags:
        stage.from_stages.add(flags["from"].lower())
        return
    if words is None:
        stage.sources.add(EVERYTHING)
        return
    for source in words[:-1]:
        if "://" in source or source.startswith(("<<", "git@")):
            continue
        clean = source.removeprefix("./").strip("/")
        stage.sources.add(EVERYTHING if clean in ("", ".") or "$" in clean else clean)


def _mounted(stage: Stage, rest: str) -> None:
    for mount in re.findall(r"--mount=(\S+)", rest):
        options: dict[str, str] = dict(part.partition("=")[::2] for part in mount.split(","))
        if options.get("type", "bind") != "bind":
            if "from" in options:  # a cache that begins as another stage's content
                stage.from_stages.add(options["from"].lower())
        elif "from" in options:
            stage.from_stages.add(options["from"].lower())
        else:
            source = options.get("source") or options.get("src") or ""
            source = source.removeprefix("./").strip("/")
            stage.sources.add(EVERYTHING if source in ("", ".") or "$" in source else source)


def _flags(rest: str) -> tuple[dict[str, str], Sequence[str] | None]:
    """(`--from=builder` and the like, the words behind them); None: could not be split."""
    flags: dict[str, str] = {}
    while found := re.match(r"--([a-z-]+)(?:=(\S*))?\s+", rest):
        flags[found[1]] = found[2] or ""
        rest = rest[found.end() :]
    if rest.startswith("["):
        words = re.findall(r'"((?:[^"\\]|\\.)*)"', rest)
        return flags, words or None
    try:
        return flags, shlex.split(rest)
    except ValueError:
        return flags, None
