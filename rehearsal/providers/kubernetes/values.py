"""Kubernetes objects as plain values: paths into them, and when two values mean the same.

Everything here is pure. "Live" is an object as the API server answers it; "inputs" is what the
program declared. The server adds defaults and writes some values in its own canonical form, so
live is first *pruned* to the shape of the inputs and then compared by meaning (pulumi-kubernetes:
provider/pkg/provider/util.go, pruneMap; provider/pkg/clients/unstructured.go, Normalize).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from rehearsal.engine.provider import Properties, Unknown

Path = tuple[str | int, ...]

# What only the API server writes in metadata: never an input, never a difference.
SERVER_METADATA: Final = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)

_SUFFIXES: Final = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_QUANTITY: Final = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]|[KMGTPE]i)?")
# The maps and fields whose values are quantities: the server rewrites "1000m" as "1".
_QUANTITY_FIELDS: Final = frozenset({"requests", "limits", "capacity", "hard", "overhead"})
_QUANTITY_SCALARS: Final = frozenset({"sizeLimit", "divisor", "averageValue"})


def pluck(value: Any, *path: str | int, default: Any = None) -> Any:
    """`pluck(pod, "status", "conditions", default=[])`; missing, null or unknown: the default."""
    for step in path:
        if isinstance(step, int):
            if not isinstance(value, list) or step >= len(value):
                return default
            value = value[step]
        elif isinstance(value, Mapping):
            value = value.get(step)
        else:
            return default
    return default if value is None or isinstance(value, Unknown) else value


def annotations_of(obj: Any) -> Mapping[str, Any]:
    return pluck(obj, "metadata", "annotations", default={})  # type: ignore[no-any-return]


def has_unknown(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(has_unknown, value.values()))
    if isinstance(value, list):
        return any(map(has_unknown, value))
    return isinstance(value, Unknown)


def wire(value: Any) -> Any:
    """The JSON to send: nulls dropped, whole doubles (as Pulumi sends numbers) as integers."""
    if isinstance(value, Mapping):
        return {k: wire(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [wire(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def path_text(path: Path) -> str:
    """As Pulumi writes property paths: `spec.ports[0].port`, `metadata.annotations["a.b/c"]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.search(r'[.\[\]"]', step):
            text += '["' + step.replace('"', '\\"') + '"]'
        else:
            text += f".{step}" if text else step
    return text


def prune(live: Any, inputs: Any, *, before: Any = None) -> Any:
    """Live with only the fields that the inputs name; list elements are matched by position.

    Elements that live has beyond the inputs' are dropped: a container that an admission webhook
    injected is no change of ours. A value that means the same as the input keeps the input's
    spelling, so that a refresh does not rewrite "0.5" as "500m" in the state.

    The server leaves some zeros out of its answers (`globalDefault: false`). A zero that live lacks
    is therefore kept, unless `before`, the live object as it was last seen, still had it: then
    somebody removed it.
    """
    return _prune(live, inputs, before, ())


def _prune(live: Any, inputs: Any, before: Any, at: Path) -> Any:
    if isinstance(live, Mapping) and isinstance(inputs, Mapping):
        earlier = before if isinstance(before, Mapping) else {}
        return {
            key: _prune(live[key], value, earlier.get(key), (*at, key)) if key in live else value
            for key, value in inputs.items()
            if key in live or (_zero(value) and key not in earlier)
        }
    if isinstance(live, list) and isinstance(inputs, list):
        return [
            _prune(a, b, pluck(before, i), (*at, i))
            for i, (a, b) in enumerate(zip(live, inputs, strict=False))
        ]
    return inputs if _same(live, inputs, at) else live


def _zero(value: Any) -> bool:
    return not value and not isinstance(value, Unknown)


def normalized(kind: str, inputs: Properties) -> Properties:
    """Inputs in the form in which the server stores them, as far as it moves fields about.

    A Secret's `stringData` is write-only: the server puts it, in base64, over `data`.
    """
    value = {k: v for k, v in inputs.items() if k != "status" and v is not None}
    metadata = value.get("metadata")
    if isinstance(metadata, Mapping):
        value["metadata"] = {k: v for k, v in metadata.items() if k not in SERVER_METADATA}
    plain = value.get("stringData")
    if kind == "Secret" and isinstance(plain, Unknown):
        value["data"] = value.pop("stringData")
    elif kind == "Secret" and isinstance(plain, Mapping):
        del value["stringData"]
        value["data"] = {**(value.get("data") or {}), **{k: _base64(v) for k, v in plain.items()}}
    if kind == "Secret" and isinstance(data := value.get("data"), Mapping):
        # base64 may be wrapped in lines; the server keeps the bytes and answers without breaks.
        value["data"] = {
            k: "".join(v.split()) if isinstance(v, str) else v for k, v in data.items()
        }
    return value


def _base64(value: Any) -> Any:
    return (
        base64.b64encode(str(value).encode()).decode() if not isinstance(value, Unknown) else value
    )


def differences(old: Any, new: Any) -> Iterator[tuple[Path, Any, Any]]:
    """(path, old, new) of each leaf that differs; a missing side is None; UNKNOWN differs."""
    yield from _differences(old, new, ())


def _differences(old: Any, new: Any, at: Path) -> Iterator[tuple[Path, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), (*at, key))
    elif isinstance(old, list) and isinstance(new, list):
        for i in range(max(len(old), len(new))):
            yield from _differences(
                old[i] if i < len(old) else None, new[i] if i < len(new) else None, (*at, i)
            )
    elif isinstance(new, Unknown) or not _same(old, new, at):
        yield at, old, new


def _same(old: Any, new: Any, at: Path) -> bool:
    if _empty(old) and _empty(new):  # the server drops empty maps and lists, and keeps some
        return True
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if old == new:
        return True
    if _holds_quantity(at):
        a, b = _quantity(old), _quantity(new)
        return a is not None and a == b
    return False


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping | list) and not value)


def _holds_quantity(at: Path) -> bool:
    if not at:
        return False
    return at[-1] in _QUANTITY_SCALARS or (len(at) > 1 and at[-2] in _QUANTITY_FIELDS)


def _quantity(value: Any) -> Decimal | None:
    match = (
        _QUANTITY.fullmatch(str(value).strip()) if isinstance(value, str | int | float) else None
    )
    if match is None:
        return None
    try:
        return Decimal(match[1]) * _SUFFIXES[match[2] or ""]
    except InvalidOperation:
        return None
