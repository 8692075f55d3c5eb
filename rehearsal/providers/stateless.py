"""Resources without a vendor behind them: keys, certificates, passwords.

They are made once and from then on live in Pulumi's state alone. So reading, updating and deleting
them asks nobody; what a type has of its own is how it is made and which inputs may change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rehearsal.engine.provider import (
    UNKNOWN,
    CheckFailure,
    Context,
    Diff,
    Properties,
    ProviderError,
)
from rehearsal.providers import schema
from rehearsal.providers.compare import changed_paths, root


def _no_failures(_inputs: Properties) -> list[CheckFailure]:
    return []


def _as_given(inputs: Properties) -> Properties:
    return inputs


def _never(_outputs: Properties) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Kind:
    """One resource type.

    `make` takes the planned inputs and returns (id, computed outputs); a ValueError becomes the
    operator's error. `plan` fills in the provider's defaults: as in the Terraform bridge these show
    in the outputs, never in the inputs. `in_place` names the inputs whose change needs no new
    resource. `due` names the outputs that time has turned true and that ask for a replacement.
    """

    make: Callable[[Properties], tuple[str, Properties]]
    computed: tuple[str, ...]
    plan: Callable[[Properties], Properties] = _as_given
    validate: Callable[[Properties], list[CheckFailure]] = _no_failures
    in_place: frozenset[str] = frozenset()
    due: Callable[[Properties], tuple[str, ...]] = _never


class StatelessProvider:
    """The engine's `Provider` for a table of kinds."""

    def __init__(self, package: str, kinds: Mapping[str, Kind], inputs: Properties) -> None:
        failures = schema.check(f"pulumi:providers:{package}", inputs)
        if failures:
            raise ProviderError(
                f"provider {package}: "
                + "; ".join(f"{failure.property}: {failure.reason}" for failure in failures)
            )
        self._package = package
        self._kinds = kinds

    def check(
        self, type_: str, olds: Properties | None, news: Properties
    ) -> tuple[Properties, list[CheckFailure]]:
        del olds
        failures = schema.check(type_, news)
        if not failures:
            failures = self._kind(type_).validate(news)
        return news, failures

    def diff(
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
    ) -> Diff:
        del id
        if type_ == f"pulumi:providers:{self._package}":
            return Diff(changed_paths(old_inputs, new_inputs))
        kind = self._kind(type_)
        changed = changed_paths(kind.plan(old_inputs), kind.plan(new_inputs))
        replaces = tuple(path for path in changed if root(path) not in kind.in_place)
        # The renewal is judged by the new inputs: a longer early_renewal_hours may bring it on.
        due = kind.due(old_outputs | kind.plan(new_inputs))
        return Diff(changed=changed + due, replaces=replaces + due)

    def create(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties]:
        kind = self._kind(type_)
        planned = kind.plan(inputs)
        if ctx.dry_run:
            return "", planned | dict.fromkeys(kind.computed, UNKNOWN)
        try:
            id_, computed = kind.make(planned)
        except ValueError as error:
            raise ProviderError(f"{type_.rpartition(':')[2]}: {error}") from error
        return id_, planned | computed

    def find(self, type_: str, inputs: Properties, ctx: Context) -> None:
        """What was made and not saved is nowhere."""

    def read(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> tuple[Properties, Properties] | None:
        del id, ctx
        return inputs, outputs | dict.fromkeys(self._kind(type_).due(outputs), True)

    def update(  # noqa: PLR0917 - the engine's protocol
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
        ctx: Context,
    ) -> Properties:
        del id, old_inputs, ctx
        kind = self._kind(type_)
        computed = {name: old_outputs[name] for name in kind.computed if name in old_outputs}
        return kind.plan(new_inputs) | computed

    def delete(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> None:
        """Nothing to do: the engine takes it out of the state."""

    def invoke(self, token: str, args: Mapping[str, Any]) -> Properties:
        del args
        raise ProviderError(
            f"the rehearsal's provider {self._package!r} has no function {token!r}: "
            f"add it in rehearsal/providers/{self._package}.py, or do without it in the program."
        )

    def _kind(self, type_: str) -> Kind:
        try:
            return self._kinds[type_]
        except KeyError:
            raise ProviderError(
                f"the rehearsal's provider {self._package!r} has no type {type_!r}; it has "
                f"{', '.join(sorted(self._kinds))}. Add it in rehearsal/providers/"
                f"{self._package}.py, or remove the resource from the program."
            ) from None
