"""`config set` and `rm`: one value of a stack's settings file, everything else as it stands."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from yaml import YAMLError, safe_load

from rehearsal.engine.errors import EngineError

Encrypt = Callable[[str], str]


def set_value(file: Path, key: str, value: str, encrypt: Encrypt | None, *, by_path: bool) -> None:
    """`key` is `honeydue:protect`, with `by_path` also `honeydue:cluster.nodes[0].generation`.

    As the CLI does: by path, `true`, `false` and whole numbers are what they look like; a secret
    is always text. `encrypt`: the value is a secret.
    """
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString  # noqa: PLC0415 - these verbs'

    yaml, content = _read(file)
    steps = _steps(key) if by_path else [key]
    at: Any = content.setdefault("config", {})
    for step, following in pairwise(steps):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(at, list) and isinstance(step, int) and step == len(at):
            at.append(empty)
        elif isinstance(at, dict) and at.get(step) is None:
            at[step] = empty
        at = _inside(at, step, key)
    last = steps[-1]
    plain: Any = value
    if by_path and encrypt is None and re.fullmatch(r"true|false|-?(0|[1-9][0-9]*)", value):
        plain = value == "true" if value in ("true", "false") else int(value)
    if isinstance(plain, str) and not _is_text(plain):
        plain = DoubleQuotedScalarString(plain)  # `yes`, `1:30`: text in YAML 1.2, not in 1.1
    entry = {"secure": encrypt(value)} if encrypt else plain
    if isinstance(at, list) and isinstance(last, int) and last <= len(at):
        at[last : last + 1] = [entry]
    elif isinstance(at, dict) and isinstance(last, str):
        at[last] = entry
    else:
        raise EngineError(f"{key}: what it leads to is no object with such a place")
    _write(file, yaml, content)


def remove_value(file: Path, key: str, *, by_path: bool) -> None:
    """Takes `key` out. As with the CLI, one that is not there is no error."""
    yaml, content = _read(file)
    *way, last = _steps(key) if by_path else [key]
    at: Any = content.get("config") or {}
    try:
        for step in way:
            at = at[step]
        del at[last]
    except (LookupError, TypeError):
        return
    _write(file, yaml, content)


def _read(file: Path) -> tuple[Any, Any]:
    """(the YAML that it is written back with, its content)"""
    from ruamel.yaml import YAML  # noqa: PLC0415 - for these verbs alone; it keeps the comments

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # a ciphertext stays on one line
    try:
        return yaml, yaml.load(file.read_text())
    except OSError as error:
        raise EngineError(f"cannot read {file}: {error.strerror}") from error


def _write(file: Path, yaml: Any, content: Any) -> None:
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    with fresh.open("w") as out:
        yaml.dump(content, out)
    fresh.chmod(file.stat().st_mode)
    fresh.replace(file)


def _is_text(value: str) -> bool:
    """Whether it would be read as text without quotes, by those who read this file."""
    try:
        return isinstance(safe_load(value), str)
    except YAMLError:
        return True  # in need of quotes for another reason, which is ruamel's to see


def _steps(key: str) -> list[str | int]:
    head, *rest = re.findall(r"[^.\[\]]+|\[\d+\]", key)
    return [head, *(int(part[1:-1]) if part.startswith("[") else part for part in rest)]


def _inside(at: Any, step: str | int, key: str) -> Any:
    try:
        return at[step]
    except (LookupError, TypeError):
        raise EngineError(f"{key}: there is no {step!r} on the way") from None
