"""How pods are told to misbehave: `<home>/behaviour.json`, written by `python -m rehearsal behave`.

    {"api": {"kind": "crashes", "seconds": 0.0}, "sha256:…": {"kind": "slow", "seconds": 240.0}}

Keys are a service (the pod's label) or an image's digest, which wins. A pod reads it once, when it
starts: what runs goes on as it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rehearsal.home import Home

NAME: Final = "app.kubernetes.io/name"
KINDS: Final[Mapping[str, str]] = {
    "ok": "as its image does",
    "pull-fails": "the registry has no such image",
    "crashes": "it ends with exit code 1 soon after each start",
    "never-ready": "its readiness probe answers 503 for ever (worker has none: let it crash)",
    "slow": "its startup probe fails for SECONDS: the migration lock",
    "answers-500": "Ready, but what users ask for is answered with 500",
}
_KEY: Final = re.compile(r"[a-z][a-z0-9-]*|sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Behaviour:
    """`kind`: one of KINDS; `seconds` counts for `slow` only."""

    kind: str = "ok"
    seconds: float = 0.0

    @staticmethod
    def parse(words: Sequence[str]) -> Behaviour:
        """`crashes`, `slow 240`. Raises ValueError with what would have been right."""
        kind, *rest = words or [""]
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no behaviour; there are: {', '.join(KINDS)}")
        if kind != "slow":
            if rest:
                raise ValueError(f"{kind} takes no number, only slow does")
            return Behaviour(kind)
        if len(rest) != 1 or not re.fullmatch(r"\d+(\.\d+)?", rest[0]):
            raise ValueError("slow takes a number of seconds, as in: slow 240")
        return Behaviour(kind, float(rest[0]))


def behaviour_file(home: Home) -> Path:
    return home.root / "behaviour.json"


def _load(file: Path) -> dict[str, Behaviour]:
    try:
        said: Any = json.loads(file.read_text())
        return {key: Behaviour(**value) for key, value in said.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def behave(file: Path, key: str, behaviour: Behaviour) -> None:
    """Notes it for the pods to come; `ok` forgets what was noted. Raises ValueError."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is neither a service (api) nor a digest (sha256:…)")
    known = _load(file)
    known.pop(key, None)
    if behaviour.kind != "ok":
        known[key] = behaviour
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(json.dumps({k: asdict(v) for k, v in known.items()}, indent=2) + "\n")
    fresh.replace(file)


def behaviour_of(file: Path, pod: Mapping[str, Any]) -> Behaviour:
    """That of the pod's images, else that of its service, else `ok`."""
    known = _load(file)
    digests = [each["image"].rpartition("@")[2] for each in pod["spec"]["containers"]]
    service = (pod["metadata"].get("labels") or {}).get(NAME, "")
    found = (known[key] for key in (*digests, service) if key in known)
    return next(found, Behaviour())
