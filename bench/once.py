"""One measured run in a process of its own: `python -m bench.once sdk|preview|up|destroy …`.

Prints one line of JSON: wall and CPU seconds of the whole process up to its end, the peak of its
resident memory in MiB, and what the run did. Each figure of the benchmark is such a process, so
that imports count and nothing is warm.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

STARTED = time.monotonic()


def main() -> None:
    command = argparse.ArgumentParser(prog="python -m bench.once", description=__doc__)
    command.add_argument("verb", choices=["sdk", "preview", "up", "destroy"])
    command.add_argument("project", type=Path)
    command.add_argument("stack")
    command.add_argument("state", type=Path)
    command.add_argument("--in-memory", action="store_true", help="the vendor is bench.vendor")
    options = command.parse_args()

    from rehearsal.engine.deployment import Deployment, Project  # noqa: PLC0415 - counts, as in the CLI
    from rehearsal.engine.state import Backend  # noqa: PLC0415

    project = Project.load(options.project)
    if options.verb == "sdk":
        done = _sdk_alone(project, options.stack)
    else:
        load = None
        if options.in_memory:
            from bench.vendor import Vendor  # noqa: PLC0415

            load = Vendor.load
        engine = Deployment(project, options.stack, Backend(options.state), load_provider=load)
        result = getattr(engine, options.verb)(lambda _event: None)
        if not result.ok:
            sys.exit("\n".join(result.errors))
        done = result.changes
    gc.freeze()  # as rehearsal/__main__.py does: nothing is left to collect
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "wall": time.monotonic() - STARTED,
                "cpu": used.ru_utime + used.ru_stime,
                "memory": _peak(),
                "changes": done,
            }
        )
    )


def _peak() -> float:
    """MiB. Not ru_maxrss, which a process has from its parent until it is larger itself."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def _sdk_alone(project: Any, stack: str) -> dict[str, int]:
    """The program against an engine that does nothing, and answers one request after the other,
    each after a millisecond: what the SDK itself costs when answers come one by one."""
    from google.protobuf import empty_pb2  # noqa: PLC0415
    from pulumi.runtime.proto import resource_pb2  # noqa: PLC0415

    from rehearsal.engine.monitor import FEATURES  # noqa: PLC0415
    from rehearsal.engine.program import run_program  # noqa: PLC0415
    from rehearsal.engine.project import Configuration, StackFile  # noqa: PLC0415
    from rehearsal.engine.secrets import open_crypter  # noqa: PLC0415

    one = threading.Lock()

    class Nothing:
        count = 0

        def GetDeploymentInfo(self, _request: Any) -> Any:  # noqa: N802 - the service's names
            return resource_pb2.DeploymentInfo(supportedFeatures=FEATURES)

        def RegisterResource(self, request: Any) -> Any:  # noqa: N802
            with one:
                self.count += 1
                time.sleep(0.001)
            urn = f"urn:pulumi:{stack}::{project.name}::{request.type}::{request.name}"
            answer = resource_pb2.RegisterResourceResponse(urn=urn, id=request.name)
            answer.object.CopyFrom(request.object)
            answer.object.update({"signature": request.name})
            return answer

        def RegisterResourceOutputs(self, _request: Any) -> Any:  # noqa: N802
            return empty_pb2.Empty()

        SignalAndWaitForShutdown = Log = RegisterResourceOutputs

    nothing = Nothing()
    configuration = Configuration.of(project, StackFile.load(project, stack), open_crypter(None))
    died_of = run_program(project, stack, configuration, nothing, parallel=16, dry_run=False)
    if died_of is not None:
        sys.exit(died_of)
    return {"registered": nothing.count}


if __name__ == "__main__":
    os.environ.setdefault("PULUMI_CONFIG_PASSPHRASE", "bench")
    gc.set_threshold(100_000, 20, 100)  # as rehearsal/__main__.py does
    main()
