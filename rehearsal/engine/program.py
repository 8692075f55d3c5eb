"""Runs the project's `__main__.py`, unchanged, as `pulumi-language-python-exec` does.

The SDK keeps its state in context variables: each run gets a context of its own, so that preview
and up can follow each other in one process. The program's own modules are forgotten afterwards,
because the CLI too starts a fresh interpreter for each run.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime.proto import engine_pb2

from rehearsal.engine.project import Configuration, Project

# Each registration blocks a thread until its step is done, and hundreds may wait for a slot; the
# engine itself bounds how many work at once. The program's functions need threads besides.
_THREADS = 256


def run_program(
    project: Project,
    stack: str,
    configuration: Configuration,
    monitor: Any,
    *,
    parallel: int,
    dry_run: bool,
) -> str | None:
    """Runs the program to its end. Returns None, or the message of what it died of."""

    def configure() -> None:
        pulumi.runtime.set_all_config(configuration.values, list(configuration.secret_keys))
        settings = pulumi.runtime.Settings(
            project=project.name,
            stack=stack,
            monitor=monitor,
            engine=monitor,
            parallel=parallel,
            dry_run=dry_run,
            organization="organization",  # the DIY backend's one organisation
            root_directory=str(project.root),
        )
        pulumi.runtime.configure(settings)

    main = project.root / "__main__.py"
    said = _Said(monitor)
    with _as_main(project.root), contextlib.closing(said), contextlib.redirect_stdout(said):
        return contextvars.Context().run(_run, main, configure)


def _run(main: Path, configure: Callable[[], None]) -> str | None:
    loop = asyncio.new_event_loop()
    # Failed registrations are reported by the engine; asyncio would print each of them again.
    loop.set_exception_handler(lambda _loop, _context: None)
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="pulumi")
    loop.set_default_executor(executor)
    configure()

    def program() -> None:
        runpy.run_path(str(main), run_name="__main__")

    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(program))
    except pulumi.RunError as error:
        return str(error)
    except SystemExit as error:
        return None if error.code in (0, None) else f"the program exited: {error.code}"
    except Exception as error:
        return "Program failed with an unhandled exception:\n" + _traceback(error, main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        executor.shutdown()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        asyncio.set_event_loop(None)
    return None


def _traceback(error: Exception, main: Path) -> str:
    """From the program's first line on: how it was started is no news to its author. What fails
    later, in an `apply` or a registration, has no such line, and loses the runners' frames only."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = next((i for i, frame in enumerate(frames) if frame.filename == str(main)), None)
    if ours is None:
        runners = (__file__, asyncio.base_events.__file__, pulumi.runtime.stack.__file__)
        ours = next((i for i, f in enumerate(frames) if f.filename not in runners), len(frames))
    lines = traceback.format_list(frames[ours:]) + traceback.format_exception_only(error)
    return "Traceback (most recent call last):\n" + "".join(lines).rstrip()


class _Said(io.TextIOBase):
    """What the program prints: each line is an info of the run, as in the CLI, so that the engine's
    own output (`preview --json`) stays whole."""

    def __init__(self, monitor: Any) -> None:
        self._monitor, self._line = monitor, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            info = engine_pb2.LogRequest(severity=engine_pb2.INFO, message=line)
            self._monitor.Log(info)
        return len(text)

    def close(self) -> None:
        if self._line:
            self.write("\n")


@contextlib.contextmanager
def _as_main(root: Path) -> Iterator[None]:
    """Working folder, sys.path and sys.argv as `python __main__.py` in the project has them."""
    folder, argv, path, loaded = Path.cwd(), sys.argv, list(sys.path), set(sys.modules)
    os.chdir(root)
    sys.argv, sys.path = [str(root / "__main__.py")], [str(root), *path]
    try:
        yield
    finally:
        os.chdir(folder)
        sys.argv, sys.path = argv, path
        for name in set(sys.modules) - loaded:
            if _is_programs(name, root):
                del sys.modules[name]


def _is_programs(name: str, root: Path) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    if file is None or name.split(".", maxsplit=1)[0] == __name__.split(".")[0]:
        return False  # the engine's own folder may lie in the project
    path = Path(file)
    return path.is_relative_to(root) and "site-packages" not in path.parts
