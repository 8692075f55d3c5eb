"""The parts point one way: honeydue ← nothing; rehearsal knows the program only by its protocol;
ops drives either engine by its verbs, and may use what the program knows."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def imports(folder: str) -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((str(path.relative_to(ROOT)), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield str(path.relative_to(ROOT)), node.module


@pytest.mark.parametrize(
    ("folder", "may_not_know"),
    [
        ("honeydue", "rehearsal"),
        ("rehearsal", "honeydue"),
        ("honeydue", "ops"),
        ("rehearsal", "ops"),
        ("ops", "rehearsal"),
    ],
)
def test_no_part_imports_what_is_above_or_beside_it(folder: str, may_not_know: str) -> None:
    wrong = [(file, name) for file, name in imports(folder) if name.split(".")[0] == may_not_know]
    assert wrong == []


def test_the_program_imports_only_what_requirements_txt_installs() -> None:
    allowed = {"honeydue", "pydantic", "pydantic_core", "yaml", "httpx", "cryptography"}
    wrong = [
        (file, name)
        for file, name in imports("honeydue")
        if (top := name.split(".")[0]) not in allowed
        and top not in sys.stdlib_module_names
        and not top.startswith("pulumi")
    ]
    assert wrong == []


def test_ops_imports_only_what_requirements_ops_txt_installs() -> None:
    allowed = {"ops", "honeydue", "typer", "rich", "httpx", "yaml", *sys.stdlib_module_names}
    wrong = [(file, name) for file, name in imports("ops") if name.split(".")[0] not in allowed]
    assert wrong == []


def test_the_gate_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse((ROOT / "honeydue/k3s/gate.py").read_text())
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names <= sys.stdlib_module_names
    for package in ("honeydue/__init__.py", "honeydue/k3s/__init__.py"):
        body = ast.parse((ROOT / package).read_text()).body
        assert not [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
