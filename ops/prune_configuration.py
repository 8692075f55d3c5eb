"""`ops config prune`: old ConfigMaps and Secrets of the application, when nothing names them.

They are named by their content and stay in the cluster when they leave the state (docs/adr/0004):
`kubectl rollout undo` must find what an old ReplicaSet names, and a rollback what its release had.
A few kilobytes per change pile up meanwhile. One goes when no pod, no ReplicaSet of the history or
other maker of pods, no listed release and not the state names it, and it is not new.

Careful on one side only: a name that is found anywhere, in any string, keeps its object, and unless
every list was read whole nothing goes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from rich.console import Console

from honeydue.images.references import SERVICES
from honeydue.kubernetes.catalogue import labels
from honeydue.kubernetes.hashing import DIGITS
from ops.api import NAMESPACE, Api, Conflict
from ops.diagnosis import ago, dig, moment, text
from ops.engine import Engine
from ops.problems import Problem, Refused, refused
from ops.releases import releases
from ops.retention import SETTLED
from ops.table import cells, table

KEEP: Final = 30  # releases, as many as `releases` lists

_NAME: Final = re.compile(
    rf"honeydue-(?:config-(?:{'|'.join(SERVICES)})|secrets)-[0-9a-f]{{{DIGITS}}}"
)
_CORE: Final = f"/api/v1/namespaces/{NAMESPACE}"
_OBJECTS: Final = {"ConfigMap": f"{_CORE}/configmaps", "Secret": f"{_CORE}/secrets"}
# A pod reads what is in its own namespace, so no other is asked.
_PODS: Final = f"{_CORE}/pods"
_MAKERS: Final = (
    f"{_CORE}/replicationcontrollers",
    *(
        f"/apis/{group}/namespaces/{NAMESPACE}/{plural}"
        for group, plural in (
            ("apps/v1", "deployments"),
            ("apps/v1", "replicasets"),
            ("apps/v1", "statefulsets"),
            ("apps/v1", "daemonsets"),
            ("apps/v1", "controllerrevisions"),
            ("batch/v1", "jobs"),
            ("batch/v1", "cronjobs"),
        )
    ),
)


@dataclass(frozen=True)
class Thing:
    """A ConfigMap or Secret of ours, without what is in it. `read`: its metadata as it was read."""

    kind: str
    name: str
    created: datetime | None
    read: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def path(self) -> str:
        return f"{_OBJECTS[self.kind]}/{self.name}"


@dataclass(frozen=True)
class Survey:
    """`kept`: what stays, and why."""

    kept: Mapping[Thing, str]
    goes: tuple[Thing, ...]
    now: datetime


# --- deciding -----------------------------------------------------------------------------------


def keep(
    things: Iterable[Thing], named: Mapping[str, str], now: datetime
) -> tuple[dict[Thing, str], tuple[Thing, ...]]:
    """What stays and why, and what goes, the oldest first. `named`: every name that anything refers
    to, and what does. What is younger than an hour may belong to a run that is under way."""
    kept: dict[Thing, str] = {}
    goes: list[tuple[datetime, str, Thing]] = []
    for thing in things:
        if thing.name in named:
            kept[thing] = named[thing.name]
        elif thing.created is None or now - thing.created < SETTLED:
            kept[thing] = "just made"
        else:
            goes.append((thing.created, thing.name, thing))
    return kept, tuple(thing for *_, thing in sorted(goes, key=lambda each: each[:2]))


def ours(kind: str, item: Any) -> Thing | None:
    """None: it is not one of those that the program names by their content."""
    metadata = dig(item, "metadata")
    name = text(dig(metadata, "name"))
    marks = {key: value for key, value in labels("configuration").items() if "/name" not in key}
    told = dig(metadata, "labels") or {}
    if (
        not _NAME.fullmatch(name)
        or name.startswith("honeydue-secrets-") != (kind == "Secret")
        or dig(item, "immutable") is not True
        or any(told.get(key) != value for key, value in marks.items())
    ):
        return None
    return Thing(kind, name, moment(dig(metadata, "creationTimestamp")), metadata)


def names_in(value: Any) -> frozenset[str]:
    """Every name of such an object in the strings of a JSON value, embedded documents included."""
    return frozenset(_NAME.findall(json.dumps(value)))


# --- reading ------------------------------------------------------------------------------------


def survey(engine: Engine, api: Api, releases_kept: int = KEEP) -> Survey:
    """Raises Refused unless all of it was read whole. The objects are listed first: what comes to
    be named afterwards is named by somebody who is listed later."""
    things = [
        thing
        for kind, path in _OBJECTS.items()
        for item in _listed(api, path)
        if (thing := ours(kind, item)) is not None
    ]
    now = api.now()
    named: dict[str, str] = {}
    for path in (_PODS, *_MAKERS):
        for item in _listed(api, path):
            for name in names_in(item):
                named.setdefault(name, "running" if path == _PODS else "for kubectl rollout undo")
    for name in names_in(engine.state()):
        named.setdefault(name, "in the state")
    for name, number in _released(engine, releases_kept).items():
        named.setdefault(name, f"release {number}")
    return Survey(*keep(things, named, now), now)


def _released(engine: Engine, count: int) -> dict[str, int]:
    """Name → the newest of the listed releases that had it."""
    found: dict[str, int] = {}
    for release in releases(engine.runs(), limit=count):
        if release.problem is not None:
            raise Refused(release.problem)
        for name in (*release.config_maps.values(), *release.secrets.values()):
            found.setdefault(name, release.number)
    return found


def _listed(api: Api, path: str) -> Sequence[Any]:
    answer = api.get(path)
    listed = dig(answer, "items")
    # Nobody asked for pages. A list that has a next one is not whole.
    if not isinstance(listed, list) or text(dig(answer, "metadata", "continue")):
        raise refused(
            f"the cluster cannot be listed whole: {path} gave no list, or a part of one",
            "python -m ops status shows how the cluster is; nothing was deleted",
        )
    return listed


# --- doing --------------------------------------------------------------------------------------


def prune(engine: Engine, api: Api, releases_kept: int = KEEP) -> tuple[str, ...]:
    """After a release that went well: deletes what may go, without a question; the names. Raises
    Refused when that cannot be known, or a run is under way; what was deleted stays deleted."""
    with engine.alone():
        return delete(api, survey(engine, api, releases_kept).goes)


def delete(api: Api, goes: Collection[Thing]) -> tuple[str, ...]:
    """Each as it was read, or not at all: what somebody has touched since stays. The names."""
    deleted: list[str] = []
    try:
        for thing in goes:
            try:
                if api.delete(thing.path, like={"metadata": thing.read}):
                    deleted.append(thing.name)
            except Conflict:
                continue
    except (Refused, KeyboardInterrupt) as cause:
        raise Refused(
            Problem(
                f"stopped: {len(deleted)} of {len(goes)} deleted; each is by itself",
                "run the same again, and it goes on from there",
            ),
            *(cause.problems if isinstance(cause, Refused) else ()),
        ) from None
    return tuple(deleted)


def verb(
    engine: Engine,
    api: Api,
    console: Console,
    *,
    releases_kept: int,
    dry_run: bool,
    as_json: bool,
    confirm: Callable[[str], bool],
) -> bool:
    """`config prune`. False: the operator said no. Raises Refused."""
    found = survey(engine, api, releases_kept)
    if not as_json:
        _show(found, console)
    deleted: tuple[str, ...] = ()
    if found.goes and not dry_run:
        if not confirm(f"Delete {_count(len(found.goes))}?"):
            return False
        with engine.alone():
            # Asked again: the answer may have taken a night.
            again = survey(engine, api, releases_kept).goes
            if not {thing.name for thing in again} <= {thing.name for thing in found.goes}:
                raise refused(
                    "the cluster has changed since: more would go than was shown",
                    "run the same again, and look at what goes now",
                )
            deleted = delete(api, again)
    if as_json:
        print(json.dumps({**_document(found), "deleted": list(deleted)}, indent=2))
    elif dry_run and found.goes:
        console.print("nothing was changed (--dry-run)")
    elif found.goes:
        spared = len(found.goes) - len(deleted)
        rest = f"; {spared} stayed: needed, gone or changed since" if spared else ""
        console.print(f"{_count(len(deleted))} deleted{rest}")
    return True


def _show(found: Survey, console: Console) -> None:
    kept, goes = len(found.kept), len(found.goes)
    if not goes:
        console.print(f"nothing goes: all of {_count(kept)} are needed, or new")
        return
    shown = table("Goes", "Kind", "Age")
    for thing in found.goes:
        assert thing.created is not None  # else it would stay
        shown.add_row(*cells(thing.name, thing.kind, ago(found.now, thing.created)))
    console.print(shown)
    console.print(f"\n{goes} of {_count(kept + goes)} go: nothing names them any more")


def _count(number: int) -> str:
    return f"{number} object{'s' if number != 1 else ''}"


def _document(found: Survey) -> dict[str, Any]:
    """For `--json`."""
    kept = [
        {"kind": thing.kind, "name": thing.name, "keptBecause": why}
        for thing, why in found.kept.items()
    ]
    return {
        "kept": kept,
        "goes": [{"kind": thing.kind, "name": thing.name} for thing in found.goes],
    }
