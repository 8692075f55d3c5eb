"""What the engine asks of a provider, and the values that pass between them.

The shape follows Pulumi's own provider protocol (`pulumi/provider.proto`): check, diff, create,
read, update, delete, invoke. Values are plain Python (None, bool, int/float, str, list, dict) plus
`UNKNOWN`. Secrets are unwrapped before a provider sees them; the engine puts the marks back on the
outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

Properties = dict[str, Any]


class Unknown:
    """The one value that stands for "not known until `up`"; see `UNKNOWN`."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()


class ProviderError(Exception):
    """A vendor's or provider's refusal, in words fit for the operator: what failed and why.

    `id` and `outputs` are given when the resource exists all the same (a Deployment that was made
    but does not become ready, a server that was made but whose protection failed): the engine
    keeps it in the state with this message as its `initErrors`, so that nothing is orphaned.

    `lost` tells that no answer came, so that nobody knows whether the change was made (a broken
    connection, a 504): the engine keeps the operation as pending, and the next run finds out.
    """

    def __init__(
        self,
        message: str,
        *,
        id: str | None = None,
        outputs: Properties | None = None,
        lost: bool = False,
    ):
        super().__init__(message)
        self.id = id
        self.outputs = outputs
        self.lost = lost


@dataclass(frozen=True)
class CheckFailure:
    """One wrong input: the property's path (`networks[0].ip`) and the reason."""

    property: str
    reason: str


@dataclass(frozen=True)
class Diff:
    """What a change of inputs means. Empty `changed` means: the same.

    `changed` and `replaces` hold property paths as Pulumi writes them (`labels.role`,
    `rules[2].port`). `replaces` is the subset that cannot be changed in place.
    """

    changed: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    delete_before_replace: bool = False


@dataclass(frozen=True)
class Context:
    """What a provider may use during one operation besides its inputs.

    `timeout` is in seconds (custom timeouts, or the provider's default when None). `progress` takes
    one short line for the live tree ("waiting for pods: 1 of 3 ready"). `cancelled()` turns True
    when the operator presses Ctrl-C: a long wait should then raise `ProviderError`.
    """

    urn: str
    dry_run: bool = False
    timeout: float | None = None
    progress: Callable[[str], None] = field(default=lambda _line: None)
    cancelled: Callable[[], bool] = field(default=lambda: False)


class Provider(Protocol):
    """One configured provider (an explicit provider resource of the program).

    Made by `rehearsal.providers.load(package, inputs)`, when the provider resource is registered;
    `inputs` may hold UNKNOWN during a preview. Methods run in worker threads, several at once.
    """

    def check(
        self, type_: str, olds: Properties | None, news: Properties
    ) -> tuple[Properties, list[CheckFailure]]:
        """Validates and normalises inputs (defaults, auto-names); unknown types or properties
        fail."""

    def diff(
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
    ) -> Diff:
        """Compares by the vendor's rules. `new_inputs` may hold UNKNOWN (counts as changed).

        `type_` is `pulumi:providers:<package>` when the provider's own configuration changed (the
        protocol's DiffConfig): `replaces` then means that every resource of this provider must be
        replaced too (the Kubernetes provider without a `cluster_identifier`). It is asked only
        when the inputs differ; every other method is called with the package's own types only.
        """

    def create(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties]:
        """Makes it and returns (id, outputs). With `ctx.dry_run`: makes nothing, returns ("",
        outputs as far as they are known, UNKNOWN for the others)."""

    def find(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties] | None:
        """Looks for what a create with these inputs has made whose answer was lost (the run was
        killed, the connection broke): (id, outputs), or None when there is nothing of this stack's.

        Pulumi's protocol has no such call: there a lost create fails with "already exists" until
        the operator imports it. Raises ProviderError when the vendor cannot tell just now.
        """

    def read(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> tuple[Properties, Properties] | None:
        """Returns (inputs, outputs) as the vendor has them now, or None when it is gone."""

    def update(  # noqa: PLR0917 - the shape of the protocol
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
        ctx: Context,
    ) -> Properties:
        """Changes it in place and returns the outputs; with `ctx.dry_run` only predicts them."""

    def delete(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> None:
        """Deletes it; something that is gone already is deleted."""

    def invoke(self, token: str, args: Mapping[str, Any]) -> Properties:
        """Answers a function call (`cloudflare:index/getIpRanges:getIpRanges`)."""
