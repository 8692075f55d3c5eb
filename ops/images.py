"""`images list` and `images prune`: what the registry holds, why it stays, and what goes.

Nothing is deleted unless everything that could need it was listed whole: the registry, the live
cluster, the stack's settings, its state and its past states. What may go is decided in `retention`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from honeydue.images.registry import Login
from ops.cluster import used_by_cluster
from ops.engine import Engine
from ops.images_table import GOES, megabytes, table
from ops.packages import Packages
from ops.problems import Problem, Refused, refused
from ops.references import newest, references_in
from ops.releases import Release, releases
from ops.retention import SETTLED, Reference, Retention, Version, retain

Source = Callable[[], Mapping[Reference, str]]
"""Something that refers to images, and as what. It gives all of it or raises Refused."""

RECORDED: Final = "release record"


def sources(engine: Engine, keep: int) -> tuple[Source, ...]:
    """Everything that an image may be needed by, the most telling reason first."""
    return (
        lambda: used_by_cluster(_kubeconfig(engine)),
        lambda: dict.fromkeys(_configured(engine.config()), "in the settings"),
        lambda: dict.fromkeys(references_in(engine.state()), RECORDED),
        # One state per update and for ever: without a bound nothing that ran once would ever go.
        lambda: dict.fromkeys(newest(map(references_in, engine.history()), keep), RECORDED),
        lambda: dict.fromkeys(_released(releases(engine.runs(), limit=keep)), RECORDED),
    )


@dataclass(frozen=True)
class Survey:
    """What stays and what would go; `unknown`: the sources that could not be read. While there is
    one, nothing may be said to go."""

    retention: Retention
    unknown: tuple[Problem, ...]
    now: datetime


def survey(
    packages: Packages,
    sources: Iterable[Source],
    *,
    keep: int,
    console: Console,
    settled: timedelta = SETTLED,
) -> Survey:
    """Asks the registry and every source, all at once."""
    with ThreadPoolExecutor() as pool, _bar(console, "reading the registry") as bar:
        answers = [pool.submit(source) for source in sources]
        listing = packages.listing(bar)
    references: dict[Reference, str] = {}
    unknown: list[Problem] = []
    for answer in answers:
        try:
            for reference, reason in answer.result().items():
                references.setdefault(reference, reason)
        except Refused as cause:
            unknown += (problem for problem in cause.problems if problem not in unknown)
    decided = retain(listing.versions, references, keep=keep, now=listing.now, settled=settled)
    return Survey(decided, tuple(unknown), listing.now)


def connect(engine: Engine) -> Packages:
    """The registry of the stack's settings."""
    return Packages(*registry_of(engine))


def registry_of(engine: Engine) -> tuple[str, str, Login]:
    """(server, namespace, login) of the stack's settings. Raises Refused where one is missing."""
    registry = engine.config().get("registry")
    given = registry if isinstance(registry, dict) else {}
    keys = ("server", "namespace", "username", "token")
    missing = [key for key in keys if not isinstance(given.get(key), str) or not given[key]]
    if missing:
        raise refused(
            f"honeydue:registry of the stack {engine.stack}: {', '.join(missing)} missing",
            f"pulumi config set -s {engine.stack} --path honeydue:registry.{missing[0]} …",
        )
    return given["server"], given["namespace"], Login(given["username"], given["token"])


# --- the verbs ----------------------------------------------------------------------------------


def list_images(
    packages: Packages, sources: Iterable[Source], console: Console, *, keep: int, as_json: bool
) -> None:
    found = survey(packages, sources, keep=keep, console=console)
    if as_json:
        print(json.dumps(_document(found), indent=2))
        return
    kept, goes = found.retention.kept, found.retention.goes
    fate = GOES if not found.unknown else "not known"
    console.print(table({**kept, **dict.fromkeys(goes, fate)}, found.now))
    console.print()
    if found.unknown:
        for problem in found.unknown:
            console.print(Text("warning: ", style="yellow") + Text(str(problem)))
        console.print("what stands as `not known` may be needed: nothing can be pruned now")
    else:
        console.print(_sum(found.retention))


