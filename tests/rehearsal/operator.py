"""An operator at a terminal: a checkout and a home of their own, and the rehearsal's verbs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
STACK_FILE = "Pulumi.rehearsal.yaml"


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Operator:
    """`checkout`: a copy of the program; `home`: the rehearsal's folder."""

    checkout: Path
    home: Path

    @staticmethod
    def in_folder(folder: Path) -> Operator:
        checkout = folder / "checkout"
        tracked = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        for name in tracked:
            if name.startswith(("tests/", "docs/")) or not (ROOT / name).is_file():
                continue
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
        return Operator(checkout, folder / "home")

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "HONEYDUE_REHEARSAL_HOME": str(self.home),
            "HONEYDUE_PYTHON": sys.executable,
            "PYTHONWARNINGS": "",
        }
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PULUMI_", "HCLOUD_", "CLOUDFLARE_", "KUBECONFIG"))
        }
        return {**kept, **own}

    def run(self, *words: str, **environment: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "rehearsal", *words],
            cwd=self.checkout, env={**self.environment, **environment}, capture_output=True,
            text=True, timeout=1800, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return Answer(done.returncode, done.stdout, done.stderr)

    def must(self, *words: str, **environment: str) -> str:
        """Runs a verb that has to work; what it printed."""
        answer = self.run(*words, **environment)
        assert answer.code == 0, f"{' '.join(words)} ended with {answer.code}:\n{answer.text}"
        return answer.text

    def plan(self, **environment: str) -> dict[str, list[str]]:
        """What `preview` would do: op → names of the resources."""
        digest = json.loads(self.run("preview", "--json", **environment).out)
        steps: dict[str, list[str]] = {}
        for step in digest["steps"]:
            steps.setdefault(step["op"], []).append(step["urn"].rsplit("::", 1)[-1])
        return steps

    def changes(self, **environment: str) -> dict[str, list[str]]:
        return {op: names for op, names in self.plan(**environment).items() if op != "same"}

    def output(self, name: str) -> Any:
        text = self.must("stack", "output", name, "--show-secrets", "--json")
        return json.loads(text)

    def edit(self, key: str, change: Any) -> None:
        """Replaces one value of the stack file; `change` gets the old value."""
        path = self.checkout / STACK_FILE
        stack = yaml.safe_load(path.read_text())
        stack["config"][key] = change(stack["config"].get(key))
        path.write_text(yaml.safe_dump(stack, sort_keys=False))
