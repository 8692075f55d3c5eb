"""Property values: the wire (protobuf Struct), the engine (Python) and the state (JSON).

On the wire and in the state, what JSON lacks is a string or an object with a signature, the same
ones in both (`pulumi/sdk/go/common/resource/properties.go`). In between, a value is plain Python
plus `Secret` and `UNKNOWN`. Resource references stay the objects that they are: the engine only
hands them on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import json_format, struct_pb2

from rehearsal.engine.errors import EngineError
from rehearsal.engine.provider import UNKNOWN, Properties, Unknown

SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"
OUTPUT_VALUE: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
ASSETS: Final = {"c44067f5952c0a294b673a41bacd8c17", "0def7320c3a5731c473e5ecbe6d01bc7"}
# The SDK sends and understands this one for an unknown of any type (a string, a list, …).
UNKNOWN_SENTINEL: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


@dataclass(frozen=True)
class Secret:
    """A value that no one may see: encrypted in the state, `[secret]` in every output."""

    value: Any = field(repr=False)

    def __repr__(self) -> str:
        return "[secret]"


def decode(struct: struct_pb2.Struct) -> Properties:
    """From the wire. A null property counts as absent, as in the engine's own PropertyMap."""
    plain = json_format.MessageToDict(struct)
    return {key: _decode(value, key) for key, value in plain.items() if value is not None}


def decode_value(value: struct_pb2.Value) -> Any:
    return _decode(json_format.MessageToDict(value), "value")


def _decode(value: Any, path: str) -> Any:  # noqa: PLR0911 - one per kind of value
    match value:
        case float() if value.is_integer():
            return int(value)  # the wire knows doubles only; a port is no 80.0
        case str() if value == UNKNOWN_SENTINEL:
            return UNKNOWN
        case list():
            return [_decode(item, f"{path}[{i}]") for i, item in enumerate(value)]
        case dict():
            signature = value.get(SIGNATURE)
            if signature == SECRET:
                return Secret(_decode(value.get("value"), path))
            if signature == OUTPUT_VALUE:
                inner = _decode(value["value"], path) if "value" in value else UNKNOWN
                return Secret(inner) if value.get("secret") else inner
            if signature in ASSETS:
                raise EngineError(f"{path}: the rehearsal's engine has no assets and archives")
            return {key: _decode(item, f"{path}.{key}") for key, item in value.items()}
    return value


def encode(properties: Properties) -> struct_pb2.Struct:
    """To the wire."""
    struct = struct_pb2.Struct()
    struct.update({key: _encode(value) for key, value in properties.items()})
    return struct


def _encode(value: Any) -> Any:
    match value:
        case Secret():
            return {SIGNATURE: SECRET, "value": _encode(value.value)}
        case Unknown():
            return UNKNOWN_SENTINEL
        case list() | tuple():
            return [_encode(item) for item in value]
        case dict():
            return {str(key): _encode(item) for key, item in value.items()}
    return value


def rewrite(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` applied to every leaf and `Secret`; its result is not entered."""
    match value:
        case list() | tuple():
            return [rewrite(item, change) for item in value]
        case dict():
            return {key: rewrite(item, change) for key, item in value.items()}
    return change(value)


def plain(value: Any) -> Any:
    """Without the secret marks: what a provider sees."""
    return rewrite(value, lambda leaf: plain(leaf.value) if isinstance(leaf, Secret) else leaf)


def _any(value: Any, wanted: type) -> bool:
    match value:
        case _ if isinstance(value, wanted):
            return True
        case Secret():
            return _any(value.value, wanted)
        case list() | tuple():
            return any(_any(item, wanted) for item in value)
        case dict():
            return any(_any(item, wanted) for item in value.values())
    return False


def has_secret(value: Any) -> bool:
    return _any(value, Secret)


def has_unknown(value: Any) -> bool:
    return _any(value, Unknown)


def mark_secrets(
    values: Properties, like: Properties, additional: Iterable[str] = ()
) -> Properties:
    """Puts the marks back on what a provider returned: where `like` (inputs, earlier outputs) has a
    secret of the same name and place, and on the whole of each property named in `additional`.

    A list with a secret in it becomes secret as a whole, because its items may have moved.
    """
    marked = {key: _mark(value, like.get(key)) for key, value in values.items()}
    for key in additional:
        if key in marked and not isinstance(marked[key], Secret):
            marked[key] = Secret(plain(marked[key]))
    return marked


def _mark(value: Any, like: Any) -> Any:
    if isinstance(value, (Secret, Unknown)):
        return value  # an unknown becomes secret when it is known; the SDK needs no mark before
    if isinstance(like, Secret) or (isinstance(like, list) and has_secret(like)):
        return Secret(plain(value))
    if isinstance(value, dict) and isinstance(like, dict):
        return {key: _mark(item, like.get(key)) for key, item in value.items()}
    return value
