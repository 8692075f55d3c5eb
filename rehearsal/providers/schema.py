"""Checks inputs against what the vendors' Pulumi SDK packages declare themselves.

Each resource `Xxx` of an SDK has a class `XxxArgs`: its constructor says what is required, its
properties say the wire name and type of each input, and nested `…Args` classes likewise. So the
checker knows every type and property of the installed version, and nothing has to be kept in step.

    failures = check("hcloud:index/server:Server", inputs)

A package that the program itself has not imported is not imported for this: the one file that
declares the type is run alone, because `pulumi_cloudflare` as a whole takes two seconds
(docs/adr/0007). Its nested types are in other files; only an input that has one needs the package.

Where Pulumi's own plugins differ: the Terraform bridge coerces ("3" to 3, "true" to True); here a
value must have the declared type, because the program is typed and a coercion hides a mistake.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import typing
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from types import ModuleType, NoneType, UnionType
from typing import Any, Final, cast

import pulumi

from rehearsal.engine.provider import CheckFailure, Properties, Unknown

_SCALARS: Final[dict[type, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}

_ALONE: Final = "_alone_"  # before the name of a package of which single files are run


class UnknownTypeError(LookupError):
    """The SDK package has no such resource type."""


@dataclass(frozen=True)
class Property:
    """One declared input."""

    required: bool
    _arguments: type
    _getter: Callable[[Any], Any]

    @cached_property
    def type(self) -> Any:
        """Without Input, Output and Optional around it."""
        try:
            hints = _hints(self._getter, self._arguments)
        except NameError:  # a nested type, and the file was run alone
            package = vars(sys.modules[self._arguments.__module__])["__package__"]
            package = importlib.import_module(package.removeprefix(_ALONE))
            whole = getattr(package, self._arguments.__name__)
            hints = _hints(self._getter, whole)
        return _plain(hints.get("return", Any))


def _hints(getter: Callable[[Any], Any], arguments: type) -> dict[str, Any]:
    # pulumi.Input is a union that names Output[T] as a string, in the scope of its own module.
    scope = {
        **vars(sys.modules[pulumi.Output.__module__]),
        **vars(sys.modules[arguments.__module__]),
    }
    return typing.get_type_hints(getter, globalns=scope)


def check(type_: str, inputs: Properties) -> list[CheckFailure]:
    """Every input of a resource that is unknown, missing or of the wrong type."""
    try:
        arguments = _arguments_class(type_)
    except UnknownTypeError as error:
        return [CheckFailure("", str(error))]
    return _check_object(arguments, inputs, "")


def properties(type_: str) -> Mapping[str, Property]:
    """The inputs of a resource type by wire name. Raises UnknownTypeError."""
    return _properties(_arguments_class(type_))


def output_names(type_: str) -> frozenset[str]:
    """The wire names of a resource's outputs (without `id` and `urn`). Raises UnknownTypeError."""
    return frozenset(name for name, _ in _wire_properties(_resource_class(type_))) - {"id", "urn"}


@cache
def _resource_class(type_: str) -> type:
    """`hcloud:index/server:Server` → pulumi_hcloud.Server; `command:local:Command` →
    pulumi_command.local.Command; `pulumi:providers:hcloud` → pulumi_hcloud.Provider."""
    package, _, rest = type_.partition(":")
    module, _, name = rest.partition(":")
    if package == "pulumi" and module == "providers":
        package, module, name = name, "", "Provider"
    path = f"pulumi_{package.replace('-', '_')}"
    folder = module.split("/")[0]
    if folder in {"", "index"} and (alone := _file_alone(path, name)) is not None:
        return alone
    if folder not in {"", "index"}:
        path += "." + module.replace("/", ".") if package == "kubernetes" else f".{folder}"
    try:
        with warnings.catch_warnings():
            # The SDKs warn of their own deprecated resources as soon as they are imported.
            warnings.simplefilter("ignore", DeprecationWarning)
            found = getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError):
        raise UnknownTypeError(f"{type_!r} is not a type of the installed package {path}") from None
    if not _is_resource(found):
        raise UnknownTypeError(f"{type_!r} is not a resource type of the package {path}")
    return cast("type", found)


def _is_resource(found: Any) -> bool:
    return inspect.isclass(found) and issubclass(found, pulumi.Resource)


def _file_alone(package: str, name: str) -> type | None:
    """The resource class from its own file (`dns_record.py`), run under a package name of our own
    where the files that it shares with all others are empty. None: not that simple."""
    if package in sys.modules or (spec := importlib.util.find_spec(package)) is None:
        return None
    file = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    alias = _ALONE + package
    if alias not in sys.modules:
        parent = ModuleType(alias)
        parent.__path__ = list(spec.submodule_search_locations or ())
        sys.modules[alias] = parent
        for shared in ("_utilities", "_inputs", "_enums", "outputs"):
            empty = sys.modules[f"{alias}.{shared}"] = ModuleType(f"{alias}.{shared}")
            setattr(parent, shared, empty)
    try:
        found = getattr(importlib.import_module(f"{alias}.{file}"), name, None)
    except (ImportError, NameError, AttributeError):
        return None
    return found if _is_resource(found) else None


