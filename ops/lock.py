"""The lock with a message: who changes production, what he does, and since when.

    with held(api, doing="deploy 237c6b8") as lock:
        …
        lock.assure()          # before each step that changes something
        …

It is a Lease `honeydue/deploy` in the cluster, so that a second operator, on another laptop and
with whichever engine, reads it. It is there so that two people do not work against each other; what
protects the state is the engine's own lock. Whoever holds it renews it every 15 s; one that was
not renewed for a minute is stale. A stale one is taken when the operator says so, and only then:
the laptop that holds it may be asleep in the middle of an `up`. One that is renewed is never taken,
so of two who take the same stale one over, whoever comes second is refused. Times are by the API
servers' clocks.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from ops.api import NAMESPACE, Api, Conflict
from ops.diagnosis import ago, dig, moment, number, text
from ops.engine import alive
from ops.message import operator
from ops.problems import Refused, refused

Say = Callable[[str], None]

LEASE: Final = "deploy"
DOING: Final = "honeydue.com/doing"
RUN: Final = "honeydue.com/run"
"""Another one each run: by it a run knows its own Lease when the answer to a write was lost."""
MACHINE: Final = "honeydue.com/machine"
RENEWED_EVERY: Final = 15.0  # seconds
STALE_AFTER: Final = timedelta(seconds=60)

_FOLDER: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
_PATH: Final = f"{_FOLDER}/{LEASE}"
_GONE: Final = "the lock is gone: somebody took it over and is done, or deleted it"
_TRIES: Final = 5  # each means that somebody else took or gave back the lock at this moment
# "deploy 237c6b8" → "trey@laptop deploys 237c6b8".
_VERBS: Final = {"deploy": "deploys", "rollback": "rolls back"}


class Lock:
    """What `held` gives. Renewed by a thread of its own until `held` ends."""

    def __init__(self, api: Api | None, lease: Any, every: float) -> None:
        self._api = api
        self._lease = lease
        self._every = every
        self._lost = ""
        self._one_at_a_time = threading.Lock()
        self._over = threading.Event()
        # A run that dies of an error must not be kept alive by its heart.
        self._heart = threading.Thread(target=self._beat, name="lock", daemon=True)
        if api is not None:
            self._heart.start()

    @property
    def lost(self) -> str:
        """Who has taken it over meanwhile, or that it is gone; "" while it is ours as far as is
        known."""
        return self._lost

    def assure(self) -> None:
        """Asks the cluster now. Raises Refused when somebody has taken the lock over, or when it is
        gone; that no API server answers is no reason to think so."""
        self._renew()
        if self._lost:
            raise refused(
                f"{self._lost}: this run goes no further",
                "python -m ops status shows what runs; speak with each other, then run it again",
            )

    def _beat(self) -> None:
        while not self._over.wait(self._every) and not self._lost:
            self._renew()

    def _renew(self) -> None:
        """Never raises."""
        with self._one_at_a_time:
            if self._api is None or self._lost or self._over.is_set():
                return
            try:
                self._renew_once(self._api)
            except Refused:  # no API server answers: the next beat comes
                return

    def _renew_once(self, api: Api) -> None:
        spec = {**self._lease["spec"], "renewTime": _micro(api.now())}
        fresh: Any = {**self._lease, "spec": spec}
        try:
            kept = api.replace(_PATH, fresh)
        except Conflict:
            # Somebody else's, our own write whose answer was lost, or gone: a PUT with a uid to a
            # Lease that is not there may be taken for one that creates it, and does not fit then.
            kept = api.get(_PATH)
        if kept is None:
            # Not made again: whoever took it over has changed what this run goes by.
            self._lost = _GONE
        elif _run(kept) != _run(self._lease):
            self._lost = f"{_holder(kept)} has taken over the lock ({_doing(kept)})"
        else:
            self._lease = kept

    def release(self, say: Say) -> None:
        """Gives back what is ours, and nothing else. Never raises."""
        if self._api is None:
            return
        self._over.set()
        self._heart.join()
        lease = self._lease
        try:
            for _ in range(_TRIES):
                if self._lost or lease is None or _run(lease) != _run(self._lease):
                    return
                try:
                    self._api.delete(_PATH, like=lease)
                    return
                except Conflict:
                    lease = self._api.get(_PATH)
        except Refused as cause:
            say(
                "the lock could not be given back, and goes stale in a minute "
                f"({cause.problems[0].what}); your next run on this machine takes it by itself"
            )


@contextmanager
def held(
    api: Api | None,
    *,
    doing: str,
    take_over: bool = False,
    say: Say = print,
    every: float = RENEWED_EVERY,
) -> Iterator[Lock]:
    """Raises Refused while somebody else holds it. `api` None: there is no cluster yet."""
    lease = None if api is None else _take(api, doing, take_over=take_over, say=say)
    if api is None or lease is None:
        say("no lock: it is kept in the cluster, which is not there before the first `up`")
        api = None
    lock = Lock(api, lease, every)
    try:
        yield lock
    finally:
        lock.release(say)


def told(api: Api) -> str:
    """Who holds it, does what, and since when; "" when nobody does."""
    lease = api.get(_PATH)
    return _story(lease, api.now()) if dig(lease, "spec", "holderIdentity") else ""


# --- taking -------------------------------------------------------------------------------------


def _take(api: Api, doing: str, *, take_over: bool, say: Say) -> Any:
    """The Lease, ours; None: there is no namespace to keep it in."""
    run = uuid.uuid4().hex
    for _ in range(_TRIES):
        there = api.get(_PATH)  # before the first time is told: it sets the clock
        mine = _lease(doing, run, api.now())
        try:
            if there is None:
                return api.create(_FOLDER, mine)
            if _run(there) == run:
                return there  # made by a try whose answer was lost
            gone = _gone_here(there)
            if not (gone or (take_over and _stale(there, api.now()))):
                raise _refusal(there, api.now(), take_over=take_over)
            mine["metadata"] |= {key: there["metadata"][key] for key in ("uid", "resourceVersion")}
            passed_on = number(dig(there, "spec", "leaseTransitions")) + 1
            mine["spec"]["leaseTransitions"] = passed_on
            kept = api.replace(_PATH, mine)
        except Conflict:
            now = api.get(_PATH)
            known = {run, _run(there)} if there is not None else {run}
            # Who is faster wins: from him it is not taken in the same breath. (The holder that was
            # known before may just have renewed it.)
            if now is not None and _run(now) not in known and not _gone_here(now):
                raise _refusal(now, api.now(), take_over=take_over) from None
            continue
        if kept is None:
            continue
        if gone:
            say(f"the earlier run ({gone}: {_doing(there)}) is gone: its lock is taken")
        else:
            say(f"the lock is taken over from {_story(there, api.now())}")
        return kept
    raise refused(
        "the lock changes hands faster than it can be taken",
        "somebody else deploys at this moment: python -m ops status, then run the same again",
    )


def _lease(doing: str, run: str, now: datetime) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": LEASE,
            "namespace": NAMESPACE,
            "annotations": {DOING: doing, RUN: run, MACHINE: _machine()},
        },
        "spec": {
            "holderIdentity": f"{operator()} {os.getpid()}",
            "leaseDurationSeconds": int(STALE_AFTER.total_seconds()),
            "acquireTime": _micro(now),
            "renewTime": _micro(now),
            "leaseTransitions": 0,
        },
    }


def _gone_here(lease: Any) -> str:
    """`pid 123` of a run of this operator on this machine that is no more; "" of any other."""
    who, _, pid = text(dig(lease, "spec", "holderIdentity")).rpartition(" ")
    mine = who == operator() and dig(lease, "metadata", "annotations", MACHINE) == _machine()
    if not (mine and pid.isdigit()):
        return ""
    return "" if alive(int(pid)) else f"pid {pid}"


def _machine() -> str:
    """Two laptops may both be called `laptop`, and a process that is alive on one is not on the
    other. Hashed, as systemd asks of its id (machine-id(5))."""
    try:
        known = Path("/etc/machine-id").read_text().strip()
    except OSError:
        known = ""
    return hashlib.sha256((known or f"{uuid.getnode():x}").encode()).hexdigest()[:12]


# --- what the operator reads --------------------------------------------------------------------


def _refusal(lease: Any, now: datetime, *, take_over: bool) -> Refused:
    if _stale(lease, now):
        return refused(
            f"{_story(lease, now)}: that run is likely gone",
            "make sure that it is, then run the same with --take-over",
        )
    if take_over:
        return refused(
            f"{_story(lease, now)}: that run is alive, and is not taken over",
            "press Ctrl-C there and run the same again; where nobody can reach that machine: "
            "kubectl -n honeydue delete lease deploy",
        )
    return refused(
        _story(lease, now), "wait until that has ended (python -m ops status), and run it again"
    )


def _stale(lease: Any, now: datetime) -> bool:
    renewed = moment(dig(lease, "spec", "renewTime"))
    return renewed is None or now - renewed > STALE_AFTER


def _story(lease: Any, now: datetime) -> str:
    """`trey@laptop deploys 237c6b8 since 02:14 UTC (4 min); renewed 3 s ago`."""
    since = moment(dig(lease, "spec", "acquireTime"))
    day = "%H:%M" if since is not None and now - since < timedelta(hours=20) else "%Y-%m-%d %H:%M"
    when = f" since {since:{day}} UTC ({ago(now, since)})" if since is not None else ""
    verb, _, rest = _doing(lease).partition(" ")
    does = f"{_VERBS.get(verb, f'does {verb}')} {rest}".strip()
    renewed = moment(dig(lease, "spec", "renewTime"))
    if renewed is None:
        beat = "never renewed"
    elif _stale(lease, now):
        beat = f"not renewed for {ago(now, renewed)}"
    else:
        beat = f"renewed {ago(now, renewed)} ago"
    return f"{_holder(lease)} {does}{when}; {beat}"


def _holder(lease: Any) -> str:
    said = text(dig(lease, "spec", "holderIdentity"))
    return _plain(said.rpartition(" ")[0] or said) or "somebody"


def _doing(lease: Any) -> str:
    return _plain(text(dig(lease, "metadata", "annotations", DOING))) or "something"


def _plain(said: str) -> str:
    """Written by others: one line of print."""
    return re.sub(r"[^\x20-\x7e]", "?", said)[:200]


def _run(lease: Mapping[str, Any]) -> str:
    return text(dig(lease, "metadata", "annotations", RUN))


def _micro(at: datetime) -> str:
    """Kubernetes' MicroTime."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
