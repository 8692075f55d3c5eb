"""A change of production from the question to the end: what every verb that rolls has in common.

    preflight → lock → hook → the settings say it → what would roll, and why → the question
    → ops.rollout.take_effect → hook

Up to the question nothing is changed that does not go back: who says no, presses Ctrl-C or has a
preview that fails finds the settings as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from rich.console import Console
from rich.text import Text

from honeydue.images.references import repository, tag_and_digest
from ops import hooks, plan, prune_configuration, report, rollout, urls
from ops.api import Api
from ops.desired import Desired, Undo, apply
from ops.engine import Engine
from ops.lock import held
from ops.masking import Hide, hiding
from ops.message import BY, Message, operator
from ops.plan import Image, Summary
from ops.problems import Refused, refused
from ops.releases import Release, current, last_good, releases
from ops.rollout import Attempt, Back, Ground, Outcome
from ops.stack_settings import Confirm, StackSettings
from ops.status import hide_of

if TYPE_CHECKING:
    from ops.preflight import Asked

RECENT: Final = 50  # releases that are looked through for a good one

Wanted = Callable[[StackSettings], Desired]
"""What the settings shall say, given what they say."""


@dataclass(frozen=True, kw_only=True)
class How:
    """What the operator said beside the change itself. `yes`: nobody is asked."""

    console: Console
    confirm: Confirm
    yes: bool = False
    dry_run: bool = False
    take_over: bool = False


@dataclass(frozen=True, kw_only=True)
class Released:
    """For hooks. `pins`: service → `<tag>@<digest>`; None: it is yet to be built."""

    verb: Literal["deploy", "rollback"]
    tag: str
    pins: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Change:
    """`doing`: "deploy 237c6b8", as others read it who find the lock. `make`: the settings say it,
    all of it or nothing; gives what takes it back. `done`: the last lines, when all is well.
    `released`: what the hooks are told; None: they are not run. `notes` stand below the plan."""

    doing: str
    message: Message
    make: Callable[[], Undo]
    question: str
    back: Back | None
    nowhere: str = ""
    nothing: str = "nothing to do"
    done: Callable[[Outcome], Sequence[str]]
    released: Released | None = None
    notes: Sequence[str] = ()


@contextmanager
def cluster(engine: Engine) -> Iterator[Api | None]:
    """None: the stack was never deployed."""
    outputs = engine.outputs()
    if not outputs.get("kubeconfig"):
        yield None
        return
    with Api.of(engine, outputs) as api:
        yield api


def opened(engine: Engine, how: How) -> StackSettings:
    """The settings; Refused in words that help, when they cannot be read."""
    from ops import preflight  # noqa: PLC0415 - as below

    try:
        return _read(engine)
    except Refused:
        check(preflight.Asked(engine=engine), how)
        raise


def _read(engine: Engine) -> StackSettings:
    """The settings, and which run was the last one: before anything is decided on either."""
    last = rollout.newest(engine)
    return replace(StackSettings.of(engine), newest=last.number if last is not None else None)


def check(asked: Asked, how: How, *, must: Collection[str] | None = None) -> None:
    """Raises Refused with everything that stands in the way; `must`: of these checks, and what the
    others find is a warning."""
    from ops import preflight  # noqa: PLC0415 - it loads the program: 0.6 s, for two verbs alone

    checks = preflight.check(asked)
    preflight.show(checks, how.console)
    how.console.print()
    preflight.refuse([each for each in checks if must is None or each.name in must])
    for each in checks:
        for problem in each.problems:
            how.console.print(Text("warning: ", "yellow") + Text(str(problem)), soft_wrap=True)


@contextmanager
def locked(stack: StackSettings, api: Api | None, doing: str, how: How) -> Iterator[Ground]:
    """Nobody else changes production meanwhile. A dry run changes nothing, and takes no lock.
    `stack`: as `opened` read it. What was decided on since, without the lock, has to be true still:
    Refused when there was a run meanwhile."""

    def say(said: str) -> None:
        how.console.print(said, markup=False, soft_wrap=True)

    engine = stack.engine
    ours, theirs = secrets_of(stack), hide_of(api) if api is not None else None

    def hide(said: str) -> str:
        """What the settings hold, and what runs: an earlier run may have left other values."""
        return ours(theirs(said) if theirs is not None else said)

    if how.dry_run:
        yield Ground(engine=engine, console=how.console, api=api, lock=None, hide=hide)
        return
    with held(api, doing=doing, take_over=how.take_over, say=say) as lock:
        last = rollout.newest(engine)
        if last is not None and last.number != stack.newest:
            by = Message.parse(last.message)
            who = f" by {by.trailers[BY]}" if by.trailers.get(BY) else ""
            subject = f": {by.subject}" if by.subject else ""
            raise refused(
                f"somebody released meanwhile (run {last.number}{subject}{who}); "
                "nothing was changed",
                "run the same again: it then looks at what runs now (python -m ops releases)",
            )
        if how.take_over and any(_gone(each) for each in engine.holders() or ()):
            engine.cancel()
            say("the lock of the engine's run that is gone is removed")
        yield Ground(engine=engine, console=how.console, api=api, lock=lock, hide=hide)


def _gone(holder: str) -> bool:
    return holder.endswith("that process is gone")


def make(engine: Engine, wanted: Wanted) -> Undo:
    """The settings say it, as they are read now; what takes it back."""
    stack = StackSettings.of(engine)
    return apply(stack, wanted(stack))


def restore(engine: Engine, to: Release) -> Undo:
    """The settings as that release had them. Secrets stay as they are."""
    return make(engine, lambda stack: as_it_was(stack, to))


def as_it_was(stack: StackSettings, to: Release) -> Desired:
    wanted = Desired.of(stack).pinned({name: image.pin for name, image in to.services.items()})
    return wanted.with_environment(to.environment) if to.environment else wanted


def perform(ground: Ground, how: How, change: Change) -> Outcome:
    """Raises Refused when nothing was changed."""
    console = ground.console
    released = None if how.dry_run else change.released
    if released is not None:
        _run_hook("before-deploy", ground, released)
    undo = change.make()
    try:
        before, now = ground.hide, secrets_of(StackSettings.of(ground.engine))
        ground = replace(ground, hide=lambda said: now(before(said)))
        summary = _planned(ground, change)
        agreed = how.dry_run or summary.empty or _agreed(summary, how, change.question)
        if agreed and ground.lock is not None:
            ground.lock.assure()
        asks = agreed and not (how.dry_run or summary.empty) and change.back is not None
        failing = rollout.baseline(ground) if asks else {}
    except BaseException:
        undo()
        console.print("nothing was changed")
        raise
    if how.dry_run or not agreed:
        undo()
        console.print("dry run: nothing was changed" if how.dry_run else "nothing was changed")
        code = rollout.DONE if how.dry_run else rollout.UNCHANGED
        return Outcome(code=code, ended="unchanged", plan=summary)
    if summary.empty:
        return replace(_nothing_to_do(ground, change), plan=summary)
    console.print()
    attempt = Attempt.of(summary, change.message, undo, change.back, change.nowhere)
    outcome = rollout.take_effect(ground, replace(attempt, failing=failing))
    if outcome.code == rollout.DONE:
        for line in change.done(outcome):
            console.print(line, markup=False, soft_wrap=True)
    if released is not None:
        name: hooks.Name = "after-deploy" if outcome.code == rollout.DONE else "on-failure"
        _run_hook(name, ground, released, outcome)
    if outcome.code == rollout.DONE and ground.api is not None:
        _prune(ground, ground.api)
    return replace(outcome, plan=summary)


def settings(
    engine: Engine, how: How, doing: str, make: Callable[[], Undo], notes: Sequence[str] = ()
) -> Outcome:
    """A change of configuration or secrets alone. What runs is pinned, so that no commit that was
    checked out since rolls along; when production does not take the change, it is taken back."""
    stack = _read(engine)
    with cluster(engine) as api, locked(stack, api, doing, how) as ground:
        found = releases(engine.runs(), limit=RECENT) if api is not None else []
        good = last_good(found)
        changed: list[Undo] = []

        def both() -> Undo:
            pins = apply(stack, _as_it_runs(stack, current(found)))
            try:
                changed.append(make())
            except BaseException:
                pins()
                raise

            def undo() -> None:
                changed[0]()
                pins()

            return undo

        def old_settings() -> None:
            changed[0]()
            if good is not None:
                # Also when the run before was killed, so that these settings are the new ones.
                restore(engine, good)

        back = Back(
            name=f"release {good} and its settings",
            restore=old_settings,
            message=Message(f"take back: {doing}"),
            release=good,
        )
        first = "Not rolled back: nothing ran before. Mend it, and run `up`"
        return perform(
            ground,
            how,
            Change(
                doing=doing,
                message=Message(doing, {BY: operator()}),
                make=both,
                question="Do it?",
                back=back if good is not None else None,
                nowhere=first,
                nothing="nothing rolls",
                done=lambda outcome: _done(doing, outcome),
                notes=notes,
            ),
        )


def _as_it_runs(stack: StackSettings, now: Release | None) -> Desired:
    wanted = Desired.of(stack)
    if now is None:
        return wanted
    unnamed = [service for service, pin in wanted.pins.items() if pin is None]
    return wanted.pinned({s: now.services[s].pin for s in unnamed if s in now.services})


def _done(doing: str, outcome: Outcome) -> Sequence[str]:
    number = f" (run {outcome.release})" if outcome.release is not None else ""
    return (f"\n{doing}: done{number} in {rollout.span(outcome.seconds)}",)


def _planned(ground: Ground, change: Change) -> Summary:
    stack = StackSettings.of(ground.engine)
    digest = ground.engine.plan()
    app = stack.section("app").get("path")
    changed = plan.changes(digest, ground.engine.folder / str(app)) if app else None
    pins = {s: Image(*tag_and_digest(str(pin))) for s, pin in stack.section("images").items()}
    summary = plan.read(digest, changed=changed, pins=pins)
    plan.show(summary, ground.console)
    for note in change.notes:
        ground.console.print(note, markup=False, soft_wrap=True)
    return summary


def _agreed(summary: Summary, how: How, question: str) -> bool:
    if summary.dangers and how.yes:
        raise refused(
            f"--yes does not cover what this would do: {summary.dangers[0].what}",
            "run it without --yes, or `pulumi up` by yourself",
        )
    if not how.confirm(question):
        return False
    return not summary.dangers or how.confirm("Also what is marked DANGER?")


def _nothing_to_do(ground: Ground, change: Change) -> Outcome:
    """What the settings say runs already; whether it is well is asked all the same, since an
    earlier run may have been killed before it asked."""
    outcome = rollout.verify(ground)
    console = ground.console
    if outcome.code == rollout.DONE:
        console.print(f"{change.nothing}: it is well", markup=False, soft_wrap=True)
        return outcome
    console.print(
        Text(f"{change.nothing}, and it is not well: {outcome.because}", "red"), soft_wrap=True
    )
    console.print("python -m ops status says why; back: python -m ops rollback", soft_wrap=True)
    return outcome


def _prune(ground: Ground, api: Api) -> None:
    """What no release names any more. That it cannot be is no fault of the release."""
    try:
        gone = prune_configuration.prune(ground.engine, api)
    except Refused as cause:
        told = Text("warning: ", "yellow") + Text(f"old configuration stays: {cause.problems[0]}")
        ground.console.print(told, soft_wrap=True)
        return
    if gone:
        ground.console.print(f"pruned: {', '.join(gone)}", markup=False, soft_wrap=True)


def _run_hook(
    name: hooks.Name, ground: Ground, released: Released, outcome: Outcome | None = None
) -> None:
    try:
        if hooks.find(name, ground.engine.folder) is None:
            return
    except Refused:
        pass  # hooks.run says it
    outputs: Any = None
    services: dict[str, hooks.Image] = {}
    try:
        services = _images(ground.engine, released, outcome)
        outputs = ground.engine.outputs().get("urls")
    except Refused as cause:
        if outcome is None:
            raise
        # What was released stands, and who is to be told hears at least that.
        said = f"the hook {name} is not told everything: {cause.problems[0].what}"
        ground.console.print(Text("warning: ", "yellow") + Text(said), soft_wrap=True)
    told = hooks.Release(
        verb=released.verb,
        stack=ground.engine.stack,
        number=outcome.release if outcome else None,
        tag=released.tag,
        services=services,
        by=operator(),
        at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        urls={str(k): str(v) for k, v in outputs.items()} if isinstance(outputs, Mapping) else {},
        outcome="",
        reason=outcome.because if outcome else "",
        rollback="",
    )
    if outcome is not None:
        told["outcome"] = "succeeded" if outcome.code == rollout.DONE else "failed"
        if outcome.ended == "rolled back":
            told["outcome"] = "rolled back"
        if outcome.went_back:
            told["rollback"] = "succeeded" if outcome.ended == "rolled back" else "failed"
    hooks.run(name, told, ground.console, folder=ground.engine.folder, hide=ground.hide)


def _images(engine: Engine, released: Released, outcome: Outcome | None) -> dict[str, hooks.Image]:
    """Once it runs: what runs. Before: what is pinned, and of what is built the tag."""
    if outcome is not None and outcome.code == rollout.DONE:
        for newest in releases(engine.runs(), limit=1):
            return {
                service: {"tag": each.tag, "digest": each.digest, "reference": each.reference}
                for service, each in newest.services.items()
            }
    registry = StackSettings.of(engine).section("registry")
    found: dict[str, hooks.Image] = {}
    for service, pin in released.pins.items():
        tag, _, digest = (pin or f"{released.tag}@").rpartition("@")
        name = repository(
            server=str(registry.get("server", "")),
            namespace=str(registry.get("namespace", "")),
            service=service,
        )
        found[service] = {
            "tag": tag,
            "digest": digest,
            "reference": f"{name}@{digest}" if digest else "",
        }
    return found


def document(outcome: Outcome) -> dict[str, Any]:
    """For `--json`."""
    return {
        "exitCode": outcome.code,
        "ended": outcome.ended,
        "because": outcome.because or None,
        "release": outcome.release,
        "rolledBackBy": outcome.back,
        "seconds": round(outcome.seconds, 1),
        "plan": plan.document(outcome.plan) if outcome.plan is not None else None,
        "urls": urls.document(outcome.checked),
        "report": report.document(outcome.report) if outcome.report is not None else None,
    }


def secrets_of(stack: StackSettings) -> Hide:
    """Masks what stands encrypted in the settings, in whatever is printed."""
    configured = stack.configured
    return hiding(
        value for key in configured.secret_keys for value in _texts(configured.values.get(key))
    )


# Of objects that hold a secret beside them.
_OPEN: Final = ("server", "namespace", "username", "publicKey", "endpoint", "bucket", "region")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key not in _OPEN:
                yield from _texts(each)