def prune(
    packages: Packages,
    sources: Iterable[Source],
    engine: Engine,
    console: Console,
    *,
    keep: int,
    dry_run: bool,
    as_json: bool,
    confirm: Callable[[str], bool],
    settled: timedelta = SETTLED,
) -> bool:
    """False: the operator said no. Raises Refused, whatever was deleted by then stays deleted."""

    def decide() -> Survey:
        decided = survey(packages, sources, keep=keep, console=console, settled=settled)
        if decided.unknown:
            raise Refused(*decided.unknown)
        return decided

    found = decide()
    goes = found.retention.goes
    if not as_json:
        if goes:
            console.print(table(dict.fromkeys(goes, GOES), found.now))
            console.print()
        console.print(_sum(found.retention))
    deleted: tuple[Version, ...] = ()
    if goes and not dry_run:
        if not confirm(f"Delete {_count(goes)}?"):
            return False
        with engine.alone():
            # Asked again: the answer may have taken a night.
            again = decide().retention.goes
            if not set(again) <= set(goes):
                raise refused(
                    "the registry or the cluster has changed since: more would go than was shown",
                    "run the same again, and look at what goes now",
                )
            delete(packages, again, console)
            deleted = again
    if as_json:
        print(json.dumps({**_document(found), "deleted": [str(v) for v in deleted]}, indent=2))
    elif dry_run and goes:
        console.print("nothing was changed (--dry-run)")
    elif deleted:
        console.print(
            f"{_count(deleted)} deleted; Gitea frees the bytes with its own task, within a day"
        )
    return True


def delete(packages: Packages, goes: Sequence[Version], console: Console) -> None:
    """In the given order, stopping at the first fault: what is left is whole, so that the next
    `prune` goes on."""
    done = 0
    try:
        with _bar(console, "deleting") as bar:
            for done, version in enumerate(goes):
                packages.delete(version)
                bar(done + 1, len(goes))
    except (Refused, KeyboardInterrupt) as cause:
        problems = cause.problems if isinstance(cause, Refused) else ()
        raise Refused(
            Problem(
                f"stopped: {done} of {len(goes)} deleted; what is left is whole",
                "run the same again, and it goes on from there",
            ),
            *problems,
        ) from None


# --- the sources --------------------------------------------------------------------------------


def _kubeconfig(engine: Engine) -> str:
    found = engine.outputs().get("kubeconfig")
    if not isinstance(found, str) or not found:
        raise refused(
            f"the cluster cannot be listed: the stack {engine.stack} has no output `kubeconfig`",
            "run `up` first: before that nothing says what is in use",
        )
    return found


def _configured(config: Mapping[str, Any]) -> frozenset[Reference]:
    """What the next `up` would run: `images: {api: 237c6b8@sha256:…, …}`, or one of the two."""
    images = config.get("images")
    given = images.items() if isinstance(images, dict) else ()
    return frozenset(
        Reference(f"honeydue-{service}", name)
        for service, pin in given
        for name in str(pin).split("@")
    )


def _released(listed: Iterable[Release]) -> frozenset[Reference]:
    """What `ops releases` offers to go back to. The past states nearly say so too: they also count
    what a killed run left and a refresh found, which is no release."""
    found: set[Reference] = set()
    for release in listed:
        if release.problem is not None:
            raise Refused(release.problem)
        found |= references_in([image.reference for image in release.services.values()])
    return frozenset(found)


# --- what the operator reads --------------------------------------------------------------------


class _Bar(Progress):
    """Called with (done, all)."""

    def __call__(self, done: int, of: int) -> None:
        self.update(self.task_ids[0], completed=done, total=of)


def _bar(console: Console, title: str) -> _Bar:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    bar = _Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar.add_task(title, total=None)
    return bar


def _sum(retention: Retention) -> str:
    kept, goes = len(retention.kept), len(retention.goes)
    if not goes:
        return f"nothing goes: all of {kept} versions are needed, or new"
    return (
        f"{goes} of {_count(range(kept + goes))} go, which frees up to {megabytes(retention.freed)}"
    )


def _count(versions: Sequence[Any]) -> str:
    return f"{len(versions)} version{'s' if len(versions) != 1 else ''}"


def _document(found: Survey) -> dict[str, Any]:
    """For `--json`: every version by itself, nothing folded."""

    def entry(version: Version, because: str | None) -> dict[str, Any]:
        return {
            "image": version.image,
            "version": version.name,
            "digest": version.digest,
            "created": version.created.isoformat(),
            "bytes": version.size,
            "keptBecause": because,
        }

    kept = [entry(version, because) for version, because in found.retention.kept.items()]
    rest = [entry(version, None) for version in found.retention.goes]
    if found.unknown:
        unknown = [{"what": problem.what, "mend": problem.mend} for problem in found.unknown]
        return {"kept": kept, "notKnown": rest, "unreadable": unknown}
    return {"kept": kept, "goes": rest, "freedBytesAtMost": found.retention.freed}
