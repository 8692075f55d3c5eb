"""What was ever released, out of the engine's own history: pure, and in nobody's laptop.

Every run of the engine leaves a record and the checkpoint that it ended with, in the state's
backend. A *release* is a run of `up` after which api, worker or admin had another image or other
settings than before it, or that failed while it tried to: so a plain `pulumi up` makes one too.
What the engine does not know (by whom, what it takes back) stands in the run's message.

What a release had is read from its checkpoint's resources and never from outputs: a run that fails
leaves those of the run before.

    found = releases(engine.runs())
    good = last_good(found, before=found[0])
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final, Literal

from honeydue.images.references import SERVICES, TAG_ANNOTATION
from honeydue.images.registry import nearest
from ops.commits import SHORT, same_commit
from ops.diagnosis import dig, items, text
from ops.engine import Run, resources_of
from ops.message import BECAUSE, BY, POINT_OF_NO_RETURN, ROLLS_BACK, Message
from ops.problems import Problem, Refused, refused

Outcome = Literal["succeeded", "failed", "rolled back", "running", "unreadable"]
State = Literal["rolled", "failed", "as before", "missing"]
"""What a release did to one service. `failed`: it was changed, and did not become ready."""

_DEPLOYMENT: Final = "kubernetes:apps/v1:Deployment"
_CONFIG_MAP: Final = "kubernetes:core/v1:ConfigMap"
# Kinds of run that leave another cluster on purpose. A refresh only looks: what it finds by hand is
# no release, and the next `up` takes it back.
_CHANGING: Final = ("update", "destroy")
_SECRET: Final = "4dabf18193072939515e22adb298388d"  # Pulumi's mark of one that is encrypted
_RUNNING: Final = "in-progress"
_SHORTEST: Final = 4  # beginning of a name that git takes
_AT_ONCE: Final = 8  # checkpoints: from Pulumi Cloud each is a child process of a second


@dataclass(frozen=True)
class Image:
    """`tag`: "" when the settings named a digest alone; `digest`: "" for one that runs by tag."""

    tag: str
    digest: str
    reference: str

    @property
    def pin(self) -> str:
        """What `honeydue:images.<service>` takes: `237c6b8@sha256:…`."""
        return f"{self.tag}@{self.digest}" if self.tag and self.digest else self.digest or self.tag


@dataclass(frozen=True, kw_only=True)
class Release:
    """One of them. `number`: that of the run that made it (ops.engine.Run).

    `services`, `config_maps`, `secrets`: what each service's Deployment named when the run had
    ended, also one that failed half way. Empty when nothing was deployed yet, or in `unreadable`.
    `environment`: the application's, as the ConfigMaps had it; empty when that is not known."""

    number: int
    outcome: Outcome
    well: bool = False
    """Whether its own run succeeded, whatever became of it."""
    services: Mapping[str, Image] = field(default_factory=dict)
    states: Mapping[str, State] = field(default_factory=dict)
    config_maps: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    message: Message
    by: str
    at: datetime
    ended: datetime
    because: str = ""
    """Why it took another one back."""
    rolls_back: int | None = None
    rolled_back_by: int | None = None
    """The run that took it back, or failed while it tried to: then the outcome is not `rolled
    back`, but nobody called it good any more."""
    rolled_back_because: str = ""
    point_of_no_return: str = ""
    destroyed: bool = False
    """Whether the whole stack was destroyed since."""
    problem: Problem | None = None
    """Why it is `unreadable`."""

    @property
    def configuration(self) -> str:
        """Eight hex digits over the names of the ConfigMaps, which are their content; "": none."""
        if not self.config_maps:
            return ""
        names = "\n".join(f"{service} {name}" for service, name in sorted(self.config_maps.items()))
        return hashlib.sha256(names.encode()).hexdigest()[:8]

    @property
    def content(self) -> object:
        """Equal for releases that run the same; secrets aside, which no rollback brings back."""
        images = {name: image.digest or image.reference for name, image in self.services.items()}
        return images, dict(self.config_maps)

    @property
    def reached(self) -> bool:
        """Whether anything rolled at all."""
        return any(state in ("rolled", "failed") for state in self.states.values())

    @property
    def tags(self) -> frozenset[str]:
        return frozenset(image.tag for image in self.services.values() if image.tag)

    def __str__(self) -> str:
        """`12 (237c6b8)`."""
        tags = sorted(self.tags)
        return f"{self.number} ({', '.join(tags)})" if tags else str(self.number)


