"""The rehearsal's `command` provider: `command:local:Command` of pulumi-command 1.

A command runs on this machine: `create` when the resource is made, `update` (else `create` again)
when any input but `triggers` changes, `delete` when it goes. A changed trigger replaces it, the new
one first. A preview runs nothing.

Where ours differs, on purpose:
- The error of a failed command has its exit code and the last lines of stderr. The real plugin
  quotes the whole command and all of its output, which a secret in `create` would not survive.
- Ctrl-C asks the command's whole process group to end (SIGTERM), and only then kills it; the real
  plugin kills the one process at once.
- `assetPaths` and `archivePaths` are refused.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from rehearsal.engine.provider import (
    UNKNOWN,
    CheckFailure,
    Context,
    Diff,
    Properties,
    ProviderError,
)
from rehearsal.providers import schema
from rehearsal.providers.compare import changed_paths, root

COMMAND: Final = "command:local:Command"
DEFAULT_INTERPRETER: Final = ("/bin/sh", "-c")
GRACE: Final = 5.0  # seconds from SIGTERM to SIGKILL
LAST_LINES: Final = 10  # of stderr, in the error of a failed command
_POLL: Final = 0.05  # seconds between two looks at `ctx.cancelled()`


class CommandProvider:
    def __init__(self, inputs: Properties) -> None:
        failures = schema.check("pulumi:providers:command", inputs)
        if failures:
            raise ProviderError(
                "provider command: " + "; ".join(f"{f.property}: {f.reason}" for f in failures)
            )

    def check(
        self, type_: str, olds: Properties | None, news: Properties
    ) -> tuple[Properties, list[CheckFailure]]:
        del olds
        _require(type_)
        failures = schema.check(type_, news)
        for name in ("assetPaths", "archivePaths"):
            if news.get(name) is not None:
                failures.append(
                    CheckFailure(name, "is not rehearsed; read the files in the program instead")
                )
        # The plugin writes this one default into the inputs; the interpreter's is applied at run.
        return {"addPreviousOutputInEnv": True} | news, failures

    def diff(
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
    ) -> Diff:
        del id, old_outputs
        if type_ == "pulumi:providers:command":
            return Diff(changed_paths(old_inputs, new_inputs))
        _require(type_)
        changed = changed_paths(old_inputs, new_inputs)
        return Diff(changed, replaces=tuple(path for path in changed if root(path) == "triggers"))

    def create(self, type_: str, inputs: Properties, ctx: Context) -> tuple[str, Properties]:
        _require(type_)
        if ctx.dry_run:
            return "", inputs | {"stdout": UNKNOWN, "stderr": UNKNOWN}
        name = ctx.urn.rpartition("::")[2]
        output = _run(inputs.get("create"), inputs, {}, ctx, "create")
        return name + secrets.token_hex(4), inputs | output

    def find(self, type_: str, inputs: Properties, ctx: Context) -> None:
        """What a command did cannot be asked for: one that was cut off runs again."""

    def read(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> tuple[Properties, Properties] | None:
        del id, ctx
        _require(type_)
        return inputs, outputs  # what a command did cannot be asked for again

    def update(  # noqa: PLR0917 - the engine's protocol
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
        ctx: Context,
    ) -> Properties:
        del id, old_inputs
        _require(type_)
        if ctx.dry_run:
            return new_inputs | {"stdout": UNKNOWN, "stderr": UNKNOWN}
        verb = "update" if new_inputs.get("update") is not None else "create"
        return new_inputs | _run(new_inputs.get(verb), new_inputs, old_outputs, ctx, verb)

    def delete(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> None:
        del id
        _require(type_)
        if not ctx.dry_run:
            _run(inputs.get("delete"), inputs, outputs, ctx, "delete")

    def invoke(self, token: str, args: Mapping[str, Any]) -> Properties:
        del args
        raise ProviderError(
            f"the rehearsal's provider 'command' has no function {token!r}: "
            "declare a command.local.Command, or add it in rehearsal/providers/command.py."
        )


def _require(type_: str) -> None:
    if type_ != COMMAND:
        raise ProviderError(
            f"the rehearsal's provider 'command' has no type {type_!r}; it has {COMMAND}. "
            "(A remote command would need a machine to log in to; rehearsed nodes have none.)"
        )


def _run(
    command: str | None, inputs: Properties, previous: Properties, ctx: Context, verb: str
) -> Properties:
    """Runs it to its end; returns stdout and stderr without their last newline.

    Without a command nothing happens and the previous output stays. Raises ProviderError.
    """
    if command is None:
        return {name: previous.get(name, "") for name in ("stdout", "stderr")}
    folder = inputs.get("dir")
    if folder is not None and not Path(folder).is_dir():
        raise ProviderError(f"{verb}: dir: there is no folder {folder!r}; make it, or correct dir.")
    arguments = [*(inputs.get("interpreter") or DEFAULT_INTERPRETER), command]
    stdin = inputs.get("stdin")
    try:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=_environment(inputs, previous),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # its own process group, so that its children end with it
        )
    except OSError as error:
        # Only the interpreter is named: the command itself may hold a secret.
        raise ProviderError(
            f"{verb}: cannot start the interpreter {arguments[0]!r}: {error.strerror}; "
            "install it, or correct interpreter."
        ) from None
    streams = _Streams(process, stdin, _loggers(inputs.get("logging"), ctx))
    ended = _wait(process, streams, ctx)
    if ended is not None:
        raise ProviderError(f"{verb}: {ended}{_last_lines(streams.stderr)}")
    if process.returncode != 0:
        raise ProviderError(
            f"{verb}: the command {_how_it_ended(process.returncode)}{_last_lines(streams.stderr)}"
        )
    return {
        "stdout": streams.stdout.removesuffix("\n"),
        "stderr": streams.stderr.removesuffix("\n"),
    }


def _environment(inputs: Properties, previous: Properties) -> dict[str, str]:
    environment = dict(os.environ) | (inputs.get("environment") or {})
    if inputs.get("addPreviousOutputInEnv") is not False:
        for name in ("stdout", "stderr"):
            if previous.get(name):
                environment[f"PULUMI_COMMAND_{name.upper()}"] = previous[name]
    return environment


def _loggers(logging: str | None, ctx: Context) -> dict[str, Callable[[str], None]]:
    """Which stream's lines are shown while it runs; both, unless `logging` says otherwise."""
    shown = {"stdout": ("stdout",), "stderr": ("stderr",), "none": ()}.get(
        logging or "", ("stdout", "stderr")
    )
    return dict.fromkeys(shown, ctx.progress)


