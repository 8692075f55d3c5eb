"""What a run has done so far, and how that is saved: the write-ahead journal of the checkpoint.

A run starts from the old resources and ends with new ones. In between, the state is *the new ones
so far, in the order in which they were done, then every old one that was not dealt with yet*: each
resource stands after what it refers to, because it could only be done after that. Before a
provider is called, the operation is saved as pending; after the answer, its result is saved and
the pending mark is gone, in one write. So a run killed at any moment leaves a state from which the
next run goes on. (`pulumi/pkg/backend/snapshot.go` does the same.)

Each of these writes is one line, added to a file beside the checkpoint (`rehearsal.engine.wal`);
the checkpoint itself follows at once as long as writing it has cost less than a tenth of the run so
far, which for a stack like production's is after nearly every step, and at the end of the run. To
write it whole for each step whatever it costs is quadratic: 1,000 resources took 37 s of CPU
(docs/benchmarks.md).
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from rehearsal.engine.provider import Properties
from rehearsal.engine.secrets import Crypter
from rehearsal.engine.state import (
    Checkpoint,
    Pending,
    Resource,
    deployment_to_json,
    resource_to_json,
)
from rehearsal.engine.wal import Entry, Put, ordered

SHARE_OF_WRITING: Final = 0.1
"""Of a run's time: what whole checkpoints between its first and its last may cost."""


def in_order(resources: Sequence[Resource]) -> tuple[Resource, ...]:
    """The same order, except that what a resource refers to is moved before it when it is not (an
    untargeted resource keeps its old references, to old resources that come later)."""
    return tuple(ordered(resources, lambda r: r.urn, lambda r: r.references))


