"""What the program's registrations come to: which step each resource needs, and why.

The decisions are those of Pulumi's step generator
(`pulumi/pkg/resource/deploy/step_generator.go`), in its order: name, old state, ignored changes,
check, diff, then same, update or replace. The program's own awaiting gives the order: it registers
a resource when the outputs that it needs are known.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rehearsal.engine.errors import EngineError
from rehearsal.engine.events import Op, PropertyChange
from rehearsal.engine.provider import UNKNOWN, Diff, Properties, Provider, ProviderError
from rehearsal.engine.run import Cancelled, Run, StepFailed
from rehearsal.engine.state import Resource
from rehearsal.engine.steps import (
    PROVIDER_PREFIX,
    covers,
    dependents,
    differences,
    format_path,
    ignore_changes,
    inherited_alias,
    matches_target,
    package_of,
    parse_path,
    property_changes,
)
from rehearsal.engine.values import has_unknown, mark_secrets, plain


class Bail(Exception):  # noqa: N818 - an outcome, no error
    """The program itself is wrong and cannot go on (a duplicate URN); already reported."""


class Skipped(Exception):  # noqa: N818 - an outcome, no error
    """Nothing was done because something that this resource needs failed, or it is no target."""


@dataclass(frozen=True)
class Goal:
    """What the program wants: the resource without id and outputs, and how to get there."""

    resource: Resource
    alias_urns: tuple[str, ...] = ()
    delete_before_replace: bool | None = None  # None: the provider decides


class Registrar:
    """Registrations arrive from any number of threads at once."""

    def __init__(self, run: Run, before: Sequence[Resource]) -> None:
        self._run = run
        self._before = [r for r in before if not r.delete]
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._was: dict[str, str] = {}  # URN -> the URN that an alias found in the old state
        # One delete-first replacement at a time: their sets of dependents may overlap.
        self._deleting_first = threading.Lock()

    # --- registrations -------------------------------------------------------------------------

    def register(self, goal: Goal) -> Resource:
        """Does what is needed and returns the new resource. Raises StepFailed, Skipped, Bail and
        Cancelled; whatever went wrong is reported already."""
        run, new = self._run, goal.resource
        run.redaction.name(new.urn)
        run.redaction.declared(new.inputs)
        run.stop_if_cancelled()
        self._claim(new.urn)
        try:
            if run.failed & {new.urn, *new.references}:
                raise Skipped
            old = self._old(goal)
            if run.targets and not self._targeted(new):
                return self._untargeted(old, new)
            if not new.custom:
                return self._component(old, new)
            provider = self._provider(new)
            made = self._custom(goal, old, provider)
        except (StepFailed, Skipped):
            run.failed.add(new.urn)
            raise
        except (ProviderError, EngineError) as error:
            run.error(str(error), new.urn)
            raise StepFailed from error
        except (Bail, Cancelled):
            raise
        except Exception as error:  # a defect in a provider's check or diff
            run.error(f"{type(error).__name__}: {error}", new.urn)
            raise StepFailed from error
        if new.type.startswith(PROVIDER_PREFIX):
            run.declare(made, provider)
        return made

    def read(self, new: Resource) -> Resource:
        run = self._run
        run.stop_if_cancelled()
        self._claim(new.urn)
        try:
            if run.failed & {new.urn, *new.references}:
                raise Skipped
            self._provider(new)  # for its error, when there is none
            old = run.journal.old([new.urn])
            if old is not None and not old.external:
                raise EngineError(
                    f"{new.urn} was made by this stack and cannot be read with `get` as well; "
                    "declare it as before, or under another name"
                )
            return run.read(new) if new.id else new  # no id yet: a preview, and nothing is known
        except (StepFailed, Skipped):
            run.failed.add(new.urn)
            raise
        except (ProviderError, EngineError) as error:
            run.error(str(error), new.urn)
            raise StepFailed from error

    def _claim(self, urn: str) -> None:
        with self._lock:
            if urn in self._seen:
                self._run.error(f"Duplicate resource URN '{urn}'; try giving it a unique name")
                raise Bail
            self._seen.add(urn)

    def _old(self, goal: Goal) -> Resource | None:
        """By URN, then by alias; a parent that was renamed renames its children too."""
        run, new = self._run, goal.resource
        aliases = list(goal.alias_urns)
        if new.parent in self._was:
            was = self._was[new.parent]
            aliases.append(inherited_alias(new.urn, new.parent, was, run.stack, run.project))
        old = run.journal.old([new.urn, *aliases])
        if old is not None and old.urn != new.urn:
            with self._lock:
                if old.urn in self._seen:
                    return None  # the alias is someone else's own name
                self._was[new.urn] = old.urn
        return old

    def _targeted(self, new: Resource) -> bool:
        """Components and providers change nothing at a vendor: they always take part."""
        if not new.custom or new.type.startswith(PROVIDER_PREFIX):
            return True
        return matches_target(new.urn, self._run.targets)

    def _untargeted(self, old: Resource | None, new: Resource) -> Resource:
        if old is None:
            raise Skipped
        return self._run.same(old, dataclasses.replace(old, urn=new.urn))

    def _component(self, old: Resource | None, new: Resource) -> Resource:
        if old is None:
            return self._run.create(Op.CREATE, new)
        changed = tuple(format_path(p) for p, _, _ in differences(old.inputs, new.inputs))
        if not changed:
            return self._run.same(old, new)
        return self._run.update(old, new, property_changes(old, new.inputs, changed, ()))

    def _provider(self, new: Resource) -> Provider:
        """The provider that does the work; for a provider resource, the one that it describes."""
        if new.type.startswith(PROVIDER_PREFIX):
            return self._run.configure(new)
        if new.provider:
            return self._run.provider(new.provider)
        raise EngineError(self.no_provider(package_of(new.type), new.urn))

    def no_provider(self, package: str, subject: str) -> str:
        if self._run.configuration.default_provider_disabled(package):
            return (
                f"Default provider for '{package}' disabled. "
                f"'{subject}' must use an explicit provider."
            )
        return (
            f"'{subject}' has no provider, and the rehearsal's engine has no default ones: pass an "
            f"explicit provider for '{package}'"
        )

    # --- custom resources ----------------------------------------------------------------------

    def _check(self, provider: Provider, new: Resource, was: Resource | None) -> Properties:
        if new.type.startswith(PROVIDER_PREFIX):
            return new.inputs  # loading it was the check
        olds = plain(was.inputs) if was else None
        checked, failures = provider.check(new.type, olds, plain(new.inputs))
        if failures:
            lines = "".join(f"\n  {new.name}.{f.property}: {f.reason}" for f in failures)
            raise EngineError(f"{new.type} resource '{new.name}' has a problem:{lines}")
        return mark_secrets(checked, new.inputs)

    def _custom(self, goal: Goal, old: Resource | None, provider: Provider) -> Resource:
        run, wanted = self._run, goal.resource
        # What was only read before is not ours to compare with; what a delete-first replacement has
        # deleted is there no more.
        was = None if old is None or old.pending_replacement or old.external else old
        if was is None:
            new = dataclasses.replace(wanted, inputs=self._check(provider, wanted, None))
            if old is None or old.external:
                return run.create(Op.CREATE, new, replaces=old)
            changed = [format_path(p) for p, _, _ in differences(old.inputs, new.inputs)]
            changes = property_changes(old, new.inputs, changed, changed)
            return self._create_replacement(new, old, None, changes, ("deleted before",))

        inputs = ignore_changes(wanted.ignore_changes, was.inputs, wanted.inputs)
        new = dataclasses.replace(wanted, inputs=inputs)
        new = dataclasses.replace(new, inputs=self._check(provider, new, was))
        diff, reasons = self._diff(provider, was, new)
        changes = property_changes(was, new.inputs, diff.changed, diff.replaces)
        if diff.replaces or reasons:
            return self._replace(goal, was, provider, diff, changes, (*diff.replaces, *reasons))
        # A resource that was made but did not become ready is tried again as an update.
        if diff.changed or was.init_errors:
            return run.update(was, new, changes)
        return run.same(was, new)

    def _diff(
        self, provider: Provider, was: Resource, new: Resource
    ) -> tuple[Diff, tuple[str, ...]]:
        """The provider's diff with `replaceOnChanges` in it, and what else forces a replacement."""
        if new.type.startswith(PROVIDER_PREFIX):
            paths = tuple(format_path(p) for p, _, _ in differences(was.inputs, new.inputs))
            diff = self._ask(provider, was, new.inputs) if paths else Diff()
            diff = Diff(diff.changed or paths, diff.replaces, diff.delete_before_replace)
        else:
            diff = self._ask(provider, was, new.inputs)
        said = [parse_path(path) for path in diff.changed]
        leaves = [
            path
            for path, _, _ in differences(was.inputs, new.inputs)
            if any(path[:1] == s[:1] for s in said)
        ]
        forced = {
            format_path(path)
            for path in (*said, *leaves)
            for pattern in new.replace_on_changes
            if covers(parse_path(pattern), path)
        }
        replaces = tuple(dict.fromkeys((*diff.replaces, *sorted(forced))))
        reasons = []
        # By id: the same provider under a new name is the same; one that was replaced is not, and
        # what it made is replaced with it.
        if was.provider.rpartition("::")[2] != new.provider.rpartition("::")[2]:
            reasons.append("provider")
        old_trigger, trigger = plain(was.replacement_trigger), plain(new.replacement_trigger)
        if None not in (old_trigger, trigger) and (has_unknown(trigger) or old_trigger != trigger):
            reasons.append("replacement trigger")  # the first recorded one replaces nothing
        return Diff(diff.changed, replaces, diff.delete_before_replace), tuple(reasons)

    @staticmethod
    def _ask(provider: Provider, was: Resource, inputs: Properties) -> Diff:
        return provider.diff(was.type, was.id, plain(was.inputs), plain(was.outputs), plain(inputs))

    # --- replacements --------------------------------------------------------------------------

    def _replace(  # noqa: PLR0917 - private; all of it was worked out just before
        self,
        goal: Goal,
        was: Resource,
        provider: Provider,
        diff: Diff,
        changes: tuple[PropertyChange, ...],
        reasons: tuple[str, ...],
    ) -> Resource:
        run, wanted = self._run, goal.resource
        # The successor starts afresh: its defaults do not come from the old one, and what is in
        # `ignoreChanges` is sent as the program has it now.
        new = dataclasses.replace(wanted, inputs=self._check(provider, wanted, None))
        if was.protect and new.protect:
            with run.step(Op.REPLACE, was, new, changes, reasons):
                raise EngineError(
                    f'unable to replace resource "{new.urn}"\nas it is currently marked for '
                    "protection. To unprotect the resource, remove the `protect` flag from the "
                    "resource in your Pulumi program and run `up`"
                )
        delete_first = goal.delete_before_replace
        if delete_first is None:
            delete_first = diff.delete_before_replace
        if not delete_first:
            leaves = dataclasses.replace(was, delete=True)
            return self._create_replacement(new, was, leaves, changes, reasons)
        with self._deleting_first:
            doomed = [was, *self._dependent_replacements(was)]
            for resource in doomed[1:]:
                if resource.protect:
                    raise EngineError(
                        f'unable to replace resource "{resource.urn}" as part of replacing '
                        f'"{was.urn}" as it is currently marked for protection. Remove its '
                        "`protect` flag and run `up` first"
                    )
            run.backwards(
                doomed,
                lambda r: run.delete(
                    Op.DELETE_REPLACED, r, leaves=dataclasses.replace(r, pending_replacement=True)
                ),
            )
            old = run.journal.old([was.urn])
            if old is None or not old.pending_replacement:
                run.stop_if_cancelled()
                run.failed.add(new.urn)
                raise StepFailed  # a dependent could not be deleted, and that is reported
        return self._create_replacement(new, old, None, changes, reasons)

    def _create_replacement(
        self,
        new: Resource,
        old: Resource,
        leaves: Resource | None,
        changes: tuple[PropertyChange, ...],
        reasons: tuple[str, ...],
    ) -> Resource:
        run = self._run
        made = run.create(
            Op.CREATE_REPLACEMENT,
            new,
            replaces=old,
            leaves=leaves,
            changes=changes,
            reasons=reasons,
        )
        with run.step(Op.REPLACE, old, made, changes, reasons) as outcome:
            outcome.outputs = made.outputs
        return made

    def _dependent_replacements(self, root: Resource) -> list[Resource]:
        """The dependents that cannot outlive `root`, in dependency order: those whose provider
        would replace them if the inputs that come from a replaced resource were unknown. A
        dependent that only names `root` in `dependsOn` stays (Pulumi's
        calculateDependentReplacements)."""
        journal = self._run.journal
        replaced, found = {root.urn}, []
        for dependent in dependents(root.urn, self._before):
            live = journal.old([dependent.urn])
            if live is None or live.pending_replacement or not live.custom or live.external:
                continue  # dealt with already in this run, or nothing that could be replaced
            if live.provider_urn not in replaced:
                inputs: dict[str, Any] = {
                    key: UNKNOWN
                    if replaced.intersection(live.property_dependencies.get(key, ()))
                    else value
                    for key, value in live.inputs.items()
                }
                if UNKNOWN not in inputs.values():
                    continue
                if not self._ask(self._run.provider(live.provider), live, inputs).replaces:
                    continue
            replaced.add(live.urn)
            found.append(live)
        return found