def releases(runs: Iterable[Run], *, limit: int | None = None) -> list[Release]:
    """Newest first, at most `limit`. `runs`: newest first (Engine.runs); no more of them are read
    than is needed. A checkpoint that cannot be read makes its release `unreadable` and hides none
    of the others."""
    return list(islice(_releases(runs), limit))


def last_good(found: Sequence[Release], *, before: Release | None = None) -> Release | None:
    """The newest that succeeded and was not taken back; with `before`, an older one than that.

    One that runs the very same as a `before` that rolled out well is passed over: to go back to it
    would change nothing (10 good, 11 bad, 12 = back to 10: before 12 comes 9)."""
    for each in found:
        if each.outcome != "succeeded" or each.rolled_back_by is not None:
            continue
        if before is not None:
            if each.number >= before.number:
                continue
            if before.well and each.content == before.content:
                continue
        return each
    return None


def current(found: Sequence[Release]) -> Release | None:
    """What runs now, by the state: the newest of which anything rolled, well or not."""
    return next((each for each in found if each.reached and not each.destroyed), None)


def barrier(found: Sequence[Release], to: Release) -> Release | None:
    """The point of no return that lies between now and `to`: the newest, None when there is none.
    A failed one counts when anything of it rolled: its migration may have run."""
    return next(
        (
            each
            for each in found
            if each.point_of_no_return and each.reached and each.number > to.number
        ),
        None,
    )


Gone = Mapping[str, Collection[str]]
"""Service → digests (or tags) of it that the registry does not have."""


def obstacle(found: Sequence[Release], to: Release, gone: Gone | None) -> str:
    """Why it cannot be rolled back to, in a few words; "" when it can. `gone`: None while the
    registry has not said."""
    now, point = current(found), barrier(found, to)
    unmade = [service for service in SERVICES if service not in to.services]
    missing = images_gone(to, gone or {})
    if now is not None and now.number == to.number:
        why = "current"
    elif not to.well:
        why = _NEVER.get(to.outcome, "no: it failed")
    elif unmade:
        why = f"no: it had no {' and no '.join(unmade)}"
    elif now is not None and now.content == to.content:
        why = f"runs now, as {now.number}"
    elif missing:
        why = f"images gone: {', '.join(missing)}"
    elif point is not None:
        why = f"behind the point of no return ({point.number}: {point.point_of_no_return})"
    else:
        why = "" if gone is not None else "not known"
    return why


_NEVER: Final[Mapping[Outcome, str]] = {
    "running": "no: it is under way",
    "unreadable": "no: its state cannot be read",
}


def images_gone(of: Release, gone: Gone) -> list[str]:
    """The services whose image of that release is not in the registry any more."""
    return [
        service
        for service, image in of.services.items()
        if (image.digest or image.tag) in gone.get(service, ())
    ]


def find(found: Sequence[Release], said: str) -> Release:
    """What an operator calls `12`, `1a2b3c4` or by more of the SHA. Of several that ran a commit:
    the newest that went well, with all three services if there is one. Raises Refused when there
    is none."""
    if not found:
        raise refused("there is no release yet", "python -m ops deploy makes the first one")
    number = said.removeprefix("#")
    if number.isdecimal():
        for each in found:
            if each.number == int(number):
                return each
    wanted = said.lower()
    tags = {tag for each in found for tag in each.tags}
    alike = {tag for tag in tags if tag == wanted}
    alike = alike or {tag for tag in tags if same_commit(tag, wanted)}
    if not alike and len(wanted) >= _SHORTEST:
        alike = {tag for tag in tags if tag.startswith(wanted)}
    if not alike:
        raise _unknown(found, said, tags)
    # Shorter ones are the same commit's: git lengthens its short names when it must.
    longer = {tag for tag in alike if not wanted.startswith(tag)}
    if len(longer) > 1:
        raise refused(
            f"{said} is the beginning of {' and of '.join(sorted(longer))}",
            "give more of it, or the release's number: python -m ops releases",
        )
    alike = longer or alike
    return min(
        (each for each in found if alike & each.tags),
        key=lambda each: (each.outcome != "succeeded", not each.tags <= alike, -each.number),
    )


