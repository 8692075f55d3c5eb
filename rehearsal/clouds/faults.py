"""Faults that a test or an operator injects into a stand-in: what a vendor does on a bad day.

A fault matches requests by method and path and is used up after `times` matches. It lives in
memory: a restarted stand-in is healthy again.

    POST /_rehearsal/faults {"kind": "status", "method": "POST", "path": "/servers", "status": 503}
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Final

KINDS: Final = {
    "status": "answers `status` with `code` and `message`; nothing is changed",
    "rate_limit": "answers 429 as the vendor does when the quota is used up",
    "timeout": "waits `seconds`, then closes the connection without an answer; nothing is changed",
    "timeout_after_change": "makes the change, waits `seconds`, then closes the connection",
    "drop_before_change": "closes the connection at once; nothing is changed",
    "drop_after_change": "makes the change, then closes the connection without an answer",
    "die_before_change": "ends the whole serving process by SIGKILL; nothing is changed",
    "die_after_change": "makes the change, then ends the whole serving process by SIGKILL",
}


@dataclass(frozen=True)
class Fault:
    """One injected fault.

    `path` is a shell pattern that the path below the API's root must match (`/servers/*`);
    `times` None means: until it is removed. `seconds` is of use to the time-outs only.
    """

    kind: str
    method: str = "*"
    path: str = "*"
    times: int | None = 1
    status: int = 503
    code: str | None = None
    message: str | None = None
    seconds: float = 30.0

    @staticmethod
    def parse(data: Mapping[str, Any]) -> Fault:
        """From JSON. Raises ValueError that says which field is wrong."""
        known = {field.name for field in fields(Fault)}
        if unknown := sorted(set(data) - known):
            raise ValueError(
                f"unknown field {unknown[0]!r}; a fault has {', '.join(sorted(known))}"
            )
        if data.get("kind") not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; not {data.get('kind')!r}")
        fault = Fault(**data)
        for name in ("method", "path"):
            if not isinstance(getattr(fault, name), str):
                raise ValueError(f"{name} must be a string")
        if fault.times is not None and (not isinstance(fault.times, int) or fault.times < 1):
            raise ValueError("times must be a positive number, or null for every time")
        if not isinstance(fault.status, int) or not 400 <= fault.status <= 599:
            raise ValueError("status must be from 400 to 599")
        return fault

    def matches(self, method: str, path: str) -> bool:
        return fnmatchcase(method, self.method.upper()) and fnmatchcase(path, self.path)


class Faults:
    """The faults that still wait for their request. Safe to use from several threads."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def inject(self, fault: Fault) -> None:
        with self._lock:
            self._waiting.append(fault)

    def take(self, method: str, path: str) -> Fault | None:
        """The first fault that fits this request, one use of which is now spent."""
        with self._lock:
            for index, fault in enumerate(self._waiting):
                if fault.matches(method, path):
                    if fault.times is not None and fault.times > 1:
                        self._waiting[index] = replace(fault, times=fault.times - 1)
                    elif fault.times is not None:
                        del self._waiting[index]
                    return fault
        return None

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._waiting]
