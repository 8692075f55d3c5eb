"""Property paths are written as Pulumi writes them."""

from __future__ import annotations

from typing import Any

import pytest

from rehearsal.engine.provider import UNKNOWN
from rehearsal.providers.compare import changed_paths, root


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ({"a": 1}, {"a": 1.0}, ()),
        ({"a": 1}, {"a": True}, ("a",)),
        ({"a": None}, {}, ()),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3, 4]}}, ("a.b[1]", "a.b[2]")),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, ("a[0].b",)),
        ({"a": [1]}, {"a": {"b": 1}}, ("a",)),
        ({"a": 1}, {"b": 1}, ("a", "b")),
        ({"a": UNKNOWN}, {"a": UNKNOWN}, ("a",)),
        ({}, {"labels": {"example.org/x": "1"}}, ("labels",)),
        ({"labels": {"example.org/x": "1"}}, {"labels": {}}, ('labels["example.org/x"]',)),
    ],
)
def test_every_change_has_its_path(old: Any, new: Any, paths: tuple[str, ...]) -> None:
    assert changed_paths(old, new) == paths


@pytest.mark.parametrize("path", ["rules", "rules[2].port", "rules.port", 'rules["a.b"]'])
def test_a_path_begins_with_its_property(path: str) -> None:
    assert root(path) == "rules"
