"""What a run has done so far, and how that is saved: the write-ahead journal of the checkpoint.

A run starts from the old resources and ends with new ones. In between, the state is *the new ones
so far, in the order in which they were done, then every old one that was not dealt with yet*: each
resource stands after what it refers to, because it could only be done after that. Before a
provider is called, the operation is saved as pending; after the answer, its result is saved and
the pending mark is gone, in one write. So a run killed at any moment leaves a state from which the
next run goes on. (`pulumi/pkg/backend/snapshot.go` does the same.)
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rehearsal.engine.provider import Properties
from rehearsal.engine.secrets import Crypter
from rehearsal.engine.state import (
    Checkpoint,
    Pending,
    Resource,
    deployment_to_json,
    resource_to_json,
)


def in_order(resources: Sequence[Resource]) -> tuple[Resource, ...]:
    """The same order, except that what a resource refers to is moved before it when it is not (an
    untargeted resource keeps its old references, to old resources that come later)."""
    first: dict[str, Resource] = {}
    for resource in resources:
        first.setdefault(resource.urn, resource)
    placed: dict[int, Resource] = {}

    def place(resource: Resource) -> None:
        if id(resource) not in placed:
            for urn in sorted(resource.references & first.keys()):
                if first[urn] is not resource:
                    place(first[urn])
            placed[id(resource)] = resource

    for resource in resources:
        place(resource)
    return tuple(placed.values())


class Journal:
    """Its methods may be called from any thread. In a preview `save` is None: nothing is kept."""

    def __init__(
        self, before: Checkpoint, crypter: Crypter, save: Callable[[dict[str, Any]], None] | None
    ) -> None:
        self._lock = threading.RLock()
        self._olds = list(before.resources)
        self._news: list[Resource] = []
        self._pending: list[Pending] = []
        self._renamed: dict[str, str] = {}
        self._crypter, self._save = crypter, save
        self._json: dict[int, tuple[Resource, dict[str, Any]]] = {}

    def old(self, urns: Iterable[str]) -> Resource | None:
        """The live old resource by the first of `urns` that has one."""
        with self._lock:
            by_urn = {r.urn: r for r in self._olds if not r.delete}
            return next((by_urn[urn] for urn in urns if urn in by_urn), None)

    def new(self, urn: str) -> Resource | None:
        with self._lock:
            return next((r for r in self._news if r.urn == urn), None)

    @property
    def remaining(self) -> tuple[Resource, ...]:
        """Old resources that no step of this run has dealt with, in dependency order."""
        with self._lock:
            return tuple(self._olds)

    @property
    def resources(self) -> tuple[Resource, ...]:
        with self._lock:
            return in_order([self._rewritten(r) for r in (*self._news, *self._olds)])

    # --- steps ---------------------------------------------------------------------------------

    def begin(self, kind: str, resource: Resource) -> Pending:
        """Writes ahead: `kind` is `creating`, `updating`, `deleting` or `reading`."""
        pending = Pending(resource, kind)
        with self._lock:
            self._pending.append(pending)
            self.write()
        return pending

    def abandon(self, pending: Pending) -> None:
        """The provider refused and says that nothing was made."""
        with self._lock:
            self._drop(pending)
            self.write()

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
            if pending is not None:
                self._drop(pending)
            if replaces is not None:
                at = next(i for i, r in enumerate(self._olds) if r is replaces)
                self._olds[at : at + 1] = [] if leaves is None else [leaves]
                if new is not None and new.urn != replaces.urn:
                    self._renamed[replaces.urn] = new.urn
            if new is not None:
                self._news.append(new)
            # A "same" alone is not worth a write: losing it loses nothing.
            if pending is not None:
                self.write()

    def recover(self, found: Resource, old: Resource | None, leaves: Resource | None) -> None:
        """Puts what a lost create had made among the old resources, in the place of `old`."""
        with self._lock:
            at = len(self._olds) if old is None else self._olds.index(old)
            self._olds[at : at + 1] = [found] if leaves is None else [found, leaves]

    def keep(self, pending: Pending) -> None:
        """Nobody can tell yet what became of it: the next run asks again."""
        with self._lock:
            self._pending.append(pending)

    def amend(self, new: Resource, outputs: Properties) -> None:
        """Gives a new resource its outputs (a component's come later than itself)."""
        with self._lock:
            at = next(i for i, r in enumerate(self._news) if r is new)
            self._news[at] = dataclasses.replace(new, outputs=outputs)

    def forget(self, urn: str) -> None:
        """A refresh found `urn` gone: no other resource may refer to it any more."""
        with self._lock:
            if any(r.urn == urn for r in self._olds):
                return  # the other half of a replacement is still there
            for i, r in enumerate(self._olds):
                if urn in r.references:
                    deps = {
                        k: tuple(u for u in urns if u != urn)
                        for k, urns in r.property_dependencies.items()
                    }
                    self._olds[i] = dataclasses.replace(
                        r,
                        dependencies=tuple(u for u in r.dependencies if u != urn),
                        property_dependencies=deps,
                        parent="" if r.parent == urn else r.parent,
                        deleted_with="" if r.deleted_with == urn else r.deleted_with,
                    )

    def write(self) -> None:
        with self._lock:
            if self._save is None:
                return
            resources = [self._as_json(r) for r in self.resources]
            pending = [
                {"resource": self._as_json(p.resource), "type": p.type} for p in self._pending
            ]
            self._save(deployment_to_json(resources, pending, self._crypter.salt))

    # --- inside --------------------------------------------------------------------------------

    def _drop(self, pending: Pending) -> None:
        self._pending = [p for p in self._pending if p is not pending]

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
