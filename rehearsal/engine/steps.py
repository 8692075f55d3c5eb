"""What a step is decided by: names, property paths, differences and the graph. Pure functions."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from rehearsal.engine.events import PropertyChange, ResourceView
from rehearsal.engine.provider import Properties
from rehearsal.engine.state import Resource
from rehearsal.engine.values import Secret, has_unknown, plain

STACK_TYPE: Final = "pulumi:pulumi:Stack"
PROVIDER_PREFIX: Final = "pulumi:providers:"

Path = tuple[str | int, ...]


# --- names ----------------------------------------------------------------------------------------


def make_urn(stack: str, project: str, parent: str, type_: str, name: str) -> str:
    """`urn:pulumi:<stack>::<project>::<parents' types>$<type>::<name>`; the stack is no parent."""
    chain = parent.split("::")[2] if parent else ""
    qualified = f"{chain}${type_}" if chain and chain != STACK_TYPE else type_
    return f"urn:pulumi:{stack}::{project}::{qualified}::{name}"


def type_of(urn: str) -> str:
    return urn.split("::")[2].rpartition("$")[2]


def name_of(urn: str) -> str:
    return urn.split("::", 3)[3]


def package_of(token: str) -> str:
    """`hcloud:index/server:Server` → hcloud; `pulumi:providers:hcloud` → hcloud."""
    return (
        token.split(":")[2]
        if token.startswith(PROVIDER_PREFIX)
        else token.split(":", maxsplit=1)[0]
    )


def inherited_alias(child: str, parent: str, parent_was: str, stack: str, project: str) -> str:
    """The URN of `child` when its parent was still called `parent_was`. By convention a child's
    name begins with its parent's, so it changed together with it."""
    name, now, was = name_of(child), name_of(parent), name_of(parent_was)
    if name.startswith(now):
        name = was + name[len(now) :]
    return make_urn(stack, project, parent_was, type_of(child), name)


# --- property paths -------------------------------------------------------------------------------

_SEGMENT: Final = re.compile(r'\.?([^.\[\]"]+)|\["((?:[^"\\]|\\.)*)"\]|\[(\d+|\*)\]|\.?"([^"]*)"')


def parse_path(path: str) -> Path:
    """`a.b[0]["c.d"][*]` → ("a", "b", 0, "c.d", "*"). A word that is no path counts as one key."""
    segments: list[str | int] = []
    at = 0
    while at < len(path):
        match = _SEGMENT.match(path, at)
        if match is None:
            return (path,)
        key, quoted, index, bare = match.groups()
        if index is not None:
            segments.append(index if index == "*" else int(index))
        else:
            segments.append(next(k for k in (key, quoted, bare) if k is not None))
        at = match.end()
    return tuple(segments)


def format_path(path: Path) -> str:
    text = ""
    for segment in path:
        if isinstance(segment, int):
            text += f"[{segment}]"
        elif re.search(r'[.\[\]"]', segment):
            text += '["' + segment.replace('"', '\\"') + '"]'
        else:
            text += f".{segment}" if text else segment
    return text


def covers(pattern: Path, path: Path) -> bool:
    """Whether `path` is `pattern` or lies below it; `*` stands for any one segment."""
    return len(pattern) <= len(path) and all(
        want == "*" or str(want) == str(have) for want, have in zip(pattern, path, strict=False)
    )


_MISSING: Final = object()


def ignore_changes(patterns: Iterable[str], old: Properties, new: Properties) -> Properties:
    """`new` with the values of `old` at the ignored paths; what `old` lacks there goes."""
    result: Any = new
    for pattern in patterns:
        result = _reset(parse_path(pattern), old, result)
    return dict(result)


