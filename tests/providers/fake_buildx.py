"""A `buildx` on the PATH that records how it was called and says what a test wants it to say."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = f"""#!{sys.executable}
import json, os, pathlib, sys, time
here = pathlib.Path(__file__).resolve().parent
wanted = json.loads((here / "wanted.json").read_text())
flags = sys.argv[1:]
docker = pathlib.Path(os.environ["DOCKER_CONFIG"])
called = {{
    "flags": flags,
    "environment": dict(os.environ),
    "stdin": sys.stdin.read(),
    "docker_config": sorted(path.name for path in docker.iterdir()),
}}
with open(here / "calls.jsonl", "a") as calls:
    calls.write(json.dumps(called) + chr(10))
for line in wanted["says"]:
    print(line.format(**os.environ), file=sys.stderr, flush=True)
time.sleep(wanted["takes"])
if wanted["digest"]:
    metadata = next(f.partition("=")[2] for f in flags if f.startswith("--metadata-file="))
    pathlib.Path(metadata).write_text(json.dumps({{"containerimage.digest": wanted["digest"]}}))
sys.exit(wanted["code"])
"""

DIGEST = "sha256:" + "ab" * 32


@dataclass(frozen=True)
class FakeBuildx:
    folder: Path

    def will(self, *says: str, code: int = 0, digest: str = DIGEST, takes: float = 0.0) -> None:
        wanted = {"says": says, "code": code, "digest": "" if code else digest, "takes": takes}
        (self.folder / "wanted.json").write_text(json.dumps(wanted))

    @property
    def calls(self) -> list[dict[str, Any]]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def flags(self) -> list[str]:
        """Those of the only call."""
        (call,) = self.calls
        flags: list[str] = call["flags"]
        return flags

    def values(self, flag: str) -> list[str]:
        return [self.flags[at + 1] for at, given in enumerate(self.flags) if given == flag]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBuildx:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "buildx").write_text(_SCRIPT)
    (folder / "buildx").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    made = FakeBuildx(folder)
    made.will()
    return made
