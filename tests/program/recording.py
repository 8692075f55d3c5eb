"""Runs a piece of the program against Pulumi's mocks and records what it declares.

    def program() -> None:
        Network("network", NetworkArgs(...))

    recording = record(program)
    subnet = recording.one("hcloud:index/networkSubnet:NetworkSubnet")
    assert subnet.inputs["ipRange"] == "10.10.1.0/24"

The SDK's own `Mocks` see inputs only. What hurts in production stands in the options (protect,
ignoreChanges, dependencies …), so this listens one layer lower, at the resource monitor's protocol.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pulumi
from google.protobuf import json_format, struct_pb2
from pulumi.runtime import mocks, rpc
from pulumi.runtime import settings as runtime_settings
from pulumi.runtime.config import set_all_config
from pulumi.runtime.proto import resource_pb2

Properties = dict[str, Any]
Outputs = Callable[["Recorded"], Mapping[str, Any]]
Call = Callable[[str, Properties], Mapping[str, Any]]

_SECRET = "1b47061264138c4ac30d75fd1eb44270"
UNKNOWN = rpc.UNKNOWN
_SIGNATURE = "4dabf18193072939515e22adb298388d"


@dataclass(frozen=True)
class Recorded:
    """One registered resource: plain inputs (secrets unwrapped), and every option worth a test."""

    type: str
    name: str
    urn: str
    parent: str
    """URN of the parent; empty for a child of the stack."""
    custom: bool
    provider: str
    """`<urn>::<id>` of the explicit provider; empty: none (an error in this program)."""
    inputs: Properties
    secrets: frozenset[str]
    """Paths of secret inputs as Pulumi writes them: `userData`, `environment.CA`, `stringData`."""
    protect: bool | None
    ignore_changes: tuple[str, ...]
    replace_on_changes: tuple[str, ...]
    additional_secret_outputs: tuple[str, ...]
    depends_on: frozenset[str]
    """URNs: `depends_on` and what the inputs consume, as the engine gets them."""
    property_dependencies: Mapping[str, frozenset[str]]
    delete_before_replace: bool | None
    retain_on_delete: bool
    deleted_with: str
    replacement_trigger: Any
    custom_timeouts: tuple[str, str, str]
    """Create, update, delete; empty where the provider's default holds."""
    aliases: tuple[str, ...]
    outputs: Properties = field(default_factory=dict)


@dataclass
class Recording:
    """Everything one run declared, in order of registration."""

    resources: list[Recorded] = field(default_factory=list)
    component_outputs: dict[str, Properties] = field(default_factory=dict)
    """URN → what `register_outputs` said."""
    exports: Properties = field(default_factory=dict)
    """What `pulumi.export` said (unknown ones as pulumi's Unknown)."""
    secret_exports: set[str] = field(default_factory=set)
    calls: list[tuple[str, Properties, str]] = field(default_factory=list)
    """Invokes: token, arguments, provider."""

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self.resources)

    def all(self, type_: str) -> list[Recorded]:
        """Every resource of that type: `Server`, or the whole token."""
        return [r for r in self.resources if r.type == type_ or r.type.endswith(f":{type_}")]

    def one(self, type_: str, name: str | None = None) -> Recorded:
        """The only resource of that type (and logical name); an AssertionError names the choice."""
        found = [r for r in self.all(type_) if name is None or r.name == name]
        assert len(found) == 1, f"{type_} {name or ''}: found {[r.name for r in found]}"
        return found[0]

    def named(self, name: str) -> Recorded:
        """The only custom resource with that logical name."""
        found = [r for r in self.resources if r.name == name and r.custom]
        assert len(found) == 1, f"{name}: found {[(r.type, r.name) for r in found]}"
        return found[0]

    def closure(self, recorded: Recorded) -> set[str]:
        """URNs of everything that must exist before `recorded`, however far away."""
        by_urn = {r.urn: r for r in self.resources}
        seen: set[str] = set()
        todo = list(recorded.depends_on)
        while todo:
            urn = todo.pop()
            if urn in seen:
                continue
            seen.add(urn)
            if urn in by_urn:
                todo.extend(by_urn[urn].depends_on)
        return seen


def no_outputs(_: Recorded) -> Mapping[str, Any]:
    """The default: a resource's outputs are its inputs and nothing else."""
    return {}


def no_calls(token: str, _: Properties) -> Mapping[str, Any]:
    """The default: an invoke that no test expected is an error."""
    raise AssertionError(f"unexpected invoke {token}")


