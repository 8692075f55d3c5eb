"""What a failed deploy says: what failed and why, what runs now, what the next `up` will do.

`collect` asks the cluster and never raises; `compose` is pure. Whatever was written by others
(logs, events, Kubernetes' own words) is masked when it is collected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from honeydue.images.references import SERVICES, TAG_ANNOTATION, tag_and_digest
from ops import urls
from ops.api import LISTS, Api
from ops.diagnosis import (
    Events,
    Finding,
    Json,
    ago,
    diagnose,
    dig,
    is_of,
    items,
    number,
    short,
    text,
)
from ops.plan import Image
from ops.problems import Refused
from ops.status import UNKNOWN_TEXT, digest_of, hide_of, image_of, last_lines
from ops.urls import Checked

LOG_LINES: Final = 5
EVENTS: Final = 3
_UNDONE: Final = "nothing now, it is taken back; mend the cause, then run the same again"
_PODS: Final = 3  # of one finding, with log and events; the others fail alike
_LISTS: Final = {**LISTS, "nodes": "/api/v1/nodes"}


@dataclass(frozen=True)
class Part:
    """The pods of one service that run one image."""

    image: Image
    ready: int
    total: int


@dataclass(frozen=True)
class Running:
    """`wanted`: what its Deployment says now; None without a Deployment. `parts`: what its pods
    run, that image first."""

    service: str
    desired: int
    wanted: Image | None
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Collected:
    """`logs` and `events`: pod → lines. `silent`: why the cluster could not be asked."""

    running: tuple[Running, ...] = ()
    findings: tuple[Finding, ...] = ()
    logs: Mapping[str, Sequence[str]]
    events: Mapping[str, Sequence[str]]
    silent: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """`phase`: what was being done ("": it was stopped, and nothing failed), `what`: how it failed,
    `outcome`: what was done about it."""

    phase: str
    what: str
    outcome: str
    failure: Collected
    checked: tuple[Checked, ...]
    now: Collected
    marks: Mapping[tuple[str, str], str]
    """(service, digest) → `new`, `old` or `unchanged`."""
    next_up: tuple[str, ...]


# --- asking -------------------------------------------------------------------------------------


def collect(
    api: Api, services: Sequence[str] = SERVICES, *, now: datetime | None = None
) -> Collected:
    """What the cluster says of `services`. A source that does not answer is left out; when none
    does, `silent` says so."""
    at = now or datetime.now(UTC)
    with ThreadPoolExecutor(len(_LISTS)) as pool:
        asked = {kind: pool.submit(api.list, path) for kind, path in _LISTS.items()}
        lists: dict[str, Sequence[Any]] = {}
        silent = ""
        for kind, answer in asked.items():
            try:
                lists[kind] = answer.result()
            except Refused as cause:
                silent = silent or cause.problems[0].what
        if "deployments" not in lists or "pods" not in lists:
            return Collected(logs={}, events={}, silent=silent)
        hide = hide_of(api)
        mask = hide or (lambda said: said and UNKNOWN_TEXT)
        found = diagnose(
            lists["pods"],
            lists.get("events", ()),
            lists["deployments"],
            lists.get("replicasets", ()),
            now=at,
            nodes=lists.get("nodes", ()),
            hide=mask,
        )
        findings = tuple(each for each in found if each.service in services)
        names = [name for each in findings for name in each.pods[:_PODS]]
        pods = {text(dig(each, "metadata", "name")): each for each in lists["pods"]}
        logs: dict[str, Sequence[str]] = {}
        if hide is not None:
            spoken = pool.map(lambda name: last_lines(api, pods[name], hide, LOG_LINES), names)
            logs = {name: lines for name, lines in zip(names, spoken, strict=True) if lines}
        told = Events(lists.get("events", ()))
        events = {
            name: [
                f"{each.reason}: {short(mask(each.said))}"
                f" ({f'{each.times} times, ' if each.times > 1 else ''}{ago(at, each.when)} ago)"
                for each in told.of(name)[-EVENTS:]
            ]
            for name in names
        }
    return Collected(
        running=tuple(running(lists, services)),
        findings=findings,
        logs=logs,
        events={name: lines for name, lines in events.items() if lines},
        silent=silent,
    )


def running(lists: Mapping[str, Sequence[Any]], services: Sequence[str]) -> Iterator[Running]:
    """What runs, by pods and not by what is wanted: during a rollout these differ."""
    for service in services:
        deployment = next(
            (
                each
                for each in lists.get("deployments", ())
                if text(dig(each, "metadata", "name")) == service
            ),
            None,
        )
        wanted = _image(deployment) if deployment is not None else None
        # A ReplicaSet keeps the annotations that its Deployment had (deployment/util:
        # SetNewReplicaSetAnnotations), so that of an older one is its own tag.
        tags = {
            found.digest: found.tag
            for each in lists.get("replicasets", ())
            if is_of(each, service) and (found := _image(each)).tag
        }
        if wanted is not None:
            tags[wanted.digest] = wanted.tag
        counted: dict[str, list[bool]] = {}
        for pod in lists.get("pods", ()):
            gone = dig(pod, "metadata", "deletionTimestamp") is not None
            if is_of(pod, service) and not gone and _alive(pod):
                counted.setdefault(digest_of(image_of(pod)), []).append(_ready(pod))
        parts = [
            Part(Image(tags.get(digest, ""), digest), sum(pods), len(pods))
            for digest, pods in counted.items()
        ]
        parts.sort(key=lambda each: wanted is None or each.image.digest != wanted.digest)
        desired = number(dig(deployment, "spec", "replicas"))
        yield Running(service, desired, wanted, tuple(parts))


def _alive(pod: Json) -> bool:
    return text(dig(pod, "status", "phase")) not in ("Failed", "Succeeded")


def _ready(pod: Json) -> bool:
    return any(
        dig(each, "type") == "Ready" and dig(each, "status") == "True"
        for each in items(dig(pod, "status", "conditions"))
    )


def _image(owner: Json) -> Image:
    """Of a Deployment or ReplicaSet."""
    tag = text(dig(owner, "metadata", "annotations", TAG_ANNOTATION))
    return Image(tag, digest_of(image_of(dig(owner, "spec", "template"))))


# --- judging ------------------------------------------------------------------------------------


def compose(
    *,
    phase: str,
    what: str,
    failure: Collected,
    now: Collected,
    wanted: Mapping[str, Image],
    settings: Mapping[str, str] | None,
    checked: Sequence[Checked] = (),
    outcome: str = "",
    undone: bool = False,
) -> Report:
    """`failure`: what was seen when it failed; `now`: after what was done about it; the same, when
    nothing was done. `wanted`: service → what the failed release wanted to run, of the services
    that it changed (a digest that was never built is ""). `settings`: as `honeydue:images` is now,
    service → `tag@digest`; one that is not named is built from the checkout. None: they cannot be
    read. `undone`: what failed is taken back, so what it would have needed is not told any more."""
    marks = {
        (each.service, part.image.digest): _mark(wanted.get(each.service), part.image, each.wanted)
        for each in now.running
        for part in each.parts
    }
    broken = tuple(each for each in checked if not each.well)
    if undone:
        findings = tuple(replace(each, todo=_UNDONE) for each in failure.findings)
        failure = replace(failure, findings=findings)
        broken = tuple(replace(each, mend=_UNDONE) for each in broken)
    return Report(
        phase=phase,
        what=what,
        outcome=outcome,
        failure=failure,
        checked=broken,
        now=now,
        marks=marks,
        next_up=tuple(next_up(now.running, settings)),
    )


def _mark(wanted: Image | None, found: Image, deployed: Image | None) -> str:
    if wanted is None:
        return "unchanged"
    if wanted.digest:
        return "new" if found.digest == wanted.digest else "old"
    # It was built by the `up` that failed: known by its tag, in what the Deployment says now.
    is_deployed = deployed is not None and found.digest == deployed.digest
    return "new" if is_deployed and found.tag == wanted.tag else "old"


def next_up(now: Sequence[Running], settings: Mapping[str, str] | None) -> Iterator[str]:
    """One line for each thing that the next `up` does."""
    if not now:
        yield "not known: the cluster does not say what runs"
        return
    if settings is None:
        yield "not known: the settings cannot be read"
        return
    rolls: dict[str, list[str]] = {}
    built, broken = [], []
    for each in now:
        named = settings.get(each.service, "")
        if not named:
            built.append(each.service)
        elif each.wanted is None or not _same(named, each.wanted):
            rolls.setdefault(_brief(named), []).append(each.service)
        elif not any(
            part.image == each.wanted and part.ready >= each.desired for part in each.parts
        ):
            broken.append(each.service)
    if built:
        yield (
            f"builds {_and(built)} from the checkout's HEAD, and rolls what differs: "
            "the settings name no image"
        )
    for image, services in rolls.items():
        yield f"rolls {_and(services)} to {image}, as the settings say"
    if broken:
        yield (
            f"leaves {_and(broken)} as it is, although it is not ready: the settings name what its "
            "Deployment has; mend the cause, or python -m ops rollback"
        )
    if not (built or rolls or broken):
        yield "changes no image: the settings name what runs"


def _same(named: str, image: Image) -> bool:
    tag, digest = tag_and_digest(named)
    return digest == image.digest if digest else tag == image.tag


def _brief(named: str) -> str:
    """`237c6b8` of `237c6b8@sha256:…`; of a digest alone its beginning."""
    return named.split("@", 1)[0].removeprefix("sha256:")[:40]


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


# --- showing ------------------------------------------------------------------------------------

_MARKS: Final = {"new": "yellow", "old": "green", "unchanged": "green"}


def show(report: Report, console: Console) -> None:
    for part in _parts(report):
        # A command that is to be pasted must stay one line, however narrow the terminal is.
        console.print(part, soft_wrap=isinstance(part, Text))


def headline(report: Report) -> str:
    """`the release is one: api 237c6b8 (new), worker 1a2b3c4 (old)`: what serves."""
    said = []
    for each in report.now.running:
        serving = [part for part in each.parts if part.ready]
        words = [f"{_name(part.image)}{_marked(report, each, part)}" for part in serving]
        said.append(f"{each.service} {' and '.join(words) or 'has nothing ready'}")
    return f"the release is one: {', '.join(said)}" if said else ""


def _name(image: Image) -> str:
    return image.tag or image.digest.removeprefix("sha256:")[:12] or "an unknown image"


def _marked(report: Report, each: Running, part: Part) -> str:
    mark = report.marks.get((each.service, part.image.digest), "")
    return f" ({mark})" if mark else ""


def _parts(report: Report) -> Iterator[RenderableType]:
    if report.phase:
        yield Text("FAILED ", "bold red") + Text(f"{report.phase}: {report.what}", "red")
    if report.outcome:
        yield Text(report.outcome)
    if report.failure.findings or report.checked:
        yield Text()
        yield Text("What is wrong", "bold")
        # What passes by itself explains a failure only when nothing else does.
        grave = [each for each in report.failure.findings if each.grave]
        for finding in grave or report.failure.findings:
            yield from _finding(finding, report.failure)
        for each in report.checked:
            yield Text(f"  {each.url}", "red")
            yield _details((("said", each.told), ("do", each.mend)))
    elif report.failure.silent:
        yield Text(f"the cluster could not be asked: {report.failure.silent}", "yellow")
    yield Text()
    yield Text("What runs now", "bold")
    if not report.now.running:
        yield Text(f"  not known: {report.now.silent or 'the cluster was not asked'}")
    else:
        yield Padding(Text(headline(report)), (0, 0, 0, 2))
        yield Padding(_running(report), (0, 0, 0, 2))
    yield Text()
    yield Text("What the next `up` does", "bold")
    for line in report.next_up:
        yield Padding(Text(line), (0, 0, 0, 2))


def _finding(finding: Finding, collected: Collected) -> Iterator[RenderableType]:
    many = f" ({len(finding.pods)} pods)" if len(finding.pods) > 1 else ""
    style = "red" if finding.grave else "yellow"
    yield Text("  ") + Text(f"{finding.service}: {finding.symptom}{many}", style)
    lines = [("said", finding.said), ("likely", finding.cause), ("do", finding.todo)]
    for pod in finding.pods[:_PODS]:
        lines.append(("pod", pod))
        lines += [("log", line) for line in collected.logs.get(pod, ())]
        lines += [("event", line) for line in collected.events.get(pod, ())]
    yield _details(lines)


def _details(lines: Sequence[tuple[str, str]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    before = ""
    for name, said in lines:
        if said:
            grid.add_row(Text("" if name == before else name, "dim"), Text(said))
            before = name
    return Padding(grid, (0, 0, 0, 4))


def _running(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for each in report.now.running:
        name = each.service
        for part in each.parts:
            mark = report.marks.get((each.service, part.image.digest), "")
            ready = f"{part.ready} of {each.desired} ready"
            grid.add_row(name, str(part.image), Text(mark, _MARKS.get(mark, "")), ready)
            name = ""
        if not each.parts:
            grid.add_row(name, "no pod", "", f"0 of {each.desired} ready")
    return grid


def document(report: Report) -> dict[str, Any]:
    """For `--json`."""
    return {
        "phase": report.phase,
        "what": report.what,
        "outcome": report.outcome or None,
        "findings": [
            {
                "service": each.service,
                "symptom": each.symptom,
                "said": each.said or None,
                "likelyCause": each.cause,
                "do": each.todo,
                "grave": each.grave,
                "pods": [
                    {
                        "name": pod,
                        "log": list(report.failure.logs.get(pod, ())),
                        "events": list(report.failure.events.get(pod, ())),
                    }
                    for pod in each.pods
                ],
            }
            for each in report.failure.findings
        ],
        "urls": urls.document(report.checked),
        "running": [
            {
                "service": each.service,
                "desired": each.desired,
                "images": [
                    {
                        "tag": part.image.tag or None,
                        "digest": part.image.digest or None,
                        "ready": part.ready,
                        "pods": part.total,
                        "release": report.marks.get((each.service, part.image.digest)) or None,
                    }
                    for part in each.parts
                ],
            }
            for each in report.now.running
        ],
        "notAsked": report.now.silent or report.failure.silent or None,
        "nextUp": list(report.next_up),
    }
