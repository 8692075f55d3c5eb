"""What an engine run looks like: a live tree on a terminal, plain lines elsewhere, JSON on request.

Each colour has one meaning: green is made, yellow is changed, magenta is replaced, red is deleted
or failed. Everything else is grey or plain.
"""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.status import Status
from rich.table import Table
from rich.text import Text

from rehearsal.engine.events import (
    Diagnostic,
    Event,
    Op,
    PreludeEvent,
    PropertyChange,
    ResourceDone,
    ResourceFailed,
    ResourcePre,
    ResourceProgress,
    ResourceView,
    StackOutputs,
    Summary,
)
from rehearsal.engine.provider import Unknown
from rehearsal.engine.redaction import MASK
from rehearsal.engine.values import UNKNOWN_SENTINEL, Secret

MARKS: Mapping[Op, tuple[str, str]] = {
    Op.SAME: (" ", "dim"),
    Op.CREATE: ("+", "green"),
    Op.UPDATE: ("~", "yellow"),
    Op.REPLACE: ("±", "magenta"),
    Op.CREATE_REPLACEMENT: ("±", "magenta"),
    Op.DELETE_REPLACED: ("±", "magenta"),
    Op.DELETE: ("-", "red"),
    Op.READ: (">", "cyan"),
    Op.READ_DISCARD: ("<", "cyan"),
    Op.REFRESH: ("~", "dim"),
}
SECONDS_BETWEEN_NEWS = 20.0
DIGEST = re.compile(r"(@sha256:[0-9a-f]{12})[0-9a-f]{52}")
WARNING = "warning: "  # how a line of progress begins that stays when the run is over
LINES_OF_TEXT = 40
DONE: Mapping[Op, str] = {
    Op.CREATE: "created",
    Op.UPDATE: "updated",
    Op.REPLACE: "replaced",
    Op.CREATE_REPLACEMENT: "replaced",
    Op.DELETE_REPLACED: "deleted the old one",
    Op.DELETE: "deleted",
    Op.READ: "read",
    Op.REFRESH: "refreshed",
}
DOING: Mapping[Op, str] = {
    Op.CREATE: "creating",
    Op.UPDATE: "updating",
    Op.REPLACE: "replacing",
    Op.CREATE_REPLACEMENT: "creating the new one",
    Op.DELETE_REPLACED: "deleting the old one",
    Op.DELETE: "deleting",
    Op.READ: "reading",
    Op.REFRESH: "refreshing",
}


def short_type(token: str) -> str:
    """`hcloud:index/server:Server` → `hcloud:Server`, `kubernetes:apps/v1:Deployment` stays."""
    package, _, rest = token.partition(":")
    module, _, name = rest.rpartition(":")
    module = "" if module.partition("/")[0] == "index" else f"{module.rstrip('/')}:"
    return f"{package}:{module}{name}" if name else token


def shown(value: Any) -> str:
    """One property's value on one line, never a secret."""
    masked = mask(value)
    text = masked if isinstance(masked, str) else json.dumps(masked, sort_keys=True, default=str)
    text = text.replace("\n", "⏎")
    text = "".join(c if c.isprintable() else "·" for c in text)
    text = DIGEST.sub(r"\1…", text)  # as docker shows them; else the end of a reference is cut off
    return text if len(text) <= 72 else f"{text[:60]}… ({len(text)} characters)"


def mask(value: Any, unknown: str = "[unknown]") -> Any:
    """Plain JSON values; secrets and what is not known yet become words, as the CLI prints them."""
    if isinstance(value, Secret):
        return "[secret]"
    if isinstance(value, Unknown):
        return unknown
    if isinstance(value, Mapping):
        return {str(key): mask(item, unknown) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask(item, unknown) for item in value]
    return value


