"""`ops releases`: the list of what was released, and what of it can be brought back."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from honeydue.images.references import SERVICES, path_of
from honeydue.images.registry import Login, Registry, RegistryError, scheme
from ops.diagnosis import ago
from ops.engine import Engine
from ops.images import registry_of
from ops.problems import Problem, Refused
from ops.releases import Gone, Release, State, current, obstacle, releases
from ops.table import cells, plain, table

_TIMEOUT: Final = 3.0  # seconds: the list is worth more than the last word on its images
_AT_ONCE: Final = 16  # requests
_DIGITS: Final = 8  # of a digest, in a row with two others
_WIDE: Final = 120  # columns from which digests have room
_SHORTLY: Final[Mapping[str, str]] = {
    "unreachable": "registry does not answer",
    "credentials": "registry refuses the login",
    "scope": "registry refuses the token",
}
_STYLES: Final[Mapping[State, str]] = {"failed": "red", "as before": "dim"}


@dataclass(frozen=True)
class Known:
    """What the registry says. `gone`: None when it says nothing, with the `problem`, `shortly`."""

    gone: Gone | None
    shortly: str = ""
    problem: Problem | None = None


def show(
    engine: Engine,
    console: Console,
    *,
    limit: int,
    as_json: bool,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """The newest `limit`. Raises Refused when the engine's history cannot be read."""
    with ThreadPoolExecutor(1) as pool:
        login = pool.submit(registry_of, engine)  # a child process, beside the history's
        found = releases(engine.runs(), limit=limit)
    known = _known(found, login)
    if as_json:
        print(json.dumps(document(engine.stack, found, known), indent=2))
        return
    if not found:
        console.print(f"nothing was released on {engine.stack} yet")
        return
    shown = table("No", "Tag", *_wide(console, SERVICES), "Config", "When (UTC)", "By")
    for title in ("Outcome", "Rollback"):
        shown.add_column(title, overflow="fold")
    for each in found:
        shown.add_row(*_row(found, each, known, now(), console))
    console.print(shown)
    if len(found) == limit:
        console.print(f"\nolder ones: --limit {limit * 2}")
    if known.problem is not None:
        console.print(Text("\nwarning: ", style="yellow") + Text(str(known.problem)))
    for each in found:
        if each.problem is not None:
            told = f"{each.number}: {each.problem}"
            console.print(Text("\nwarning: ", style="yellow") + Text(told), soft_wrap=True)


# --- the registry -------------------------------------------------------------------------------


def _known(found: Sequence[Release], login: Future[tuple[str, str, Login]]) -> Known:
    try:
        server, namespace, credentials = login.result()
    except Refused as refusal:
        return Known(None, "the stack's registry is not known", refusal.problems[0])
    try:
        with Registry(server, credentials, timeout=_TIMEOUT, sleep=_hardly) as registry:
            return Known(gone(registry, namespace, found))
    except RegistryError as error:
        shortly = _SHORTLY.get(error.kind, "registry answers strangely")
        return Known(None, shortly, Problem(error.why, error.mend))
    except _Impatient:
        what = f"{server} does not answer: whether the images are still there is not known"
        return Known(
            None, _SHORTLY["unreachable"], Problem(what, f"look at {scheme(server)}://{server}/")
        )


def gone(registry: Registry, namespace: str, found: Sequence[Release]) -> Gone:
    """What the registry does not have of these releases' images: each is asked for once, by its
    digest. (Gitea's packages would be two requests a version, and all versions.) Raises
    RegistryError."""
    wanted = sorted(
        {
            (service, image.digest or image.tag)
            for each in found
            for service, image in each.services.items()
            if image.digest or image.tag
        }
    )

    def lacks(one: tuple[str, str]) -> bool:
        return registry.digest(path_of(namespace, one[0]), one[1]) is None

    missing: dict[str, set[str]] = defaultdict(set)
    # The first by itself: the others find out from it how one logs in, or that nobody answers.
    answers = [lacks(one) for one in wanted[:1]]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers += pool.map(lacks, wanted[1:])
    for (service, name), is_missing in zip(wanted, answers, strict=True):
        if is_missing:
            missing[service].add(name)
    return missing


class _Impatient(Exception):  # noqa: N818 - the registry may be well, and slow
    pass


def _hardly(_seconds: float) -> None:
    """Instead of the ten seconds of patience that a deploy has."""
    raise _Impatient


# --- what the operator reads --------------------------------------------------------------------


def _wide(console: Console, values: Sequence[Any]) -> Sequence[Any]:
    return values if console.width >= _WIDE else ()


