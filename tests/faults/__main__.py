"""Runs every fault and writes docs/faults.md: `make faults`, about 25 minutes.

    python -m tests.faults                 everything
    python -m tests.faults vendors         each fault at each change at a vendor: no Kubernetes
    python -m tests.faults night           the whole production's bad night
    python -m tests.faults hostile         stack files
    python -m tests.faults 'Server: create'     only the trials whose name holds this

What a part of it saw replaces what docs/faults.json had of it; the page is made from that file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.hostile import HARMLESS, HOSTILE
from tests.faults.lab import lab
from tests.faults.matrix import Bench, cases, trial
from tests.rehearsal.operator import ROOT

PAGE = ROOT / "docs" / "faults.md"
SEEN = ROOT / "docs" / "faults.json"
NIGHT = "tests/faults/test_production.py"
HOSTILITY = "tests/faults/test_hostile.py"
WELL = "converged"
FAMILY = ("-o", "junit_family=xunit1")  # the other one knows no record_property


def main(words: list[str]) -> int:
    part = words[0] if words else "all"
    fresh: dict[str, Any] = {}
    if part in ("all", "hostile"):
        fresh["hostile"] = passed(HOSTILITY)
    if part in ("all", "night"):
        fresh["night"] = passed(NIGHT, KILL_EVERY="1")
    trials: dict[str, Any] = {}
    if part not in ("night", "hostile"):
        trials = dict(tried_at_the_vendors("" if part in ("all", "vendors") else part))
    seen: dict[str, Any] = json.loads(SEEN.read_text()) if SEEN.exists() else {}
    trials = seen.get("trials", {}) | trials
    known = [case.name for case in cases()]
    seen |= fresh | {"trials": {name: trials[name] for name in known if name in trials}}
    if "night" in fresh:
        seen.pop("remark", None)  # by hand in docs/faults.json, about the night before
    seen["date"] = f"{datetime.now(UTC):%Y-%m-%d}"
    SEEN.write_text(json.dumps(seen, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text("\n".join(page(seen)) + "\n")
    bad = [name for name, o in seen.get("trials", {}).items() if o["after"] != WELL]
    bad += [n for key in ("hostile", "night") for n, well in seen.get(key, {}).items() if not well]
    for name in bad:
        print(f"not well: {name}")
    print(f"{PAGE}: {len(bad)} not well")
    return 1 if bad else 0


def tried_at_the_vendors(only: str) -> Iterable[tuple[str, dict[str, str]]]:
    with tempfile.TemporaryDirectory() as folder, lab(Path(folder)) as one:
        bench = Bench(one, Path(folder) / "kept")
        for case in cases():
            if only not in case.name:
                continue
            outcome = trial(bench, case)
            print(f"{'not well' if outcome.problems else 'well':8}  {case.name}", flush=True)
            for problem in outcome.problems:
                print(f"          {problem}", file=sys.stderr, flush=True)
            yield case.name, {"read": outcome.read, "after": outcome.after}


def passed(tests: str, **environment: str) -> dict[str, bool]:
    """Test name → whether it passed. What is skipped did not pass."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *FAMILY, f"--junit-xml={report}", tests],
            cwd=ROOT, env={**os.environ, **environment}, check=False,
        )  # fmt: skip
        seen = {}
        for one in ET.parse(report).getroot().iter("testcase"):
            more = "".join(f" ({p.get('value')} {p.get('name')})" for p in one.iter("property"))
            ended_badly = any(one.find(tag) is not None for tag in ("failure", "error", "skipped"))
            seen[one.get("name", "") + more] = not ended_badly
        return seen


def page(seen: dict[str, Any]) -> Iterable[str]:
    trials: dict[str, dict[str, str]] = seen.get("trials", {})
    bad = sum(o["after"] != WELL for o in trials.values())
    every = [*cases()]
    yield "# What was tried, what the operator read, and what came out"
    yield ""
    yield f"Written by `make faults` on {seen['date']}; not edited by hand."
    yield ""
    yield "## 1. Every fault at every change that the program makes at a vendor"
    yield ""
    yield (
        f"{len(trials)} of {len(every)} trials were run, {bad} of them not well. Each one: "
        "production's own program up to the servers (idle nodes), one fault at each matching "
        "request of one run, then the vendor is well again and the same verb runs once more. "
        "*Converged* means: that run succeeded, "
        "the preview after it is empty, nothing is pending, both stand-ins hold exactly what an "
        "undisturbed run leaves (nothing orphaned, nothing twice), no request was unknown to "
        "them; and in a first deployment everything that does not depend on what failed was "
        "made in the failing run. Repeat one: `.venv/bin/python -m pytest "
        "tests/faults/test_vendors.py` (a sample), or all: "
        "`.venv/bin/python -m tests.faults vendors`."
    )
    yield ""
    yield (
        "Above what is quoted stands each time the name and the type of the resource that failed "
        "(`honeydue-1  hcloud:Server`), and a trial in which the right one is not named, or no way "
        "out is, is not well. Names, ids and ports are replaced (`honeydue-N`, `<id>`, `<port>`)."
    )
    yield ""
    yield "| Resource and step | Fault | What the operator read | After the next run |"
    yield "|---|---|---|---|"
    for case in every:
        if case.name in trials:
            outcome, target = trials[case.name], case.target
            step = f"{target.what} (`{target.method} {target.path}`)"
            read = outcome["read"].replace("|", "\\|")
            yield f"| {step} | {case.fault} | {read} | {outcome['after']} |"
    yield ""
    yield "## 2. One long night: the whole production with its cluster"
    yield ""
    yield (
        "The first deployment is made by runs that are each killed by SIGKILL at their next step: "
        "before the vendor is asked, in the middle of the step, when the answer is there but not "
        "saved, when it is saved. Then the rest happens to that same production. "
        f"Repeat: `KILL_EVERY=1 .venv/bin/python -m pytest {NIGHT}`."
    )
    yield ""
    yield from listed(seen.get("night", {}))
    if remark := seen.get("remark"):
        yield f"\n{remark}"
    yield ""
    yield (
        "The last of these reads everything that was printed on the way, the command lines of all "
        "processes, the temporary folder, the state with its history and backups, and the logs, "
        "and looks for each secret setting, key, password and token. A node's own disk and the "
        "Hetzner stand-in's store hold `user_data`, and with it the cluster's keys, as they do in "
        "production: those two are left out."
    )
    yield ""
    yield "## 3. Hostile stack files"
    yield ""
    yield (
        "Each is refused by `python -m rehearsal preview` with an error that names what is wrong, "
        "within 10 s of processor time (here: about one) and bounded memory. "
        f"Repeat: `.venv/bin/python -m pytest {HOSTILITY}`."
    )
    yield ""
    yield from listed(seen.get("hostile", {}))
    yield ""
    yield f"({len(HOSTILE)} hostile ones, {len(HARMLESS)} that are no error.)"


def listed(results: dict[str, bool]) -> Iterable[str]:
    if not results:
        yield "Not run this time."
        return
    yield "| What holds | Seen |"
    yield "|---|---|"
    for name, well in results.items():
        yield f"| {sentence(name)} | {'yes' if well else '**no**'} |"


def sentence(name: str) -> str:
    words, _, which = name.removeprefix("test_").replace("_", " ").partition("[")
    return f"{words[0].upper()}{words[1:]}" + (f": {which.rstrip(']')}" if which else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
