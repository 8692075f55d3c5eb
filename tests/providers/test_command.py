"""The command provider runs real shell commands."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from rehearsal.engine.provider import UNKNOWN, Context, ProviderError
from rehearsal.providers.command import COMMAND, CommandProvider

URN = "urn:pulumi:rehearsal::honeydue::command:local:Command::gate"


@pytest.fixture
def provider() -> CommandProvider:
    return CommandProvider({})


def context(**options: Any) -> Context:
    return Context(urn=URN, **options)


def test_create_runs_the_command_and_trims_one_newline(provider: CommandProvider) -> None:
    id_, outputs = provider.create(COMMAND, {"create": "printf 'a\\n\\n'; echo b >&2"}, context())
    assert id_.startswith("gate")
    assert len(id_) == len("gate") + 8
    assert (outputs["stdout"], outputs["stderr"]) == ("a\n", "b")


def test_the_command_gets_environment_stdin_and_dir(
    provider: CommandProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_OUTSIDE", "outer")
    inputs = {
        "create": 'read line; echo "$FROM_OUTSIDE $GIVEN $line $(pwd)"',
        "environment": {"GIVEN": "inner"},
        "stdin": "typed\n",
        "dir": str(tmp_path),
    }
    _, outputs = provider.create(COMMAND, inputs, context())
    assert outputs["stdout"] == f"outer inner typed {tmp_path}"


def test_another_interpreter_takes_the_command_as_its_last_argument(
    provider: CommandProvider,
) -> None:
    inputs = {"interpreter": ["/bin/echo", "-n"], "create": "$HOME; not run"}
    assert provider.create(COMMAND, inputs, context())[1]["stdout"] == "$HOME; not run"


def test_a_preview_runs_nothing(provider: CommandProvider, tmp_path: Path) -> None:
    inputs = {"create": f"touch {tmp_path}/made", "update": f"touch {tmp_path}/made"}
    id_, outputs = provider.create(COMMAND, inputs, context(dry_run=True))
    assert (id_, outputs["stdout"], outputs["stderr"]) == ("", UNKNOWN, UNKNOWN)
    outputs = provider.update(COMMAND, "x", inputs, inputs, inputs, context(dry_run=True))
    assert outputs["stdout"] is UNKNOWN
    assert list(tmp_path.iterdir()) == []


def test_only_triggers_replace_and_any_other_change_updates(provider: CommandProvider) -> None:
    old = {"create": "true", "triggers": [1, {"generation": 1}]}
    new = {"create": "false", "triggers": [1, {"generation": 2}]}
    diff = provider.diff(COMMAND, "x", old, old, new)
    assert diff.changed == ("create", "triggers[1].generation")
    assert diff.replaces == ("triggers[1].generation",)
    assert not diff.delete_before_replace
    assert provider.diff(COMMAND, "x", old, old, old).changed == ()


def test_update_runs_update_with_the_previous_output(provider: CommandProvider) -> None:
    inputs, _ = provider.check(COMMAND, None, {"create": "echo one; echo oops >&2"})
    _, outputs = provider.create(COMMAND, inputs, context())
    news, _ = provider.check(
        COMMAND, inputs, {"update": 'echo "$PULUMI_COMMAND_STDOUT+$PULUMI_COMMAND_STDERR"'}
    )
    assert provider.update(COMMAND, "x", inputs, outputs, news, context())["stdout"] == "one+oops"


def test_update_runs_create_again_when_there_is_no_update(provider: CommandProvider) -> None:
    inputs = {"create": 'echo "again ${PULUMI_COMMAND_STDOUT:-unset}"'}
    news = inputs | {"addPreviousOutputInEnv": False}
    outputs = provider.update(COMMAND, "x", inputs, {"stdout": "old"}, news, context())
    assert outputs["stdout"] == "again unset"


def test_without_a_command_the_output_stays(provider: CommandProvider) -> None:
    outputs = provider.update(COMMAND, "x", {}, {"stdout": "old", "stderr": ""}, {}, context())
    assert outputs == {"stdout": "old", "stderr": ""}
    assert provider.create(COMMAND, {}, context())[1] == {"stdout": "", "stderr": ""}


def test_delete_runs_with_the_previous_output(provider: CommandProvider, tmp_path: Path) -> None:
    inputs = {"delete": f'echo "$PULUMI_COMMAND_STDOUT" > {tmp_path}/gone'}
    provider.delete(COMMAND, "x", inputs, {"stdout": "made"}, context())
    assert (tmp_path / "gone").read_text() == "made\n"
    provider.delete(COMMAND, "x", {"create": "exit 1"}, {}, context())


def test_a_failure_says_the_exit_code_and_the_last_lines_of_stderr_but_not_the_command(
    provider: CommandProvider,
) -> None:
    inputs = {"create": ": sesame; for i in $(seq 30); do echo line $i >&2; done; exit 3"}
    with pytest.raises(ProviderError) as caught:
        provider.create(COMMAND, inputs, context())
    lines = str(caught.value).splitlines()
    assert lines[0] == "create: the command ended with exit code 3; the last lines of stderr:"
    assert lines[1:] == [f"  line {number}" for number in range(21, 31)]
    assert "sesame" not in str(caught.value)


def test_a_silent_failure_says_so(provider: CommandProvider) -> None:
    with pytest.raises(ProviderError, match="exit code 1; it wrote nothing to stderr"):
        provider.create(COMMAND, {"create": "echo ignored; exit 1"}, context())


@pytest.mark.parametrize(
    ("logging", "shown"),
    [
        (None, ["err", "out"]),
        ("stdoutAndStderr", ["err", "out"]),
        ("stdout", ["out"]),
        ("stderr", ["err"]),
        ("none", []),
    ],
)
def test_logging_chooses_the_live_lines(
    provider: CommandProvider, logging: str | None, shown: list[str]
) -> None:
    lines: list[str] = []
    inputs = {"create": "echo out; echo err >&2", "logging": logging}
    assert provider.check(COMMAND, None, inputs)[1] == []
    provider.create(COMMAND, inputs, context(progress=lines.append))
    assert sorted(lines) == shown


def test_lines_are_shown_while_the_command_runs(provider: CommandProvider, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    inputs = {"create": f"echo waiting; while [ ! -e {seen} ]; do sleep 0.02; done"}
    # Only the live line lets the command end.
    provider.create(COMMAND, inputs, context(progress=lambda _line: seen.touch(), timeout=300))


def test_cancelling_ends_the_whole_process_group(
    provider: CommandProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody is killed who only has not come to his own end yet.
    monkeypatch.setattr("rehearsal.providers.command.GRACE", 120.0)
    started, cancelled = threading.Event(), threading.Event()
    inputs = {
        "create": f"trap 'echo ended >&2; exit' TERM; (trap 'touch {tmp_path}/child; exit' TERM; "
        "echo ready; while :; do sleep 0.02; done) & wait"
    }

    def on_line(_line: str) -> None:
        started.set()
        cancelled.set()

    with pytest.raises(ProviderError, match="stopped because the update was cancelled"):
        provider.create(COMMAND, inputs, context(progress=on_line, cancelled=cancelled.is_set))
    assert started.is_set()
    assert (tmp_path / "child").exists()


def test_a_timeout_stops_a_command_that_ignores_sigterm(
    provider: CommandProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rehearsal.providers.command.GRACE", 0.1)
    inputs = {"create": "trap '' TERM; while :; do sleep 0.02; done"}
    with pytest.raises(ProviderError, match=r"stopped after 0.2 s, its timeout"):
        provider.create(COMMAND, inputs, context(timeout=0.2))


def test_mistakes_are_refused_in_words(provider: CommandProvider) -> None:
    _, failures = provider.check(COMMAND, None, {"create": "true", "assetPaths": ["*.txt"]})
    assert [(f.property, f.reason) for f in failures] == [
        ("assetPaths", "is not rehearsed; read the files in the program instead")
    ]
    with pytest.raises(ProviderError, match="there is no folder '/nowhere'"):
        provider.create(COMMAND, {"create": "true", "dir": "/nowhere"}, context())
    with pytest.raises(ProviderError, match="cannot start the interpreter '/no/shell'"):
        provider.create(COMMAND, {"create": "sesame", "interpreter": ["/no/shell"]}, context())
    with pytest.raises(ProviderError, match="has no type 'command:remote:Command'"):
        provider.check("command:remote:Command", None, {})
