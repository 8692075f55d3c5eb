"""No text that leaves a run holds a secret that the run knows of.

A provider's error may quote an input, a command may print its environment, the program may log what
it should not. Every text of every event passes here, whoever wrote it. Values (inputs, outputs,
diffs) do not: they carry their own marks (`values.Secret`), and a leak through a missing mark must
be seen here as it would be with the real engine, which knows only marks too.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import threading
from collections.abc import Iterable
from typing import Any, Final

from rehearsal.engine.events import Diagnostic, Event, ResourceFailed, ResourceProgress
from rehearsal.engine.values import Secret, plain

# Shorter ones (a port, "true", a region) are no secrets of their own, and their masking would make
# texts unreadable.
SHORTEST: Final = 6
MASK: Final = "[secret]"


class Redaction:
    """What is secret, as far as the run has seen; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._configured: set[str] = set()
        self._names: set[str] = set()
        self._open: set[str] = set()
        self._forms: list[str] | None = []  # as they may stand in a text, the longest first

    def learn(self, value: Any) -> None:
        """Remembers every text that stands in a `Secret` anywhere in `value`."""
        found = {text for text in _texts(value, False) if len(text) >= SHORTEST}
        with self._lock:
            if not found <= self._known:
                self._known |= found
                self._forms = None  # worked out when a text comes

    def configured(self, secrets: Iterable[str]) -> None:
        """The stack's own secrets; nothing that is said in the open makes one of them less so."""
        self._configured |= {text for text in secrets if len(text) >= SHORTEST}
        self.learn([Secret(text) for text in secrets])

    def declared(self, inputs: Any) -> None:
        """What the program itself writes in the open as an input is none, also where an output
        that is secret as a whole repeats it: a command's environment holds a token and an image's
        name, and an error must name the image."""
        found = {text for text in _texts(inputs, False, secret_ones=False) if len(text) >= SHORTEST}
        self.learn(inputs)
        with self._lock:
            if not found <= self._open:
                self._open |= found
                self._forms = None

    def name(self, urn: str) -> None:
        """Stack, project and a resource's name are no secrets, also where a secret value repeats
        one (a command's whole environment is secret, and a node's name is in it): an error must
        name the node."""
        parts = urn.split("::")
        with self._lock:
            self._names |= {parts[0].rpartition(":")[2], *parts[1:2], parts[-1]}
            self._forms = None

    def text(self, text: str) -> str:
        with self._lock:
            if self._forms is None:
                secret = (self._known - self._names - self._open) | self._configured
                forms = {form for known in secret for form in _forms(known)}
                self._forms = sorted(forms, key=len, reverse=True)
            forms_now = self._forms
        for form in forms_now:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def event(self, event: Event) -> Event:
        match event:
            case ResourceProgress():
                return dataclasses.replace(event, line=self.text(event.line))
            case ResourceFailed() | Diagnostic():
                return dataclasses.replace(event, message=self.text(event.message))
        return event


def _texts(value: Any, secret: bool, *, secret_ones: bool = True) -> list[str]:
    """The texts in a value that stand in a `Secret`; or those that do not."""
    match value:
        case Secret():
            return _texts(plain(value.value), True, secret_ones=secret_ones)
        case dict():
            inside = [*value.values()]
        case list() | tuple():
            inside = [*value]
        case str():
            return [value] if secret == secret_ones else []
        case int() | float():
            return [str(value)] if secret == secret_ones else []
        case _:
            return []
    return [text for item in inside for text in _texts(item, secret, secret_ones=secret_ones)]


def _forms(text: str) -> set[str]:
    """Itself, and as JSON, Python and base64 write it."""
    escaped = json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]
    return {text, text.strip() or text, *escaped, base64.b64encode(text.encode()).decode()}
