"""`ops rollback`: an earlier release again, images and configuration, without a build.

Secrets are not brought back: one that was changed since was changed for a reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from honeydue.images.references import SERVICES
from honeydue.images.registry import Registry, RegistryError
from ops import change, preflight
from ops.change import Change, How, Released
from ops.commits import SHORT
from ops.deploy import in_registry
from ops.desired import Desired
from ops.engine import Engine
from ops.images import registry_of
from ops.message import BY, ROLLS_BACK, SERVICE, Message, operator
from ops.problems import Refused, refused
from ops.releases import (
    Gone,
    Image,
    Release,
    barrier,
    current,
    find,
    images_gone,
    last_good,
    obstacle,
    releases,
)
from ops.releases_screen import gone
from ops.rollout import Outcome, by_hand, span
from ops.stack_settings import StackSettings

# Without these a rollback cannot work. All else that preflight finds may be why it is asked for.
_MUST: Final = ("passphrase", "settings", "images", "other runs", "paused")
_LISTED: Final = 10
_PAST: Final = (
    "roll forward: python -m ops deploy; or, if the database can take it: the same with "
    "--past-point-of-no-return"
)


@dataclass(frozen=True)
class To:
    """`name`: "11 (1a2b3c4)". `pins`: of all services, those that stay included. `release`: None
    when no listed one had these images."""

    name: str
    pins: Mapping[str, str | None]
    release: Release | None

    @property
    def tag(self) -> str:
        return ", ".join(sorted(self.release.tags)) if self.release is not None else self.name


def rollback(
    engine: Engine,
    how: How,
    *,
    to: str | None = None,
    service: str | None = None,
    past: bool = False,
) -> Outcome:
    """`to`: a release's number or a SHA; None: the last good one before what runs. `past`: also
    past a point of no return. Raises Refused when nothing was changed."""
    stack = change.opened(engine, how)
    services = (service,) if service else SERVICES
    # From Pulumi Cloud each costs a second: all of them only when one is looked for.
    found = releases(engine.runs(), limit=change.RECENT if to is None else None)
    now = current(found)
    if now is None:
        raise refused("nothing runs that could be rolled back", "python -m ops deploy")
    goal = _goal(engine, found, now, to, services, past=past)
    doing = f"rollback to {goal.name}" + (f" of {service}" if service else "")
    how.console.print(f"{doing} ({engine.stack})\n", markup=False)

    def wanted(read: StackSettings) -> Desired:
        if goal.release is not None and service is None:
            return change.as_it_was(read, goal.release)
        return Desired.of(read).pinned(goal.pins)

    asked = preflight.Asked(
        engine=engine, wanted=wanted, services=services, take_over=how.take_over
    )
    change.check(asked, how, must=_MUST)
    trailers = {BY: operator()}
    if service:
        trailers[SERVICE] = service
    else:
        trailers[ROLLS_BACK] = str(now.number)
    with change.cluster(engine) as api, change.locked(stack, api, doing, how) as ground:
        return change.perform(
            ground,
            how,
            Change(
                doing=doing,
                message=Message(f"rollback to {goal.name}", trailers),
                make=lambda: change.make(engine, wanted),
                question=f"Roll back to {goal.name}?",
                back=None,
                nowhere="The rollback failed.\n" + by_hand(goal.release, service),
                nothing=f"nothing to do: {goal.name} runs already",
                done=lambda outcome: _done(goal, outcome, _elsewhere(stack, goal, service)),
                released=Released(verb="rollback", tag=goal.tag, pins=goal.pins),
                notes=tuple(_notes(goal, now, service)),
            ),
        )


def _done(goal: To, outcome: Outcome, elsewhere: str) -> Sequence[str]:
    number = f" as release {outcome.release}" if outcome.release is not None else ""
    said = [
        f"\nrolled back to {goal.name}{number} in {span(outcome.seconds)}",
        "the next `up` changes nothing; python -m ops deploy goes forward again",
        elsewhere,
    ]
    return [line for line in said if line]


def _elsewhere(stack: StackSettings, goal: To, service: str | None) -> str:
    """What makes other working copies want the same. A rehearsal has no others."""
    if stack.engine.kind != "pulumi":
        return ""
    what = f"commit Pulumi.{stack.engine.stack}.yaml"
    if goal.release is not None and service is None and goal.release.environment:
        what += f", and copy {stack.env_name}, which git ignores"
    return f"{what}: elsewhere a plain `up` does not know of it"


def _notes(goal: To, now: Release, service: str | None) -> Iterator[str]:
    if goal.release is None or service is not None:
        yield "configuration stays as it is now: only images go back"
    elif not goal.release.environment:
        yield "configuration stays as it is now: what that release had is not known any more"
    if goal.release is not None and goal.release.secrets != now.secrets:
        yield "secrets stay as they are now: they were changed since"


# --- where to -----------------------------------------------------------------------------------


def _goal(
    engine: Engine,
    found: Sequence[Release],
    now: Release,
    to: str | None,
    services: Sequence[str],
    *,
    past: bool,
) -> To:
    if to is None:
        alone = services[0] if tuple(services) != SERVICES else ""
        # Of one service alone: those that ran what it runs now would change nothing.
        of = [e for e in found if alone in e.services and not _same_image(alone, e, now)]
        release = last_good(of if alone else found, before=now)
        if release is None:
            raise refused(
                f"nothing to roll back to: no release before {now} went well"
                + (f" with another {alone}" if alone else ""),
                "python -m ops releases lists them; to an older image: "
                f"python -m ops rollback{_one(services)} --to SHA",
            )
    else:
        try:
            release = find(found, to)
        except Refused:
            if len(to) < SHORT:
                raise
            return _by_image(engine, found, now, to, services, past=past)
    missing = _gone(engine, [release, *found[:_LISTED]])
    if why := _why_not(found, now, release, missing, services, past=past):
        raise refused(
            f"release {release} cannot be rolled back to: {why}",
            _mend(found, now, missing, services, why),
        )
    return To(str(release), _pins(now, services, release.services), release)


def _one(services: Sequence[str]) -> str:
    """For a command line."""
    return "" if tuple(services) == SERVICES else f" --service {services[0]}"


def _same_image(service: str, one: Release, other: Release) -> bool:
    mine, its = one.services.get(service), other.services.get(service)
    if mine is None or its is None:
        return False
    return (mine.digest or mine.reference) == (its.digest or its.reference)


def _by_image(
    engine: Engine,
    found: Sequence[Release],
    now: Release,
    sha: str,
    services: Sequence[str],
    *,
    past: bool,
) -> To:
    """Of no listed release; then every point of no return that is listed lies between."""
    target = in_registry(engine, sha, services)
    point = next((each for each in found if each.point_of_no_return and each.reached), None)
    if point is not None and not past:
        raise refused(
            f"{target.tag} cannot be rolled back to: behind the point of no return "
            f"({point.number}: {point.point_of_no_return})",
            _PAST,
        )
    others = {s: image.pin for s, image in now.services.items() if s not in services}
    return To(target.tag, {**others, **target.pins}, None)


def _pins(
    now: Release, services: Sequence[str], images: Mapping[str, Image]
) -> dict[str, str | None]:
    """Services that do not go back stay what they are, also where a new commit is checked out."""
    return {
        service: (images if service in services else now.services)[service].pin
        for service in SERVICES
        if service in (images if service in services else now.services)
    }


def _gone(engine: Engine, of: Sequence[Release]) -> Gone | None:
    """None: the registry does not say. A node that still has an image needs no registry."""
    server, namespace, login = registry_of(engine)
    try:
        with Registry(server, login, timeout=5.0) as registry:
            return gone(registry, namespace, of)
    except RegistryError:
        return None


def _why_not(
    found: Sequence[Release],
    now: Release,
    to: Release,
    missing: Gone | None,
    services: Sequence[str],
    *,
    past: bool,
) -> str:
    """ "" when nothing stands in the way."""
    if tuple(services) != SERVICES:
        return _why_not_one(found, now, to, missing, services[0], past=past)
    why = obstacle(found, to, missing)
    if why == "not known" or (past and why.startswith("behind the point of no return")):
        return ""
    if why == "current":
        return "it is what runs now"
    # One that failed half way names it already, and does not run it yet.
    return "" if why.startswith("runs now") and now.outcome != "succeeded" else why


def _why_not_one(
    found: Sequence[Release],
    now: Release,
    to: Release,
    missing: Gone | None,
    service: str,
    *,
    past: bool,
) -> str:
    point = barrier(found, to)
    if service not in to.services:
        return f"it had no {service}"
    if to.states.get(service) == "failed":
        return f"{service} failed in it"
    if _same_image(service, to, now):
        return f"{service} runs that now"
    if service in images_gone(to, missing or {}):
        return f"images gone: {service}"
    if point is not None and not past:
        return f"behind the point of no return ({point.number}: {point.point_of_no_return})"
    return ""


def _mend(
    found: Sequence[Release],
    now: Release,
    missing: Gone | None,
    services: Sequence[str],
    why: str,
) -> str:
    if why.startswith("behind"):
        return _PAST
    good = [
        str(each)
        for each in found[:_LISTED]
        if each.well and not _why_not(found, now, each, missing, services, past=False)
    ]
    if good:
        return f"python -m ops rollback{_one(services)} --to one of {', '.join(good)}"
    return "no listed release can be; python -m ops deploy --sha SHA, of what is in the registry"
