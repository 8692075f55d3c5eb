"""A stack's settings with a change that is not made yet, judged by the program's own rules.

What the program would refuse is refused here, before anything is written, with every problem at
once; and by its own table it is known which services read what changes, and so roll.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from honeydue import application, env_file
from honeydue.images.references import SERVICES
from honeydue.problems import Problem as Wrong
from honeydue.problems import SettingsError
from honeydue.settings import parse
from ops.engine import Configured, Engine
from ops.problems import Problem, Refused, refused

KEYS: Final = {key.name: key for key in application.ENVIRONMENT}
_SECRET: Final = "honeydue:secrets."


@dataclass(frozen=True)
class StackSettings:
    """What the program would read now. `env`: the env file's content, None when there is none.
    `newest`: the number of the run that was the last one before it was read, where that is kept."""

    engine: Engine
    configured: Configured
    env_name: str
    env: bytes | None = field(repr=False)
    newest: int | None = None

    @staticmethod
    def of(engine: Engine) -> StackSettings:
        configured = engine.configured()
        name = str(configured.values.get("envFile") or f"deploy/{engine.stack}.env")
        return StackSettings(engine, configured, name, _read(engine.folder / name))

    @property
    def env_path(self) -> Path:
        return self.engine.folder / self.env_name

    @property
    def environment(self) -> dict[str, str]:
        """The env file's values as far as they are known keys. Another key's value may be a secret
        that was put into the wrong file, and is not passed on."""
        values, _ = env_file.read(self.env or b"", self.env_name)
        return {key: value for key, value in (values or {}).items() if key in KEYS and value}

    @property
    def secrets(self) -> dict[str, str]:
        return {str(key): str(value) for key, value in self.section("secrets").items()}

    @property
    def built(self) -> tuple[str, ...]:
        """As Settings.built, of settings that may not be right yet."""
        build, images = self.section("image").get("build"), self.section("images")
        may = bool(self.section("app")) if build is None else build in (True, "true")
        return tuple(service for service in SERVICES if may and not images.get(service))

    def section(self, name: str) -> dict[str, Any]:
        """An object of the stack's file; empty when it is none."""
        found = self.configured.values.get(name)
        if isinstance(found, str):
            try:
                found = json.loads(found)
            except ValueError:
                return {}
        return dict(found) if isinstance(found, Mapping) else {}

    def problems(
        self,
        *,
        env: bytes | None = None,
        sections: Mapping[str, Mapping[str, object]] | None = None,
    ) -> list[Problem]:
        """What the program would refuse, with another env file or sections of the stack's file."""
        changed = {**self.configured.values, **(sections or {})}
        try:
            parse(
                self.engine.stack,
                {key: value for key, value in changed.items() if key != "envFile"},
                self.env if env is None else env,
                self.env_name,
                secret_keys=self.configured.secret_keys | set(sections or ()),
            )
        except SettingsError as error:
            return [_told(wrong) for wrong in error.problems]
        return []


def _told(wrong: Wrong) -> Problem:
    mend = wrong.mend
    if wrong.key.startswith(_SECRET):
        key = wrong.key.removeprefix(_SECRET)
        if key in {secret.name for secret in application.SECRETS}:
            mend = f"python -m ops secret set {key}"
    return Problem(f"{wrong.key} {wrong.wrong}", mend)


# What rolls


def rolling(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """The services whose ConfigMap becomes another one: the same function makes them."""
    return tuple(
        service
        for service in SERVICES
        if application.environment_of(service, before) != application.environment_of(service, after)
    )


def what_rolls(services: tuple[str, ...]) -> str:
    if not services:
        return "rolls nothing"
    others = [service for service in SERVICES if service not in services]
    stay = f"; {' and '.join(others)} stay{'s' if len(others) == 1 else ''}" if others else ""
    return f"rolls {' and '.join(services)}{stay}"


# Taking effect


Confirm = Callable[[str], bool]


# Files


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise refused(f"{path} is a folder", "name a file that is in it") from None
    except OSError as cause:
        raise refused(f"cannot read {path}: {cause.strerror}", f"chmod u+r {path}") from None


def content_of(file: Path) -> bytes:
    """Of a file that the operator named."""
    found = _read(file)
    if found is None:
        raise refused(f"there is no file {file}", "name a file that is there")
    return found


def replace(path: Path, content: bytes | None, *, expected: bytes | None) -> None:
    """Writes all of `content` or nothing, with the mode that the file has (a new one: 0600). None:
    no such file. Refused when it is not `expected` any more: somebody else edits it."""
    path = path.resolve()  # a link stays a link
    if _read(path) != expected:
        raise refused(f"{path} was changed meanwhile by somebody else", "look at it, and run again")
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if content is None:
            path.unlink(missing_ok=True)
            return
        mode = path.stat().st_mode & 0o777 if expected is not None else 0o600
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        fresh.replace(path)
    except OSError as cause:
        fresh.unlink(missing_ok=True)
        raise refused(
            f"cannot write {path}: {cause.strerror}", f"mend the rights of {path.parent}"
        ) from None


def refuse_all(problems: list[Problem]) -> None:
    if problems:
        raise Refused(*problems)
