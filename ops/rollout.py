"""Making true what the settings say, and going back when production does not take it.

    up → every pod that rolls is ready → the final URLs answer
       else: the last good release, by settings and `up` again, and the same two questions

What is judged is the cluster and not the engine's exit code alone: an `up` that ended badly before
any Deployment was changed has changed nothing that runs, and there is nothing to take back.
"""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from rich.console import Console
from rich.text import Text

from honeydue.images.references import SERVICES, TAG_ANNOTATION
from honeydue.kubernetes.catalogue import ROLLOUT_SECONDS
from ops import report, urls
from ops.api import LISTS, NAMESPACE, Api
from ops.convergence import Rollout, Watching
from ops.desired import Desired, Undo
from ops.diagnosis import Finding, dig, is_of, items, text
from ops.engine import Engine, Run
from ops.lock import Lock
from ops.masking import Hide
from ops.message import BECAUSE, BY, ROLLS_BACK, Message, operator
from ops.plan import Image, Summary
from ops.problems import Refused
from ops.releases import Release
from ops.stack_settings import StackSettings
from ops.status import hide_of, last_lines

DONE: Final = 0
UNCHANGED: Final = 1
"""Nothing that runs was changed."""
ROLLED_BACK: Final = 3
FAILED: Final = 4
"""Production is not back at a good release, or that cannot be told."""
INTERRUPTED: Final = 130

GRACE: Final = 30.0  # seconds that the controller may take to say what it has decided
ENDING: Final = 60.0  # seconds for an engine that was told to end, before it is told again
_LOOK: Final = 10.0  # seconds for one look at a rollout that nobody waits for
_KEPT: Final = 500  # lines of the engine

