"""What shall run, and that the settings say all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.desired import Desired, apply
from ops.engine import Configured, Engine
from ops.problems import Refused, refused
from ops.stack_settings import KEYS, StackSettings

A, B = (f"{letter * 7}@sha256:{letter * 64}" for letter in "ab")
ENV = "# The database\nDB_HOST=db.vendor.net\nDB_PORT=5432\nTIMEZONE=Europe/Berlin\n"


@dataclass
class Settings:
    """The stack's file. `breaks`: which of the writes fails, by its number."""

    images: dict[str, str]
    writes: list[str] = field(default_factory=list)
    breaks: Callable[[str], bool] = lambda _write: False

    def write(self, what: str) -> None:
        self.writes.append(what)
        if self.breaks(what):
            raise refused(f"{what}: no", "mend it")


class Stack(Engine):
    def __init__(self, settings: Settings, folder: Path) -> None:
        super().__init__("pulumi", "prod", folder)
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "project", "honeydue")

    settings: Settings

    def configured(self) -> Configured:
        return Configured({"images": dict(self.settings.images), "envFile": "env"}, frozenset())

    def set(self, key: str, value: str, *, secret: bool) -> None:
        assert not secret
        self.settings.write(f"set {key}")
        self.settings.images[key.removeprefix("honeydue:images.")] = value

    def unset(self, key: str) -> None:
        self.settings.write(f"unset {key}")
        self.settings.images.pop(key.removeprefix("honeydue:images."), None)


@dataclass
class World:
    settings: Settings
    file: Path
    engine: Stack

    @property
    def stack(self) -> StackSettings:
        return StackSettings.of(self.engine)

    @property
    def says(self) -> tuple[dict[str, str], str]:
        return dict(self.settings.images), self.file.read_text()


@pytest.fixture
def world(tmp_path: Path) -> World:
    settings = Settings({"api": A, "worker": A})
    (tmp_path / "env").write_text(ENV)
    return World(settings, tmp_path / "env", Stack(settings, tmp_path))


def test_a_service_without_a_pin_is_built(world: World) -> None:
    wanted = Desired.of(world.stack)
    assert wanted.pins == {"api": A, "worker": A, "admin": None}
    assert wanted.env == ENV.encode()


def test_what_is_so_already_is_not_touched(world: World) -> None:
    apply(world.stack, Desired.of(world.stack))
    assert world.settings.writes == []


def test_pins_come_and_go_and_undo_takes_all_of_it_back(world: World) -> None:
    before = world.says
    wanted = Desired.of(world.stack).pinned({"api": None, "admin": B})
    undo = apply(world.stack, wanted.with_environment({"DB_HOST": "other.vendor.net"}))
    assert world.settings.images == {"worker": A, "admin": B}
    assert world.file.read_text() == "# The database\nDB_HOST=other.vendor.net\n"
    undo()
    assert world.says == before
    undo()
    assert world.says == before


@pytest.mark.parametrize("broken", ["unset honeydue:images.api", "set honeydue:images.admin"])
def test_a_setting_that_is_not_taken_leaves_all_as_it_was(world: World, broken: str) -> None:
    before = world.says
    failed: list[str] = []

    def once(write: str) -> bool:
        failed.append(write)
        return write == broken and failed.count(write) == 1

    world.settings.breaks = once
    wanted = Desired(dict.fromkeys(("api", "worker")) | {"admin": B}, b"DB_HOST=x\n")
    with pytest.raises(Refused):
        apply(world.stack, wanted)
    assert world.says == before


def test_an_env_file_that_somebody_edits_meanwhile_is_left_alone_and_nothing_is_set(
    world: World,
) -> None:
    stack = world.stack
    world.file.write_text("DB_HOST=mine\n")
    with pytest.raises(Refused, match="changed meanwhile by somebody else"):
        apply(stack, Desired({"api": B, "worker": B, "admin": B}, b"DB_HOST=theirs\n"))
    assert world.says == ({"api": A, "worker": A}, "DB_HOST=mine\n")


def test_an_env_file_edited_since_is_not_overwritten_by_undo(world: World) -> None:
    undo = apply(world.stack, Desired.of(world.stack).with_environment({"DB_HOST": "other"}))
    world.file.write_text("DB_HOST=mine\n")
    with pytest.raises(Refused, match="changed by somebody else meanwhile"):
        undo()
    assert world.file.read_text() == "DB_HOST=mine\n"


KEY = st.sampled_from(sorted(KEYS))
ENVIRONMENT = st.dictionaries(KEY, st.from_regex(r"[a-z0-9.:/-]{1,12}", fullmatch=True))


@given(before=ENVIRONMENT, after=ENVIRONMENT)
def test_any_environment_becomes_any_other_and_comments_stay(
    before: dict[str, str], after: dict[str, str]
) -> None:
    text = "# kept\n" + "".join(f"{key}={value}\n" for key, value in before.items())
    made = Desired({}, text.encode()).with_environment(after)
    assert made.env is not None
    lines = made.env.decode().splitlines()
    assert "# kept" in lines
    said: dict[str, Any] = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert said == after