def _unknown(found: Sequence[Release], said: str, tags: Iterable[str]) -> Refused:
    newest, oldest = found[0].number, found[-1].number
    listed = (
        f"there are releases {oldest} to {newest}"
        if oldest != newest
        else f"the only one is release {newest}"
    )
    if said.removeprefix("#").isdecimal() and len(said) < SHORT:
        numbers = {each.number for each in found}
        between = oldest < int(said.removeprefix("#")) < newest
        why = " (a run of that number changed nothing that runs)" if between else ""
        near = min(numbers, key=lambda number: abs(number - int(said.removeprefix("#"))))
        nearby = f", the nearest is {near}" if len(numbers) > 1 else ""
        return refused(
            f"there is no release {said}{why}; {listed}{nearby}",
            "python -m ops releases lists them",
        )
    known = [
        f"{tag} (release {next(each.number for each in found if tag in each.tags)})"
        for tag in nearest(said, tags)
    ]
    what = f"no release ran {said}; {listed}"
    return refused(
        f"{what}, the nearest: {', '.join(known)}" if known else what,
        "python -m ops releases lists them",
    )


# --- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Left:
    """What a run left behind. `faulty`: services that were changed and did not become ready."""

    run: Run
    message: Message
    services: Mapping[str, Image] = field(default_factory=dict)
    config_maps: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    faulty: frozenset[str] = frozenset()
    problem: Problem | None = None

    @property
    def known(self) -> bool:
        return self.problem is None and self.run.result != _RUNNING

    def part(self, service: str) -> tuple[str, str, str]:
        """What a service's pods are made of."""
        image = self.services.get(service)
        return (
            (image.digest or image.reference) if image else "",
            self.config_maps.get(service, ""),
            self.secrets.get(service, ""),
        )

    @property
    def parts(self) -> tuple[tuple[str, str, str], ...]:
        return tuple(map(self.part, SERVICES))


def _releases(runs: Iterable[Run]) -> Iterator[Release]:
    """Runs that one after the other left the same are looked at together: the first of them brought
    it, and where that one failed, the first that succeeds completes it."""
    undone: dict[int, _Undone] = {}
    same: list[_Left] = []  # newest first
    destroyed = False
    parts = None
    for left in _read(run for run in runs if run.kind in _CHANGING):
        _note(left, undone)
        if left.known and parts is not None and left.parts != parts:
            yield from _these(same, left, undone, destroyed)
            destroyed |= any(each.run.kind == "destroy" and not each.services for each in same)
            same = []
        if left.known:
            parts = left.parts
        same.append(left)
    yield from _these(same, None, undone, destroyed)


@dataclass(frozen=True)
class _Undone:
    """Who took a release back, why, and whether it worked."""

    by: int
    because: str
    done: bool


def _note(left: _Left, undone: dict[int, _Undone]) -> None:
    trailers = left.message.trailers
    if not (said := trailers.get(ROLLS_BACK, "")).isdecimal():
        return
    number, done = int(said), left.run.result == "succeeded"
    if number not in undone or (done and not undone[number].done):
        undone[number] = _Undone(left.run.number, trailers.get(BECAUSE, ""), done)


def _these(
    same: Sequence[_Left],
    older: _Left | None,
    undone: Mapping[int, _Undone],
    destroyed: bool,
) -> list[Release]:
    """The releases among runs that left the `same`, newest first; `older` left something else."""
    found: list[Release] = []
    brought = complete = False
    for left in reversed(same):
        common = {**_common(left, undone), "destroyed": destroyed}
        ours, succeeded = BY in left.message.trailers, left.run.result == "succeeded"
        if left.problem is not None:
            found.append(Release(outcome="unreadable", problem=left.problem, **common))
        elif left.run.result == _RUNNING:
            if ours:
                found.append(Release(outcome="running", **common))
        elif left.run.kind == "update":
            states = {service: _state(service, left, older) for service in SERVICES}
            new = any(state in ("rolled", "failed") for state in states.values())
            made = new and not complete and (succeeded or not brought)
            # A verb of ours that failed has tried to make one; of others nobody knows.
            if made or (ours and not succeeded):
                states = states if made else {s: _untouched(s, left) for s in SERVICES}
                found.append(_release(left, states, common, undone))
            brought, complete = True, complete or succeeded
        else:
            brought = complete = True  # a destroy: nothing is left
    return found[::-1]


def _release(
    left: _Left,
    states: Mapping[str, State],
    common: Mapping[str, Any],
    undone: Mapping[int, _Undone],
) -> Release:
    well, back = left.run.result == "succeeded", undone.get(left.run.number)
    outcome: Outcome = "succeeded" if well else "failed"
    return Release(
        outcome="rolled back" if back and back.done else outcome,
        well=well,
        services=left.services,
        states=states,
        config_maps=left.config_maps,
        secrets=left.secrets,
        environment=left.environment,
        **common,
    )