@dataclass
class Row:
    """One resource in the tree."""

    urn: str
    type: str
    parent: str
    op: Op = Op.SAME
    diff: tuple[PropertyChange, ...] = ()
    reasons: tuple[str, ...] = ()
    started: float = 0.0
    running: bool = False
    seconds: float | None = None
    line: str = ""
    error: str = ""
    component: bool = False

    @property
    def name(self) -> str:
        return self.urn.rsplit("::", 1)[-1]

    @property
    def changed(self) -> bool:
        return self.op not in (Op.SAME, Op.REFRESH) or bool(self.error)


class Tree:
    """All resources of a run, as far as events have told of them."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.diagnostics: list[Diagnostic] = []
        self.outputs: StackOutputs | None = None
        self.summary: Summary | None = None
        self.config: Mapping[str, str] = {}
        self.steps: list[ResourcePre] = []

    def take(self, event: Event) -> None:
        match event:
            case PreludeEvent():
                self.config = event.config
            case ResourcePre():
                self.steps.append(event)
                self._begin(event)
            case ResourceProgress():
                if event.urn in self.rows:
                    self.rows[event.urn].line = event.line
                if event.line.startswith(WARNING):  # a line that passes by is not read
                    told = event.line.removeprefix(WARNING)
                    self.diagnostics.append(Diagnostic(event.urn, "warning", told))
            case ResourceDone():
                row = self.rows[event.urn]
                row.running, row.line = False, ""
                if row.op is Op.REFRESH:  # what the refresh found: same, update or delete
                    row.op = event.op
                row.seconds = (row.seconds or 0.0) + event.seconds
            case ResourceFailed():
                row = self.rows.setdefault(event.urn, Row(event.urn, "", ""))
                row.running, row.error = False, event.message
            case Diagnostic():
                self.diagnostics.append(event)
            case StackOutputs():
                self.outputs = event
            case Summary():
                self.summary = event

    def _begin(self, event: ResourcePre) -> None:
        row = self.rows.get(event.urn)
        if row is None:
            view = event.new or event.old
            component = view is not None and not view.custom
            row = Row(event.urn, event.type, event.parent, component=component)
            self.rows[event.urn] = row
        if event.op.logical or row.op is Op.SAME:
            row.op = event.op
        row.diff = event.diff or row.diff
        row.reasons = event.replace_reasons or row.reasons
        row.started, row.running = time.monotonic(), True

    def stack_alone(self) -> list[str]:
        return [row.urn for row in self.rows.values() if row.type == "pulumi:pulumi:Stack"]

    def walk(self, keep: Iterable[str]) -> Iterator[tuple[str, Row]]:
        """(branch drawing, row) in tree order, for the rows in `keep` and what they hang from."""
        wanted: set[str] = set()
        for leaf in keep:
            urn = leaf
            while urn and urn not in wanted:
                wanted.add(urn)
                urn = self.rows[urn].parent if urn in self.rows else ""
        below: dict[str, list[str]] = {}
        for urn, row in self.rows.items():
            if urn in wanted:
                below.setdefault(row.parent if row.parent in self.rows else "", []).append(urn)

        def branch(urn: str, lead: str, knot: str) -> Iterator[tuple[str, Row]]:
            yield lead + knot, self.rows[urn]
            inner = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[knot]
            children = below.get(urn, [])
            for index, child in enumerate(children):
                yield from branch(child, inner, "└─ " if index == len(children) - 1 else "├─ ")

        for root in below.get("", []):
            yield from branch(root, "", "")


def plan_word(row: Row) -> str:
    if row.op is Op.SAME:
        return ""
    changed = sorted({change.path for change in row.diff if "." not in change.path})
    changed = changed or sorted({leaf(change.path) for change in row.diff})
    detail = f"  [{', '.join(changed[:4])}{', …' if len(changed) > 4 else ''}]" if changed else ""
    return f"{row.op}{detail if row.op is not Op.CREATE else ''}"


def leaf(path: str) -> str:
    """`spec.containers[0].image` → `image`, `metadata.annotations["a.b/c"]` → `a.b/c`."""
    quoted = re.search(r'\["([^"]+)"\]$', path)
    return quoted[1] if quoted else path.rpartition(".")[2]


def tree_table(tree: Tree, keep: Iterable[str], last_column: str) -> Table:
    """The tree as a table; `last_column` is `Plan` (what would be done) or `Status` (what was)."""
    rows = list(tree.walk(keep))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", width=1)
    # Only the last column gives way on a narrow terminal: the others say what it is about.
    types = max((len(drawing + short_type(row.type)) for drawing, row in rows), default=0)
    table.add_column("Type", no_wrap=True, min_width=types)
    names = max((len(row.name) for _, row in rows), default=0)
    table.add_column("Name", no_wrap=True, min_width=names)
    table.add_column(last_column, overflow="ellipsis", no_wrap=True)
    for drawing, row in rows:
        mark, colour = MARKS[row.op]
        table.add_row(
            Text(mark, style=colour),
            Text(drawing, style="dim") + Text(short_type(row.type), style=""),
            row.name,
            status(row) if last_column == "Status" else Text(plan_word(row), style=colour),
        )
    return table


def status(row: Row) -> Text:
    _, colour = MARKS[row.op]
    if row.error:
        return Text("failed", style="red")
    if row.running and row.op is not Op.SAME:
        waited = f"{time.monotonic() - row.started:.0f} s"
        return Text(f"{DOING.get(row.op, '')} ({waited})  {row.line}".rstrip(), style=colour)
    if row.op is Op.SAME:
        return Text("")
    took = f" ({row.seconds:.1f} s)" if row.seconds and row.seconds >= 0.05 else ""
    return Text(DONE.get(row.op, str(row.op)) + took, style=colour)


def diff_lines(tree: Tree) -> Iterator[Text]:
    """old → new for each property of each changed resource, for `--diff`."""
    for row in tree.rows.values():
        if not row.diff:
            continue
        mark, colour = MARKS[row.op]
        yield Text(f"{mark} {short_type(row.type)}  {row.name}", style=colour)
        for change in row.diff:
            for line in property_lines(change):
                yield Text(f"    {line}")


def property_lines(change: PropertyChange) -> list[str]:
    """Texts of several lines (values of a chart, a script) by the lines that differ."""
    old, new = change.old, change.new
    if not (isinstance(old, str) and isinstance(new, str) and "\n" in old + new):
        return [property_line(change)]
    differing = [
        f"    {line[:100]}"
        for line in difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]
    left = len(differing) - LINES_OF_TEXT
    more = [f"    … and {left} lines more"] if left > 0 else []
    note = "  (forces replacement)" if change.replaces else ""
    return [f"~ {change.path}:{note}", *differing[:LINES_OF_TEXT], *more]


def property_line(change: PropertyChange) -> str:
    note = "  (forces replacement)" if change.replaces else ""
    if change.kind == "add":
        return f"+ {change.path}: {shown(change.new)}{note}"
    if change.kind == "delete":
        return f"- {change.path}: {shown(change.old)}{note}"
    return f"~ {change.path}: {shown(change.old)} → {shown(change.new)}{note}"


def closing(tree: Tree, show_outputs: bool = True) -> Iterator[Text]:
    """Diagnostics, outputs and the count, as they stand under every run."""
    errors = [row for row in tree.rows.values() if row.error]
    said = [d for d in tree.diagnostics if d.severity != "debug"]
    if errors or said:
        yield Text("\nDiagnostics", style="bold")
        for row in errors:
            yield Text(f"  {row.name}  ", style="red") + Text(short_type(row.type), style="dim")
            for line in row.error.splitlines():
                yield Text(f"    {line}")
        known = {row.error for row in errors}
        for entry in said:
            if entry.message in known:
                continue
            colour = {"error": "red", "warning": "yellow"}.get(entry.severity, "dim")
            name = entry.urn.rsplit("::", 1)[-1]
            head, *rest = entry.message.splitlines() or [""]
            yield Text(f"  {entry.severity}: ", style=colour) + Text(
                f"{name}: {head}" if name else head
            )
            for line in rest:
                yield Text(f"    {line}".rstrip())
    if show_outputs and tree.outputs and tree.outputs.outputs:
        yield Text("\nOutputs", style="bold")
        yield from output_lines(tree.outputs.outputs)
    if tree.summary:
        yield Text("")
        yield summary_line(tree.summary)


def output_lines(outputs: Mapping[str, Any], indent: str = "  ") -> Iterator[Text]:
    plain = mask(outputs)
    width = max((len(key) for key in plain), default=0)
    for key in sorted(plain):
        value = plain[key]
        if isinstance(value, dict) and value:
            yield Text(f"{indent}{key}")
            yield from output_lines(value, indent + "  ")
        elif isinstance(value, list) and value:
            yield Text(f"{indent}{key:<{width}}  {', '.join(shown(item) for item in value)}")
        else:
            yield Text(f"{indent}{key:<{width}}  {shown(value)}")


def summary_line(summary: Summary) -> Text:
    """`5 to create, 1 to replace, 118 unchanged   (4.2 s)`"""
    order = [Op.CREATE, Op.UPDATE, Op.REPLACE, Op.DELETE, Op.READ, Op.REFRESH, Op.SAME]
    done = {**DONE, Op.SAME: "unchanged"}
    line = Text()
    for op in order:
        count = summary.changes.get(op, 0)
        if not count:
            continue
        word = f"to {op}" if summary.dry_run and op is not Op.SAME else done[op]
        line += Text(", " if line else "") + Text(f"{count} {word}", style=MARKS[op][1])
    if not line:
        line = Text("nothing")
    if summary.ok and set(summary.changes) <= {Op.SAME, Op.REFRESH}:
        line = Text("no changes: ", style="bold") + line
    if not summary.ok:
        line = Text("failed: ", style="red") + line
    return line + Text(f"   ({summary.duration:.1f} s)", style="dim")


class Terminal:
    """Shows one run. Use as a context manager; call it with each event."""

    def __init__(
        self,
        console: Console,
        title: str,
        *,
        dry_run: bool,
        diff: bool,
        news: Callable[[], str] = lambda: "",
    ) -> None:
        """`news`: one line about something that goes on beside the run, or nothing."""
        self.console, self.title, self.dry_run, self.diff = console, title, dry_run, diff
        self.news, self._told = news, 0.0
        self.tree = Tree()
        self._live: Live | None = None

    def __enter__(self) -> Terminal:
        self.console.print(Text(self.title, style="bold"))
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._frame,
                console=self.console,
                refresh_per_second=6,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
        if self.tree.summary:
            self._close()

    def __call__(self, event: Event) -> None:
        if isinstance(event, ResourceProgress):
            row = self.tree.rows.get(event.urn)
            if event.line == MASK or (row and row.line == event.line):
                return  # says nothing, or was said already
        self.tree.take(event)
        if self._live is None and not self.dry_run:
            self._plain(event)

    def _frame(self) -> RenderableType:
        """The part of the tree that is at work, cut to the terminal's height."""
        rows = self.tree.rows.values()
        finished = sum(1 for row in rows if row.changed and not row.running)
        at_work = [row.urn for row in rows if (row.running and row.changed) or row.error]
        head = Text(f"{finished} done, {len(at_work)} at work", style="dim")
        if news := self.news():
            head += Text(f"   {news}", style="dim")
        height = max(5, self.console.size.height - 4)
        table = tree_table(self.tree, at_work[:height], "Status")
        return Group(head, table)

    def _plain(self, event: Event) -> None:
        row = self.tree.rows.get(getattr(event, "urn", ""))
        if row is None or (row.op is Op.SAME and not row.error) or row.component:
            return
        mark, _ = MARKS[row.op]
        what = f"{short_type(row.type)}  {row.name}"
        match event:
            case ResourceProgress():
                self._line(f"{mark} {what}  {event.line}")
                if time.monotonic() - self._told > SECONDS_BETWEEN_NEWS and (news := self.news()):
                    self._told = time.monotonic()
                    self._line(f"  {news}")
            case ResourceDone() if event.op not in (Op.SAME, Op.REPLACE):  # its two halves are told
                took = f" ({event.seconds:.1f} s)" if event.seconds >= 0.05 else ""
                self._line(f"{mark} {what}  {DONE.get(event.op, event.op)}{took}")
            case ResourceFailed():
                self._line(f"! {what}  failed: {event.message.splitlines()[0]}")

    def _line(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def _close(self) -> None:
        changed = [row.urn for row in self.tree.rows.values() if row.changed]
        if changed == self.tree.stack_alone():
            changed = []  # the program ended before it declared anything
        if changed and (self.dry_run or self._live is not None):
            self.console.print(tree_table(self.tree, changed, "Plan" if self.dry_run else "Status"))
        if self.diff:
            for line in diff_lines(self.tree):
                self.console.print(line, soft_wrap=True)
        for line in closing(self.tree):
            self.console.print(line, soft_wrap=True)


class Waiting:
    """Shows what is waited for before a run can begin: `with Waiting(console) as say: say(line)`.

    On a terminal one line that changes; elsewhere each new thing once, and how far it is now and
    then. Nothing is said of what is there at once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._about, self._told = "", 0.0

    def __enter__(self) -> Callable[[str], None]:
        if self._console.is_terminal:
            self._status = self._console.status("", spinner="dots")
            self._status.start()
        return self._say

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status:
            self._status.stop()

    def _say(self, line: str) -> None:
        if self._status:
            self._status.update(Text(line, style="dim"))
            return
        about = "".join(c for c in line if not c.isdigit())  # "building gitea 12/1630 packages"
        if about == self._about and time.monotonic() - self._told < SECONDS_BETWEEN_NEWS:
            return
        self._about, self._told = about, time.monotonic()
        self._console.print(Text(f"  {line}", style="dim"), soft_wrap=True)


def preview_digest(tree: Tree) -> dict[str, Any]:
    """The CLI's own shape of `pulumi preview --json` (`display.PreviewDigest`)."""
    digest: dict[str, Any] = {"config": dict(tree.config), "steps": []}
    for step in tree.steps:
        entry: dict[str, Any] = {"op": str(step.op), "urn": step.urn}
        view = step.new or step.old
        if view and view.provider:
            entry["provider"] = view.provider
        if step.old:
            entry["oldState"] = state_view(step.old)
        if step.new:
            entry["newState"] = state_view(step.new)
        if step.replace_reasons:
            entry["replaceReasons"] = list(step.replace_reasons)
        if step.diff:
            entry["diffReasons"] = sorted({change.path for change in step.diff})
            entry["detailedDiff"] = {
                change.path: {
                    "kind": f"{change.kind}-replace" if change.replaces else change.kind,
                    "inputDiff": True,
                }
                for change in step.diff
            }
        digest["steps"].append(entry)
    digest["diagnostics"] = [
        {"urn": d.urn, "message": d.message, "severity": d.severity} for d in tree.diagnostics
    ]
    if tree.summary:
        digest["duration"] = int(tree.summary.duration * 1e9)  # Go's time.Duration: nanoseconds
        digest["changeSummary"] = dict(tree.summary.changes)
    return digest


def state_view(view: ResourceView) -> dict[str, Any]:
    """As a checkpoint has it: there what is not known is the wire's own word for it."""
    fields = {
        "urn": view.urn,
        "custom": view.custom,
        "id": view.id,
        "type": view.type,
        "inputs": mask(view.inputs, UNKNOWN_SENTINEL),
        "outputs": mask(view.outputs, UNKNOWN_SENTINEL),
        "parent": view.parent,
        "provider": view.provider,
        "protect": view.protect,
        "initErrors": list(view.init_errors),
    }
    return {key: value for key, value in fields.items() if value not in ("", {}, [], False)}
