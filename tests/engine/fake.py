# ruff: noqa: ARG002, PLR0917 - the signatures are those of the provider protocol
"""A vendor in memory and its provider, for tests of the engine.

The vendor remembers what exists and, in `calls`, what was asked of it in which order. Resource
types are `fake:index:Thing`; inputs steer what happens: `name` cannot be changed in place, `boom`
fails with its value, `half` makes the resource and fails all the same, `computed` is an output
that only the vendor knows, `upper` is `value` in capitals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rehearsal.engine.provider import (
    UNKNOWN,
    CheckFailure,
    Context,
    Diff,
    Properties,
    Provider,
    ProviderError,
)

KNOWN = set(
    [
        "name",
        "value",
        "boom",
        "half",
        "labels",
        "items",
        "secretive",
        "defaulted",
        "explodes",
    ]
)


@dataclass
class Vendor:
    things: dict[str, Properties] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)  # (operation, urn's name)
    seen_inputs: dict[str, Properties] = field(default_factory=dict)  # of the last create or update
    configured: list[Properties] = field(default_factory=list)
    delete_fails: set[str] = field(default_factory=set)
    at_work: int = 0
    most_at_work: int = 0
    on_call: Callable[[str, str], None] = lambda _operation, _name: None
    # After a change was made, with its id; what it raises is the answer.
    on_done: Callable[[str, str, str], None] = lambda _operation, _name, _id: None
    lock: threading.Lock = field(default_factory=threading.Lock)
    _next: int = 0

    def load(self, package: str, inputs: Properties) -> Provider:
        if package != "fake":
            raise ProviderError(f"no provider for the package {package!r}")
        if inputs.get("token") == "bad":
            raise ProviderError("the token is not valid")
        self.configured.append(inputs)
        return Fake(self, inputs)

    def record(self, operation: str, ctx: Context) -> None:
        name = _logical(ctx)
        with self.lock:
            self.calls.append((operation, name))
        self.on_call(operation, name)

    def ids(self, name: str) -> list[str]:
        return [id_ for id_, thing in self.things.items() if thing.get("logical") == name]

    def made(self, ctx: Context, inputs: Properties) -> tuple[str, Properties]:
        with self.lock:
            self._next += 1
            id_ = f"id-{self._next}"
            logical = _logical(ctx)
            self.things[id_] = {**inputs, "logical": logical}
            self.seen_inputs[logical] = inputs
        return id_, outputs_of(id_, inputs)

    def forget_calls(self) -> None:
        self.calls.clear()


def _logical(ctx: Context) -> str:
    return ctx.urn.rsplit("::", 1)[-1]


def outputs_of(id_: str, inputs: Properties) -> Properties:
    value = inputs.get("value")
    upper = UNKNOWN if value is UNKNOWN else str(value).upper()
    return {**inputs, "upper": upper, "computed": f"computed-{id_}" if id_ else UNKNOWN}


@dataclass
class Fake:
    vendor: Vendor
    config: Properties

    def check(
        self, type_: str, olds: Properties | None, news: Properties
    ) -> tuple[Properties, list[CheckFailure]]:
        if type_ != "fake:index:Thing":
            raise ProviderError(f"unknown type {type_}")
        failures = [CheckFailure(key, "unknown property") for key in news.keys() - KNOWN]
        default = (olds or {}).get("defaulted") or f"default-{len(self.vendor.things)}"
        return {"defaulted": default, **news}, failures

    def diff(
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
    ) -> Diff:
        keys = sorted(old_inputs.keys() | new_inputs.keys())
        changed = tuple(k for k in keys if old_inputs.get(k) != new_inputs.get(k))
        forcing = ("cluster",) if type_.startswith("pulumi:providers:") else ("name",)
        replaces = tuple(k for k in changed if k in forcing)
        return Diff(changed, replaces, delete_before_replace=False)

    def create(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties]:
        if ctx.dry_run:
            return "", outputs_of("", inputs)
        with self._work():
            self.vendor.record("create", ctx)
            if inputs.get("explodes"):
                raise RuntimeError("a defect")
            if boom := inputs.get("boom"):
                raise ProviderError(boom)
            ctx.progress("making it")
            id_, outputs = self.vendor.made(ctx, inputs)
            self.vendor.on_done("create", _logical(ctx), id_)
            if half := inputs.get("half"):
                raise ProviderError(half, id=id_, outputs=outputs)
            return id_, outputs

    def find(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties] | None:
        self.vendor.record("find", ctx)
        wanted = {**inputs, "logical": _logical(ctx)}
        found = [id_ for id_, thing in self.vendor.things.items() if thing == wanted]
        return (found[-1], outputs_of(found[-1], inputs)) if found else None

    def read(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> tuple[Properties, Properties] | None:
        self.vendor.record("read", ctx)
        thing = self.vendor.things.get(id)
        if thing is None:
            return None
        now = {k: v for k, v in thing.items() if k != "logical"}
        return now, outputs_of(id, now)

    def update(
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
        ctx: Context,
    ) -> Properties:
        if ctx.dry_run:
            return outputs_of(id, new_inputs)
        with self._work():
            self.vendor.record("update", ctx)
            if boom := new_inputs.get("boom"):
                raise ProviderError(boom)
            logical = _logical(ctx)
            self.vendor.things[id] = {**new_inputs, "logical": logical}
            self.vendor.seen_inputs[logical] = new_inputs
            self.vendor.on_done("update", logical, id)
            return outputs_of(id, new_inputs)

    def delete(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> None:
        with self._work():
            self.vendor.record("delete", ctx)
            if _logical(ctx) in self.vendor.delete_fails:
                raise ProviderError("still in use")
            self.vendor.things.pop(id, None)
            self.vendor.on_done("delete", _logical(ctx), id)

    def invoke(self, token: str, args: Mapping[str, Any]) -> Properties:
        if token != "fake:index:echo":
            raise ProviderError(f"unknown function {token}")
        return {"answer": f"echo {args.get('word')}"}

    def _work(self) -> _Work:
        return _Work(self.vendor)


@dataclass
class _Work:
    vendor: Vendor

    def __enter__(self) -> None:
        with self.vendor.lock:
            self.vendor.at_work += 1
            self.vendor.most_at_work = max(self.vendor.most_at_work, self.vendor.at_work)

    def __exit__(self, *_: object) -> None:
        with self.vendor.lock:
            self.vendor.at_work -= 1


SDK = """\
import pulumi
from pulumi import Output, ResourceOptions as Opts


class Provider(pulumi.ProviderResource):
    def __init__(self, logical, opts=None, **props):
        super().__init__("fake", logical, props, opts)


class Thing(pulumi.CustomResource):
    upper: pulumi.Output[str]
    computed: pulumi.Output[str]

    def __init__(self, logical, opts=None, **props):
        outputs = {"upper": None, "computed": None}
        super().__init__("fake:index:Thing", logical, {**outputs, **props}, opts)


class Box(pulumi.ComponentResource):
    def __init__(self, name, opts=None):
        super().__init__("test:index:Box", name, None, opts)


def echo(word, provider):
    opts = pulumi.InvokeOutputOptions(provider=provider)
    return pulumi.runtime.invoke_output("fake:index:echo", {"word": word}, opts).apply(
        lambda answer: answer["answer"]
    )


fake = Provider("fake", token="good")


def opts(**more):
    return Opts(**{"provider": fake, **more})

"""


def write_project(folder: Path, program: str, config: str = "{}", project_config: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Pulumi.yaml").write_text(f"name: shop\nruntime:\n  name: python\n{project_config}")
    (folder / "Pulumi.dev.yaml").write_text(f"config: {config}\n")
    (folder / "__main__.py").write_text(SDK + program)
