"""One run: the steps that change something, each reported, journalled and counted.

A step is one resource's create, update, delete or read. Whatever decides that a step is due (the
program's registrations, a destroy, a refresh) calls the methods here, from any number of threads;
at most `parallel` steps are at work at once.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from rehearsal.engine import events
from rehearsal.engine.errors import EngineError
from rehearsal.engine.events import Listener, Op, PropertyChange
from rehearsal.engine.journal import Journal
from rehearsal.engine.project import Configuration
from rehearsal.engine.provider import Context, Properties, Provider, ProviderError
from rehearsal.engine.redaction import Redaction
from rehearsal.engine.state import Resource, Unsaved, now
from rehearsal.engine.steps import PROVIDER_PREFIX, package_of, view
from rehearsal.engine.values import UNKNOWN_SENTINEL, mark_secrets, plain

LoadProvider = Callable[[str, Properties], Provider]
# (kind such as "before-update", names, old, new) -> runs them; raises when a before hook refuses.
RunHooks = Callable[[str, Sequence[str], Resource | None, Resource | None], None]


class StepFailed(Exception):  # noqa: N818 - an outcome; the error was reported
    """The step failed and was reported; the caller only has to stop what depended on it."""


class Cancelled(Exception):  # noqa: N818 - an outcome, no error
    """Ctrl-C, or a state that cannot be saved: no new step starts."""


@dataclass
class Outcome:
    """What a step adds to its report: the operation that it turned out to be, and its outputs."""

    op: Op
    outputs: Properties = field(default_factory=dict)


class Timed(NamedTuple):
    """A step that ended well: when it began and ended, in seconds since the run did."""

    urn: str
    op: str
    begin: float
    end: float


class Run:
    def __init__(
        self,
        *,
        project: str,
        stack: str,
        configuration: Configuration,
        journal: Journal,
        listener: Listener,
        load_provider: LoadProvider,
        parallel: int,
        dry_run: bool,
        cancelled: threading.Event,
        targets: Collection[str] = (),
    ) -> None:
        self.project, self.stack, self.configuration = project, stack, configuration
        self.journal, self.parallel, self.dry_run = journal, parallel, dry_run
        self.cancelled, self.targets = cancelled, targets
        self.run_hooks: RunHooks = lambda _kind, _names, _old, _new: None
        self.changes: Counter[str] = Counter()
        self.timeline: list[Timed] = []
        self._began = time.monotonic()
        self.errors: list[str] = []
        self.failed: set[str] = set()  # URNs that failed, or were skipped because of one that did
        self.outputs: Properties = {}
        self._unsaved = False  # the state cannot be written: no further step may begin
        self.redaction = Redaction()
        self.redaction.configured(configuration.secrets)
        # What the stack file says in the open is none, also where a secret value repeats it: an
        # image's credentials, registry and all, and an error must name the registry.
        self.redaction.declared(configuration.objects)
        for resource in journal.remaining:
            self.redaction.name(resource.urn)
            # Also before the program has said it again: an early error must name the image.
            self.redaction.declared(resource.inputs)
            self.redaction.learn(resource.outputs)
        self._listener, self._load = listener, load_provider
        self._lock = threading.RLock()
        self._slots = threading.BoundedSemaphore(parallel)
        self._providers: dict[str, Provider] = {}
        # A provider that the program no longer declares, or declares with another id, is still
        # needed to delete what it made.
        self._old_providers = {
            f"{r.urn}::{r.id}": r for r in journal.remaining if r.type.startswith(PROVIDER_PREFIX)
        }

    # --- reports -------------------------------------------------------------------------------

    def emit(self, event: events.Event) -> None:
        with self._lock:
            self._listener(self.redaction.event(event))

    def error(self, message: str, urn: str = "") -> None:
        """An error of no step (a wrong input, a failing program)."""
        with self._lock:
            self.errors.append(self.redaction.text(message))
            if urn:
                self.failed.add(urn)
            self.emit(events.Diagnostic(urn, "error", message))

    def warn(self, message: str, urn: str = "") -> None:
        self.emit(events.Diagnostic(urn, "warning", message))

    def stop_if_cancelled(self) -> None:
        if self.cancelled.is_set() or self._unsaved:
            raise Cancelled

    @contextmanager
    def step(
        self,
        op: Op,
        old: Resource | None,
        new: Resource | None,
        changes: tuple[PropertyChange, ...] = (),
        reasons: tuple[str, ...] = (),
    ) -> Iterator[Outcome]:
        """Reports begin and end. What a provider raises becomes the report of a failure and
        `StepFailed`; a defect (any other exception) does too, and its type is named."""
        subject = new or old
        assert subject is not None
        self.stop_if_cancelled()
        with self._slots:
            self.stop_if_cancelled()
            self.emit(
                events.ResourcePre(
                    subject.urn,
                    subject.type,
                    op,
                    subject.parent,
                    view(old),
                    view(new),
                    changes,
                    reasons,
                )
            )
            started, outcome = time.monotonic(), Outcome(op)
            try:
                yield outcome
            except (ProviderError, EngineError) as error:
                self._unsaved = self._unsaved or isinstance(error, Unsaved)
                self._step_failed(subject.urn, op, str(error))
                raise StepFailed from error
            except Exception as error:
                self._step_failed(subject.urn, op, f"{type(error).__name__}: {error}")
                raise StepFailed from error
            ended = time.monotonic()
            seconds = ended - started
            with self._lock:
                self.timeline.append(
                    Timed(
                        subject.urn,
                        outcome.op.value,
                        round(started - self._began, 4),
                        round(ended - self._began, 4),
                    )
                )
                if op.logical:
                    self.changes[outcome.op.value] += 1
                self.emit(events.ResourceDone(subject.urn, outcome.op, outcome.outputs, seconds))

    def _step_failed(self, urn: str, op: Op, message: str) -> None:
        with self._lock:
            self.errors.append(f"{urn}: {self.redaction.text(message)}")
            self.failed.add(urn)
            self.emit(events.ResourceFailed(urn, op, message))

    # --- providers -----------------------------------------------------------------------------

    def configure(self, resource: Resource) -> Provider:
        """A provider from its resource; `version` is the engine's word, not the provider's."""
        inputs = {k: v for k, v in plain(resource.inputs).items() if k != "version"}
        return self._load(package_of(resource.type), inputs)

    def declare(self, resource: Resource, provider: Provider) -> None:
        """Makes a provider known by its reference: in a preview, that of an unknown id."""
        with self._lock:
            self._providers[f"{resource.urn}::{resource.id or UNKNOWN_SENTINEL}"] = provider

    def provider(self, reference: str) -> Provider:
        with self._lock:
            known = self._providers.get(reference)
            if known is None:
                if reference not in self._old_providers:
                    raise EngineError(f"unknown provider {reference or '(none)'}")
                known = self.configure(self._old_providers[reference])
                self._providers[reference] = known
            return known

    def context(self, resource: Resource, operation: str) -> Context:
        return Context(
            urn=resource.urn,
            dry_run=self.dry_run,
            timeout=resource.custom_timeouts.get(operation),
            progress=lambda line: self.emit(events.ResourceProgress(resource.urn, line)),
            cancelled=self.cancelled.is_set,
        )

    def _hooks(self, kind: str, old: Resource | None, new: Resource | None) -> None:
        subject = new or old
        assert subject is not None
        self.run_hooks(kind, subject.resource_hooks.get(kind, ()), old, new)

    # --- steps ---------------------------------------------------------------------------------

    def same(self, old: Resource, new: Resource) -> Resource:
        """Nothing to do at the vendor; what only the engine knows (options, references) is new."""
        kept = dataclasses.replace(
            new,
            id=old.id,
            outputs=mark_secrets(old.outputs, new.inputs, new.additional_secret_outputs),
            created=old.created,
            modified=old.modified,
        )
        with self.step(Op.SAME, old, kept) as outcome:
            outcome.outputs = kept.outputs
            self.journal.finish(None, new=kept, replaces=old)
        return kept

    def create(
        self,
        op: Op,
        new: Resource,
        *,
        replaces: Resource | None = None,
        leaves: Resource | None = None,
        changes: tuple[PropertyChange, ...] = (),
        reasons: tuple[str, ...] = (),
    ) -> Resource:
        new = dataclasses.replace(new, created=now(), modified=now())
        with self.step(op, replaces, new, changes, reasons) as outcome:
            self._hooks("before-create", None, new)
            if new.type.startswith(PROVIDER_PREFIX):
                made = dataclasses.replace(
                    new, id="" if self.dry_run else str(uuid.uuid4()), outputs=new.inputs
                )
                self.journal.finish(None, new=made, replaces=replaces, leaves=leaves)
            elif not new.custom:
                made = new
                self.journal.finish(None, new=made, replaces=replaces, leaves=leaves)
            else:
                provider = self.provider(new.provider)
                pending = self.journal.begin("creating", new)
                # A lost answer, and an exception that is no ProviderError, leave the operation
                # pending: nobody knows whether something was made, and the next run finds out.
                try:
                    id_, outputs = provider.create(
                        new.type, plain(new.inputs), self.context(new, "create")
                    )
                except ProviderError as error:
                    if error.id is not None:
                        half = self.made(new, error.id, error.outputs or {}, (str(error),))
                        self.journal.finish(pending, new=half, replaces=replaces, leaves=leaves)
                    elif not error.lost:
                        self.journal.abandon(pending)
                    raise
                made = self.made(new, id_, outputs)
                self.journal.finish(pending, new=made, replaces=replaces, leaves=leaves)
            outcome.outputs = made.outputs
            self._hooks("after-create", None, made)
        return made

    def update(self, old: Resource, new: Resource, changes: tuple[PropertyChange, ...]) -> Resource:
        new = dataclasses.replace(new, id=old.id, created=old.created, modified=now())
        with self.step(Op.UPDATE, old, new, changes) as outcome:
            self._hooks("before-update", old, new)
            if new.type.startswith(PROVIDER_PREFIX) or not new.custom:
                outputs = new.inputs if new.custom else old.outputs
                made = dataclasses.replace(new, outputs=outputs)
                self.journal.finish(None, new=made, replaces=old)
            else:
                provider = self.provider(new.provider)
                pending = self.journal.begin("updating", new)
                try:
                    outputs = provider.update(
                        new.type,
                        old.id,
                        plain(old.inputs),
                        plain(old.outputs),
                        plain(new.inputs),
                        self.context(new, "update"),
                    )
                except ProviderError as error:
                    if error.id is not None or error.outputs is not None:
                        given = error.outputs if error.outputs is not None else plain(old.outputs)
                        half = self.made(new, error.id or old.id, given, (str(error),))
                        self.journal.finish(pending, new=half, replaces=old)
                    elif not error.lost:
                        self.journal.abandon(pending)
                    raise
                made = self.made(new, old.id, outputs)
                self.journal.finish(pending, new=made, replaces=old)
            outcome.outputs = made.outputs
            self._hooks("after-update", old, made)
        return made

    def made(
        self, new: Resource, id_: str, outputs: Properties, init_errors: tuple[str, ...] = ()
    ) -> Resource:
        marked = mark_secrets(outputs, new.inputs, new.additional_secret_outputs)
        self.redaction.learn(marked)
        told = tuple(map(self.redaction.text, init_errors))
        return dataclasses.replace(new, id=id_, outputs=marked, init_errors=told)

    def read(self, new: Resource) -> Resource:
        """`Resource.get`: someone else's resource, read and never changed or deleted."""
        with self.step(Op.READ, None, new) as outcome:
            found = self.provider(new.provider).read(
                new.type, new.id, plain(new.inputs), {}, self.context(new, "read")
            )
            if found is None:
                raise EngineError(f"resource '{new.id}' does not exist")
            made = self.made(new, new.id, found[1])
            self.journal.finish(None, new=made, replaces=self.journal.old([new.urn]))
            outcome.outputs = made.outputs
        return made

    def delete(
        self, op: Op, old: Resource, *, leaves: Resource | None = None, with_owner: bool = False
    ) -> None:
        """`leaves`: what stays in the state instead. `with_owner`: its `deletedWith` goes in this
        same run and takes it along, so the provider is not asked."""
        with self.step(op, old, None):
            self._hooks("before-delete", old, None)
            ours = old.custom and not old.external and not old.type.startswith(PROVIDER_PREFIX)
            pending = None
            if ours and not old.retain_on_delete and not with_owner and not self.dry_run:
                provider = self.provider(old.provider)
                pending = self.journal.begin("deleting", old)
                try:
                    provider.delete(
                        old.type,
                        old.id,
                        plain(old.inputs),
                        plain(old.outputs),
                        self.context(old, "delete"),
                    )
                except ProviderError as error:
                    if not error.lost:
                        self.journal.abandon(pending)
                    raise
            self.journal.finish(pending, replaces=old, leaves=leaves)
            self._hooks("after-delete", old, None)

    # --- the graph, backwards ------------------------------------------------------------------

    def delete_all(self, doomed: Sequence[Resource]) -> None:
        """Deletes in parallel, dependents first. Refused as a whole when one of them is protected.
        A failure keeps what the failed one depends on."""
        protected = [r for r in doomed if r.protect and not r.delete and not r.pending_replacement]
        for resource in protected:
            self._step_failed(resource.urn, Op.DELETE, protected_message(resource.urn))
        if protected:
            return
        urns = {r.urn for r in doomed if not r.pending_replacement}
        self.backwards(doomed, lambda r: self._delete_one(r, urns))

    def _delete_one(self, old: Resource, urns: Collection[str]) -> None:
        if old.pending_replacement:  # deleted already, by a run that did not reach its successor
            self.journal.finish(None, replaces=old)
            return
        op = Op.DELETE_REPLACED if old.delete else Op.DELETE
        self.delete(
            Op.READ_DISCARD if old.external else op, old, with_owner=old.deleted_with in urns
        )

    def backwards(self, resources: Sequence[Resource], act: Callable[[Resource], None]) -> None:
        """Calls `act` on each, dependents before what they depend on; after a failure or Ctrl-C
        only on what does not wait for the one that failed."""
        by_urn: dict[str, list[Resource]] = {}
        for resource in resources:
            by_urn.setdefault(resource.urn, []).append(resource)
        blocked = Counter(urn for r in resources for urn in r.references)  # by how many
        ready = [r for r in resources if not blocked[r.urn]]
        running: dict[concurrent.futures.Future[None], Resource] = {}
        with concurrent.futures.ThreadPoolExecutor(self.parallel) as pool:
            # What is needed by one that failed never becomes ready.
            while ready or running:
                running.update((pool.submit(act, resource), resource) for resource in ready)
                ready = []
                done, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    resource = running.pop(future)
                    try:
                        future.result()
                    except (StepFailed, Cancelled):
                        continue
                    blocked.subtract(resource.references)
                    freed = (urn for urn in sorted(resource.references) if not blocked[urn])
                    ready += [r for urn in freed for r in by_urn.get(urn, ())]


def protected_message(urn: str) -> str:
    return (
        f'resource "{urn}" cannot be deleted\nbecause it is protected. To unprotect the resource, '
        "remove the `protect` flag from the resource in your Pulumi program and run `up`"
    )
