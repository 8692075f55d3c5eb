"""What an engine run tells whoever watches it: the live tree, plain lines, or `--json`.

The order holds for each resource: `ResourcePre`, any number of `ResourceProgress`, then one of
`ResourceDone` and `ResourceFailed`. Steps of different resources interleave. Events are delivered
one at a time (never concurrently), from worker threads, so a listener needs no lock but must not
block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from rehearsal.engine.provider import Properties


class Op(StrEnum):
    """A step, in the CLI's own words (`pulumi/pkg/resource/deploy/step.go`).

    A replacement is three steps in state order, of which only `REPLACE` counts in a summary:
    create-first is CREATE_REPLACEMENT, REPLACE and (at the end) DELETE_REPLACED; delete-first is
    DELETE_REPLACED, REPLACE, CREATE_REPLACEMENT.
    """

    SAME = "same"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    REPLACE = "replace"
    CREATE_REPLACEMENT = "create-replacement"
    DELETE_REPLACED = "delete-replaced"
    READ = "read"
    READ_DISCARD = "discard"
    REFRESH = "refresh"

    @property
    def logical(self) -> bool:
        """Whether the step counts in the summary (halves of a replacement do not)."""
        return self not in (Op.CREATE_REPLACEMENT, Op.DELETE_REPLACED)


@dataclass(frozen=True)
class PropertyChange:
    """One line of a diff: `path` as Pulumi writes it, `kind` as in the CLI's `detailedDiff`.

    Values may hold `values.Secret` (show `[secret]`) and `UNKNOWN` (show `output<string>`).
    `replaces` tells that this very change forces the replacement.
    """

    path: str
    kind: Literal["add", "delete", "update"]
    old: Any = None
    new: Any = None
    replaces: bool = False


@dataclass(frozen=True)
class ResourceView:
    """A resource as a listener may show it (the CLI's `oldState`/`newState` of a preview step)."""

    urn: str
    type: str
    custom: bool
    id: str
    parent: str
    provider: str
    protect: bool
    inputs: Properties
    outputs: Properties
    init_errors: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.urn.rsplit("::", 1)[-1]


@dataclass(frozen=True)
class PreludeEvent:
    """First of all: the configuration of the run, secrets already masked as `[secret]`."""

    config: Mapping[str, str]
    dry_run: bool
    project: str
    stack: str


@dataclass(frozen=True)
class ResourcePre:
    """A step begins (or, in a preview, would begin)."""

    urn: str
    type: str
    op: Op
    parent: str
    old: ResourceView | None
    new: ResourceView | None
    diff: tuple[PropertyChange, ...] = ()
    replace_reasons: tuple[str, ...] = ()  # property paths, or words such as "replacement trigger"


@dataclass(frozen=True)
class ResourceProgress:
    """One short line from the provider while it works ("waiting for pods: 1 of 3 ready")."""

    urn: str
    line: str


@dataclass(frozen=True)
class ResourceDone:
    """A step ended well. `seconds` is its wall time."""

    urn: str
    op: Op
    outputs: Properties = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class ResourceFailed:
    """A step failed; `message` is the cause in the provider's words, without secrets."""

    urn: str
    op: Op
    message: str


@dataclass(frozen=True)
class StackOutputs:
    """The stack's outputs as the program registered them (values may be `Secret` or `UNKNOWN`)."""

    outputs: Properties
    old: Properties


@dataclass(frozen=True)
class Diagnostic:
    """A line to the operator. `urn` is empty when it concerns the run as a whole."""

    urn: str
    severity: Literal["debug", "info", "warning", "error"]
    message: str


@dataclass(frozen=True)
class Summary:
    """Last of all. `changes` counts logical steps by `Op` value; `duration` is in seconds."""

    changes: Mapping[str, int]
    duration: float
    ok: bool
    dry_run: bool


Event = (
    PreludeEvent
    | ResourcePre
    | ResourceProgress
    | ResourceDone
    | ResourceFailed
    | StackOutputs
    | Diagnostic
    | Summary
)
Listener = Callable[[Event], None]
