"""A vendor in memory and the program that fills it: nothing here takes time but the engine.

The program has one component for every ten resources, and in each component a chain: the second
resource uses an output of the first, and so on. So a tenth of all resources can be at work at once,
about as in production.
"""

# ruff: noqa: ARG002, ARG004, PLR0917 - the signatures are those of the provider protocol
from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rehearsal.engine.provider import CheckFailure, Context, Diff, Properties, Provider

PROGRAM: Final = """\
import pulumi


class Shelf(pulumi.ComponentResource):
    def __init__(self, name, opts=None):
        super().__init__("bench:index:Shelf", name, None, opts)


class Book(pulumi.CustomResource):
    def __init__(self, name, title, text, opts=None):
        props = {{"title": title, "text": text, "signature": None}}
        super().__init__("bench:index:Book", name, props, opts)


made = pulumi.ResourceOptions(providers=[pulumi.ProviderResource("bench", "bench")])
for s in range({shelves}):
    shelf = Shelf(f"shelf-{{s}}", made)
    before = "none"
    for b in range(10):
        here = pulumi.ResourceOptions(parent=shelf)
        book = Book(f"book-{{s}}-{{b}}", before, "words " * 100, here)
        before = book.signature
"""


class Vendor:
    """The provider of the package `bench`."""

    @staticmethod
    def load(package: str, inputs: Properties) -> Provider:
        return Vendor()

    def check(
        self, type_: str, olds: Properties | None, news: Properties
    ) -> tuple[Properties, list[CheckFailure]]:
        return news, []

    def diff(
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
    ) -> Diff:
        return Diff(tuple(k for k in new_inputs if new_inputs[k] != old_inputs.get(k)))

    def create(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties]:
        return "" if ctx.dry_run else uuid.uuid4().hex, _signed(inputs, ctx)

    def find(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties] | None:
        return None

    def read(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> tuple[Properties, Properties] | None:
        return inputs, outputs

    def update(
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
        ctx: Context,
    ) -> Properties:
        return _signed(new_inputs, ctx)

    def delete(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> None:
        pass

    def invoke(self, token: str, args: Mapping[str, Any]) -> Properties:
        raise NotImplementedError(token)


def _signed(inputs: Properties, ctx: Context) -> Properties:
    return {**inputs, "signature": ctx.urn.rpartition("::")[2]}


def write_project(folder: Path, size: int) -> Path:
    """A project of about `size` resources (a tenth more: the components)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Pulumi.yaml").write_text("name: bench\nruntime: python\n")
    (folder / "Pulumi.bench.yaml").write_text("config: {}\n")
    (folder / "__main__.py").write_text(PROGRAM.format(shelves=size // 10))
    return folder