Ended = Literal[
    "succeeded", "nothing to do", "unchanged", "rolled back", "failed", "not known", "interrupted"
]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where a verb works. `api` None: there is no cluster yet. `lock` None: a dry run."""

    engine: Engine
    console: Console
    api: Api | None
    lock: Lock | None
    hide: Hide = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Back:
    """Where to when it fails. `name`: "release 12 (1a2b3c4)". `restore`: afterwards the settings
    say so. `release`: what runs there, where it is known."""

    name: str
    restore: Callable[[], object]
    message: Message
    release: Release | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What shall become true; the settings say it already.

    `rolls`: service → what it is to run (None: not known), of those that roll or may; `surely`:
    those that do. `undo`: the settings as they were before. `back` None: there is no way back, and
    `nowhere` tells the operator. `failing`: as `baseline` found it."""

    message: Message
    rolls: Mapping[str, Image | None]
    surely: frozenset[str]
    undo: Undo
    back: Back | None
    nowhere: str = ""
    failing: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(
        summary: Summary, message: Message, undo: Undo, back: Back | None, nowhere: str = ""
    ) -> Attempt:
        rolling = {each.name: each.then for each in summary.services if each.rolls != "no"}
        surely = frozenset(each.name for each in summary.services if each.rolls == "yes")
        return Attempt(
            message=message, rolls=rolling, surely=surely, undo=undo, back=back, nowhere=nowhere
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it ended. `because`: one line, "" when all is well. `release`: the number of the run,
    None when the engine recorded none. `back`: of the run that took it back. `said`: what was done
    about a failure. `went_back`: whether that was tried."""

    code: int
    ended: Ended
    because: str = ""
    release: int | None = None
    back: int | None = None
    seconds: float = 0.0
    checked: Sequence[urls.Checked] = ()
    said: str = ""
    went_back: bool = False
    plan: Summary | None = None
    report: report.Report | None = None


def take_effect(ground: Ground, attempt: Attempt) -> Outcome:
    """From `up` to the end, whichever it is. Ctrl-C ends it in order."""
    began = time.monotonic()
    tried = _try(ground, attempt)

    def ended(code: int, how: Ended, said: str = "", after: _Tried | None = None) -> Outcome:
        told = None
        if code != DONE:
            told = _told(ground, attempt, tried, after or tried, said=said, how=how)
        return Outcome(
            code=code,
            ended=how,
            because=ground.hide(tried.because),
            release=tried.run,
            back=after.run if after else None,
            went_back=after is not None,
            seconds=time.monotonic() - began,
            checked=(after or tried).checked,
            said=said,
            report=told,
        )

    stopped = tried.interrupted
    unchanged = _unchanged(tried)
    cases: tuple[tuple[object, int, Ended, str], ...] = (
        (tried.well, DONE, "succeeded", ""),
        (tried.undone and stopped, INTERRUPTED, "interrupted", unchanged),
        (tried.undone, UNCHANGED, "unchanged", unchanged),
        (stopped, INTERRUPTED, "interrupted", _STOPPED),
        (tried.begun is None or tried.silent, FAILED, "not known", _NOBODY_TELLS),
        (tried.unasked and not tried.bad, FAILED, "not known", _UNASKED),
        (tried.code and not attempt.rolls, FAILED, "failed", _PERHAPS),
        (tried.begun == frozenset(), FAILED, "failed", _NOT_OURS),
        (tried.on_the_way, FAILED, "not known", _ON_THE_WAY),
        (tried.runs, FAILED, "failed", _ELSEWHERE),
        (attempt.back is None, FAILED, "failed", attempt.nowhere),
    )
    if tried.undone:
        # The next `up` shall not try it again by itself, with whichever verb it comes.
        attempt.undo()
    for fits, code, how, said in cases:
        if fits:
            return ended(code, how, said)
    assert attempt.back is not None  # the last case
    # What the release did not need of its own time: who waits for a rollout is prepared for that.
    left = max(0.0, ROLLOUT_SECONDS - (time.monotonic() - began))
    # worker and admin go back only when api is back: one rollout after the other.
    rollouts = 2 if (tried.begun or frozenset()) - {"api"} else 1
    budget = rollouts * ROLLOUT_SECONDS + left
    tried = replace(tried, seen=tried.collect())
    return ended(*_go_back(ground, attempt, attempt.back, tried, budget))


def verify(ground: Ground) -> Outcome:
    """Whether what runs is well, without changing anything."""
    began = time.monotonic()
    tried = _Tried(api=ground.api)
    if ground.api is not None:
        with Watching(ground.api, ground.console, SERVICES, hide=ground.hide) as watching:
            rollouts = watching.wait(ROLLOUT_SECONDS + GRACE)
            tried = replace(tried, rollouts=rollouts, silent=watching.silent)
    if not (tried.bad or tried.silent):
        tried = replace(tried, **_check(ground, {}))
    return Outcome(
        code=DONE if tried.well else UNCHANGED,
        ended="nothing to do",
        because=ground.hide(tried.because),
        seconds=time.monotonic() - began,
        checked=tried.checked,
    )


# --- one try ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """One `up` and what became of it. `begun`: the services whose Deployment was changed; None: no
    API server says. `silent`: why none did at the end. `unasked`: why the final URLs could not be
    asked. `overdue`: its budget, when it was not done within it. `run`: its number in the history;
    `changes`: what it did by the engine's own record, by kind. `rolls`: whether a Deployment was to
    be changed at all.
    """

    api: Api | None
    rolls: bool = True
    code: int = 0
    interrupted: bool = False
    overdue: float | None = None
    lines: Sequence[str] = ()
    begun: frozenset[str] | None = None
    surely: frozenset[str] = frozenset()
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    silent: str = ""
    unasked: str = ""
    checked: Sequence[urls.Checked] = ()
    run: int | None = None
    changes: Mapping[str, int] = field(default_factory=dict)
    seen: report.Collected | None = None

    @property
    def well(self) -> bool:
        failed = self.code or self.interrupted or self.bad or self.broken
        return not (failed or self.silent or self.unasked)

    @property
    def bad(self) -> list[Rollout]:
        return [each for each in self.rollouts.values() if not each.well]

    @property
    def broken(self) -> list[urls.Checked]:
        return [each for each in self.checked if not (each.well or each.before)]

    @property
    def undone(self) -> bool:
        """Whether it failed before anything that runs was changed. Where no Deployment was to
        change, none tells how far it came."""
        return bool(self.code) and self.rolls and self.begun == frozenset()

    @property
    def all_begun(self) -> bool:
        return self.begun is not None and bool(self.begun) and self.surely <= self.begun

    @property
    def runs(self) -> bool:
        """Whether the release runs and is well, whatever else failed."""
        return self.all_begun and not (self.bad or self.broken or self.silent or self.unasked)

    @property
    def on_the_way(self) -> bool:
        """Whether all that is wrong lies between the users and the application."""
        if self.bad or self.silent or (self.code and not self.all_begun):
            return False
        return bool(self.broken) and all(each.on_the_way for each in self.broken)

    @property
    def because(self) -> str:
        if self.interrupted:
            return "Ctrl-C"
        if self.overdue is not None:
            return f"not done within {span(self.overdue)}"
        for each in self.bad:
            if each.state.startswith("failed") or each.failing or not self.code:
                pods = [pod.said for pod in each.pods if pod.new and not pod.ready]
                state = each.state.removeprefix("failed: ")
                how = f"{state}: {pods[0]}" if pods else state
                return f"{each.service} did not become ready ({how})"
        if self.broken:
            return f"{self.broken[0].url} fails: {self.broken[0].why}"
        if self.code:
            return _error(self.lines) or f"`up` ended with {self.code}"
        return self.silent or self.unasked

    @property
    def phase(self) -> str:
        if self.bad:
            return "rollout"
        asked = self.broken or (self.unasked and not self.code)
        return "final URLs" if asked else "up"

    def collect(self) -> report.Collected:
        if self.seen is not None:
            return self.seen
        if self.api is None:
            return report.Collected(logs={}, events={}, silent="there is no cluster yet")
        found = report.collect(self.api)
        asked = {"admin" if each.name == "admin" else "api" for each in self.broken}
        if not self.bad and not self.on_the_way and not found.findings:
            with suppress(Refused):
                found = _with_last_words(self.api, found, asked)
        return found


def _try(ground: Ground, attempt: Attempt, budget: float | None = None) -> _Tried:
    services = tuple(service for service in SERVICES if service in attempt.rolls)
    limit = time.monotonic() + (budget or 0)
    before, numbered = _specs(ground.api), newest(ground.engine)
    tried = _Tried(api=ground.api, rolls=bool(attempt.rolls), surely=attempt.surely)
    child = _Child(budget)
    lines: deque[str] = deque(maxlen=_KEPT)
    with ExitStack() as shown:
        watching: Watching | None = None

        def watch() -> Watching | None:
            if watching is not None or tried.api is None or not services:
                return watching
            # Where there was no cluster, nothing that is there now was there before.
            known = None if ground.api is not None else dict[str, str]()
            made = Watching(tried.api, ground.console, services, before=known, hide=ground.hide)
            return shown.enter_context(made)

        def line(said: str) -> None:
            hidden = ground.hide(said)
            outputs = bool(lines) and lines[-1] == _OUTPUTS and bool(said.strip())
            if outputs or _ANSI.sub("", said).strip(" :") == "Outputs":
                lines.append(_OUTPUTS)  # forty lines that nobody looks for now
                return
            lines.append(hidden)
            if watching is not None:
                watching.line(hidden)
            else:
                ground.console.print(Text.from_ansi(hidden), soft_wrap=True)

        try:
            watching = watch()
            with child:
                try:
                    code = ground.engine.up(attempt.message.render(), line, child.begun)
                except Refused as cause:  # it did not even begin
                    code = 1
                    line(f"error: {cause.problems[0]}")
            tried = replace(
                tried,
                code=code,
                # Pressed too late, the engine ends well all the same.
                interrupted=child.interrupted and code != 0,
                overdue=budget if child.overdue else None,
                lines=tuple(lines),
                api=tried.api or _api(ground.engine),
            )
            tried = replace(tried, begun=_begun(before, _specs(tried.api), attempt))
            watching = watch()
            if watching is not None and not tried.interrupted:
                seconds = ROLLOUT_SECONDS + GRACE
                if budget is not None:
                    seconds = max(GRACE, limit - time.monotonic())
                # What was not begun will not be ready, however long one waits for it.
                rollouts = watching.wait(seconds if not code or tried.all_begun else _LOOK)
                if code:
                    rollouts = {s: r for s, r in rollouts.items() if s in (tried.begun or ())}
                tried = replace(tried, rollouts=rollouts, silent=watching.silent)
        except KeyboardInterrupt:
            tried = replace(tried, interrupted=True)
    try:
        # Where `up` failed it is only asked whether the release runs all the same.
        if not tried.interrupted and (tried.all_begun or not tried.code) and not tried.bad:
            tried = replace(tried, **_check(ground, attempt.failing))
    except KeyboardInterrupt:
        tried = replace(tried, interrupted=True)
    return _recorded(tried, numbered, newest(ground.engine))


def _recorded(tried: _Tried, before: Run | None, run: Run | None) -> _Tried:
    """`run`: the newest one; what it did, when it is this one."""
    if run is None or (before is not None and run.number == before.number):
        return tried
    changes = {kind: count for kind, count in run.changes.items() if count and kind not in _SAME}
    return replace(tried, run=run.number, changes=changes)


def _with_last_words(
    api: Api, found: report.Collected, services: Collection[str]
) -> report.Collected:
    """Pods that are ready are no finding, but where users are answered with errors, what one of
    them wrote last may say why."""
    hide = hide_of(api)
    if hide is None:
        return found
    pods = api.list(LISTS["pods"])
    findings, logs = list(found.findings), dict(found.logs)
    for service in sorted(services):
        mine = [each for each in pods if is_of(each, service)]
        for pod in mine[-1:]:
            name = text(dig(pod, "metadata", "name"))
            findings.append(
                Finding(
                    service=service,
                    pods=(name,),
                    symptom="ready, and its URL fails",
                    said="",
                    cause="its readiness probe asks less than users do",
                    todo=f"python -m ops logs {service}",
                )
            )
            logs[name] = last_lines(api, pod, hide, report.LOG_LINES)
    return replace(found, findings=tuple(findings), logs=logs)


class _Child:
    """The engine as it works: whether Ctrl-C came meanwhile, and its time. The terminal sends
    Ctrl-C to it too, so it is not passed on: told twice, Pulumi ends without order. A `kill` of
    this process (SIGTERM) counts as Ctrl-C, and is passed on: left alone the engine would go on,
    and nobody would watch what it does."""

    def __init__(self, budget: float | None) -> None:
        self.interrupted = False
        self.overdue = False
        self._budget = budget
        self._over = threading.Event()
        self._clock: threading.Thread | None = None
        self._killed = signal.getsignal(signal.SIGTERM)

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._killed)
        if self._clock is not None:
            self._clock.join()

    def begun(self, child: subprocess.Popen[bytes]) -> None:
        if threading.current_thread() is threading.main_thread():
            # Engine.up has put a handler there that does nothing, and puts the old one back.
            signal.signal(signal.SIGINT, self._ctrl_c)
            signal.signal(signal.SIGTERM, lambda *_: self._told_to_end(child))
        if self._budget is not None:
            self._clock = threading.Thread(target=self._end, args=(child,), daemon=True)
            self._clock.start()

    def _ctrl_c(self, *_: object) -> None:
        self.interrupted = True

    def _told_to_end(self, child: subprocess.Popen[bytes]) -> None:
        if not self.interrupted:
            self.interrupted = True
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGINT)

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        wait = self._budget
        while not self._over.wait(wait):
            self.overdue = True
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGINT)
            wait = ENDING


def _urls(engine: Engine) -> Mapping[str, str]:
    given = engine.outputs().get("urls")
    named = {str(k): str(v) for k, v in given.items()} if isinstance(given, Mapping) else {}
    return dict(sorted(named.items()))


def baseline(ground: Ground) -> Mapping[str, str]:
    """Which final URLs fail before anything is changed, and of what: asked once, told as a
    warning."""
    try:
        checked = urls.check(_urls(ground.engine), ground.engine.edge(), attempts=1, versions=False)
    except Refused:
        return {}  # then every failure is called new
    failing = [each for each in checked if not each.well]
    for each in failing:
        said = Text("warning: ", "yellow") + Text(f"{each.url} fails already: {each.why}")
        ground.console.print(said, soft_wrap=True)
    return {each.name: each.cause for each in failing}


def _check(ground: Ground, failing: Mapping[str, str]) -> dict[str, Any]:
    """`checked`, and `unasked`, of _Tried: what cannot be read now is no answer of a URL."""
    try:
        checked = [
            replace(each, before=bool(each.cause) and failing.get(each.name) == each.cause)
            for each in urls.check(_urls(ground.engine), ground.engine.edge())
        ]
    except Refused as cause:
        return {"unasked": f"the final URLs could not be asked: {cause.problems[0].what}"}
    if checked:
        ground.console.print()
        urls.show(checked, ground.console)
    return {"checked": checked}


def _specs(api: Api | None) -> dict[str, Any] | None:
    """Service → its Deployment; None when no API server answers."""
    if api is None:
        return {}
    try:
        found = api.list(LISTS["deployments"])
    except Refused:
        return None
    named = {text(dig(each, "metadata", "name")): each for each in found}
    return {service: named[service] for service in SERVICES if service in named}


def _begun(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, attempt: Attempt
) -> frozenset[str] | None:
    """The services whose Deployment was changed. Also by an earlier run of the same that was
    killed: then it has what this one wants, and not what the last good release had."""
    if before is None or after is None:
        return None
    good = attempt.back.release if attempt.back is not None else None
    begun = set()
    for service, deployment in after.items():
        was = before.get(service)
        same = was is not None and all(
            dig(was, "metadata", key) == dig(deployment, "metadata", key)
            for key in ("uid", "generation")
        )
        image = attempt.rolls.get(service)
        tag = dig(deployment, "metadata", "annotations", TAG_ANNOTATION)
        wanted = service in attempt.rolls and (image is None or not image.tag or image.tag == tag)
        if not same or (wanted and good is not None and _differs(deployment, service, good)):
            begun.add(service)
    return frozenset(begun)


def _differs(deployment: Any, service: str, good: Release) -> bool:
    containers = items(dig(deployment, "spec", "template", "spec", "containers"))
    container = containers[0] if containers else None
    configs = {text(dig(each, "configMapRef", "name")) for each in items(dig(container, "envFrom"))}
    image = good.services.get(service)
    return (image is not None and text(dig(container, "image")) != image.reference) or (
        service in good.config_maps and good.config_maps[service] not in configs
    )


def _api(engine: Engine) -> Api | None:
    """After the first `up`; None when it did not get so far."""
    try:
        return Api.of(engine)
    except Refused:
        return None


def newest(engine: Engine) -> Run | None:
    """The last run; None: there is none, or it cannot be read."""
    with suppress(Refused):
        return next(engine.runs(), None)
    return None


_SAME: Final = ("same", "read", "refresh")
_OUTPUTS: Final = "(the stack's outputs)"
_ERROR: Final = re.compile(r"\berror: *(.+)")
# The command plugin's first line quotes the whole script; what that said follows, line by line.
_QUOTED: Final = re.compile(r'(exit status \d+|signal: \w+): running "|update failed$')
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")


def _error(lines: Sequence[str]) -> str:
    """The first that the engine calls an error; what follows from it comes later. One that tells
    no cause is only taken where there is no other."""
    first = ""
    for line in lines:
        if found := _ERROR.search(_ANSI.sub("", line)):
            said = " ".join(found[1].split())[:200]
            if not _QUOTED.match(said):
                return said
            first = first or said
    return first


# --- when it failed -----------------------------------------------------------------------------

_UNCHANGED: Final = (
    "Nothing that runs was changed, and the settings are as they were. When it is mended, run the "
    "same again"
)
_PERHAPS: Final = (
    "Not rolled back: nothing was to roll, and some of the rest may be done. The settings say it: "
    "when the cause is mended, run the same again, or a plain `up`"
)
_STOPPED: Final = (
    "Stopped by Ctrl-C, and nothing was rolled back. Run the same again, and it goes on; or back: "
    "python -m ops rollback"
)
_NOBODY_TELLS: Final = (
    "Not rolled back: no API server answers, so nobody can tell what runs. When one does (python "
    "-m ops status), run the same again, or python -m ops rollback"
)
_UNASKED: Final = (
    "Not rolled back: every pod is ready, but the final URLs could not be asked. When they can be, "
    "run the same again: it then only checks"
)
_NOT_OURS: Final = (
    "Not rolled back: `up` did what the settings say, and they stay so; no service rolled, so no "
    "rollback can mend what is wrong. python -m ops status"
)
_ON_THE_WAY: Final = (
    "Not rolled back: every pod is ready, and what fails lies on the way to them, which no release "
    "can mend. When it is mended, run the same again: it then only checks. Back all the same: "
    "python -m ops rollback"
)
_ELSEWHERE: Final = (
    "Not rolled back: every service that was to roll runs the release, and the URLs answer; `up` "
    "failed at something else. When that is mended, run the same again, and it goes on"
)


def _unchanged(tried: _Tried) -> str:
    """No Deployment was changed; other things may be."""
    if not tried.changes:
        return _UNCHANGED
    done = ", ".join(f"{kind} {count}" for kind, count in sorted(tried.changes.items()))
    return (
        "No service was changed, and the settings are as they were; the engine did other things "
        f"before it failed ({done}), which the next `up` takes back. When it is mended, run the "
        "same again"
    )


def _go_back(
    ground: Ground, attempt: Attempt, back: Back, tried: _Tried, budget: float
) -> tuple[int, Ended, str, _Tried]:
    """(exit code, how it ended, what was done, what was seen afterwards)"""
    console = ground.console
    console.print()
    because = ground.hide(tried.because)
    console.print(Text(f"{tried.phase} failed: {because}", "red"), soft_wrap=True)
    console.print(f"Rolling back to {back.name}, for at most {span(budget)}\n", soft_wrap=True)
    trailers = {BY: operator(), **back.message.trailers, BECAUSE: because}
    if tried.run is not None:
        trailers[ROLLS_BACK] = str(tried.run)
    try:
        if ground.lock is not None:
            ground.lock.assure()
        back.restore()
    except Refused as cause:
        problem = cause.problems[0]
        said = f"Not rolled back: {problem.what}\n  mend   {problem.mend}"
        return FAILED, "failed", said, replace(tried, seen=None)
    again = _try(
        ground,
        Attempt(
            message=Message(back.message.subject, trailers),
            rolls=dict.fromkeys(sorted(tried.begun or ())),
            surely=tried.begun or frozenset(),
            undo=lambda: None,
            back=None,
            failing=attempt.failing,
        ),
        budget,
    )
    kept = [service for service in attempt.rolls if service not in (tried.begun or ())]
    gate = ""
    if kept and any(each.service == "api" for each in tried.bad):
        gate = f". api goes first: {' and '.join(kept)} never rolled"
    if again.well:
        said = f"Rolled back: production runs {back.name} again{gate}"
        return ROLLED_BACK, "rolled back", said, again
    if again.runs and not again.interrupted:
        said = (
            f"Rolled back: production runs {back.name} again{gate}.\n"
            f"  `up` failed at something else: {ground.hide(again.because)}. "
            "When that is mended, the next `up` goes on with it"
        )
        return ROLLED_BACK, "rolled back", said, again
    if again.on_the_way and not again.interrupted:
        said = (
            f"Rolled back: every pod of {back.name} is ready again{gate}. What fails now lies on "
            f"the way to them: {ground.hide(again.because)}"
        )
        return FAILED, "not known", said, again
    if again.interrupted:
        said = f"The rollback to {back.name} was stopped by Ctrl-C: the next `up` goes on with it"
        return INTERRUPTED, "interrupted", said, again
    said = f"The rollback to {back.name} failed too: {ground.hide(again.because)}\n"
    seen = again.collect()
    said += by_hand(back.release, named=_named(seen))
    return FAILED, "failed", said, replace(again, seen=seen)


def _named(seen: report.Collected) -> Mapping[str, str]:
    """Service → the digest that its Deployment names now."""
    return {each.service: each.wanted.digest for each in seen.running if each.wanted is not None}


def by_hand(
    good: Release | None, service: str | None = None, named: Mapping[str, str] | None = None
) -> str:
    """What mends production when the way back failed. `service`: it alone was to go back. `named`:
    service → digest that its Deployment names already, which nobody has to set."""
    lines = ["  The settings name it: when the cause is mended, the next `up` goes on with it."]
    if good is not None:
        alone = f" --service {service}" if service else ""
        lines.append(f"  again    python -m ops rollback{alone} --to {good.number}")
        sets = [
            f"           kubectl -n {NAMESPACE} set image deployment/{name} "
            f"{name}={image.reference}"
            for name, image in good.services.items()
            if service in (None, name) and (named or {}).get(name) != image.digest
        ]
        if sets:
            lines.append(
                "  by hand, if the engine cannot (make kubeconfig; then with KUBECONFIG set):"
            )
        lines += sets
    return "\n".join([*lines, "  then     python -m ops status"])


def _told(
    ground: Ground, attempt: Attempt, tried: _Tried, after: _Tried, *, said: str, how: Ended
) -> report.Report:
    """Shows what failed, what runs now, and what the next `up` does."""
    settings: dict[str, str] | None = None
    with suppress(Refused):
        pins = Desired.of(StackSettings.of(ground.engine)).pins
        settings = {service: pin for service, pin in pins.items() if pin}
    wanted = {
        service: image or Image("", "")
        for service, image in attempt.rolls.items()
        if service in (tried.begun or ())
    }
    composed = report.compose(
        phase=tried.phase if how != "interrupted" else "",
        what=ground.hide(tried.because),
        failure=tried.collect(),
        now=after.collect(),
        wanted=wanted,
        settings=settings,
        checked=tried.checked,
        outcome=said,
        undone=how == "rolled back",
    )
    ground.console.print()
    report.show(composed, ground.console)
    return composed


def span(seconds: float) -> str:
    """`42 s`, `3 min 12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"
