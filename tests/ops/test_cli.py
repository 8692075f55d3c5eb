"""What holds for every verb."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from ops import cli
from ops.problems import refused

ROOT = Path(__file__).parents[2]


def test_a_terminal_that_has_no_arrow_ends_no_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def verb(**_: object) -> None:
        cli.console().print("237c6b8 → 1a2b3c4")
        raise refused("a…", "b")

    monkeypatch.setattr(cli, "app", verb)
    assert cli.main([]) == 1
    for stream, said in ((out, "237c6b8 ? 1a2b3c4\n"), (err, "error: a?\n    mend   b\n")):
        stream.flush()
        assert stream.buffer.getvalue().decode("ascii") == said


COMPLETES = """
source <({python} -m ops completion bash)
cd /
COMP_WORDS=({words}) COMP_CWORD={at}
_ops_completion
printf '%s\\n' "${{COMPREPLY[@]}}"
complete -p ops
"""


@pytest.mark.parametrize(
    ("words", "at", "offers"),
    [("ops dep", 1, ["deploy"]), ("ops deploy --service a", 3, ["api", "admin"])],
)
def test_tab_completes_verbs_and_services_in_whichever_folder(
    words: str, at: int, offers: list[str]
) -> None:
    typed = COMPLETES.format(python=sys.executable, words=words, at=at)
    done = subprocess.run(
        ["bash", "-euc", typed], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    *offered, registered = done.stdout.split("\n")[:-1]
    assert offered == offers
    assert registered == "complete -o default -F _ops_completion ops"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_sources_runs_ops_by_its_own_python(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert script.count(f"{sys.executable} -m ops") >= 2  # the command, and what Tab asks
    assert "complete_bash $1" not in script
    assert "complete_zsh ops" not in script
    assert "(commandline -cp) ops" not in script
