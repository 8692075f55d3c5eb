"""The state under fire: what the operator reads, and that nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rehearsal.engine import journal, secrets
from rehearsal.engine.deployment import EngineError
from rehearsal.engine.state import Unsaved
from tests.engine.conftest import Lab, urn

REPOSITORY = Path(__file__).parents[2]
FIRST = """
a = Thing("a", value="1", opts=opts())
b = Thing("b", value=a.computed, opts=opts())
Thing("c", opts=opts())
"""
SECOND = """
a = Thing("a", value="2", opts=opts())
b = Thing("b", value=a.computed, name="new", opts=opts())
Thing("d", value=b.computed, opts=opts())
"""


def check_converged(lab: Lab) -> None:
    """The next `up` goes on; then the world has each thing once, and the state knows it."""
    lab.up(SECOND)
    ids = {name: lab.vendor.ids(name) for name in ("a", "b", "c", "d")}
    assert {name: len(found) for name, found in ids.items()} == {"a": 1, "b": 1, "c": 0, "d": 1}
    for name in ("a", "b", "d"):
        assert lab.in_state(name)["id"] == ids[name][0]
    assert lab.vendor.things[ids["a"][0]]["value"] == "2"
    assert lab.vendor.things[ids["d"][0]]["value"] == f"computed-{ids['b'][0]}"
    assert lab.preview().changes == {"same": 5}


# --- a disk that is full, a folder that cannot be written ----------------------------------------


class Disk:
    """Fails each fsync, link and rename from the n-th on, for good or only once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, code: int, *, once: bool) -> None:
        self.calls, self._at, self._code, self._once = 0, at, code, once
        for name in ("fsync", "link", "replace"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    @property
    def reached(self) -> bool:
        return self.calls > self._at

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            due = self.calls == self._at + 1 if self._once else self.reached
            if due:
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments)

        return call


@pytest.mark.parametrize(
    ("once", "share_of_writing"),
    [(True, 0.0), (False, float("inf"))],
    ids=["once, in the log", "for good, everything saved whole"],
)
def test_a_disk_full_at_any_write_stops_the_run_in_order_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, once: bool, share_of_writing: float
) -> None:
    monkeypatch.setattr(journal, "SHARE_OF_WRITING", share_of_writing)
    for at in range(200):
        world = Lab(tmp_path / f"at-{at}")
        world.up(FIRST)
        whole = world.backend.path("shop", "dev").read_text()
        with monkeypatch.context() as patched:
            disk = Disk(patched, at, errno.ENOSPC, once=once)
            try:
                told = world.run("up", SECOND).errors
            except Unsaved as error:
                told = (str(error),)
            reached = disk.reached
        for message in told:
            assert "No space left on device. What was saved before is whole. Free some" in message
            assert str(world.folder / "state" / ".pulumi") in message
        if reached and not told:  # everything but the history had been written
            assert "the run is saved, but not in the history: " in world.diagnostics("warning")[0]
        json.loads(world.backend.path("shop", "dev").read_text())  # whole, whatever it says
        assert at > 0 or world.backend.path("shop", "dev").read_text() == whole
        assert list((world.folder / "state").rglob("*.tmp")) == []
        check_converged(world)
        if not reached:
            assert at > 20
            return
    pytest.fail("the run never ended without meeting the full disk")


