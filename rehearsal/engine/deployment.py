"""preview, up, refresh and destroy of one stack: the engine's front door.

Here a run is put together (project, configuration, state, lock, program) and taken apart again
(last save, history, result). What a run does is told in `registration` (decisions), `run` (steps),
`journal` (saving) and `monitor` (the seam to Pulumi's SDK).
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from rehearsal import providers
from rehearsal.engine import events
from rehearsal.engine.errors import EngineError
from rehearsal.engine.events import Listener, Op
from rehearsal.engine.journal import Journal
from rehearsal.engine.project import Configuration, Project, StackFile
from rehearsal.engine.provider import Properties, ProviderError
from rehearsal.engine.recovery import settle
from rehearsal.engine.registration import Registrar
from rehearsal.engine.run import LoadProvider, Run
from rehearsal.engine.secrets import Crypter, open_crypter
from rehearsal.engine.state import (
    DAMAGED,
    Backend,
    Checkpoint,
    Resource,
    Unsaved,
    deployment_from_json,
    deployment_to_json,
    resource_to_json,
)
from rehearsal.engine.steps import PROVIDER_PREFIX, STACK_TYPE, differences, matches_target
from rehearsal.engine.values import mark_secrets, plain

__all__ = ["Backend", "Deployment", "EngineError", "Project", "Result"]


@dataclass(frozen=True)
class Result:
    """What a run came to. `changes`: logical steps by op; `outputs` may hold Secret, UNKNOWN."""

    ok: bool
    changes: dict[str, int]
    outputs: Properties
    errors: tuple[str, ...]


class Deployment:
    """preview, up, refresh and destroy of one stack.

    `backend` is the folder that holds .pulumi. Every verb takes the lock unless it only previews,
    reports to `on_event`, and returns a `Result`; a resource's failure is in the result,
    `EngineError` is raised only when nothing could be started (lock, passphrase, corrupt state).
    `cancelled`: set it (Ctrl-C) and running steps finish, no other starts. `targets`: URNs, `*`
    allowed; other resources are left as they are.
    """

    def __init__(
        self,
        project: Project,
        stack: str,
        backend: Backend,
        *,
        load_provider: LoadProvider | None = None,  # None: rehearsal.providers.load
        parallel: int = 16,
    ) -> None:
        self.project, self.stack, self.backend = project, stack, backend
        self.parallel = parallel
        self._load_provider = load_provider or providers.load

    # --- verbs ---------------------------------------------------------------------------------

    def preview(
        self,
        on_event: Listener,
        *,
        targets: Sequence[str] = (),
        cancelled: threading.Event | None = None,
    ) -> Result:
        return self._verb("preview", on_event, targets, cancelled, True, self._program)

    def up(
        self,
        on_event: Listener,
        *,
        targets: Sequence[str] = (),
        cancelled: threading.Event | None = None,
        message: str = "",
    ) -> Result:
        """`message`: what the history says of it."""
        return self._verb("update", on_event, targets, cancelled, False, self._program, message)

    def refresh(
        self,
        on_event: Listener,
        *,
        targets: Sequence[str] = (),
        cancelled: threading.Event | None = None,
        dry_run: bool = False,
    ) -> Result:
        return self._verb("refresh", on_event, targets, cancelled, dry_run, self._refresh)

    def destroy(
        self,
        on_event: Listener,
        *,
        targets: Sequence[str] = (),
        cancelled: threading.Event | None = None,
        dry_run: bool = False,
    ) -> Result:
        return self._verb("destroy", on_event, targets, cancelled, dry_run, self._destroy)

    # --- the state -----------------------------------------------------------------------------

    def export(self) -> dict[str, Any]:
        """{"version": 3, "deployment": …}: secrets stay encrypted."""
        raw = self.backend.load(self.project.name, self.stack)
        if raw is None:
            raise EngineError(f"the stack {self.stack!r} has no state yet: run `up` first")
        return {"version": 3, "deployment": raw}

    def import_(self, exported: dict[str, Any]) -> None:
        """Replaces the state; what it was stays beside it as .bak. Read and checked first."""
        if exported.get("version") != 3 or not isinstance(exported.get("deployment"), dict):
            raise EngineError(
                'stack import: not a deployment of "version": 3, as `stack export` writes'
            )
        raw = exported["deployment"]
        with self.backend.lock(self.project.name, self.stack):
            try:
                crypter, checkpoint = self._decrypted(raw)
            except DAMAGED as error:
                raise EngineError(f"stack import: the deployment is damaged ({error})") from error
            resources = [resource_to_json(r, crypter) for r in checkpoint.resources]
            pending = [
                {"resource": resource_to_json(p.resource, crypter), "type": p.type}
                for p in checkpoint.pending
            ]
            self.backend.save(
                self.project.name, self.stack, deployment_to_json(resources, pending, crypter.salt)
            )

    def outputs(self) -> Properties:
        """The last run's stack outputs, decrypted, secrets as `values.Secret`."""
        _, checkpoint = self._opened()
        return next((r.outputs for r in checkpoint.resources if r.type == STACK_TYPE), {})

    def resources(self) -> tuple[Resource, ...]:
        """What the stack is made of, each after what it needs. Raises EngineError for a stack that
        never ran."""
        resources = self._opened()[1].resources
        if not resources:
            raise EngineError(f"the stack {self.stack!r} has no state yet: run `up` first")
        return resources

    def configuration(self) -> Configuration:
        """What a program of this stack is given, decrypted."""
        file = StackFile.load(self.project, self.stack)
        return Configuration.of(self.project, file, open_crypter(file.salt))

    def history(self) -> list[dict[str, Any]]:
        """Newest first: the CLI's update records (kind, startTime, endTime, result, …)."""
        return self.backend.history(self.project.name, self.stack)

    def cancel(self) -> int:
        """Removes the locks of this stack and says how many there were. What a killed run had
        noted becomes part of the checkpoint, so that the real CLI finds it there too."""
        names = self.project.name, self.stack
        removed = self.backend.cancel(*names)
        if (raw := self.backend.unfolded(*names)) is not None:
            self.backend.save(*names, raw)
        return removed

    def _opened(self) -> tuple[Crypter, Checkpoint]:
        raw = self.backend.load(self.project.name, self.stack)
        try:
            return self._decrypted(raw or {})
        except DAMAGED as error:
            raise self.backend.damaged(self.project.name, self.stack, error) from error

    def _decrypted(self, raw: dict[str, Any]) -> tuple[Crypter, Checkpoint]:
        """The state, decrypted, and the crypter to save it with: the stack file's, as the CLI has
        it; else the state's own; else, for a stack that never ran, a new one kept in the state."""
        salt = StackFile.load(self.project, self.stack).salt
        kept = (raw.get("secrets_providers") or {}).get("state", {}).get("salt")
        crypter = opener = open_crypter(salt or kept)
        if kept not in (None, crypter.salt):
            # An imported state may have been sealed under another salt, with the same passphrase.
            try:
                opener = open_crypter(kept)
            except EngineError as error:
                file = self.project.stack_file(self.stack).name
                raise EngineError(
                    f"the passphrase opens {file}, but not the stack's state, which was sealed "
                    f"with another one: take the `encryptionsalt:` of {file} back from the "
                    "repository, and use its passphrase"
                ) from error
        return crypter, deployment_from_json(raw, opener)

    # --- one run -------------------------------------------------------------------------------

    def _verb(  # noqa: PLR0917 - private, and called by the four verbs above only
        self,
        kind: str,
        on_event: Listener,
        targets: Sequence[str],
        cancelled: threading.Event | None,
        dry_run: bool,
        act: Callable[[Run], None],
        message: str = "",
    ) -> Result:
        names = self.project.name, self.stack
        with nullcontext() if dry_run else self.backend.lock(*names):
            started, clock = int(time.time()), time.monotonic()
            file = StackFile.load(self.project, self.stack)
            crypter, before = self._opened()
            configuration = Configuration.of(self.project, file, crypter)
            save = None if dry_run else partial(self.backend.save, *names)
            run = Run(
                project=self.project.name,
                stack=self.stack,
                configuration=configuration,
                journal=Journal(before, crypter, save, partial(self.backend.note, *names)),
                listener=on_event,
                load_provider=self._load_provider,
                parallel=self.parallel,
                dry_run=dry_run,
                cancelled=cancelled or threading.Event(),
                targets=targets,
            )
            run.emit(events.PreludeEvent(configuration.masked, dry_run, *names))
            with self._recorded(kind, run, file, started, dry_run, message):
                settle(run, before.pending)
                act(run)
                if run.cancelled.is_set():
                    run.error(
                        "cancelled: what had begun was finished and saved; `up` goes on from it"
                    )
            run.emit(
                events.Summary(dict(run.changes), time.monotonic() - clock, not run.errors, dry_run)
            )
            return Result(not run.errors, dict(run.changes), run.outputs, tuple(run.errors))

    @contextmanager
    def _recorded(  # noqa: PLR0917 - private, and called above only
        self, kind: str, run: Run, file: StackFile, started: int, dry_run: bool, message: str
    ) -> Iterator[None]:
        """The last save and the history entry, whatever becomes of the run."""
        result = "failed"
        try:
            yield
            result = "failed" if run.errors else "succeeded"
        finally:
            if not dry_run:
                run.journal.write()
                record = {
                    "version": 1,
                    "kind": kind,
                    "startTime": started,
                    "message": message,
                    "environment": {"exec.kind": "rehearsal"},
                    "config": {
                        k: v if isinstance(v, dict) else str(v) for k, v in file.config.items()
                    },
                    "result": result,
                    "endTime": int(time.time()),
                    "resourceChanges": dict(run.changes),
                }
                try:
                    steps = [step._asdict() for step in run.timeline]
                    self.backend.record(self.project.name, self.stack, record, steps)
                except Unsaved as error:
                    run.warn(f"the run is saved, but not in the history: {error}")

    def _program(self, run: Run) -> None:
        # They import Pulumi's SDK and gRPC: half of the time of a verb that runs no program.
        from rehearsal.engine.monitor import Monitor  # noqa: PLC0415
        from rehearsal.engine.program import run_program  # noqa: PLC0415

        before = run.journal.resources
        registrar = Registrar(run, before)

        def delete_the_rest() -> None:
            """What the program did not register any more. Not after a failure: what failed may
            still need it, and a program that died early has not registered everything."""
            if run.errors or run.cancelled.is_set():
                return
            if missing := [
                t for t in run.targets if not any(matches_target(r.urn, [t]) for r in known())
            ]:
                run.error(f"--target: the stack has no resource {', '.join(missing)}")
                return
            rest = run.journal.remaining
            run.delete_all(
                [r for r in rest if not run.targets or matches_target(r.urn, run.targets)]
            )

        def known() -> Sequence[Resource]:
            return (*run.journal.resources, *before)

        monitor = Monitor(run, registrar, when_done=delete_the_rest)
        try:
            died_of = run_program(
                self.project,
                self.stack,
                run.configuration,
                monitor,
                parallel=self.parallel,
                dry_run=run.dry_run,
            )
        finally:
            monitor.close()
        # After Ctrl-C or a bail the program dies of the engine's word; the cause is told already.
        if died_of is not None and not (run.cancelled.is_set() or "has terminated" in died_of):
            run.error(died_of)

    def _destroy(self, run: Run) -> None:
        before = run.journal.resources
        doomed = [r for r in before if not run.targets or matches_target(r.urn, run.targets)]
        if run.targets:
            urns = {r.urn for r in doomed}
            for resource in before:
                if resource.urn not in urns and (needs := resource.references & urns):
                    run.error(
                        f"cannot delete {min(needs)}: {resource.urn} depends on it; target both"
                    )
        if hooked := [
            r for r in doomed if {"before-delete", "after-delete"} & r.resource_hooks.keys()
        ]:
            run.error(
                f"{hooked[0].urn} has delete hooks, which live in the program; remove the resource "
                "from the program and run `up`, or take the hooks off and run `up` first"
            )
        if not run.errors:
            run.delete_all(doomed)

    def _refresh(self, run: Run) -> None:
        """Asks the vendors what is really there. The program does not run, and inputs follow what
        is found, so that the next preview shows how to bring it back."""
        resources = [
            r
            for r in run.journal.remaining
            if r.custom
            and not r.type.startswith(PROVIDER_PREFIX)
            and not r.pending_replacement
            and (not run.targets or matches_target(r.urn, run.targets))
        ]
        run.backwards(resources, lambda r: _refresh_one(run, r))


