"""An operator at a terminal with the stack `prod`: what it is, what he types, what he reads."""

from __future__ import annotations

import copy
import getpass
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from honeydue.kubernetes.catalogue import WORKLOADS, deployment
from ops.cli import main
from tests.ops.pulumi import Pulumi
from tests.settings import sample

ENV = "# Web\n" + sample.env_text()
SECTIONS = ("registry", "secrets", "snapshots", "redis", "signing")  # with a secret in them


def _deployment(config: str) -> Any:
    inputs = deployment(
        next(each for each in WORKLOADS if each.name == "api"),
        namespace="honeydue",
        image="gitea.treytartt.com/admin/honeydue-api@sha256:" + "a1" * 32,
        tag="237c6b8",
        config=config,
        secrets="honeydue-secrets-1",
    )
    return {"type": "kubernetes:apps/v1:Deployment", "custom": True, "inputs": inputs}


PLAN = {
    "steps": [
        {
            "op": "update",
            "urn": "urn:pulumi:prod::honeydue::kubernetes:apps/v1:Deployment::honeydue-api",
            "oldState": _deployment("honeydue-config-api-1"),
            "newState": _deployment("honeydue-config-api-2"),
        }
    ]
}


class Terminal(io.StringIO):
    """What is typed."""

    def isatty(self) -> bool:
        return True


class Piped(io.TextIOWrapper):
    def __init__(self, text: str) -> None:
        super().__init__(io.BytesIO(text.encode()), encoding="utf-8")


@dataclass
class Operator:
    pulumi: Pulumi
    env_file: Path
    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]
    config: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(sample.CONFIG))
    answers: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self, *words: str, types: str | None = None, pipes: str | None = None
    ) -> tuple[int, str]:
        """Runs a verb: (exit code, what was read). `types`: at a terminal; `pipes`: by a pipe;
        neither: nobody is there."""
        self.pulumi.answers(**{**self._stack(), **self.answers})
        typed = iter((types or "").splitlines())
        self.monkeypatch.setattr(getpass, "getpass", lambda _prompt: next(typed))
        stdin = Piped(pipes or "") if types is None else Terminal(types.splitlines()[-1] + "\n")
        self.monkeypatch.setattr("sys.stdin", stdin)
        code = main([*words, "--stack", "prod"])
        said = self.capfd.readouterr()
        return code, said.out + said.err

    def _stack(self) -> dict[str, Any]:
        entries: dict[str, Any] = {
            "honeydue:envFile": {"value": str(self.env_file), "secret": False},
        }
        for key, value in self.config.items():
            entry: dict[str, Any] = {"secret": key in SECTIONS or key.endswith("Token")}
            if isinstance(value, Mapping | list):
                entry |= {"value": json.dumps(value), "objectValue": value}
            else:
                entry |= {"value": value}
            entries[f"honeydue:{key}"] = entry
        return {
            "config": entries,
            "config_set": "",
            "config_rm": "",
            "preview": PLAN,
            "up": {"shell": "echo UP"},
            # Never deployed: there is no cluster to lock, watch, or go back in.
            "stack_output": {},
            "whoami": {"url": f"file://{self.env_file.parent}"},
        }

    @property
    def did(self) -> list[str]:
        """What was asked of pulumi, without the reading, and without the words of a message."""
        return [
            verb.partition(" --message")[0].partition(" --json")[0]
            for verb in self.pulumi.verbs
            if verb.startswith(("config set", "config rm", "preview", "up"))
        ]


@pytest.fixture
def ops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Operator:
    pulumi = Pulumi(tmp_path / "bin").answers()
    monkeypatch.setenv("PATH", str(pulumi.folder), prepend=os.pathsep)
    file = tmp_path / "deploy" / "prod.env"
    file.parent.mkdir()
    file.write_text(ENV)
    file.chmod(0o640)
    return Operator(pulumi, file, monkeypatch, capfd)
