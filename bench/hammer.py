"""A request hammer on the user's way: what became of every single request, and who answered it.

`hammering(edge, host)` runs beside whatever happens meanwhile; `measure` is what `python -m bench
hammer` does: a rollout and a rollback of api with real images. Requests are asked at a steady rate,
half of them on connections of their own, as a new user's, half on kept ones, as a browser's; none
is asked twice.
"""

from __future__ import annotations

import math
import os
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from bench.release import said
from rehearsal import images, serve
from rehearsal.home import REPOSITORY, Home

PATH: Final = "/api/version"
RATE: Final = 60.0  # requests a second, all workers together
WORKERS: Final = 8
PATIENCE: Final = 30.0  # seconds for one answer
HOST: Final = "api.honeydue.test"
QUIET_SECONDS: Final = 20.0  # of hammering while nothing happens, for comparison
AROUND_SECONDS: Final = 3.0  # of hammering on either side of a rollout


@dataclass(frozen=True)
class Edge:
    """Where users come in: `address` is host:port, `ca` the PEM file that vouches for it."""

    address: str
    ca: str

    @staticmethod
    def of(environment: dict[str, str]) -> Edge:
        address, _, ca = environment["HONEYDUE_EDGE"].partition(",")
        return Edge(address, ca)


@dataclass(frozen=True)
class Shot:
    """One request. `at`: seconds since the first; `status`: 0 when no answer came, and then
    `error` says why. `pod` and `version` (of the binary): who answered."""

    at: float
    seconds: float
    status: int
    pod: str = ""
    version: str = ""
    error: str = ""
    kept: bool = False


@dataclass
class Hammered:
    shots: list[Shot] = field(default_factory=list)
    sent: int = 0

    @property
    def failed(self) -> list[Shot]:
        """Everything but a 200."""
        return [shot for shot in self.shots if shot.status != 200]

    @property
    def lost(self) -> int:
        """Requests of which nothing is known at all."""
        return self.sent - len(self.shots)

    def by(self, name: str) -> Counter[Any]:
        return Counter(getattr(shot, name) for shot in self.shots)

    def milliseconds(self, share: float) -> float:
        """A percentile of the answered requests' times: `share` 0.5 is the median."""
        times = sorted(shot.seconds for shot in self.shots if shot.status)
        return 1000 * times[max(0, math.ceil(share * len(times)) - 1)] if times else math.nan

    def longest_gap(self) -> float:
        """Seconds without any good answer."""
        ends = sorted(shot.at + shot.seconds for shot in self.shots if shot.status == 200)
        return max((b - a for a, b in pairwise(ends)), default=math.inf)


@contextmanager
def hammering(
    edge: Edge, host: str, *, path: str = PATH, rate: float = RATE, workers: int = WORKERS
) -> Iterator[Hammered]:
    """Hammers while the block runs; afterwards every request that was sent has its Shot."""
    found = Hammered()
    lock, stopping = threading.Lock(), threading.Event()
    trusting = ssl.create_default_context(cafile=edge.ca)
    began = time.monotonic()

    def work(number: int) -> None:
        kept = number % 2 == 0
        limits = httpx.Limits(max_keepalive_connections=1 if kept else 0)
        with httpx.Client(
            verify=trusting, trust_env=False, timeout=PATIENCE, limits=limits
        ) as client:
            due = began + number / rate
            while not stopping.wait(max(0.0, due - time.monotonic())):
                due = max(due + workers / rate, time.monotonic())
                with lock:
                    found.sent += 1
                shot = _ask(client, f"https://{edge.address}{path}", host, began=began, kept=kept)
                with lock:
                    found.shots.append(shot)

    threads = [threading.Thread(target=work, args=(n,), name=f"hammer {n}") for n in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def _ask(client: httpx.Client, url: str, host: str, *, began: float, kept: bool) -> Shot:
    start = time.monotonic()
    try:
        answer = client.get(url, headers={"Host": host}, extensions={"sni_hostname": host})
        body = answer.json() if answer.headers.get("Content-Type") == "application/json" else {}
    except (httpx.HTTPError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        return Shot(start - began, time.monotonic() - start, 0, error=said, kept=kept)
    return Shot(
        at=start - began,
        seconds=time.monotonic() - start,
        status=answer.status_code,
        pod=answer.headers.get("X-Rehearsal-Pod", ""),
        version=str(body.get("binary") or body.get("image") or ""),
        error="" if answer.status_code == 200 else answer.headers.get("X-Rehearsal", answer.text),
        kept=kept,
    )


# --- the benchmark ---


def measure(home: Home) -> dict[str, Any]:
    """What users notice: of nothing, of a rollout of api, and of its rollback."""
    print("  a registry, a builder and the production", flush=True)
    images.turn_on(home, lambda _line: None)
    _up(home)
    checkout = images.app_folder(home)
    first = said(["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]).strip()
    edge = Edge.of(serve.environment(home))
    found = {}
    with hammering(edge, HOST) as quiet:
        time.sleep(QUIET_SECONDS)
    found["quiet"] = figures(quiet)
    with (checkout / "api" / "main.go").open("a") as out:
        out.write('func init() { println("hammered") }\n')
    who = ("-c", "user.name=bench", "-c", "user.email=bench@honeydue.test")
    said(["git", "-C", str(checkout), *who, "commit", "-qam", "Hammered", "--no-gpg-sign"])
    found["rollout"] = figures(_through_an_up(home, edge))
    own = images.own_settings(home)
    settings = yaml.safe_load(own.read_text())
    settings["config"]["honeydue:images"] = {"api": first}
    own.write_text(yaml.safe_dump(settings))
    found["rollback"] = figures(_through_an_up(home, edge))
    for name, each in found.items():
        print(f"  {name}: {each}", flush=True)
    return found


def figures(found: Hammered) -> dict[str, Any]:
    return {
        "sent": found.sent,
        "failed": len(found.failed),
        "lost": found.lost,
        "median": found.milliseconds(0.5),
        "p99": found.milliseconds(0.99),
        "gap": found.longest_gap(),
        "pods": len(found.by("pod").keys() - {""}),
        "versions": len(found.by("version").keys() - {""}),
    }


def _through_an_up(home: Home, edge: Edge) -> Hammered:
    with hammering(edge, HOST) as found:
        time.sleep(AROUND_SECONDS)
        _up(home)
        time.sleep(AROUND_SECONDS)
    return found


def _up(home: Home) -> None:
    said(
        [sys.executable, "-m", "rehearsal", "up", "--yes", "--skip-preview"],
        os.environ | {"HONEYDUE_REHEARSAL_HOME": str(home.root)},
        Path(REPOSITORY),
    )
