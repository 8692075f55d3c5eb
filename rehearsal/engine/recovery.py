"""What was under way when the last run ended is settled before a new run begins.

A run that was killed, and a provider whose answer was lost, leave operations in the state of which
nobody knows whether they were done. Here each becomes an ordinary resource again, so that whatever
follows (preview, up, refresh, destroy, with the old program or a changed one) needs no special
case:

creating   looked up at the vendor; what is found joins the state, as made but not complete
updating   counts as not complete, so that it is done again, even when the program has gone back
deleting   looked up; what is gone leaves the state

Not complete is what `initErrors` says of a resource: the next `up` updates it. The real engine goes
less far: it warns, repeats nothing, and a lost create fails with "already exists" until the
operator imports it (`pulumi refresh` asks for its id).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rehearsal.engine.errors import EngineError
from rehearsal.engine.provider import ProviderError
from rehearsal.engine.run import Run
from rehearsal.engine.state import Pending, Resource
from rehearsal.engine.values import plain


def settle(run: Run, pending: Sequence[Pending]) -> None:
    """Each outcome is told as a warning. What cannot be found out is an error of that resource,
    stays pending, and is not touched in this run."""
    for operation in pending:
        urn, verb = operation.resource.urn, operation.type
        said = f"resource {urn} was being {verb.removesuffix('ing')}ed when the last run ended"
        try:
            match verb:
                case "creating":
                    found = _created(run, operation.resource)
                case "updating":
                    found = _updated(run, operation.resource)
                case "deleting":
                    found = _deleted(run, operation.resource)
                case _:
                    found = "it changes nothing, and is not looked up"
        except (ProviderError, EngineError) as error:
            run.journal.keep(operation)
            run.error(
                f"{said}, and what became of it cannot be found out: {error}. It is left alone "
                "until a run can tell; if none ever will, take it out of `pending_operations` "
                "between `stack export` and `stack import`",
                urn,
            )
        else:
            run.warn(f"{said}: {found}", urn)


def _created(run: Run, sent: Resource) -> str:
    found = run.provider(sent.provider).find(
        sent.type, plain(sent.inputs), run.context(sent, "read")
    )
    known = {(r.type, r.id) for r in run.journal.remaining if not r.pending_replacement}
    if found is None or (sent.type, found[0]) in known:
        return "nothing was made"
    id_, outputs = found
    old = run.journal.old([sent.urn])
    gone = old is None or old.pending_replacement or old.external
    made = run.made(sent, id_, outputs, ("its creation was cut off",))
    leaves = None if old is None or gone else dataclasses.replace(old, delete=True)
    run.journal.recover(made, old, leaves)
    return f"it was made (id {id_}), and is in the state now; `up` completes it"


def _updated(run: Run, sent: Resource) -> str:
    old = _same_one(run, sent)
    if old is None:
        return "it is gone from the state"
    unsure = dataclasses.replace(old, init_errors=("its update was cut off",))
    run.journal.finish(None, replaces=old, leaves=unsure)
    return "`up` does it again"


def _deleted(run: Run, sent: Resource) -> str:
    old = _same_one(run, sent)
    if old is None:
        return "it is gone from the state"
    there = run.provider(old.provider).read(
        old.type, old.id, plain(old.inputs), plain(old.outputs), run.context(old, "read")
    )
    if there is not None:
        unsure = dataclasses.replace(old, init_errors=("its deletion was cut off",))
        run.journal.finish(None, replaces=old, leaves=unsure)
        return "it is still there"
    # As after the first half of a delete-first replacement: what refers to it still may.
    gone = None if old.delete else dataclasses.replace(old, pending_replacement=True)
    run.journal.finish(None, replaces=old, leaves=gone)
    return "it is gone"


def _same_one(run: Run, sent: Resource) -> Resource | None:
    """By id: an alias may have given it another URN in the run that ended."""
    candidates = (r for r in run.journal.remaining if (r.type, r.id) == (sent.type, sent.id))
    return next((r for r in candidates if not r.pending_replacement), None)
