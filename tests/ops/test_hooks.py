"""Scripts around a release: what they get, what they do not get, and what the operator reads."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from ops import hooks
from ops.engine import alive
from ops.hooks import Name, Release, check, run
from ops.masking import hiding
from ops.problems import Refused

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CANARY = "hunter2-canary-passphrase"
IMAGE = "gitea.treytartt.com/admin/honeydue-api@sha256:" + "a" * 64
RELEASE: Release = {
    "verb": "deploy",
    "stack": "prod",
    "number": 12,
    "tag": "237c6b8",
    "services": {"api": {"tag": "237c6b8", "digest": "sha256:" + "a" * 64, "reference": IMAGE}},
    "by": "trey@laptop",
    "at": "2026-11-22T02:14:00+00:00",
    "urls": {"api": "https://api.myhoneydue.com"},
    "outcome": "succeeded",
    "reason": "",
    "rollback": "",
}


class Screen:
    def __init__(self) -> None:
        self._file = io.StringIO()
        self.console = Console(file=self._file, highlight=False, width=160)

    @property
    def text(self) -> str:
        """Seconds are not ours to assert."""
        return re.sub(r"\(\d+\.\d s\)", "(… s)", self._file.getvalue())


@pytest.fixture
def screen() -> Screen:
    return Screen()


def hook(folder: Path, name: str, *lines: str, mode: int = 0o755, first: str = "#!/bin/sh") -> Path:
    path = folder / "deploy/hooks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([first, *lines, ""]))
    path.chmod(mode)
    return path


def refusal(folder: Path, screen: Screen, **how: Any) -> str:
    with pytest.raises(Refused) as caught:
        run("before-deploy", RELEASE, screen.console, folder=folder, **how)
    return str(caught.value)


# --- what it gets -------------------------------------------------------------------------------


def test_without_a_hook_nothing_is_said(tmp_path: Path, screen: Screen) -> None:
    assert run("after-deploy", RELEASE, screen.console, folder=tmp_path) is True
    hook(tmp_path, "after-deploy.sh.sample", "exit 1")
    hook(tmp_path, ".after-deploy.swp", "exit 1")
    assert run("after-deploy", RELEASE, screen.console, folder=tmp_path) is True
    assert screen.text == ""


@pytest.mark.parametrize("file", ["after-deploy", "after-deploy.sh", "after-deploy.py"])
def test_a_hook_gets_the_release_and_runs_in_the_repository(
    tmp_path: Path, screen: Screen, file: str
) -> None:
    hook(tmp_path, file, "cat > got.json", "echo told the chat", "echo and more >&2")
    assert run("after-deploy", RELEASE, screen.console, folder=tmp_path) is True
    assert json.loads((tmp_path / "got.json").read_text()) == RELEASE
    assert screen.text == (
        f"hook after-deploy (deploy/hooks/{file})\n    told the chat\n    and more\n  done (… s)\n"
    )


def test_a_hook_need_not_read_what_it_gets(tmp_path: Path, screen: Screen) -> None:
    hook(tmp_path, "after-deploy", "exit 0")
    long: Release = {**RELEASE, "reason": "x" * 1_000_000}
    assert run("after-deploy", long, screen.console, folder=tmp_path) is True


def test_the_readme_names_every_key_and_every_hook() -> None:
    readme = (REPOSITORY / "deploy/hooks/README.md").read_text()
    for word in (*Release.__annotations__, *hooks.NAMES):
        assert f"`{word}`" in readme


# --- what it does not get -----------------------------------------------------------------------


def test_no_secret_of_ours_is_in_its_environment_nor_in_a_command_line(
    tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_out = (
        "PULUMI_CONFIG_PASSPHRASE",
        "PULUMI_CONFIG_PASSPHRASE_FILE",
        "PULUMI_ACCESS_TOKEN",
        "HCLOUD_TOKEN",
        "CLOUDFLARE_API_TOKEN",
        "REGISTRY_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "TRIVY_PASSWORD",
        "COSIGN_PRIVATE_KEY",
        "CLOUDFLARE_API_KEY",
    )
    for name in kept_out:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HOOK_TOKEN", "the hook's own")
    hook(tmp_path, "after-deploy", "env > env.txt", "tr '\\0' ' ' < /proc/$$/cmdline > cmdline.txt")
    assert run("after-deploy", RELEASE, screen.console, folder=tmp_path) is True
    environment = (tmp_path / "env.txt").read_text()
    assert CANARY not in environment
    assert not [name for name in kept_out if f"{name}=" in environment]
    assert "HOOK_TOKEN=the hook's own\n" in environment
    assert f"PATH={os.environ['PATH']}\n" in environment
    assert CANARY not in (tmp_path / "cmdline.txt").read_text()


def test_what_it_prints_is_masked(
    tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", CANARY)
    hook(
        tmp_path,
        "after-deploy",
        f"echo the passphrase is {CANARY}",
        "echo the database is at postgres://app:another-canary@db:5432/x",
        "echo a known one: third-canary",
    )
    hide = hiding(["third-canary"])
    assert run("after-deploy", RELEASE, screen.console, folder=tmp_path, hide=hide) is True
    assert screen.text.splitlines()[1:-1] == [
        "    the passphrase is [secret]",
        "    the database is at postgres://app:[secret]@db:5432/x",
        "    a known one: [secret]",
    ]


def test_what_it_prints_does_not_paint_the_terminal(tmp_path: Path, screen: Screen) -> None:
    hook(
        tmp_path,
        "after-deploy",
        r"printf '\033[2J\033[31mred\033[0m\r[bold]x[/bold] \377\n\tno end of line'",
    )
    assert run("after-deploy", RELEASE, screen.console, folder=tmp_path) is True
    assert screen.text.splitlines()[1:-1] == [
        "    red[bold]x[/bold] \ufffd",
        "        no end of line",
    ]


# --- when it says no ----------------------------------------------------------------------------


def test_before_deploy_refuses_the_release_with_its_last_words(
    tmp_path: Path, screen: Screen
) -> None:
    hook(tmp_path, "before-deploy.sh", "for n in 1 2 3 4 5 6; do echo line $n; done", "exit 3")
    assert refusal(tmp_path, screen) == (
        "deploy/hooks/before-deploy.sh ended with 3: the release is refused, and nothing was "
        "changed\n"
        "    | line 2\n"
        "    | line 3\n"
        "    | line 4\n"
        "    | line 5\n"
        "    | line 6\n"
        "    mend   mend what it says; or without it: mv deploy/hooks/before-deploy.sh "
        "deploy/hooks/before-deploy.sh.sample"
    )


@pytest.mark.parametrize(
    ("name", "so"),
    [
        ("after-deploy", "the release is as good as before"),
        ("on-failure", "what was told above stands"),
    ],
)
def test_the_others_only_warn(tmp_path: Path, screen: Screen, name: Name, so: str) -> None:
    hook(tmp_path, name, "echo the chat is down", "exit 7")
    assert run(name, RELEASE, screen.console, folder=tmp_path) is False
    assert screen.text == (
        f"hook {name} (deploy/hooks/{name})\n"
        "    the chat is down\n"
        f"warning: deploy/hooks/{name} ended with 7: {so}\n"
        f"    mend   mend what it says; or without it: mv deploy/hooks/{name} "
        f"deploy/hooks/{name}.sample\n"
    )


def test_one_that_a_signal_ended(tmp_path: Path, screen: Screen) -> None:
    hook(tmp_path, "before-deploy", "kill -9 $$")
    assert refusal(tmp_path, screen).startswith(
        "deploy/hooks/before-deploy was ended by SIGKILL: the release is refused"
    )


# --- what cannot be run -------------------------------------------------------------------------


def test_one_that_is_not_executable(tmp_path: Path, screen: Screen) -> None:
    hook(tmp_path, "before-deploy.sh", mode=0o644)
    said = (
        "deploy/hooks/before-deploy.sh is not executable, so it cannot be run\n"
        "    mend   chmod +x deploy/hooks/before-deploy.sh"
    )
    assert refusal(tmp_path, screen) == said
    hook(tmp_path, "after-deploy.sh", mode=0o644)
    assert run("after-deploy", RELEASE, screen.console, folder=tmp_path) is False
    assert screen.text == f"warning: {said}\n".replace("before", "after")


def test_two_for_one_name(tmp_path: Path, screen: Screen) -> None:
    hook(tmp_path, "before-deploy")
    hook(tmp_path, "before-deploy.py")
    assert refusal(tmp_path, screen) == (
        "deploy/hooks/before-deploy and deploy/hooks/before-deploy.py: only one can be the hook "
        "before-deploy\n"
        "    mend   mv deploy/hooks/before-deploy.py deploy/hooks/before-deploy.py.sample, which "
        "is never run"
    )


def test_one_without_an_interpreter(tmp_path: Path, screen: Screen) -> None:
    hook(tmp_path, "before-deploy", first="echo hello")
    assert refusal(tmp_path, screen).splitlines() == [
        "deploy/hooks/before-deploy cannot be run (Exec format error): its first line names no "
        "interpreter: the release is refused, and nothing was changed",
        "    mend   deploy/hooks/before-deploy: #!/bin/sh as its first line",
    ]
    hook(tmp_path, "before-deploy", first="#!/usr/bin/perl7")
    assert refusal(tmp_path, screen).splitlines() == [
        "deploy/hooks/before-deploy cannot be run: #!/usr/bin/perl7: No such file or directory: "
        "the release is refused, and nothing was changed",
        "    mend   deploy/hooks/before-deploy: mend its first line",
    ]


def test_a_folder_and_a_link_that_leads_nowhere(tmp_path: Path, screen: Screen) -> None:
    hook(tmp_path, "x").unlink()
    (tmp_path / "deploy/hooks/before-deploy").mkdir()
    assert refusal(tmp_path, screen).startswith("deploy/hooks/before-deploy is no file\n")
    (tmp_path / "deploy/hooks/before-deploy").rmdir()
    (tmp_path / "deploy/hooks/before-deploy").symlink_to("/nowhere")
    assert refusal(tmp_path, screen).startswith("deploy/hooks/before-deploy is no file\n")


def test_all_of_it_is_found_before_a_hook_is_needed(tmp_path: Path) -> None:
    check(tmp_path)
    check(REPOSITORY)
    hook(tmp_path, "after-deploy.sh", mode=0o644)
    hook(tmp_path, "pre-deploy.sh")
    hook(tmp_path, "lib.py", mode=0o644)
    with pytest.raises(Refused) as caught:
        check(tmp_path)
    assert str(caught.value).splitlines() == [
        "deploy/hooks/after-deploy.sh is not executable, so it cannot be run",
        "    mend   chmod +x deploy/hooks/after-deploy.sh",
        "deploy/hooks/pre-deploy.sh would never be run: hooks are called before-deploy, "
        "after-deploy, on-failure",
        "    mend   rename it; a script that a hook calls belongs into a folder: deploy/hooks/lib/",
    ]


# --- its end ------------------------------------------------------------------------------------


def test_one_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook(tmp_path, "before-deploy", "echo waiting", "sleep 600 & echo $! > pid", "wait")

    def clock() -> float:
        """Stands still until the hook has come so far."""
        return hooks.SECONDS + 1 if written(tmp_path / "pid") else 0.0

    monkeypatch.setattr(hooks, "time", SimpleNamespace(monotonic=clock))
    said = refusal(tmp_path, screen)
    assert said.splitlines() == [
        "deploy/hooks/before-deploy was not done within 300 s, and was ended: the release is "
        "refused, and nothing was changed",
        "    | waiting",
        "    mend   let it do less, or go on by itself (nohup … &)",
    ]
    assert gone(int((tmp_path / "pid").read_text()))


def test_what_it_leaves_running_is_not_waited_for(tmp_path: Path, screen: Screen) -> None:
    hook(tmp_path, "after-deploy", "sleep 600 & echo $! > pid")
    assert run("after-deploy", RELEASE, screen.console, folder=tmp_path) is True
    left = int((tmp_path / "pid").read_text())
    assert alive(left)
    os.kill(left, signal.SIGKILL)


def test_ctrl_c_ends_it(tmp_path: Path, screen: Screen) -> None:
    hook(tmp_path, "before-deploy", "echo $$ > pid", "echo begun", "sleep 600")

    def interrupt() -> None:
        limit = time.monotonic() + 120
        while "begun" not in screen.text and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run("before-deploy", RELEASE, screen.console, folder=tmp_path)
    assert gone(int((tmp_path / "pid").read_text()))


def written(file: Path) -> bool:
    """Whole: a shell makes a file first, and then writes its line."""
    return file.is_file() and file.read_text().endswith("\n")


def gone(pid: int) -> bool:
    """A zombie that nobody reaps is gone too."""
    limit = time.monotonic() + 60
    while alive(pid) and time.monotonic() < limit:
        time.sleep(0.02)
    return not alive(pid)


# --- the samples --------------------------------------------------------------------------------


def test_a_sample_posts_the_message_and_its_address_is_in_no_command_line(
    tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    curl = tmp_path / "bin/curl"
    curl.parent.mkdir()
    curl.write_text('#!/bin/sh\necho "$*" > argv\ncat > body\n')
    curl.chmod(0o755)
    monkeypatch.setenv("PATH", str(curl.parent), prepend=os.pathsep)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("after-deploy", "on-failure"):
        sample = REPOSITORY / f"deploy/hooks/{name}.sh.sample"
        hook(tmp_path, f"{name}.sh").write_text(sample.read_text())
    assert run("after-deploy", RELEASE, screen.console, folder=tmp_path) is True
    assert json.loads((tmp_path / "body").read_text()) == {
        "text": "deploy 237c6b8 on prod: succeeded (trey@laptop)"
    }
    argv = (tmp_path / "argv").read_text()
    assert f"--config {tmp_path}/.config/honeydue/chat-webhook" in argv
    assert "https://" not in argv
    failed: Release = {
        **RELEASE,
        "outcome": "rolled back",
        "reason": "api: crash loop",
        "rollback": "succeeded",
    }
    assert run("on-failure", failed, screen.console, folder=tmp_path) is True
    assert json.loads((tmp_path / "body").read_text()) == {
        "text": "deploy 237c6b8 on prod FAILED: api: crash loop (trey@laptop); "
        "the last good release runs again"
    }


def test_the_sample_of_before_deploy_lets_a_rollback_through(tmp_path: Path) -> None:
    sample = REPOSITORY / "deploy/hooks/before-deploy.sh.sample"
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "date").write_text(
        '#!/bin/sh\ncase "$1" in +%u) echo 5;; +%H) echo 16;; *) echo 16:02; esac'
    )
    (bin_ / "date").chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}
    for verb, code in (("deploy", 1), ("rollback", 0)):
        told = json.dumps({**RELEASE, "verb": verb})
        command = ["sh", str(sample)]
        done = subprocess.run(
            command, input=told, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code
    assert done.stdout == ""