def _refresh_one(run: Run, old: Resource) -> None:
    with run.step(Op.REFRESH, old, old) as outcome:
        try:
            found = run.provider(old.provider).read(
                old.type, old.id, plain(old.inputs), plain(old.outputs), run.context(old, "read")
            )
        except ProviderError as error:
            if error.outputs is None:
                raise
            found = plain(old.inputs), error.outputs  # there, but still not ready
            errors: tuple[str, ...] = (run.redaction.text(str(error)),)
        else:
            errors = ()
        if found is None:
            outcome.op = Op.DELETE
            run.journal.finish(None, replaces=old)
            run.journal.forget(old.urn)
            return
        inputs, outputs = found
        new = dataclasses.replace(
            old,
            inputs=mark_secrets(inputs, old.inputs),
            outputs=mark_secrets(
                outputs, {**old.inputs, **old.outputs}, old.additional_secret_outputs
            ),
            init_errors=errors,
        )
        # As the real one tells it: what the program asks for and is there otherwise. What only the
        # vendor says of itself (who uses an address by now) is noted, and is no change
        # (deploy/step.go: RefreshStep.ResultOp compares what was found with the old inputs).
        changed = any(differences(old.inputs, new.inputs)) or errors != old.init_errors
        outcome.op, outcome.outputs = Op.UPDATE if changed else Op.SAME, new.outputs
        run.journal.finish(None, replaces=old, leaves=new)