def test_after_a_save_that_failed_no_other_step_begins(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.program("\n".join(f'Thing("t{i}", opts=opts())' for i in range(20)))
    lab.up("")
    with monkeypatch.context() as patched:
        Disk(patched, 12, errno.ENOSPC, once=False)
        with pytest.raises(Unsaved):
            lab.run("up", "\n".join(f'Thing("t{i}", opts=opts())' for i in range(20)), parallel=1)
    made = len(lab.vendor.things)
    assert made < 10
    assert len(lab.failures) == 1
    lab.up()
    assert len(lab.vendor.things) == 20
    assert len({r["id"] for r in lab.state if r["type"] == "fake:index:Thing"}) == 20


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_disk_that_is_really_full_is_named_with_its_folder(lab: Lab) -> None:
    state = lab.folder / "state"
    state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(state)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr}")
    try:
        lab.program("\n".join(f'Thing("t{i}", opts=opts())' for i in range(60)))
        with pytest.raises(Unsaved, match=r"No space left on device\. .* Free some space on the"):
            lab.run("up")
        path = lab.backend.path("shop", "dev")
        json.loads(path.read_text())
        made = len(lab.vendor.things)
        assert 0 < made < 60
        subprocess.run(["mount", "-o", "remount,size=8m", str(state)], check=True)
        lab.up()
        assert len(lab.vendor.things) == 60
        assert lab.preview().changes == {"same": 62}
    finally:
        subprocess.run(["umount", str(state)], check=True)


def test_a_state_folder_that_cannot_be_made_is_named_before_anything_is_done(lab: Lab) -> None:
    (lab.folder / "state").write_text("a file, where the folder should be")
    with pytest.raises(Unsaved, match=r"^cannot write .*/state/\.pulumi/locks/.*Not a directory"):
        lab.run("up", FIRST)
    assert lab.vendor.things == {}


