"""`ops status`: is production well, and if not, what is wrong and which verb mends it?

`read` asks everybody at once, `judge` is pure. A source that cannot be reached is itself a problem,
and hides none of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, Literal

import httpx

from honeydue.images.references import SERVICES, TAG_ANNOTATION
from honeydue.kubernetes.catalogue import NAME, REDIS
from ops import certificates, drift, lock
from ops.api import LISTS, NAMESPACE, Api, Health, Unanswered
from ops.certificates import Certificate
from ops.diagnosis import Finding, ago, diagnose, dig, is_ready, items, moment, number, text
from ops.drift import Drift
from ops.engine import REHEARSAL, Edge, Engine, resources_of
from ops.masking import Hide, hiding, values_of
from ops.problems import Problem, Refused
from ops.releases import Release, current, releases
from ops.urls import Checked, check

_LISTS: Final = {
    "nodes": "/api/v1/nodes",
    "pods": "/api/v1/pods",
    "events": "/api/v1/events",
    "deployments": LISTS["deployments"],
    "replicasets": LISTS["replicasets"],
    "statefulsets": f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets",
    "daemonsets": "/apis/apps/v1/namespaces/kube-system/daemonsets",
    **drift.LISTS,
}
_AT_ONCE: Final = 7  # requests
_WITH_LOGS: Final = 5  # findings whose last line of log is fetched
_RUNS: Final = 16  # that are looked through for the release that runs
_URL_SECONDS: Final = 2.0  # a user would have left
UNKNOWN_TEXT: Final = "[not shown: the secrets to mask in it cannot be read]"


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What the engine says. None: not known."""

    outputs: Mapping[str, Any] | None
    updates: Sequence[Any] | None
    state: Any
    holders: Sequence[str] | None
    edge: Edge | None = None
    """Where the final URLs are asked; None: where DNS says."""
    unasked: str = ""
    """Why they are not asked at all."""
    made: Sequence[Any] | None = None
    """The resources that the last `up` left, whatever a refresh has found since."""
    release: Release | None = None
    """What runs. None: nothing yet, or it is costly to find out."""
    cloudflare: str = ""
    token: str | Refused = field(default="", repr=False)
    """Cloudflare's; or why it is not known, which only matters where there are records."""
    unreadable: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class Records:
    """The stack's in DNS. `live`: None when they could not be asked for."""

    made: Sequence[drift.Record] = ()
    live: Sequence[Any] | None = None
    unreadable: tuple[Problem, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the API servers say. `lists` is None when none of them lists anything."""

    health: Sequence[Health]
    lists: Mapping[str, Sequence[Any]] | None
    findings: Sequence[Finding]
    logs: Mapping[Finding, str]
    """The last line that a pod of a finding wrote."""
    lock: str = ""
    """Who holds it."""
    unreadable: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class Node:
    name: str
    ready: bool
    since: datetime | None
    etcd: Literal["voter", "learner", "none"]
    api: str
    """What is wrong with its API server; "" when nothing is."""


Condition = Literal["up to date", "rolling", "stuck", "paused", "degraded", "missing"]


@dataclass(frozen=True, kw_only=True)
class Service:
    """One Deployment against the release. `wanted` and `runs` are digests, "" when not known."""

    name: str
    tag: str
    runs: str
    wanted: str
    ready: int
    desired: int
    condition: Condition
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """What the services cannot do without. `absent`: why it may be missing; "" when it may not."""

    name: str
    ready: int
    wanted: int
    absent: str
    mend: str

    @property
    def well(self) -> bool:
        return bool(self.absent) or self.ready >= self.wanted > 0

    def __str__(self) -> str:
        return self.absent or f"{self.ready}/{self.wanted} ready"


@dataclass(frozen=True, kw_only=True)
class Report:
    stack: str
    at: datetime
    nodes: Sequence[Node]
    etcd: str
    services: Sequence[Service]
    around: Sequence[Neighbour]
    urls: Sequence[Checked]
    unasked: str
    """Why no URL was asked; "" when they were."""
    findings: Sequence[Finding]
    logs: Mapping[Finding, str]
    certificates: Sequence[Certificate]
    records: Records
    changed: Sequence[Drift] | None
    """What is not as the last `up` left it. None: not compared."""
    release: Release | None
    lock: str
    last_up: str
    under_way: Sequence[str] | None
    """Who runs something on the stack now; None: not known."""
    problems: Sequence[Problem] = field(default_factory=tuple)

    @property
    def healthy(self) -> bool:
        return not self.problems and not any(each.grave for each in self.findings)


# --- reading ------------------------------------------------------------------------------------


def read_stack(engine: Engine) -> Stack:
    """Each verb of the engine is a child process, and costs a part of a second."""
    unreadable: list[Problem] = []
    with ThreadPoolExecutor(10) as pool:
        outputs = pool.submit(engine.outputs)
        # Two at once would ask where the state is twice.
        pool.submit(engine.locate).exception()
        updates = pool.submit(engine.updates)
        state = pool.submit(engine.last_state)
        holders = pool.submit(engine.holders)
        where = pool.submit(engine.edge)
        config = pool.submit(engine.config)
        release = pool.submit(_release, engine)
        made = pool.submit(_made, engine, updates, state)
    edge, unasked = None, ""
    try:
        edge = where.result()
    except Refused as cause:
        unasked = cause.problems[0].what.splitlines()[-1]
        if engine.kind != REHEARSAL:  # it can be played without an edge
            unreadable += cause.problems
    token: str | Refused = ""
    try:
        token = text(config.result().get("cloudflareToken"))
    except Refused as cause:
        token = cause
    return Stack(
        made=_got(made, []),
        release=_got(release, []),  # what cannot be read is told by `updates` and `state`
        cloudflare=engine.cloudflare(),
        token=token,
        edge=edge,
        unasked=unasked,
        outputs=_got(outputs, unreadable),
        updates=_got(updates, unreadable),
        state=_got(state, unreadable),
        holders=_got(holders, unreadable),
        unreadable=tuple(dict.fromkeys(unreadable)),
    )


def _made(engine: Engine, updates: Future[Any], state: Future[Any]) -> Sequence[Any] | None:
    """A refresh writes what it finds into the state, so that `up` takes it back: what was found
    by then is none the less as nobody wants it."""
    newest = next(iter(updates.result()), None)
    if dig(newest, "kind") == "refresh":
        try:
            last = next((each for each in engine.runs() if each.kind == "update"), None)
            return resources_of(last.checkpoint()) if last is not None else None
        except Refused:  # a bucket lists no past states
            return resources_of(state.result() or {})
    return resources_of(state.result() or {})


def _release(engine: Engine) -> Release | None:
    """Where each past state is a process of a second, or all of them brought the same, nobody
    waits for it."""
    if not engine.keeps_files:
        return None
    runs = list(islice(engine.runs(), _RUNS + 1))
    found = releases(runs[:_RUNS])
    now = current(found)
    # What the oldest of them left may have been brought by one before it.
    unsure = len(runs) > _RUNS and now is not None and now.content == found[-1].content
    return None if unsure else now


def read_records(stack: Stack) -> Records:
    """Never raises Refused: that stands in `unreadable`."""
    made = drift.records_in(stack.made or ())
    if not made:
        return Records()
    try:
        if isinstance(stack.token, Refused):
            raise stack.token
        live = [
            each
            for zone in dict.fromkeys(record.zone for record in made)
            for each in drift.records_of(zone, base=stack.cloudflare, token=stack.token)
        ]
    except Refused as cause:
        return Records(made=made, unreadable=cause.problems)
    return Records(made=made, live=live)


def read_cluster(engine: Engine, stack: Stack, now: datetime) -> Cluster:
    """Never raises Refused: that stands in `unreadable`."""
    nothing = Cluster(health=(), lists=None, findings=(), logs={}, unreadable=())
    if stack.outputs is None:
        return nothing
    unreadable: list[Problem] = []
    try:
        api = Api.of(engine, stack.outputs)
    except Refused as cause:
        return Cluster(health=(), lists=None, findings=(), logs={}, unreadable=cause.problems)
    # More at once would be more handshakes with the one that is asked.
    with api, ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        health = list(pool.map(api.health, api.nodes))
        api.prefer([each.node for each in health if not each.fault])
        asked = {name: pool.submit(api.list, path) for name, path in _LISTS.items()}
        holder = pool.submit(lock.told, api)
        lists = {name: _got(found, unreadable) for name, found in asked.items()}
        known = {name: found for name, found in lists.items() if found is not None}
        if "secrets" in known:  # of them only that they are there
            known["secrets"] = [{"metadata": dig(x, "metadata")} for x in known["secrets"]]

        def findings(hide: Hide) -> list[Finding]:
            names = ("pods", "events", "deployments", "replicasets")
            things = [known.get(name, ()) for name in names]
            return diagnose(*things, nodes=known.get("nodes", ()), now=now, hide=hide)

        found = findings(str)
        logs: dict[Finding, str] = {}
        if found:
            hide = hide_of(api)
            found = findings(hide or (lambda said: said and UNKNOWN_TEXT))
            if hide is not None:
                told = [each for each in found if each.grave and each.pods][:_WITH_LOGS]
                lines = pool.map(lambda each: _last_line(api, each, known["pods"], hide), told)
                logs = {each: line for each, line in zip(told, lines, strict=True) if line}
    return Cluster(
        health=health,
        lists=known or None,
        findings=found,
        logs=logs,
        lock=_got(holder, unreadable) or "",
        unreadable=tuple(dict.fromkeys(unreadable)),
    )


def read_urls(stack: Stack) -> list[Checked]:
    """Each final URL, once."""
    urls = (stack.outputs or {}).get("urls")
    if stack.unasked or not isinstance(urls, dict):
        return []
    try:
        return check(urls, stack.edge, attempts=1, seconds=_URL_SECONDS, versions=False)
    except Refused as cause:
        (why,) = cause.problems
        return [Checked(name=x, url=urls[x], why=why.what, mend=why.mend) for x in urls]


def _got(answer: Future[Any], unreadable: list[Problem]) -> Any:
    try:
        return answer.result()
    except Refused as cause:
        unreadable += cause.problems
        return None


def hide_of(api: Api) -> Hide | None:
    """Masks the values of the application's Secrets; None when they cannot be read."""
    try:
        return hiding(values_of(api.list(f"/api/v1/namespaces/{NAMESPACE}/secrets")))
    except Refused:
        return None


def _last_line(api: Api, finding: Finding, pods: Sequence[Any], hide: Hide) -> str:
    """Of the container that died, else of the one that runs; "" where there is none to have."""
    name = finding.pods[0]
    pod = next((each for each in pods if dig(each, "metadata", "name") == name), None)
    lines = last_lines(api, pod, hide, 1)
    return lines[-1] if lines else ""


def last_lines(api: Api, pod: Any, hide: Hide, count: int) -> list[str]:
    """What a pod wrote last, masked: its container that died, else the one that runs. Empty where
    there is nothing to have."""
    name = text(dig(pod, "metadata", "name"))
    namespace = text(dig(pod, "metadata", "namespace")) or NAMESPACE
    restarted = any(
        number(dig(status, "restartCount"))
        for status in items(dig(pod, "status", "containerStatuses"))
    )
    for previous in ("true", "false") if restarted else ("false",):
        try:
            path = f"/api/v1/namespaces/{namespace}/pods/{name}/log"
            with api.stream(path, tailLines="20", previous=previous) as lines:
                spoken = [line.strip() for line in lines if line.strip()]
        except (Unanswered, httpx.HTTPError):  # a log is no reason to lose the rest
            continue
        if spoken:
            return [hide(line)[:300] for line in spoken[-count:]]
    return []


# --- judging ------------------------------------------------------------------------------------


def judge(
    engine: Engine,
    stack: Stack,
    cluster: Cluster,
    now: datetime,
    *,
    urls: Sequence[Checked],
    records: Records,
) -> Report:
    lists = cluster.lists or {}
    outputs = stack.outputs or {}
    problems = [*stack.unreadable, *cluster.unreadable, *records.unreadable]
    changed = _changed(engine, stack, cluster, records)
    nodes, etcd, broken = members(outputs, cluster)
    services = [_service(name, outputs, lists, stack.holders or ()) for name in SERVICES]
    around = _around(lists, rehearsed=engine.kind == REHEARSAL)
    ends = sorted(
        [
            *certificates.in_state(stack.state),
            *(
                certificates.serving(each.node, each.certificate_ends)
                for each in cluster.health
                if each.certificate_ends is not None
            ),
        ],
        key=lambda each: each.ends,
    )
    problems += broken
    if "deployments" in lists:
        explained = {each.service for each in cluster.findings}
        told = {each.what for each in changed or () if each.said.startswith("image ")}
        again = drift.again(engine)
        for each in services:
            problems += _wrong(each, explained, again if each.name not in told else "")
        problems += [Problem(f"{x.name}: {x}", x.mend) for x in around if not x.well]
    problems += [
        Problem(f"the certificate {each.name} ends in {_until(each.ends, now)}", each.mend)
        for each in ends
        if each.ends - now < certificates.SOON
    ]
    problems += [Problem(f"{x.url}: {x.why}", x.mend) for x in urls if not x.well]
    problems += drift.problems(changed or (), now)
    last, failed = _last_up(stack.updates, now)
    return Report(
        stack=engine.stack,
        at=now,
        nodes=nodes,
        etcd=etcd,
        services=services if "deployments" in lists else (),
        around=around if "statefulsets" in lists else (),
        urls=urls,
        unasked=stack.unasked,
        findings=cluster.findings,
        logs=cluster.logs,
        certificates=ends,
        records=records,
        changed=changed,
        release=stack.release,
        lock=cluster.lock,
        last_up=last,
        under_way=stack.holders,
        problems=tuple(problems + failed),
    )


def _changed(
    engine: Engine, stack: Stack, cluster: Cluster, records: Records
) -> list[Drift] | None:
    """While somebody deploys, the world is on its way from one state to the next."""
    busy = cluster.lock if stack.holders is None else stack.holders
    if stack.made is None or busy:
        return None
    again = drift.again(engine)
    found = drift.of_records(records.made, records.live, again) if records.live is not None else []
    return found + drift.of_objects(stack.made, cluster.lists or {}, again)


def members(
    outputs: Mapping[str, Any], cluster: Cluster
) -> tuple[Sequence[Node], str, list[Problem]]:
    """The nodes, etcd in a line, and all that is wrong with either."""
    nodes, missing = _nodes(outputs, cluster)
    etcd, broken = _etcd(nodes, cluster.health)
    return nodes, etcd, missing + broken


def _nodes(outputs: Mapping[str, Any], cluster: Cluster) -> tuple[list[Node], list[Problem]]:
    """All that the stack made, the cluster knows or the kubeconfig names."""
    listed = {
        text(dig(each, "metadata", "name")): each for each in (cluster.lists or {}).get("nodes", ())
    }
    health = {each.node: each.fault for each in cluster.health}
    made = outputs.get("nodes")
    names = dict.fromkeys([*(made if isinstance(made, dict) else ()), *health, *listed])
    found, problems = [], []
    for name in names:
        node = listed.get(name)
        conditions = {
            text(dig(each, "type")): each for each in items(dig(node, "status", "conditions"))
        }
        voter = text(dig(conditions.get("EtcdIsVoter"), "status"))
        row = Node(
            name=name,
            ready=is_ready(node),
            since=moment(dig(conditions.get("Ready"), "lastTransitionTime")),
            etcd={"True": "voter", "False": "learner"}.get(voter, "none"),  # type: ignore[arg-type]
            api=health.get(name, "is not in the kubeconfig"),
        )
        found.append(row)
        if listed and not row.ready:
            what = "is not Ready" if node else "is not in the cluster"
            said = text(dig(conditions.get("Ready"), "message"))
            problems.append(
                Problem(
                    f"{name} {what}{f' ({said})' if said else ''}",
                    "its console: https://console.hetzner.cloud; a lost server is made anew by "
                    "`up` (docs/rebuild.md)",
                )
            )
        if row.api:
            problems.append(
                Problem(
                    f"{name}: its API server {row.api}",
                    "if all are silent, compare this machine's public address with "
                    "operator.apiCidrs; else look at that node: journalctl -u k3s",
                )
            )
    return found, problems


def _etcd(nodes: Sequence[Node], health: Sequence[Health]) -> tuple[str, list[Problem]]:
    members = [each.name for each in nodes if each.etcd != "none"]
    if not members:
        return "not known", []
    reached = {each.node for each in health if each.etcd}
    healthy = [each.name for each in nodes if each.etcd == "voter" and each.name in reached]
    need = len(members) // 2 + 1
    spare = len(healthy) - need
    said = f"{len(healthy)} of {len(members)} members healthy, {need} needed"
    if spare < 0:
        mend = "docs/rebuild.md, All nodes: without a quorum nothing can be changed"
        return f"{said}: no quorum", [Problem(f"etcd: {said}", mend)]
    if len(healthy) < len(members):
        mend = "bring the missing member back before anything else: see the nodes"
        said += f", so {spare or 'none'} more may be lost"
        return said, [Problem(f"etcd: {said}", mend)]
    return f"{said}, so {spare or 'none'} may be lost", []


def _service(
    name: str,
    outputs: Mapping[str, Any],
    lists: Mapping[str, Sequence[Any]],
    holders: Sequence[str],
) -> Service:
    wanted = digest_of(dig(outputs.get("images"), name))
    deployment = next(
        (
            each
            for each in lists.get("deployments", ())
            if text(dig(each, "metadata", "name")) == name
        ),
        None,
    )
    if deployment is None:
        return Service(
            name=name, tag="", runs="", wanted=wanted, ready=0, desired=0, condition="missing"
        )
    status = dig(deployment, "status")
    desired = number(dig(deployment, "spec", "replicas"))
    ready, updated = number(dig(status, "readyReplicas")), number(dig(status, "updatedReplicas"))
    runs = digest_of(image_of(dig(deployment, "spec", "template")))
    progress = next(
        (
            text(dig(each, "reason"))
            for each in items(dig(status, "conditions"))
            if text(dig(each, "type")) == "Progressing"
        ),
        "",
    )
    seen = number(dig(status, "observedGeneration")) >= number(
        dig(deployment, "metadata", "generation")
    )
    rolled = seen and updated >= desired and number(dig(status, "replicas")) <= updated
    condition: Condition = "up to date"
    if progress == "ProgressDeadlineExceeded":
        condition = "stuck"
    elif dig(deployment, "spec", "paused") is True:
        condition = "paused"
    elif not rolled:
        condition = "rolling"
    elif ready < desired:
        condition = "degraded"
    others = [
        text(dig(pod, "metadata", "name"))
        for pod in lists.get("pods", ())
        if dig(pod, "metadata", "namespace") == NAMESPACE
        and dig(pod, "metadata", "labels", NAME) == name
        and dig(pod, "metadata", "deletionTimestamp") is None
        and text(dig(pod, "status", "phase")) in ("Running", "Pending")
        and digest_of(image_of(pod)) != runs
    ]
    notes = []
    if condition in ("rolling", "stuck"):
        notes.append(f"{updated} of {desired} pods are of the new revision")
    if others:
        notes.append(f"{len(others)} still of another image")
    if wanted and runs != wanted:
        running = "; a run is under way" if holders else ""
        notes.append(f"the release is {_brief(wanted)}{running}")
    return Service(
        name=name,
        tag=text(dig(deployment, "metadata", "annotations", TAG_ANNOTATION)),
        runs=runs,
        # While somebody deploys, the outputs are still those of the release before.
        wanted=wanted if not holders else "",
        ready=ready,
        desired=desired,
        condition=condition,
        note="; ".join(notes),
    )


def _wrong(service: Service, explained: set[str], again: str) -> list[Problem]:
    """`explained`: the services that a finding is about, be it that they boot. `again`: what makes
    them run the release; "" where that is told already."""
    name, found = service.name, []
    if service.condition == "missing":
        found.append(Problem(f"{name}: there is no Deployment of it", "`up` makes it anew"))
    elif service.condition == "stuck":
        found.append(
            Problem(
                f"{name}: its rollout stands still; {service.note}",
                "see what is wrong below; python -m ops rollback",
            )
        )
    elif service.condition == "degraded" and name not in explained:
        found.append(
            Problem(
                f"{name}: {service.ready} of {service.desired} pods are ready, and none says why",
                f"python -m ops logs {name}",
            )
        )
    if again and service.wanted and service.runs and service.wanted != service.runs:
        found.append(
            Problem(
                f"{name}: runs {_brief(service.runs)}, the release is {_brief(service.wanted)}: "
                "somebody changed it by hand, or the last `up` did not end",
                f"{again} brings the release back; python -m ops deploy makes a new one",
            )
        )
    return found


def _around(lists: Mapping[str, Sequence[Any]], *, rehearsed: bool) -> list[Neighbour]:
    def found(kind: str, name: str) -> Any:
        return next(
            (x for x in lists.get(kind, ()) if text(dig(x, "metadata", "name")) == name), None
        )

    redis, traefik = found("statefulsets", REDIS.name), found("daemonsets", "traefik")
    return [
        Neighbour(
            name=REDIS.name,
            ready=number(dig(redis, "status", "readyReplicas")),
            wanted=number(dig(redis, "spec", "replicas")),
            absent="none in the cluster: an external one, or not made yet" if not redis else "",
            mend=f"kubectl -n {NAMESPACE} describe pod {REDIS.name}-0",
        ),
        Neighbour(
            name="traefik",
            ready=number(dig(traefik, "status", "numberReady")),
            wanted=number(dig(traefik, "status", "desiredNumberScheduled")),
            absent="not played in the rehearsal" if rehearsed and not traefik else "",
            mend="kubectl -n kube-system describe daemonset traefik: without it nobody gets in",
        ),
    ]


def _last_up(updates: Sequence[Any] | None, now: datetime) -> tuple[str, list[Problem]]:
    if updates is None:
        return "not known", []
    last = next((each for each in updates if dig(each, "kind") == "update"), None)
    if last is None:
        return "never", []
    result = text(dig(last, "result")) or "unknown"
    began = _when(dig(last, "startTime"))
    changes = dig(last, "resourceChanges")
    counted = ", ".join(
        f"{count} {what}" for what, count in sorted((changes or {}).items()) if what != "same"
    )
    when = f", {ago(now, began)} ago ({began:%Y-%m-%d %H:%M} UTC)" if began else ""
    said = f"{result}{when}: {counted or 'no changes'}"
    if result == "failed":
        mend = "python -m ops history; run `up` again: it goes on from where it failed"
        return said, [Problem(f"the last `up` {said}", mend)]
    return said, []


def _when(value: Any) -> datetime | None:
    """Pulumi writes RFC 3339; its files, and the rehearsal, seconds since 1970."""
    if isinstance(value, int):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    return moment(value)


def image_of(pod: Any) -> str:
    """Of the first container of a pod or a pod template."""
    return next((text(dig(each, "image")) for each in items(dig(pod, "spec", "containers"))), "")


def digest_of(reference: Any) -> str:
    """`sha256:…` of a reference; a reference without one as it is."""
    return text(reference).rsplit("@", 1)[-1]


def _brief(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _until(ends: datetime, now: datetime) -> str:
    days = (ends - now).days
    return f"{days} days" if days >= 0 else f"{days} days: it has ended"


Read = Callable[[], Report]


def reading(engine: Engine, *, every: int = 10) -> Read:
    """What `--watch` asks again and again. The engine, a process per verb, only each tenth time."""
    asked, stack, records = 0, None, Records()

    def read() -> Report:
        nonlocal asked, stack, records
        anew = stack is None or asked % every == 0
        if stack is None or anew:
            stack = read_stack(engine)
        asked += 1
        now = datetime.now(UTC)
        with ThreadPoolExecutor(2) as pool:
            urls = pool.submit(read_urls, stack)
            names = pool.submit(read_records, stack) if anew else None
            cluster = read_cluster(engine, stack, now)
        records = names.result() if names is not None else records
        return judge(engine, stack, cluster, now, urls=urls.result(), records=records)

    return read