def _reset(path: Path, old: Any, new: Any) -> Any:
    if not path:
        return old
    if isinstance(old, Secret) or isinstance(new, Secret):
        inner = _reset(path, plain(old), plain(new))
        return inner if inner is _MISSING else Secret(inner)
    head, rest = path[0], path[1:]
    if isinstance(new, dict) and (isinstance(old, dict) or old is _MISSING):
        before: dict[str, Any] = old if isinstance(old, dict) else {}
        result = dict(new)
        for key in [*before, *(k for k in new if k not in before)] if head == "*" else [str(head)]:
            value = _reset(rest, before.get(key, _MISSING), new.get(key, _MISSING))
            result.pop(key, None)
            if value is not _MISSING:
                result[key] = value
        return result
    if isinstance(new, list) and isinstance(old, list):
        items = list(new)
        shared = range(min(len(old), len(new)))
        for i in shared if head == "*" else [head] if head in shared else []:
            if isinstance(i, int):
                items[i] = _reset(rest, old[i], items[i])
        return items
    return new


# --- differences ----------------------------------------------------------------------------------


def differences(old: Any, new: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """(path, old, new) of every leaf that differs; a missing side is None. Secretness alone is no
    difference, and a secret is one leaf."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), (*path, key))
    elif isinstance(old, list) and isinstance(new, list):
        for i in range(max(len(old), len(new))):
            before, after = (side[i] if i < len(side) else None for side in (old, new))
            yield from differences(before, after, (*path, i))
    elif has_unknown(new) or plain(old) != plain(new):
        yield path, old, new


def property_changes(
    old: Resource, inputs: Properties, changed: Collection[str], replaces: Collection[str]
) -> tuple[PropertyChange, ...]:
    """The lines of a diff: of what changed in the inputs, that which the provider calls a change;
    and what it calls a change but the inputs do not show (drift), from the outputs."""
    said = [parse_path(path) for path in changed]
    forcing = [parse_path(path) for path in replaces]

    def near(paths: list[Path], path: Path) -> bool:
        return any(covers(p, path) or covers(path, p) for p in paths)

    changes, shown = [], []
    for path, before, after in differences(old.inputs, inputs):
        if near(said, path):
            kind = "add" if before is None else "delete" if after is None else "update"
            forces = near(forcing, path)
            changes.append(PropertyChange(format_path(path), kind, before, after, forces))  # type: ignore[arg-type]  # a Literal by construction
            shown.append(path)
    for path in said:
        if not near(shown, path):
            before, after = _at(old.outputs, path), _at(inputs, path)
            changes.append(
                PropertyChange(format_path(path), "update", before, after, near(forcing, path))
            )
    return tuple(changes)


def _at(value: Any, path: Path) -> Any:
    for segment in path:
        if isinstance(value, Secret):
            return value
        if isinstance(value, dict):
            value = value.get(str(segment))
        elif isinstance(value, list) and isinstance(segment, int) and segment < len(value):
            value = value[segment]
        else:
            return None
    return value


def view(resource: Resource | None) -> ResourceView | None:
    if resource is None:
        return None
    r = resource
    return ResourceView(
        urn=r.urn,
        type=r.type,
        custom=r.custom,
        id=r.id,
        parent=r.parent,
        provider=r.provider,
        protect=r.protect,
        inputs=r.inputs,
        outputs=r.outputs,
        init_errors=r.init_errors,
    )


# --- the graph ------------------------------------------------------------------------------------


def dependents(root: str, resources: Sequence[Resource]) -> list[Resource]:
    """What depends on `root`, directly or not, in dependency order. A child is not a dependent."""
    reached, found = {root}, []
    for resource in resources:
        needed = resource.references - ({resource.parent} - set(resource.dependencies))
        if resource.urn != root and not reached.isdisjoint(needed):
            reached.add(resource.urn)
            found.append(resource)
    return found


def parse_timeout(text: str) -> float:
    """Seconds of a Go duration: `10m`, `1h30m`, `90s`, `250ms`."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"customTimeouts: {text!r} is no duration such as 10m or 1h30m")
    return sum(float(number) * units[unit] for number, unit in parts)


def matches_target(urn: str, targets: Collection[str]) -> bool:
    """Targets may hold `*` (one segment) and `**`, as the CLI's do; here both cross segments."""
    return any(urn == t or fnmatch.fnmatchcase(urn, t) for t in targets)
