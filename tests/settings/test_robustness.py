"""Whatever stands where, the operator reads problems and never a stack trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from honeydue import application
from honeydue.problems import SettingsError
from honeydue.settings import parse

from .sample import CONFIG, ENV_FILE, env_text, problems
from .sample import config as set_config
from .sample import env as set_env

ODD: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    10**30,
    1.5,
    float("inf"),
    "",
    " ",
    "\0",
    "\n",
    "a\nb",
    "'",
    "/",
    "//",
    ":",
    "://",
    "https://[",
    "@",
    "-",
    ",",
    "é",
    "\ud800",
    "١٢٣",
    "[]",
    "{}",
    "null",
    "9" * 5000,
    [],
    [None],
    [[]],
    [{}],
    {},
    {"": ""},
    {"secure": "v1:a:b"},
)


def paths(value: Any, path: str = "") -> Iterator[str]:
    """Every place of the sample, from whole sections down to single values."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(part, f"{path}.{key}" if path else str(key))


@pytest.mark.parametrize("path", list(paths(CONFIG)))
def test_an_odd_value_in_the_configuration_is_told_or_taken(path: str) -> None:
    for odd in ODD:
        for problem in problems(set_config(path, odd)):
            assert problem.wrong
            assert problem.mend


@pytest.mark.parametrize("key", [key.name for key in application.ENVIRONMENT])
def test_an_odd_value_in_the_env_file_is_told_or_taken(key: str) -> None:
    for odd in (value for value in ODD if isinstance(value, str) and value != "\ud800"):
        for problem in problems(set_env(key, odd)):
            assert problem.wrong
            assert problem.mend


@pytest.mark.parametrize(
    "content", [b"\xff", b"\0", b"=", b"=\n=\n", b"\r", b"A=\rB=", b"\xef\xbb\xbf"]
)
def test_an_odd_env_file_is_told(content: bytes) -> None:
    with pytest.raises(SettingsError):
        parse("prod", CONFIG, content, ENV_FILE)


def test_keys_that_are_no_text_are_told() -> None:
    with pytest.raises(SettingsError):
        parse("prod", {**CONFIG, "dns": {1: 2, None: 3}}, env_text(), ENV_FILE)