class _Streams:
    """Reads both outputs in threads, line by line, and feeds stdin in a third."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stdin: str | None,
        loggers: Mapping[str, Callable[[str], None]],
    ) -> None:
        self._read: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._threads = [
            threading.Thread(target=self._pump, args=(pipe, name, loggers.get(name)), daemon=True)
            for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr))
        ]
        if stdin and process.stdin is not None:
            self._threads.append(
                threading.Thread(target=self._feed, args=(process.stdin, stdin), daemon=True)
            )
        for thread in self._threads:
            thread.start()

    @property
    def stdout(self) -> str:
        return "".join(self._read["stdout"])

    @property
    def stderr(self) -> str:
        return "".join(self._read["stderr"])

    def open(self) -> bool:
        """A background child that kept the pipe keeps the command open, as in the real plugin."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self, timeout: float) -> None:
        for thread in self._threads:
            thread.join(timeout)

    def _pump(self, pipe: IO[bytes], name: str, log: Callable[[str], None] | None) -> None:
        with pipe:
            for raw in pipe:
                line = raw.decode(errors="replace")
                self._read[name].append(line)
                if log is not None:
                    log(line.rstrip("\r\n"))

    @staticmethod
    def _feed(pipe: IO[bytes], text: str) -> None:
        try:
            with pipe:
                pipe.write(text.encode())
        except BrokenPipeError:
            pass  # a command need not read what it is given


def _wait(process: subprocess.Popen[bytes], streams: _Streams, ctx: Context) -> str | None:
    """Waits for its end; returns why it was stopped, or None when it ended by itself."""
    deadline = None if ctx.timeout is None else time.monotonic() + ctx.timeout
    while process.poll() is None or streams.open():
        if ctx.cancelled():
            _stop(process, streams)
            return "the command was stopped because the update was cancelled"
        if deadline is not None and time.monotonic() > deadline:
            _stop(process, streams)
            return (
                f"the command was stopped after {ctx.timeout:g} s, its timeout; "
                "raise custom_timeouts of this resource if it needs longer"
            )
        if process.poll() is None:
            try:
                process.wait(_POLL)
            except subprocess.TimeoutExpired:
                continue
        streams.join(_POLL)
    return None


def _stop(process: subprocess.Popen[bytes], streams: _Streams) -> None:
    _signal(process, signal.SIGTERM)
    patience = time.monotonic() + GRACE
    while time.monotonic() < patience and (process.poll() is None or streams.open()):
        time.sleep(_POLL)
    _signal(process, signal.SIGKILL)
    process.wait()
    streams.join(1.0)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # the whole group has ended
        os.killpg(process.pid, number)


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _last_lines(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()][-LAST_LINES:]
    if not lines:
        return "; it wrote nothing to stderr"
    return "; the last lines of stderr:\n" + "\n".join(f"  {line}" for line in lines)
