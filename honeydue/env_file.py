"""Reads an env file exactly: `KEY=value` a line, nothing expanded, nothing unquoted, nothing run.

The values go into a ConfigMap as they stand, as `kubectl create configmap --from-env-file` takes
them; what a shell would treat in another way is refused rather than guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from honeydue.problems import Problem


def read(content: bytes, name: str) -> tuple[dict[str, str | None] | None, list[Problem]]:
    """(key → value as written, problems). `name` is the file as the operator knows it.

    A key whose value was refused here maps to None, so that no later rule calls it missing.
    None instead of the whole: the file is no text.
    """
    problems: list[Problem] = []

    def refuse(where: str, wrong: str, mend: str) -> None:
        problems.append(Problem(f"{name}: {where}", wrong, mend))

    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = content.count(b"\n", 0, error.start) + 1
        refuse(
            f"line {bad}",
            f"is not UTF-8 (byte 0x{content[error.start]:02x})",
            f"{name}: save it as UTF-8",
        )
        return None, problems
    if text.startswith("\ufeff"):
        refuse(
            "line 1", "begins with a byte-order mark", f"perl -pi -e 's/^\\xEF\\xBB\\xBF//' {name}"
        )
        text = text[1:]
    if "\r\n" in text:
        count = text.count("\r\n")
        refuse(
            f"line {text[: text.index(chr(13))].count(chr(10)) + 1}",
            f"ends in CRLF, as Windows writes it (lines that do: {count})",
            f"perl -pi -e 's/\\r$//' {name}",
        )
        text = text.replace("\r\n", "\n")

    values: dict[str, str | None] = {}
    seen: dict[str, int] = {}
    for number, line in _lines_without_pem(text):
        where = f"line {number}"
        if line is None:
            refuse(
                where,
                "begins a PEM; a key is a secret and belongs in the stack's configuration",
                f"{name}: take the PEM out, from BEGIN to END",
            )
            continue
        if line.startswith("export "):
            refuse(where, "begins with export; this is not a shell script", f"{name}: KEY=value")
            continue
        key, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", key):
            wrong = "is not KEY=value with a key of capital letters, digits and _, without blanks"
            refuse(where, wrong, f"{name}: KEY=value")
            continue
        if key in seen:
            refuse(key, f"stands twice, in lines {seen[key]} and {number}", f"remove {where}")
            continue
        seen[key] = number
        if re.search(r"\$[({]|\$[A-Za-z_]", value):
            refuse(key, "holds a $ reference, which nothing expands", f"{name}: {key}=<the value>")
        elif re.search(r"\s#", value):
            refuse(
                key,
                "holds a comment, which would become part of the value",
                f"{name}: put the comment on a line of its own, above {key}=",
            )
        else:
            values[key] = value
            continue
        values[key] = None
    return values, problems


def _lines_without_pem(text: str) -> Iterator[tuple[int, str | None]]:
    """Numbered lines that mean something; a whole PEM is one None, so none of it is printed."""
    in_pem = False
    for number, line in enumerate(text.split("\n"), start=1):
        if "-----BEGIN" in line:
            in_pem = True
            yield number, None
        if in_pem:
            in_pem = "-----END" not in line
        elif line.strip() and not line.startswith("#"):
            yield number, line