def _row(
    found: Sequence[Release], each: Release, known: Known, now: datetime, console: Console
) -> tuple[Text, ...]:
    return (
        *cells(each.number, tags(each)),
        *_wide(console, [_digest(each, service) for service in SERVICES]),
        *cells(each.configuration if each.reached else None),
        Text(f"{each.at:%Y-%m-%d %H:%M}, {ago(now, each.at)} ago"),
        *cells(plain(each.by)),
        _outcome(each),
        _rollback(found, each, known),
    )


def tags(of: Release) -> str | None:
    """`237c6b8`; where they differ a line for each: `api 237c6b8`; what was to be, where nothing
    came of it. None: there is none."""
    if not of.reached:
        return plain(of.message.subject) or None
    called: dict[str, list[str]] = defaultdict(list)
    for service in SERVICES:
        if service in of.services:
            called[of.services[service].tag or "(no tag)"].append(service)
    if len(called) == 1:
        return next(iter(called))
    return "\n".join(f"{', '.join(some)} {tag}" for tag, some in called.items()) or None


def _digest(each: Release, service: str) -> Text:
    image = each.services.get(service)
    if image is None or not image.digest or not each.reached:
        return Text("-")
    style = _STYLES.get(each.states.get(service, "rolled"), "")
    return Text(image.digest.removeprefix("sha256:")[:_DIGITS], style)


def _outcome(each: Release) -> Text:
    style = {"failed": "red", "rolled back": "yellow", "running": "yellow", "unreadable": "red"}
    return Text(plain(told(each)), style.get(each.outcome, ""))


def told(of: Release) -> str:
    """How it ended, in a line."""
    match of.outcome:
        case "succeeded":
            words = "succeeded"
        case "failed":
            words = f"failed: {states(of)}"
        case "rolled back":
            why = f": {of.rolled_back_because}" if of.rolled_back_because else ""
            words = f"{'' if of.well else 'failed, '}rolled back by {of.rolled_back_by}{why}"
        case "running":
            words = "under way"
        case "unreadable":
            words = "its state cannot be read"
    if of.rolled_back_by is not None and of.outcome != "rolled back":
        words += f"; rollback {of.rolled_back_by} of it failed"
    if of.rolls_back is not None:
        words += (
            f"; took {of.rolls_back} back" if of.well else f"; was to take {of.rolls_back} back"
        )
    if of.point_of_no_return:
        words += f"; point of no return: {of.point_of_no_return}"
    return words


def states(of: Release) -> str:
    """What state a release that failed left each service in."""
    if not of.reached:
        return "nothing rolled"
    said = {
        "failed": "did not become ready",
        "rolled": "rolled",
        "as before": "as before",
        "missing": "missing",
    }
    parts = []
    for state, words in said.items():
        if some := [service for service in SERVICES if of.states.get(service) == state]:
            parts.append(f"{' and '.join(some)} {words}")
    return ", ".join(parts)


def _rollback(found: Sequence[Release], each: Release, known: Known) -> Text:
    why = obstacle(found, each, known.gone)
    if why == "not known":
        return Text(f"not known ({known.shortly})", style="yellow")
    if why:
        return Text(plain(why), style="" if why == "current" else "dim")
    now = current(found)
    if now is not None and now.secrets != each.secrets:
        return Text("yes; secrets stay today's")
    return Text("yes")


def document(stack: str, found: Sequence[Release], known: Known) -> dict[str, Any]:
    """For `--json`. Without the environment's values: `config diff` shows those."""
    now = current(found)

    def entry(each: Release) -> dict[str, Any]:
        why = obstacle(found, each, known.gone)
        unknown = why == "not known"
        return {
            "number": each.number,
            "outcome": each.outcome,
            "well": each.well,
            "message": each.message.subject,
            "by": each.by,
            "startedAt": each.at.isoformat(),
            "endedAt": each.ended.isoformat(),
            "services": {
                service: {
                    "tag": image.tag,
                    "digest": image.digest,
                    "reference": image.reference,
                    "state": each.states.get(service),
                }
                for service, image in each.services.items()
            },
            "configuration": each.configuration,
            "configMaps": dict(each.config_maps),
            "secrets": dict(each.secrets),
            "pointOfNoReturn": each.point_of_no_return or None,
            "rollsBack": each.rolls_back,
            "because": each.because or None,
            "rolledBackBy": each.rolled_back_by,
            "rolledBackBecause": each.rolled_back_because or None,
            "canBeRolledBackTo": None if unknown else not why,
            "whyNot": (known.shortly if unknown else why) or None,
            **({"unreadable": each.problem.what} if each.problem else {}),
        }

    return {
        "stack": stack,
        "current": now.number if now else None,
        "releases": [entry(each) for each in found],
    }