def _state(service: str, left: _Left, older: _Left | None) -> State:
    if service not in left.services or (older and left.part(service) == older.part(service)):
        return _untouched(service, left)
    return "failed" if service in left.faulty else "rolled"


def _untouched(service: str, left: _Left) -> State:
    return "as before" if service in left.services else "missing"


def _common(left: _Left, undone: Mapping[int, _Undone]) -> dict[str, Any]:
    run, trailers = left.run, left.message.trailers
    mine, back = undone.get(run.number), trailers.get(ROLLS_BACK, "")
    return {
        "number": run.number,
        "message": left.message,
        "by": who(run, left.message),
        "at": run.started,
        "ended": run.ended,
        "because": trailers.get(BECAUSE, ""),
        "rolls_back": int(back) if back.isdecimal() else None,
        "rolled_back_by": mine.by if mine else None,
        "rolled_back_because": mine.because if mine else "",
        "point_of_no_return": trailers.get(POINT_OF_NO_RETURN, ""),
    }


def who(run: Run, message: Message) -> str:
    """Our verbs say it. Of a plain `pulumi up` the CLI records no more than whose commit was
    checked out (sdk/go/common/util/gitutil; backend.GitAuthor), which is often, not always, he."""
    author = run.environment.get("git.author", "")
    return message.trailers.get(BY) or (f"{author} (commit)" if author else "?")


def _read(runs: Iterator[Run]) -> Iterator[_Left]:
    """Some at once, since those of Pulumi Cloud take a second each."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while some := list(islice(runs, _AT_ONCE)):
            yield from pool.map(_left, some)


def _left(run: Run) -> _Left:
    message = Message.parse(run.message)
    if run.result == _RUNNING:
        return _Left(run=run, message=message)
    try:
        resources = resources_of(run.checkpoint())
    except Refused as refusal:
        return _Left(run=run, message=message, problem=refusal.problems[0])
    # What is marked was replaced already, and only waits to be deleted.
    named = {
        name: each
        for each in resources
        if each.get("type") == _DEPLOYMENT
        and not each.get("delete")
        and (name := text(dig(each, "inputs", "metadata", "name"))) in SERVICES
    }
    config_maps = {s: name for s, each in named.items() if (name := _source(each, "configMapRef"))}
    return _Left(
        run=run,
        message=message,
        services={service: _image(each) for service, each in named.items()},
        config_maps=config_maps,
        secrets={s: name for s, each in named.items() if (name := _source(each, "secretRef"))},
        environment=_environment(config_maps, resources),
        faulty=frozenset(service for service, each in named.items() if each.get("initErrors")),
    )


def _environment(config_maps: Mapping[str, str], resources: Iterable[Any]) -> dict[str, str]:
    """What the ConfigMaps were made of: each holds what one service reads of it. Those that were
    replaced in a run that failed are still there, to be deleted."""
    data = {
        text(dig(each, "inputs", "metadata", "name")): dig(each, "inputs", "data")
        for each in resources
        if each.get("type") == _CONFIG_MAP
    }
    found: dict[str, str] = {}
    for service in reversed(SERVICES):  # where half of a release differs, api's word counts
        if service not in config_maps:
            continue
        mine = data.get(config_maps[service])
        if not isinstance(mine, Mapping) or not all(map(_is_pair, mine.items())):
            return {}
        found |= mine
    return found


def _image(deployment: Any) -> Image:
    reference = text(dig(_container(deployment), "image"))
    tag = text(dig(deployment, "inputs", "metadata", "annotations", TAG_ANNOTATION))
    name, _, digest = reference.partition("@")
    if not tag and ":" in name.rpartition("/")[2]:
        tag = name.rpartition(":")[2]  # as it was before images ran by digest alone
    return Image(tag, digest, reference)


def _source(deployment: Any, kind: str) -> str:
    for each in items(dig(_container(deployment), "envFrom")):
        if name := text(dig(each, kind, "name")):
            return name
    return ""


def _container(deployment: Any) -> Any:
    return next(
        iter(items(dig(deployment, "inputs", "spec", "template", "spec", "containers"))), None
    )


def _is_pair(pair: tuple[Any, Any]) -> bool:
    """Not of a value, or a whole map, that somebody has made a secret: those are objects."""
    return pair[0] != _SECRET and isinstance(pair[1], str)