@cache
def _arguments_class(type_: str) -> type:
    resource = _resource_class(type_)
    beside = vars(sys.modules[resource.__module__])
    for suffix in ("Args", "InitArgs"):
        if inspect.isclass(found := beside.get(resource.__name__ + suffix)):
            return found
    raise UnknownTypeError(f"the package that declares {type_!r} has no inputs class for it")


def _wire_properties(declared: type) -> list[tuple[str, property]]:
    """(wire name, property): Pulumi's getter decorator leaves the wire name on the getter."""
    found: dict[str, property] = {}
    for base in reversed(declared.__mro__):
        for value in vars(base).values():
            wire_name = getattr(getattr(value, "fget", None), "_pulumi_name", None)
            if isinstance(value, property) and isinstance(wire_name, str):
                found[wire_name] = value
    return list(found.items())


@cache
def _properties(arguments: type) -> Mapping[str, Property]:
    parameters = inspect.signature(arguments).parameters
    result: dict[str, Property] = {}
    for wire_name, declared in _wire_properties(arguments):
        getter = declared.fget
        # A deprecated property's getter is wrapped; the wrapped one has the annotations.
        getter = inspect.unwrap(getter) if getter is not None else getter
        if getter is None:
            continue
        parameter = parameters.get(getter.__name__)
        result[wire_name] = Property(
            required=parameter is not None and parameter.default is inspect.Parameter.empty,
            _arguments=arguments,
            _getter=getter,
        )
    return result


def _plain(annotation: Any) -> Any:
    """Takes Input[…] (a union with Awaitable and Output) and Optional away, at every level."""
    origin = typing.get_origin(annotation)
    if origin in {typing.Union, UnionType}:
        members: list[Any] = []
        for member in typing.get_args(annotation):
            if member is NoneType or typing.get_origin(member) in {Awaitable, pulumi.Output}:
                continue
            plain = _plain(member)
            inner = typing.get_args(plain) if typing.get_origin(plain) is typing.Union else (plain,)
            members += [m for m in inner if m not in members]
        return typing.Union[tuple(members)] if members else Any  # noqa: UP007 - made at run time
    if origin in {Sequence, list}:
        return list[_plain(typing.get_args(annotation)[0])]  # type: ignore[misc]
    if origin in {Mapping, dict}:
        return dict[str, _plain(typing.get_args(annotation)[1])]  # type: ignore[misc]
    return annotation


def _check_object(arguments: type, inputs: Mapping[str, Any], at: str) -> list[CheckFailure]:
    declared = _properties(arguments)
    failures: list[CheckFailure] = []
    for name, value in inputs.items():
        if name.startswith("__"):  # the SDK's own marks (__defaults, __internal)
            continue
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            failures.append(CheckFailure(at + name, f"unknown property{hint}"))
        elif value is not None:
            failures += _check_value(declared[name].type, value, at + name)
    for name, wanted in declared.items():
        if wanted.required and inputs.get(name) is None:
            failures.append(CheckFailure(at + name, "is required"))
    return failures


def _check_value(wanted: Any, value: Any, at: str) -> list[CheckFailure]:
    if wanted is Any or isinstance(value, Unknown):
        return []
    origin, members = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in {typing.Union, UnionType}:
        answers = [_check_value(member, value, at) for member in members]
        return [] if [] in answers else min(answers, key=len)
    if origin is list:
        items = (
            [(f"{at}[{i}]", v) for i, v in enumerate(value)] if isinstance(value, list) else None
        )
        return _check_items(members[0], items, "a list", value, at)
    if origin is dict:
        items = [(f"{at}.{k}", v) for k, v in value.items()] if isinstance(value, Mapping) else None
        return _check_items(members[1], items, "a map", value, at)
    return _check_class(wanted, value, at) if inspect.isclass(wanted) else []


def _check_items(
    wanted: Any, items: list[tuple[str, Any]] | None, kind: str, value: Any, at: str
) -> list[CheckFailure]:
    if items is None:
        return [_wrong(at, kind, value)]
    return [failure for path, item in items for failure in _check_value(wanted, item, path)]


def _check_class(wanted: type, value: Any, at: str) -> list[CheckFailure]:
    if issubclass(wanted, Enum):
        allowed = [member.value for member in wanted]
        known = ", ".join(map(str, allowed))
        return [] if value in allowed else [CheckFailure(at, f"must be one of {known}")]
    if wanted in _SCALARS:
        return [] if _is_scalar(wanted, value) else [_wrong(at, _SCALARS[wanted], value)]
    if not _wire_properties(wanted):
        return []  # assets, archives: the engine's values
    if not isinstance(value, Mapping):
        return [_wrong(at, "an object", value)]
    return _check_object(wanted, value, f"{at}.")


def _is_scalar(wanted: type, value: Any) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    if wanted is int:  # numbers travel as doubles in Pulumi's protocol
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, int | float) if wanted is float else isinstance(value, wanted)


def _wrong(at: str, wanted: str, value: Any) -> CheckFailure:
    # The value itself stays out of it: it may be a secret.
    kinds = {**_SCALARS, list: "a list", dict: "a map"}
    return CheckFailure(at, f"must be {wanted}, not {kinds.get(type(value), type(value).__name__)}")
