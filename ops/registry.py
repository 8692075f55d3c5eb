"""`ops registry import`: the registry's login from deploy/registry.env into the stack's settings.

The file is the book's: what `docker login` by hand needs. In the stack the token is encrypted, and
the program gives it to the build and to the cluster's pull secret; the file is needed no more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.console import Console

from honeydue import env_file
from ops.engine import Engine
from ops.problems import Problem, Refused, refused

KEYS: Final = {
    "REGISTRY": "server",
    "REGISTRY_NAMESPACE": "namespace",
    "REGISTRY_USERNAME": "username",
    "REGISTRY_TOKEN": "token",
}
_SECRET: Final = "REGISTRY_TOKEN"


def read(file: Path) -> dict[str, str]:
    """The four values; Refused with everything that is wrong with the file."""
    try:
        content = file.read_bytes()
    except OSError as cause:
        raise refused(
            f"cannot read {file}: {cause.strerror}", f"cp deploy/registry.env.example {file}"
        ) from None
    values, told = env_file.read(content, str(file))
    found = values or {}
    problems = [Problem(f"{one.key} {one.wrong}", one.mend) for one in told]
    for key in found.keys() - KEYS.keys():
        problems.append(Problem(f"{file}: {key} is unknown", f"{file}: take {key} out"))
    for key in KEYS:
        value = found.get(key, "")
        if key not in found or value == "":
            problems.append(Problem(f"{file}: {key} is missing", f"{file}: {key}=<value>"))
        elif value == "CHANGE_ME":
            problems.append(
                Problem(f"{file}: {key} is still a placeholder", f"{file}: {key}=<value>")
            )
    if problems:
        raise Refused(*problems)
    return {key: value for key in KEYS if (value := found[key])}


def import_(file: Path, engine: Engine, console: Console, *, dry_run: bool) -> None:
    """Nothing is written before the whole file is right; the token goes by standard input."""
    for key, value in read(file).items():
        setting = f"{engine.project}:registry.{KEYS[key]}"
        if not dry_run:
            engine.set(setting, value, secret=key == _SECRET)
        shown = "encrypted" if key == _SECRET else value
        console.print(f"  {setting:<30} {shown}", markup=False)
    if dry_run:
        console.print("dry run: nothing was changed")
        return
    console.print(
        f"\nthe stack {engine.stack} has them. Nothing runs differently before the next `up`, "
        "which changes the pull secret and rolls nothing.\n"
        f"{file} is not needed any more: rm {file}",
        soft_wrap=True,
    )
