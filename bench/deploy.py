"""`ops deploy` of one changed service, against the book's commands for that service, by hand; and
how long `ops status` and `ops releases` take, with a hundred runs in the history.

Both ways of deploying work on what bench.release has: one registry, builder and cluster, turn by
turn, each with a checkout and changes of its own.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench import release
from bench.release import SCENARIOS, STACK, Bench, Change
from rehearsal.home import REPOSITORY, Home

Figures = dict[str, Any]

SERVICE: Final = "api"
RUNS: Final = 100  # in the history, when it is looked at
LOOKS: Final = 5  # of each verb
_OPS: Final = ("-m", "ops")
_ENGINE: Final = ("--stack", STACK, "--engine", "rehearsal")
_DAY: Final = 86_400


def measure(home: Home, scratch: Path, rounds: int) -> Figures:
    bench = release.prepare(home, scratch)
    bench.changes += 1
    _once(bench, "ops")  # takes the other services' builds out of the stack
    runs: Figures = {"ops": [], "hand": []}
    for turn in range(rounds):
        for way, found in runs.items():
            bench.changes += 1
            found.append(_once(bench, way))
            print(f"  {turn + 1} {way}: {_told(found[-1])}", flush=True)
    fill(home.state / ".pulumi" / "history" / "honeydue" / STACK)
    return {"deploy": runs, "looks": looks(bench), "runs": RUNS}


def _told(run: Figures) -> str:
    split = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in run["split"].items())
    return f"{run['seconds']:.1f} s ({split})"


def _once(bench: Bench, way: str) -> Figures:
    checkout = bench.checkouts["program" if way == "ops" else "hand"]

    def change() -> None:
        bench.commit(SCENARIOS[SERVICE], checkout)

    before = bench.running()
    figures = {
        "ops": lambda: by_ops(bench, change),
        "hand": lambda: release.by_hand(bench, change, (SERVICE,)),
    }[way]()
    after = bench.running()
    rolled = [name for name in after if after[name] != before[name]]
    if len(rolled) != 1:
        raise SystemExit(f"{way} has rolled {', '.join(rolled) or 'nothing'}, and not {SERVICE}")
    return figures


# --- by the verb ---------------------------------------------------------------------------------


def by_ops(bench: Bench, change: Change) -> Figures:
    since, began = datetime.now(UTC), time.monotonic()
    change()
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(
        [sys.executable, *_OPS, "deploy", "--service", SERVICE, "--yes", *_ENGINE],
        cwd=REPOSITORY,
        env=_environment(bench),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append((time.monotonic() - began, line.rstrip("\n")))
    seconds = time.monotonic() - began
    if child.returncode:
        last = "\n  ".join(line for _, line in lines[-15:])
        raise SystemExit(f"ops deploy ended with {child.returncode}:\n  {last}")
    up = release.split_of_last_up(bench, since)
    rollout = up.pop("rollout", 0.0)
    split = {**spans(lines), "build": sum(up.values()), "rollout": rollout}
    return {"seconds": seconds, "split": split | {"rest": seconds - sum(split.values())}}


def spans(lines: Sequence[tuple[float, str]]) -> dict[str, float]:
    """Seconds of the phases that the verb itself goes through, by what it prints: (seconds since it
    was begun, line). What `up` does between plan and URL check is in the engine's record."""
    checks = [at for at, line in lines if _CHECK.match(line)]
    ups = [at for at, line in lines if _UP.match(line)]
    ends = [at for at, line in lines if _UP_ENDED.search(line)]
    asked = [at for at, line in lines if line.startswith("URL ")]
    if not (checks and ups and ends and asked):
        raise SystemExit("ops deploy does not print any more what its phases are read by here")
    return {
        "preflight": checks[-1],
        "plan": ups[0] - checks[-1],
        "URL check": asked[-1] - ends[-1],
    }


_CHECK: Final = re.compile(r"  (ok|skipped) +\S")
_UP: Final = re.compile(r"Updating \(|(api|worker|admin): ")
_UP_ENDED: Final = re.compile(r"\bunchanged +\([0-9.]+ s\)$")


def _environment(bench: Bench) -> Mapping[str, str]:
    own = {"HONEYDUE_REHEARSAL_HOME": str(bench.home.root), "PYTHONUNBUFFERED": "1"}
    return os.environ | own


# --- looking -------------------------------------------------------------------------------------


def fill(history: Path) -> None:
    """Until there are RUNS: copies of those that there are, a day apart, older than the first."""
    records = sorted(history.glob(f"{STACK}-*.history.json"))
    first = int(records[0].name.split("-")[-1].split(".")[0])
    for number in range(RUNS - len(records)):
        record = records[number % len(records)]
        at = first - (number + 1) * _DAY * 10**9
        run = json.loads(record.read_text())
        run |= {"startTime": at // 10**9, "endTime": at // 10**9 + 60}
        copy = history / f"{STACK}-{at}.history.json"
        copy.write_text(json.dumps(run))
        kept = record.with_name(record.name.replace(".history.", ".checkpoint."))
        copy.with_name(copy.name.replace(".history.", ".checkpoint.")).write_bytes(
            kept.read_bytes()
        )


def looks(bench: Bench) -> Figures:
    """Each verb, and its imports alone, LOOKS times, turn by turn."""
    orders = {
        "imports": ["-c", "import ops.cli"],
        "status": [*_OPS, "status", *_ENGINE],
        "releases": [*_OPS, "releases", *_ENGINE],
    }
    found: Figures = {name: [] for name in orders}
    for _ in range(LOOKS):
        for name, order in orders.items():
            found[name].append(_look(bench, order))
    for name, runs in found.items():
        told = ", ".join(f"{run['wall']:.2f} s ({run['cpu']:.2f} CPU)" for run in runs)
        print(f"  {name}: {told}", flush=True)
    return found


def _look(bench: Bench, order: Sequence[str]) -> Figures:
    """Seconds of one process and of all that it started."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    release.said([sys.executable, *order], _environment(bench), REPOSITORY)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu}