class _Monitor(mocks.MockMonitor):
    def __init__(self, recording: Recording, outputs: Outputs, call: Call) -> None:
        super().__init__(_Nothing())
        self._recording, self._outputs, self._call = recording, outputs, call
        self._ids = itertools.count(1)
        self._lock = threading.Lock()  # the SDK registers from several threads

    def Invoke(self, request: Any) -> Any:  # noqa: N802 (gRPC's name)
        arguments, _ = _plain(json_format.MessageToDict(request.args))
        self._recording.calls.append((request.tok, arguments, request.provider))
        answer = dict(self._call(request.tok, arguments))
        return resource_pb2.ResourceInvokeResponse(**{"return": _struct(answer)})

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 (gRPC's name)
        urn = self.make_urn(request.parent, request.type, request.name)
        if request.type == "pulumi:pulumi:Stack":
            return resource_pb2.RegisterResourceResponse(urn=urn)
        parent = request.parent
        inputs, secrets = _plain(json_format.MessageToDict(request.object))
        trigger = None
        if request.HasField("replacement_trigger"):
            trigger = json_format.MessageToDict(request.replacement_trigger)
        recorded = Recorded(
            type=request.type,
            name=request.name,
            urn=urn,
            parent="" if "pulumi:pulumi:Stack::" in parent else parent,
            custom=request.custom,
            provider=request.provider,
            inputs=inputs,
            secrets=frozenset(secrets),
            protect=request.protect if request.HasField("protect") else None,
            ignore_changes=tuple(request.ignoreChanges),
            replace_on_changes=tuple(request.replaceOnChanges),
            additional_secret_outputs=tuple(request.additionalSecretOutputs),
            depends_on=frozenset(request.dependencies),
            property_dependencies={
                key: frozenset(value.urns) for key, value in request.propertyDependencies.items()
            },
            delete_before_replace=request.deleteBeforeReplace
            if request.deleteBeforeReplaceDefined
            else None,
            retain_on_delete=bool(request.retainOnDelete),
            deleted_with=request.deletedWith,
            replacement_trigger=trigger,
            custom_timeouts=(
                request.customTimeouts.create,
                request.customTimeouts.update,
                request.customTimeouts.delete,
            ),
            aliases=tuple(a.urn or a.spec.name for a in request.aliases) + tuple(request.aliasURNs),
        )
        recorded.outputs.update(inputs)
        recorded.outputs.update(self._outputs(recorded))
        with self._lock:
            # A number: the program may turn an id into an int, as Hetzner's API wants it.
            number = str(next(self._ids)) if request.custom else ""
            identity = recorded.outputs.pop("id", number)
            self._recording.resources.append(recorded)
            self.resources[urn] = self.ResourceRegistration(urn, identity, recorded.outputs)
        answer = _struct(_marked(recorded.outputs, recorded))
        return resource_pb2.RegisterResourceResponse(urn=urn, id=identity, object=answer)

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802 (gRPC's name)
        plain, _ = _plain(json_format.MessageToDict(request.outputs))
        self._recording.component_outputs[request.urn] = plain
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]  # the SDK's


class _Nothing(mocks.Mocks):
    """`_Monitor` answers by itself."""

    def call(self, args: Any) -> Any:
        raise AssertionError(args.token)

    def new_resource(self, args: Any) -> Any:
        raise AssertionError(args.typ)


def _marked(outputs: Properties, recorded: Recorded) -> Properties:
    """Marks what the engine would mark: secret inputs come back as secret outputs."""
    keys = {path.split(".")[0].split("[")[0] for path in recorded.secrets}
    keys |= set(recorded.additional_secret_outputs)
    return {
        key: {_SIGNATURE: _SECRET, "value": value} if key in keys else value
        for key, value in outputs.items()
    }


def _struct(value: Properties) -> Any:
    struct = struct_pb2.Struct()
    json_format.ParseDict(value, struct)
    return struct


def _plain(value: Any, path: str = "") -> tuple[Any, set[str]]:
    """The value without secret marks, whole floats as ints, and the paths that were secret."""
    if isinstance(value, dict):
        if value.get(_SIGNATURE) == _SECRET:
            plain, _ = _plain(value["value"], path)
            return plain, {path}
        if _SIGNATURE in value and "value" in value:  # an output value
            return _plain(value["value"], path)
        pairs = {k: _plain(v, f"{path}.{k}" if path else k) for k, v in value.items()}
        return {k: p for k, (p, _) in pairs.items()}, set().union(*(s for _, s in pairs.values()))
    if isinstance(value, list):
        items = [_plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
        return [p for p, _ in items], set().union(*(s for _, s in items))
    if isinstance(value, float) and value.is_integer():
        return int(value), set()
    return value, set()


def record(
    program: Callable[[], Any],
    *,
    outputs: Outputs = no_outputs,
    call: Call = no_calls,
    preview: bool = False,
    project: str = "honeydue",
    stack: str = "test",
    config: Mapping[str, str] | None = None,
) -> Recording:
    """Runs `program` to its end and returns what it declared; raises what it raises.

    `outputs` adds a resource's computed outputs (camelCase: `{"ipAddress": "203.0.113.1"}`); ids
    are "1", "2", … unless it gives one (`"id": ""` is unknown in a preview). `call` answers
    invokes. With `preview=True` outputs that the monitor does not return are unknown, as in a first
    `pulumi preview`; such inputs are recorded as `UNKNOWN`.
    """
    recording = Recording()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        runtime_settings.configure(runtime_settings.Settings(project=project, stack=stack))
        runtime_settings.set_root_resource(None)  # type: ignore[arg-type]  # as it is at first
        monitor = _Monitor(recording, outputs, call)
        mocks.set_mocks(_Nothing(), project=project, stack=stack, preview=preview, monitor=monitor)
        set_all_config(dict(config or {}))

        def run() -> pulumi.Output[None]:
            program()
            exports = getattr(runtime_settings.get_root_resource(), "outputs", {})

            async def note_secrets() -> None:
                for key, value in exports.items():
                    if await pulumi.Output.from_input(value).is_secret():
                        recording.secret_exports.add(key)

            known = pulumi.Output.all(**exports).apply(recording.exports.update)
            return pulumi.Output.all(known, note_secrets()).apply(lambda _: None)

        pulumi.runtime.test(run)()  # type: ignore[no-untyped-call]  # the SDK's
    finally:
        with suppress(RuntimeError):
            loop.close()
        asyncio.set_event_loop(None)
    return recording
