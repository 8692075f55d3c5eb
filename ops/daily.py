"""The book's daily commands: logs, pause, resume, restart."""

from __future__ import annotations

import heapq
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from honeydue.kubernetes.catalogue import NAME
from ops.api import NAMESPACE, Api, Unanswered
from ops.diagnosis import dig, items, number, text
from ops.masking import Hide, hiding, values_of
from ops.problems import Problem, Refused, refused

# What `kubectl rollout restart` sets (k8s.io/kubectl, pkg/polymorphichelpers/objectrestarter.go).
RESTARTED: Final = "kubectl.kubernetes.io/restartedAt"

Say = Callable[[str], None]


# --- logs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Line:
    """`at`: RFC 3339 with nanoseconds, as kubelet writes it: it sorts as text."""

    at: str
    pod: str
    said: str


def logs(
    api: Api,
    service: str,
    say: Say,
    *,
    previous: bool = False,
    tail: int = 100,
    follow: bool = False,
    as_json: bool = False,
) -> None:
    """The last `tail` lines of every pod, in the order in which they were written; with `follow`
    what comes after, as it comes. The values of the cluster's Secrets are masked in them."""
    pods = _pods(api, service, previous=previous)
    hide = _hide(api)

    def tell(line: Line) -> None:
        if as_json:
            said = {"at": line.at, "pod": line.pod, "line": hide(line.said)}
            say(json.dumps(said))
        else:
            say(f"{line.pod}  {hide(line.said)}")

    query = {"timestamps": "true", "tailLines": str(tail), "previous": str(previous).lower()}
    if follow:
        _follow(api, pods, query, tell)
        return
    spoken: list[list[Line]] = []
    silent: list[Problem] = []
    for pod in pods:
        try:
            spoken.append(list(_lines(api, pod, query)))
        except (Unanswered, httpx.HTTPError) as cause:
            silent.append(_unheard(pod, cause))
    for line in heapq.merge(*spoken):
        tell(line)
    if silent:
        raise Refused(*silent)


def _pods(api: Api, service: str, *, previous: bool) -> list[str]:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    listed = api.list(path, labelSelector=f"{NAME}={service}")
    if not listed:
        raise refused(
            f"{service} has no pod, and so no log",
            "python -m ops status says why there is none",
        )
    names = sorted(
        text(dig(pod, "metadata", "name"))
        for pod in listed
        if not previous or any(map(_restarted, items(dig(pod, "status", "containerStatuses"))))
    )
    if not names:
        raise refused(
            f"--previous: no pod of {service} was restarted, so none has a log of before",
            f"python -m ops logs {service}",
        )
    return names


def _restarted(status: Any) -> bool:
    return number(dig(status, "restartCount")) > 0


def _hide(api: Api) -> Hide:
    """Raises Refused: without the Secrets nothing says what must not be shown."""
    return hiding(values_of(api.list(f"/api/v1/namespaces/{NAMESPACE}/secrets")))


def _lines(api: Api, pod: str, query: dict[str, str]) -> Iterator[Line]:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/log"
    with api.stream(path, **query) as lines:
        for line in lines:
            at, _, said = line.partition(" ")
            yield Line(at, pod, said)


def _follow(
    api: Api, pods: Sequence[str], query: dict[str, str], tell: Callable[[Line], None]
) -> None:
    """Until every pod has ended, or Ctrl-C."""
    heard: queue.SimpleQueue[Line | Problem | None] = queue.SimpleQueue()

    def listen(pod: str) -> None:
        try:
            for line in _lines(api, pod, {**query, "follow": "true"}):
                heard.put(line)
        except (Unanswered, httpx.HTTPError) as cause:
            heard.put(_unheard(pod, cause))
        finally:
            heard.put(None)

    for pod in pods:
        # They wait for lines that may never come, and must not hold up the end of the program.
        threading.Thread(target=listen, args=(pod,), name=f"log of {pod}", daemon=True).start()
    left, silent = len(pods), []
    try:
        while left:
            match heard.get():
                case None:
                    left -= 1
                case Problem() as problem:
                    silent.append(problem)
                case Line() as line:
                    tell(line)
    except KeyboardInterrupt:  # how one says "enough"
        return
    if silent:
        raise Refused(*silent)


def _unheard(pod: str, cause: Exception) -> Problem:
    return Problem(
        f"{pod}: its log cannot be had: {cause}",
        "it comes from the pod's node: see python -m ops status",
    )


# --- pause, resume, restart ---------------------------------------------------------------------


def pause(api: Api, service: str, say: Say, *, dry_run: bool) -> None:
    if dig(_deployment(api, service), "spec", "paused") is True:
        say(f"{service} is paused already; nothing was changed")
        return
    _change(api, service, {"spec": {"paused": True}}, dry_run=dry_run)
    if dry_run:
        say(f"{service} would be paused; nothing was changed (--dry-run)")
        return
    say(f"{service} is paused: what runs goes on running, and no new pod is made")
    say(
        f"`up` does not undo this, and one that changes {service} waits in vain until it gives up; "
        f"so, before it: python -m ops resume {service}"
    )


def resume(api: Api, service: str, say: Say, *, dry_run: bool) -> None:
    if dig(_deployment(api, service), "spec", "paused") is not True:
        say(f"{service} is not paused; nothing was changed")
        return
    _change(api, service, {"spec": {"paused": None}}, dry_run=dry_run)
    if dry_run:
        say(f"{service} would be resumed; nothing was changed (--dry-run)")
        return
    say(f"{service} is resumed: what waited rolls now; see python -m ops status --watch")


def restart(
    api: Api, service: str, say: Say, *, dry_run: bool, now: datetime | None = None
) -> None:
    """A rollout with the same image and the same configuration. Refused while paused, when
    nothing would come of it before `resume`."""
    deployment = _deployment(api, service)
    if dig(deployment, "spec", "paused") is True:
        raise refused(
            f"{service} is paused: a restart would wait for its end",
            f"python -m ops resume {service}",
        )
    at = f"{(now or datetime.now(UTC)):%Y-%m-%dT%H:%M:%SZ}"
    template = {"metadata": {"annotations": {RESTARTED: at}}}
    _change(api, service, {"spec": {"template": template}}, dry_run=dry_run)
    replicas = number(dig(deployment, "spec", "replicas"))
    pods = f"{replicas} pod{'s' if replicas != 1 else ''}"
    if dry_run:
        say(f"{service} would be restarted ({pods}); nothing was changed (--dry-run)")
        return
    if text(dig(deployment, "spec", "strategy", "type")) == "Recreate":
        say(
            f"{service} restarts: its pod ends before the new one starts, so it is away for a while"
        )
    else:
        say(f"{service} restarts: {pods}, one after the other, and each is replaced once it serves")
    say("follow it: python -m ops status --watch; the next `up` neither undoes nor repeats it")


def _deployment(api: Api, service: str) -> Any:
    found = api.get(_path(service))
    if found is None:
        raise _absent(service)
    return found


def _change(api: Api, service: str, change: Any, *, dry_run: bool) -> None:
    if api.patch(_path(service), change, dry_run=dry_run) is None:
        raise _absent(service)


def _path(service: str) -> str:
    return f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{service}"


def _absent(service: str) -> Refused:
    return refused(f"there is no Deployment {service} in the cluster", "`up` makes it")
