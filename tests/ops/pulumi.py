"""A `pulumi` on the PATH that answers from files and remembers its command lines."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def _without(line: str, parts: tuple[str, ...]) -> str:
    for part in parts:
        line = line.replace(part, "")
    return line


@dataclass(frozen=True)
class Pulumi:
    """`folder` goes on the PATH."""

    folder: Path

    def answers(self, **verbs: Any) -> Pulumi:
        """`stack_export=…` is the answer to `pulumi stack export …`; the longest fit counts.
        {"error": "…"} is a failure; {"shell": "…"} is run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # A shell starts in a tenth of the time that Python takes, and tests start hundreds.
        log, stdin = (shlex.quote(str(self.folder / name)) for name in ("log", "stdin"))
        lines = [
            "#!/bin/sh",
            "n='",
            "'",
            f'echo "$*" >> {log}',
            # One line break at the end is no part of the value (cmd/pulumi/config: set).
            f'case "$*" in *"config set"*) v=$(cat; echo .); v=${{v%.}}; printf %s "${{v%$n}}" >> '
            f"{stdin} ;; esac",
            'case "$*" in',
        ]
        for name, said in sorted(verbs.items(), key=lambda entry: -len(entry[0])):
            verb = name.replace("__", " --").replace("_", " ")
            answer = self.folder / f"{name}.json"
            answer.write_text(json.dumps(said))
            does = f"cat {shlex.quote(str(answer))}"
            if isinstance(said, dict) and "error" in said:
                does = f"echo {shlex.quote('error: ' + said['error'])} >&2; exit 255"
            if isinstance(said, dict) and "shell" in said:
                does = said["shell"]
            lines.append(f'"--non-interactive {verb}"*) {does} ;;')
        lines += ['*) echo "error: unknown command" >&2; exit 255 ;;', "esac", ""]
        script = self.folder / "pulumi"
        script.write_text("\n".join(lines))
        script.chmod(0o755)
        (self.folder / "log").touch()
        (self.folder / "stdin").touch()
        return self

    @property
    def stdin(self) -> str:
        """What every `config set` was told by standard input."""
        return (self.folder / "stdin").read_text()

    @property
    def verbs(self) -> list[str]:
        """The command lines without what is the same in each."""
        common = ("--non-interactive ", " --stack prod")
        return [_without(line, common) for line in self.log.splitlines()]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()
