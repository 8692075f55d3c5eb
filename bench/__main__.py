"""`python -m bench [PART]`: measures, and writes docs/benchmarks.md.

Every figure is a ratio of two runs of one session on one machine, because seconds say more about
the machine than about the program. What was measured is kept in docs/benchmarks.json, so that one
part can be measured again without the others; `before` there was measured once, at the commit that
it names, and is not touched.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import deploy, hammer, release
from bench.page import page
from bench.vendor import write_project
from rehearsal import images, serve
from rehearsal.engine.deployment import Deployment, Project
from rehearsal.engine.state import Backend
from rehearsal.home import REPOSITORY, Home
from rehearsal.timeline import critical_path, steps_of

STACK = "rehearsal"
SIZES = (10, 100, 1000, 5000)
ROUNDS = 3  # of each scenario of `release`
LATENCIES = (0.0, 0.5)  # seconds that each answer of the stand-ins takes longer
KEPT = REPOSITORY / "docs" / "benchmarks.json"
Figures = dict[str, Any]


def main() -> int:
    command = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    command.add_argument("part", nargs="?", choices=sorted(PARTS))
    command.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    command.add_argument("--rounds", type=int, default=ROUNDS)
    options = command.parse_args()
    kept: Figures = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    with tempfile.TemporaryDirectory(prefix="honeydue-bench-") as scratch:
        home = Home(Path(scratch) / "home")
        os.environ["HONEYDUE_REHEARSAL_HOME"] = str(home.root)
        try:
            for name in (options.part,) if options.part else PARTS:
                if name in WITH_IMAGES and (reason := images.why_not()):
                    print(f"not measuring {name}: {reason}", flush=True)
                    continue
                print(f"measuring {name}", flush=True)
                kept[name] = PARTS[name](Path(scratch), options)
        finally:
            serve.reset(home)
    kept["machine"] = f"{os.cpu_count()} × {_processor()}, Python {platform.python_version()}"  # noqa: RUF001 - times
    KEPT.write_text(json.dumps(kept, indent=2) + "\n")
    (REPOSITORY / "docs" / "benchmarks.md").write_text(page(kept))
    print("wrote docs/benchmarks.md")
    return 0


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def once(verb: str, project: Path, stack: str, state: Path, *, in_memory: bool = False) -> Figures:
    """One process of `bench.once`."""
    flags = ["--in-memory"] if in_memory else []
    done = subprocess.run(
        [sys.executable, "-m", "bench.once", verb, str(project), stack, str(state), *flags],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def least(times: int, run: Callable[[], Figures]) -> Figures:
    """Of several: the one with the least CPU time, which others on the machine disturbed least."""
    return min((run() for _ in range(times)), key=lambda figures: figures["cpu"])


# --- the parts ----------------------------------------------------------------------------------


def preview(scratch: Path, _options: argparse.Namespace) -> Figures:
    """The whole program with nothing to change, and an empty one."""
    home = Home.current()
    _world(home)
    if not _production(home).up(lambda _event: None).ok:
        raise SystemExit("the production did not come up: python -m rehearsal up")
    empty = scratch / "empty"
    empty.mkdir()
    for name in ("Pulumi.yaml", f"Pulumi.{STACK}.yaml"):
        shutil.copy(REPOSITORY / name, empty)
    (empty / "__main__.py").write_text("import pulumi\n")
    imports = {
        package: least(5, lambda package=package: _import(package))  # type: ignore[misc]  # a default binds it
        for package in ("pulumi", "pulumi_cloudflare", "pulumi_kubernetes.core.v1", "pulumi_hcloud")
    }
    return {
        "whole": least(5, lambda: once("preview", REPOSITORY, STACK, home.state)),
        "empty": least(5, lambda: once("preview", empty, STACK, scratch / "none")),
        "imports": imports,
    }


def _import(package: str) -> Figures:
    said = (
        f"import resource, gc, {package}; gc.freeze(); "
        "used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", said], stdout=subprocess.PIPE, check=True, text=True
    )
    return {"cpu": float(done.stdout)}


def growth(scratch: Path, options: argparse.Namespace) -> Figures:
    """A generated program on a vendor in memory, at each size."""
    os.environ.setdefault("PULUMI_CONFIG_PASSPHRASE", "bench")
    found: Figures = {}
    for size in options.sizes:
        project, state = write_project(scratch / f"p{size}", size), scratch / f"s{size}"
        found[str(size)] = {
            verb: once(verb, project, "bench", state, in_memory=True)
            for verb in ("sdk", "up", "preview", "destroy")
        }
        print(f"  {size}: {found[str(size)]}", flush=True)
    return found


def makespan(_scratch: Path, _options: argparse.Namespace) -> Figures:
    """The whole production from nothing, with slow vendors and slower ones."""
    found: Figures = {}
    home = Home.current()
    for latency in LATENCIES:
        serve.reset(home)
        _world(home)
        for variable, suffix in (("HCLOUD_ENDPOINT", "/v1"), ("CLOUDFLARE_BASE_URL", "/client/v4")):
            _slow(os.environ[variable].removesuffix(suffix), latency)
        engine = _production(home)
        if not engine.up(lambda _event: None).ok:
            raise SystemExit("the production did not come up: python -m rehearsal up")
        steps = steps_of(engine.backend.last_up(engine.project.name, STACK))
        needs = {r.urn: r.references for r in engine.resources()}
        path = critical_path(steps, needs)
        found[str(latency)] = {
            "makespan": max(s.end for s in steps.values()) - min(s.begin for s in steps.values()),
            "path": sum(steps[urn].seconds for urn in path if urn in steps),
            "steps": sum(s.seconds for s in steps.values()),
            "chain": [
                (urn.rpartition("::")[2], steps[urn].seconds)
                for urn in path
                if urn in steps and steps[urn].seconds >= 0.05
            ],
        }
    return found


def release_(scratch: Path, options: argparse.Namespace) -> Figures:
    """A change of the application, until its pods are ready: by `up`, and by hand."""
    home = Home.current()
    serve.reset(home)
    _world(home)
    return release.measure(home, scratch, options.rounds)


def deploy_(scratch: Path, options: argparse.Namespace) -> Figures:
    """One changed service by `ops deploy`, and by hand; `status` and `releases`."""
    home = Home.current()
    serve.reset(home)
    _world(home)
    return deploy.measure(home, scratch, options.rounds)


def hammer_(_scratch: Path, _options: argparse.Namespace) -> Figures:
    """What users notice of a rollout of api, and of its rollback."""
    home = Home.current()
    serve.reset(home)
    _world(home)
    return hammer.measure(home)


def _world(home: Home) -> None:
    serve.ensure_serving(home)
    os.environ.update(serve.environment(home))


def _production(home: Home) -> Deployment:
    return Deployment(Project.load(REPOSITORY), STACK, Backend(home.state))


def _slow(address: str, seconds: float) -> None:
    request = urllib.request.Request(
        f"{address}/_rehearsal/latency",
        data=json.dumps({"seconds": seconds}).encode(),
        headers={"Content-Type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request).read()


PARTS: dict[str, Callable[[Path, argparse.Namespace], Figures]] = {
    "preview": preview,
    "makespan": makespan,
    "growth": growth,
    "release": release_,
    "deploy": deploy_,
    "hammer": hammer_,
}
WITH_IMAGES = ("release", "deploy", "hammer")

if __name__ == "__main__":
    sys.exit(main())
