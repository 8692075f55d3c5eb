"""`ops deploy`: the checkout's commit, or an image that is there already, to production.

Which images shall run is decided here; how that becomes true, and what happens when it does not,
stands in ops.change and ops.rollout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from honeydue import rules
from honeydue.images import checkout
from honeydue.images.references import SERVICES, path_of
from honeydue.images.registry import Registry, RegistryError, nearest
from ops import change, preflight
from ops.change import Change, How, Released
from ops.commits import same_commit
from ops.desired import Desired
from ops.engine import Engine
from ops.images import registry_of
from ops.message import BY, POINT_OF_NO_RETURN, SERVICE, Message, operator
from ops.problems import Misused, Problem, Refused, refused
from ops.releases import Release, barrier, current, last_good, releases
from ops.rollout import Back, Outcome, span
from ops.stack_settings import StackSettings


@dataclass(frozen=True)
class Target:
    """`tag`: what people call it. `pins`: service → `<tag>@<digest>`, None: built."""

    tag: str
    pins: Mapping[str, str | None]

    @property
    def built(self) -> bool:
        return any(pin is None for pin in self.pins.values())


def deploy(
    engine: Engine,
    how: How,
    *,
    sha: str | None = None,
    service: str | None = None,
    point_of_no_return: str = "",
) -> Outcome:
    """Raises Refused when nothing was changed."""
    stack = change.opened(engine, how)
    services = (service,) if service else SERVICES
    target = _target(stack, sha, services)
    doing = f"deploy {target.tag}" + (f" of {service}" if service else "")
    how.console.print(f"{doing} ({engine.stack})\n", markup=False)
    found = releases(engine.runs(), limit=change.RECENT)
    now = current(found)
    if service:
        target = _with_others(target, service, now)

    def wanted(read: StackSettings) -> Desired:
        return Desired.of(read).pinned(target.pins)

    asked = preflight.Asked(
        engine=engine,
        wanted=wanted,
        sha=target.tag if target.built else "",
        services=services,
        take_over=how.take_over,
        hotfix=service is not None,
    )
    change.check(asked, how)
    with change.cluster(engine) as api, change.locked(stack, api, doing, how) as ground:
        good = last_good(found)
        trailers = {BY: operator()}
        if service:
            trailers[SERVICE] = service
        if point_of_no_return:
            trailers[POINT_OF_NO_RETURN] = point_of_no_return
        back, nowhere = way_back(engine, found, good, point_of_no_return)
        return change.perform(
            ground,
            how,
            Change(
                doing=doing,
                message=Message(f"deploy {target.tag}", trailers),
                make=lambda: change.make(engine, wanted),
                question=f"Deploy {target.tag}?",
                back=back,
                nowhere=nowhere,
                nothing=f"nothing to do: {target.tag} runs already"
                + (f" (release {now.number})" if now else ""),
                done=lambda outcome: _done(target.tag, outcome, good, back),
                released=Released(verb="deploy", tag=target.tag, pins=target.pins),
            ),
        )


def _done(tag: str, outcome: Outcome, good: Release | None, back: Back | None) -> Sequence[str]:
    number = f" as release {outcome.release}" if outcome.release is not None else ""
    roll_back = f"roll back to {good}: python -m ops rollback" if good is not None else ""
    if good is not None and back is None:
        roll_back = (
            f"{good} lies before a point of no return; back all the same: "
            f"python -m ops rollback --to {good.number} --past-point-of-no-return"
        )
    said = [f"\ndeployed {tag}{number} in {span(outcome.seconds)}", roll_back]
    return [line for line in said if line]


# --- the way back -------------------------------------------------------------------------------


def way_back(
    engine: Engine, found: Sequence[Release], good: Release | None, point_of_no_return: str
) -> tuple[Back | None, str]:
    """To the last good release, and what the operator is told when there is no way there."""
    if good is None:
        return None, (
            "Not rolled back: no release before this one went well, so there is nothing to roll "
            "back to. Mend it and deploy again: python -m ops deploy"
        )
    point = barrier(found, good)
    reason = point_of_no_return or (point.point_of_no_return if point else "")
    if reason:
        whose = "this release" if point_of_no_return else f"release {point}"
        return None, (
            f"Not rolled back: {whose} is a point of no return ({reason}), and may have done it. "
            "Mend it and deploy again: python -m ops deploy; or back all the same: "
            f"python -m ops rollback --to {good.number} --past-point-of-no-return"
        )
    return Back(
        name=f"release {good}",
        restore=lambda: change.restore(engine, good),
        message=Message(f"rollback to {good}"),
        release=good,
    ), ""


# --- what to deploy -----------------------------------------------------------------------------


def _target(stack: StackSettings, sha: str | None, services: Sequence[str]) -> Target:
    if sha is not None and not re.fullmatch(rules.COMMIT, sha, re.IGNORECASE):
        raise Misused(
            Problem(
                f"--sha {sha!r} is no commit's SHA: 7 to 40 hexadecimal digits",
                "python -m ops deploy --sha 237c6b8; python -m ops images list has those that "
                "are there",
            )
        )
    app = stack.section("app").get("path")
    builds = bool(app) and stack.section("image").get("build") not in (False, "false")
    head = ""
    if builds and app:
        try:
            allowed = stack.section("image").get("allowDirty") in (True, "true")
            head = checkout.read(stack.engine.folder / str(app), allow_dirty=allowed).tag
        except checkout.CheckoutError as cause:
            if sha is None:
                raise refused(cause.wrong, cause.mend) from None
    if sha is None:
        if not builds:
            raise refused(
                f"the stack {stack.engine.stack} has no checkout to build from (honeydue:app.path)",
                "python -m ops deploy --sha SHA, of images that are in the registry: "
                "python -m ops images list",
            )
        return Target(head, dict.fromkeys(services))
    if head and same_commit(head, sha):
        return Target(head, dict.fromkeys(services))
    return in_registry(stack.engine, sha, services)


def in_registry(engine: Engine, sha: str, services: Sequence[str]) -> Target:
    """The images of a tag, or of the one tag that is the same commit. Raises Refused with the
    nearest tags when they are not there."""
    server, namespace, login = registry_of(engine)
    try:
        with Registry(server, login) as registry:
            return _found(registry, server, namespace, sha, services)
    except RegistryError as cause:
        raise refused(f"{cause.why}: it is not known which images {sha} has", cause.mend) from None


def _found(
    registry: Registry, server: str, namespace: str, sha: str, services: Sequence[str]
) -> Target:
    pins: dict[str, str | None] = {}
    problems: list[Problem] = []
    name = sha
    for service in services:
        repository = path_of(namespace, service)
        digest = registry.digest(repository, name)
        if digest is None:
            tags = registry.tags(repository)
            alike = [tag for tag in tags if same_commit(tag, sha)]
            if len(alike) == 1:
                name, digest = alike[0], registry.digest(repository, alike[0])
        if digest is None:
            near = nearest(sha, tags)
            there = f"nearest: {', '.join(near)}" if near else "it has no tag at all"
            problems.append(
                Problem(
                    f"{service}: {server}/{repository} has no image {sha}; {there}",
                    f"check out {sha} in the application's checkout, and: python -m ops deploy",
                )
            )
            continue
        pins[service] = f"{name}@{digest}"
    if problems:
        raise Refused(*problems)
    return Target(name, pins)


def _with_others(target: Target, service: str, now: Release | None) -> Target:
    """The other services stay what they are, also where a new commit is checked out."""
    others = [each for each in SERVICES if each != service]
    if now is None or any(each not in now.services for each in others):
        raise refused(
            f"--service {service}: {' and '.join(others)} do not run yet",
            "python -m ops deploy, of all three",
        )
    return Target(target.tag, {**target.pins, **{s: now.services[s].pin for s in others}})
