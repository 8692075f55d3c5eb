"""What the settings say shall run: a pin per service, and the application's environment.

    honeydue:images.api    `237c6b8@sha256:…`    runs exactly that: nothing is built for api
    (not there)                                  api is built from the checkout, app.path

A verb that deploys or rolls back changes this and nothing else, then runs `up`. So whatever runs is
what a plain `up` would make again (docs/adr/0011).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from honeydue.images.references import SERVICES
from ops import env_edit
from ops.engine import Engine
from ops.problems import refused
from ops.stack_settings import KEYS, StackSettings
from ops.stack_settings import replace as replace_file

Undo = Callable[[], None]

_ORDER: Final = tuple(KEYS)


@dataclass(frozen=True)
class Desired:
    """`pins`: service → `<tag>@<digest>`, None: built. `env`: the env file, None: there is none."""

    pins: Mapping[str, str | None]
    env: bytes | None = field(repr=False)

    @staticmethod
    def of(stack: StackSettings) -> Desired:
        said = stack.section("images")
        return Desired({s: str(said[s]) if said.get(s) else None for s in SERVICES}, stack.env)

    def pinned(self, pins: Mapping[str, str | None]) -> Desired:
        return replace(self, pins={**self.pins, **pins})

    def with_environment(self, values: Mapping[str, str]) -> Desired:
        """The env file with exactly these values; its comments and order stay."""
        text = (self.env or b"").decode()
        there = _values(text)
        gone = [key for key in there if key in KEYS and key not in values]
        changed = {key: value for key, value in values.items() if there.get(key) != value}
        if not gone and not changed:
            return self
        text = env_edit.with_values(env_edit.without(text, gone), changed, _ORDER)
        return replace(self, env=text.encode())


def apply(stack: StackSettings, wanted: Desired) -> Undo:
    """Makes the settings say it, all of it or nothing; returns what takes it back. What is so
    already is not touched. `stack`: as it was read; an env file that somebody has changed since is
    left alone, and all of it refused."""
    engine, before = stack.engine, Desired.of(stack)
    done: list[Undo] = []

    def undo() -> None:
        while done:
            done[-1]()
            done.pop()  # only what was taken back is forgotten: who is stopped here goes on

    try:
        if wanted.env != before.env:
            old, new = before.env, wanted.env
            replace_file(stack.env_path, new, expected=old)  # it writes all of it or nothing
            done.append(lambda: _file_back(stack, old, new))
        for service in SERVICES:
            pin, was = wanted.pins[service], before.pins[service]
            if pin == was:
                continue
            # Noted before it is done: taken back twice is as once, and not at all would be wrong.
            done.append(_setting(engine, service, was))
            _set(engine, service, pin)
    except BaseException:
        undo()
        raise
    return undo


def _set(engine: Engine, service: str, pin: str | None) -> None:
    key = f"{engine.project}:images.{service}"
    if pin is None:
        engine.unset(key)
    else:
        engine.set(key, pin, secret=False)


def _setting(engine: Engine, service: str, pin: str | None) -> Undo:
    return lambda: _set(engine, service, pin)


def _file_back(stack: StackSettings, old: bytes | None, new: bytes | None) -> None:
    now = stack.env_path.read_bytes() if stack.env_path.is_file() else None
    if now == old:
        return  # taken back already
    if now != new:
        raise refused(
            f"{stack.env_name} was changed by somebody else meanwhile, and is left as it is",
            f"look at it: python -m ops config diff --stack {stack.engine.stack}",
        )
    replace_file(stack.env_path, old, expected=new)


def _values(text: str) -> dict[str, str]:
    return {
        key: value
        for key, equals, value in (line.partition("=") for line in text.splitlines())
        if equals and not key.startswith("#")
    }