class Journal:
    """Its methods may be called from any thread. In a preview `save` is None: nothing is kept.

    `save` writes the whole deployment, `note` adds one entry to what was saved.
    """

    def __init__(
        self,
        before: Checkpoint,
        crypter: Crypter,
        save: Callable[[dict[str, Any]], None] | None,
        note: Callable[[Entry], None] = lambda _entry: None,
    ) -> None:
        self._lock = threading.RLock()
        self._olds = _Row(before.resources)
        self._news = _Row(())
        self._live = {r.urn: r for r in before.resources if not r.delete}  # of the old ones
        self._new: dict[str, Resource] = {}
        self._pending: dict[int, Pending] = {}
        self._renamed: dict[str, str] = {}
        self._crypter, self._save, self._note = crypter, save, note
        self._json: dict[int, tuple[Resource, dict[str, Any]]] = {}
        # Where each one stands in what was saved, by identity; None: to be saved whole next.
        self._places: dict[int, int] | None = None
        self._next_place = 0
        # Seconds: when the run began, and what its whole writes have cost so far.
        self._began, self._writing, self._last_write = time.monotonic(), 0.0, 0.0

    def old(self, urns: Iterable[str]) -> Resource | None:
        """The live old resource by the first of `urns` that has one."""
        # No lock, here and in `new`: hundreds of threads ask, while one waits for the disk.
        live = (self._live.get(urn) for urn in urns)
        return next((resource for resource in live if resource is not None), None)

    def new(self, urn: str) -> Resource | None:
        return self._new.get(urn)

    @property
    def remaining(self) -> tuple[Resource, ...]:
        """Old resources that no step of this run has dealt with, in dependency order."""
        with self._lock:
            return self._olds.all()

    @property
    def resources(self) -> tuple[Resource, ...]:
        with self._lock:
            return in_order([self._rewritten(r) for r in (*self._news.all(), *self._olds.all())])

    # --- steps ---------------------------------------------------------------------------------

    def begin(self, kind: str, resource: Resource) -> Pending:
        """Writes ahead: `kind` is `creating`, `updating`, `deleting` or `reading`."""
        pending = Pending(resource, kind)
        with self._lock:
            self._pending[id(pending)] = pending
            if self._places is None:
                self.write()
            else:
                self._places[id(pending)] = self._next_place
                entry: Entry = {"begin": (self._next_place, kind, self._as_json(resource))}
                self._next_place += 1
                self._add(entry)
        return pending

    def abandon(self, pending: Pending) -> None:
        """The provider refused and says that nothing was made."""
        self.finish(pending)

    def finish(
        self,
        pending: Pending | None,
        *,
        new: Resource | None = None,
        replaces: Resource | None = None,
        leaves: Resource | None = None,
    ) -> None:
        """A step is done. `new` joins the new resources, `replaces` leaves the old ones, and
        `leaves` takes its place there (the old half of a replacement, or an old one as `refresh`
        found it)."""
        with self._lock:
            puts: list[tuple[Resource | None, Resource | None]] = []
            if pending is not None:
                del self._pending[id(pending)]
            if replaces is not None:
                self._olds.put(replaces, leaves)
                if self._live.get(replaces.urn) is replaces:
                    del self._live[replaces.urn]
                if leaves is not None and not leaves.delete:
                    self._live[leaves.urn] = leaves
                puts.append((replaces, leaves))
                if new is not None and new.urn != replaces.urn:
                    self._renamed[replaces.urn] = new.urn
                    self._places = None  # other resources are written differently now
            if new is not None:
                self._news.put(None, new)
                self._new[new.urn] = new
                puts.append((None, new))
            # A "same" alone is not worth a whole write: losing it loses nothing.
            if self._places is not None:
                end = None if pending is None else self._places.pop(id(pending))
                self._add({"put": [self._put(was, now) for was, now in puts], "end": end})
            elif pending is not None:
                self.write()

    def recover(self, found: Resource, old: Resource | None, leaves: Resource | None) -> None:
        """Puts what a lost create had made among the old resources, in the place of `old`."""
        with self._lock:
            olds = list(self._olds.all())
            at = len(olds) if old is None else olds.index(old)
            olds[at : at + 1] = [found] if leaves is None else [found, leaves]
            self._set_olds(olds)
            self._places = None

    def keep(self, pending: Pending) -> None:
        """Nobody can tell yet what became of it: the next run asks again."""
        with self._lock:
            self._pending[id(pending)] = pending
            self._places = None

    def amend(self, new: Resource, outputs: Properties) -> None:
        """Gives a new resource its outputs (a component's come later than itself)."""
        with self._lock:
            amended = dataclasses.replace(new, outputs=outputs)
            self._news.put(new, amended)
            self._new[new.urn] = amended
            if self._places is not None:
                self._add({"put": [self._put(new, amended)], "end": None})

    def forget(self, urn: str) -> None:
        """A refresh found `urn` gone: no other resource may refer to it any more."""
        with self._lock:
            olds = list(self._olds.all())
            if any(r.urn == urn for r in olds):
                return  # the other half of a replacement is still there
            for i, r in enumerate(olds):
                if urn in r.references:
                    deps = {
                        k: tuple(u for u in urns if u != urn)
                        for k, urns in r.property_dependencies.items()
                    }
                    olds[i] = dataclasses.replace(
                        r,
                        dependencies=tuple(u for u in r.dependencies if u != urn),
                        property_dependencies=deps,
                        parent="" if r.parent == urn else r.parent,
                        deleted_with="" if r.deleted_with == urn else r.deleted_with,
                    )
                    self._places = None
            self._set_olds(olds)

    def write(self) -> None:
        """Everything, whole."""
        with self._lock:
            if self._save is None:
                return
            self._places = None  # until it is saved
            kept = (*self._news.all(), *self._olds.all())
            written = [self._rewritten(r) for r in kept]
            of = {id(w): r for w, r in zip(written, kept, strict=True)}
            resources, pending = in_order(written), tuple(self._pending.values())
            began = time.monotonic()
            self._save(
                deployment_to_json(
                    [self._as_json(r) for r in resources],
                    [{"resource": self._as_json(p.resource), "type": p.type} for p in pending],
                    self._crypter.salt,
                )
            )
            self._last_write = time.monotonic() - began
            self._writing += self._last_write
            saved = (*(of[id(r)] for r in resources), *pending)
            self._places = {id(item): place for place, item in enumerate(saved)}
            self._next_place = len(saved)

    # --- inside --------------------------------------------------------------------------------

    def _set_olds(self, olds: Sequence[Resource]) -> None:
        self._olds = _Row(olds)
        self._live = {r.urn: r for r in olds if not r.delete}

    def _add(self, entry: Entry) -> None:
        """One entry, or (when it cannot be written) everything with the next write."""
        places, self._places = self._places, None
        self._note(entry)
        self._places = places
        now = time.monotonic()
        if self._writing + self._last_write < SHARE_OF_WRITING * (now - self._began):
            self.write()

    def _put(self, was: Resource | None, now: Resource | None) -> Put:
        """`now` in the place of `was`: a new place for None, an empty one for None."""
        assert self._places is not None
        place = self._next_place if was is None else self._places.pop(id(was))
        self._next_place = max(self._next_place, place + 1)
        if now is None:
            return place, None
        self._places[id(now)] = place
        return place, self._as_json(self._rewritten(now))

    def _as_json(self, resource: Resource) -> dict[str, Any]:
        """Serialised once per object; most stay the same from one write to the next."""
        known = self._json.get(id(resource))
        if known is None:
            known = self._json[id(resource)] = (
                resource,
                resource_to_json(resource, self._crypter),
            )
        return known[1]

    def _rewritten(self, resource: Resource) -> Resource:
        """An old resource must not refer to a URN that an alias has renamed meanwhile, and one that
        is left of a replacement not to what is gone."""
        if self._renamed.keys().isdisjoint(resource.references):
            return resource

        def name(urn: str) -> str:
            return self._renamed.get(urn, urn)

        def names(urns: Sequence[str]) -> tuple[str, ...]:
            return tuple(name(urn) for urn in urns)

        provider, _, provider_id = resource.provider.rpartition("::")
        return dataclasses.replace(
            resource,
            parent=name(resource.parent),
            deleted_with=name(resource.deleted_with),
            provider=f"{name(provider)}::{provider_id}" if provider else "",
            dependencies=names(resource.dependencies),
            property_dependencies={k: names(v) for k, v in resource.property_dependencies.items()},
        )


class _Row:
    """Resources in an order, found by identity: what a step replaces it holds in its hand."""

    def __init__(self, resources: Sequence[Resource]) -> None:
        self._items = dict(enumerate(resources))
        self._at = {id(r): at for at, r in self._items.items()}
        self._end = len(self._items)

    def all(self) -> tuple[Resource, ...]:
        return tuple(self._items.values())

    def put(self, was: Resource | None, now: Resource | None) -> None:
        """`now` in the place of `was`: at the end for None, and nothing for None."""
        at = self._end if was is None else self._at.pop(id(was))
        self._end = max(self._end, at + 1)
        if now is None:
            del self._items[at]
        else:
            self._items[at] = now
            self._at[id(now)] = at