def test_a_folder_without_the_right_to_write_is_named_before_anything_is_done(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.up(FIRST)
    real = Path.open

    def read_only(path: Path, mode: str = "r", **more: Any) -> Any:
        if "state" in path.parts and mode != "r":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, mode, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", read_only)
        with pytest.raises(Unsaved, match=r"Permission denied\. .* mend the rights of that folder"):
            lab.run("up", SECOND)
    assert lab.calls == []
    check_converged(lab)


# --- damage ---------------------------------------------------------------------------------------


DAMAGE: dict[str, Callable[[str], str]] = {
    "empty": lambda _text: "",
    "cut off": lambda text: text[: len(text) // 2],
    "garbage": lambda _text: "\x00\x01garbage",
    "another JSON": lambda _text: "[1, 2]",
    "another object": lambda _text: '{"version": 3}',
    "a version to come": lambda text: text.replace('{"version":3', '{"version":4', 1),
    "resources no list": lambda _t: '{"version":3,"checkpoint":{"latest":{"resources":{"a":1}}}}',
    "a resource no object": lambda _t: '{"version":3,"checkpoint":{"latest":{"resources":[7]}}}',
    "nested without end": lambda _text: "[" * 100_000,
    "no URNs": lambda text: text.replace('"urn":', '"nru":'),
    "a resource lost": lambda text: text.replace('"id":"id-1"', '"urn":"x"'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_refused_and_the_command_that_it_names_brings_the_backup_back(
    lab: Lab, damage: Callable[[str], str]
) -> None:
    lab.up(FIRST)
    lab.up()
    path = lab.backend.path("shop", "dev")
    path.write_text(damage(path.read_text()))
    for verb in ("preview", "up", "destroy", "refresh"):
        with pytest.raises(EngineError) as refused:
            lab.run(verb)
        message = str(refused.value)
        assert message.startswith(f"the state file {path} is damaged (")
        assert lab.calls == []
    assert "Traceback" not in message
    (command,) = [line for line in message.splitlines() if line.startswith("  cp ")]
    subprocess.run(command, shell=True, check=True)
    assert lab.run("refresh").ok
    check_converged(lab)


def test_when_the_backup_beside_it_is_damaged_too_the_newest_of_the_history_is_offered(
    lab: Lab,
) -> None:
    lab.up(FIRST)
    path = lab.backend.path("shop", "dev")
    for file in (path, Path(f"{path}.bak")):
        file.write_text("{")
    with pytest.raises(
        EngineError, match=r"  cp .*/\.pulumi/backups/shop/dev/dev\.\d+\.json "
    ) as e:
        lab.preview()
    (command,) = [line for line in str(e.value).splitlines() if line.startswith("  cp ")]
    subprocess.run(command, shell=True, check=True)
    assert lab.preview().changes == {"same": 5}
    for file in (lab.folder / "state").rglob("*.json*"):
        file.write_text("{")
    with pytest.raises(EngineError, match=r"There is no backup that is whole: bring one back"):
        lab.preview()


def test_an_import_that_is_damaged_is_refused_and_changes_nothing(lab: Lab) -> None:
    lab.up(FIRST)
    exported = lab.deployment().export()
    before = lab.backend.path("shop", "dev").read_text()
    for resources in ([7], [{"nru": 1}], [{"urn": "u", "type": "t"}]):
        wrong = {"version": 3, "deployment": {**exported["deployment"], "resources": resources}}
        with pytest.raises(EngineError, match=r"^stack import: the deployment is damaged \("):
            lab.deployment().import_(wrong)
    assert lab.backend.path("shop", "dev").read_text() == before


# --- passphrases ----------------------------------------------------------------------------------


def test_a_stack_file_sealed_with_another_passphrase_is_told_from_a_wrong_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.up('Thing("a", value=pulumi.Output.secret("hush-hush"), opts=opts())')
    before = lab.backend.path("shop", "dev").read_text()
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "another")
    with pytest.raises(EngineError, match=r"^incorrect passphrase: PULUMI_CONFIG_PASSPHRASE"):
        lab.run("up")
    salt = secrets.open_crypter(None).salt
    file = lab.folder / "project" / "Pulumi.dev.yaml"
    file.write_text(f"encryptionsalt: {salt}\nconfig: {{}}\n")
    for verb in ("preview", "up", "destroy"):
        with pytest.raises(EngineError) as refused:
            getattr(lab.deployment(), verb)(lambda _event: None)
        assert str(refused.value) == (
            "the passphrase opens Pulumi.dev.yaml, but not the stack's state, which was sealed "
            "with another one: take the `encryptionsalt:` of Pulumi.dev.yaml back from the "
            "repository, and use its passphrase"
        )
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE")
    with pytest.raises(EngineError, match=r"^passphrase must be set with PULUMI_CONFIG_PASSPHRASE"):
        lab.preview()
    assert lab.backend.path("shop", "dev").read_text() == before
    file.write_text("encryptionsalt: 12\n")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "correct horse")
    with pytest.raises(EngineError, match=r"^encryptionsalt: not of the form v1:<salt>:<check>"):
        lab.deployment().preview(lambda _event: None)


# --- hostile stack files --------------------------------------------------------------------------

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
MERGES = "m0: &m0 {k: v}\n" + "".join(
    f"m{i}: &m{i} {{<<: [{','.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 10)
)
HOSTILE = {
    "a bomb of anchors": (BOMB, r"its anchors expand to more than 100,000 values"),
    "a bomb of merges": (MERGES, r"its anchors expand to more than 100,000 values"),
    "an anchor that contains itself": (
        "config: {a: &a [*a]}",
        r"nested too deep, or an anchor contains itself",
    ),
    "nested without end": ("config: " + "[" * 5000, r"nested too deep"),
    "no mapping": ("config: [1]", r"it and its `config:` must be mappings"),
    "a list": ("- a", r"it and its `config:` must be mappings"),
    "a control character": ("config: {a: \x07}", r"no valid YAML: "),
    "a Python object": ("config: !!python/object/apply:os.system [x]", r"no valid YAML: "),
}


@pytest.mark.parametrize(("text", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_stack_file_is_refused_by_name(lab: Lab, text: str, reason: str) -> None:
    lab.program("")
    (lab.folder / "project" / "Pulumi.dev.yaml").write_text(text)
    started = time.process_time()
    with pytest.raises(EngineError, match=rf"Pulumi\.dev\.yaml: {reason}"):
        lab.deployment().preview(lambda _event: None)
    assert time.process_time() - started < 20  # the bombs alone would take hours


# --- two at once, and Ctrl-C ----------------------------------------------------------------------

CLI = """
import argparse, sys, time
from pathlib import Path
from rich.console import Console
from rehearsal import cli
from rehearsal.engine import secrets
from rehearsal.engine.deployment import Deployment, EngineError, Project
from rehearsal.engine.state import Backend
from tests.engine.fake import Vendor

secrets._ROUNDS = 1000
folder, vendor = Path(sys.argv[1]), Vendor()

def wait(operation, name, id_):
    while name == "a" and not (folder / "go on").exists():
        time.sleep(0.01)

vendor.on_done = wait
engine = Deployment(Project.load(folder / "project"), "dev", Backend(folder / "state"),
                    load_provider=vendor.load)
options = argparse.Namespace(stack="dev", target=[], diff=False)
console = Console(file=sys.stdout, width=140)
try:
    result = cli.watch(engine.up, "Updating", options, console, dry_run=False)
except KeyboardInterrupt:
    sys.exit(130)
except EngineError as error:
    sys.exit(f"error: {error}")
sys.exit(0 if result.ok else 1)
"""
SLOW = """
a = Thing("a", opts=opts())
Thing("b", value=a.computed, opts=opts())
"""


@contextmanager
def started_up(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """An `up` as the command line runs it, with a terminal's signals, at work on `a`, which is not
    done before `go_on`."""
    lab.program(SLOW)
    with subprocess.Popen(
        [sys.executable, "-u", "-c", CLI, str(lab.folder)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            until(process, "making it")
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[str], words: str) -> str:
    """Its lines up to the one with these words; fails when there is none."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if words in line:
            return read
    raise AssertionError(f"no line has {words!r}:\n{read}")


def go_on(lab: Lab) -> None:
    (lab.folder / "go on").touch()


def test_a_second_run_is_refused_while_the_first_goes_on(lab: Lab) -> None:
    with started_up(lab) as first:
        with pytest.raises(EngineError) as refused:
            lab.run("up")
        assert f"(pid {first.pid}) at 20" in str(refused.value)
        assert "Wait for the other run to end" in str(refused.value)
        assert lab.calls == []
        go_on(lab)
        out, _ = first.communicate(timeout=300)
    assert first.returncode == 0, out
    assert lab.names == ["shop-dev", "fake", "a", "b"]


def test_ctrl_c_finishes_what_has_begun_and_starts_nothing_else(lab: Lab) -> None:
    with started_up(lab) as process:
        process.send_signal(signal.SIGINT)
        until(process, "stopping: what has begun is finished first; Ctrl-C again to kill")
        go_on(lab)
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "cancelled: what had begun was finished and saved; `up` goes on from it" in out
    assert "Traceback" not in out
    assert lab.names == ["shop-dev", "fake", "a"]
    assert "pending_operations" not in lab.deployment().export()["deployment"]


def test_ctrl_c_twice_ends_it_at_once_and_what_was_under_way_is_still_known(lab: Lab) -> None:
    with started_up(lab) as process:
        process.send_signal(signal.SIGINT)
        until(process, "stopping: ")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=300)  # it does not wait for `a`, which never ends
    assert process.returncode == 130
    assert "Traceback" not in out
    assert "killed. What was under way stands in the state; the next run, after `python -m" in out
    (pending,) = lab.deployment().export()["deployment"]["pending_operations"]
    assert (pending["type"], pending["resource"]["urn"].split("::")[-1]) == ("creating", "a")
    with pytest.raises(EngineError, match=r"That process is gone \(killed\?\)"):
        lab.run("up")
    assert lab.deployment().cancel() == 1
    lab.up(SLOW)
    assert lab.diagnostics("warning") == [
        f"resource {urn('a')} was being created when the last run ended: nothing was made"
    ]
    assert lab.names == ["shop-dev", "fake", "a", "b"]
