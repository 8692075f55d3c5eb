"""`ops deploy`: which images shall run, and what ends it from outside."""

from __future__ import annotations

import os
import signal
from typing import Literal

import pytest

from honeydue.images.references import SERVICES
from ops.commits import same_commit
from ops.preflight import Asked, Check
from ops.problems import Problem
from tests.ops.production import FakeEngine, Operator, Production, Shelf, ops, pin, production

__all__ = ["ops", "production"]  # the fixtures

OLD = dict.fromkeys(SERVICES, "1a2b3c4")
DIRTY = "237c6b8-dirty-0123456789ab"
ENDS = pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGHUP])


# --- which images -------------------------------------------------------------------------------


@pytest.mark.parametrize("sha", ["237c6b8", "237c6b8" + "d" * 33])
def test_a_commit_that_is_named_is_not_what_a_dirty_checkout_holds(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch, sha: str
) -> None:
    monkeypatch.setattr("ops.deploy.Registry", Shelf("237c6b8", DIRTY))
    production.head = DIRTY
    assert ops("deploy", "--sha", sha, "--yes") == 0
    assert production.images == {s: pin(s, "237c6b8") for s in SERVICES}
    ops.says("deploy 237c6b8 (prod)", "deployed 237c6b8 as release 3")


@pytest.mark.parametrize("words", [(), ("--sha", DIRTY)])
def test_a_dirty_checkout_is_built_when_nothing_or_its_whole_name_is_said(
    ops: Operator, production: Production, words: tuple[str, ...]
) -> None:
    production.head = DIRTY
    assert ops("deploy", *words, "--yes") == 0
    assert production.images == {}
    ops.says(f"deployed {DIRTY} as release 3")


@pytest.mark.parametrize(
    ("tag", "said", "same"),
    [
        ("237c6b8", "237c6b8", True),
        ("237c6b8", "237C6B8A", True),
        ("237c6b8a", "237c6b8", True),
        ("237c6b8", "237c6b", False),  # six digits are a beginning, and no name
        ("237c6b8", "237c6b9", False),
        (DIRTY, "237c6b8", False),
        ("237c6b8", DIRTY, False),
        (DIRTY, DIRTY, True),
        (DIRTY, DIRTY[:-1], False),
        ("v1.2", "v1.2", True),
        ("release", "release-2", False),
    ],
)
def test_when_two_names_are_one_commits(tag: str, said: str, same: bool) -> None:
    assert same_commit(tag, said) is same


# --- a hotfix -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "hotfix"), [(("--service", "admin"), True), ((), False)])
def test_for_a_hotfix_a_lost_server_is_a_warning_and_for_a_release_a_refusal(
    ops: Operator, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], hotfix: bool
) -> None:
    lost = Problem("honeydue-3 is not Ready", "its console")

    def check(asked: Asked) -> list[Check]:
        outcome: Literal["warning", "failed"] = "warning" if asked.hotfix else "failed"
        return [Check(name="cluster", outcome=outcome, said=lost.what, problems=(lost,))]

    monkeypatch.setattr("ops.preflight.check", check)
    assert ops("deploy", *words, "--yes") == (0 if hotfix else 1)
    if hotfix:
        ops.says("warning cluster", "warning: honeydue-3 is not Ready", "deployed 237c6b8")
    else:
        ops.says("failed cluster", "error: honeydue-3 is not Ready")


# --- ended from outside -------------------------------------------------------------------------


@ENDS
def test_whoever_is_ended_at_the_question_leaves_everything_as_it_was(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch, ends: signal.Signals
) -> None:
    """`kill`, or the laptop's terminal is closed, or the connection to it breaks."""
    before = signal.getsignal(ends)

    def asked(_question: str) -> str:
        assert production.images == {s: pin(s, "1a2b3c4") for s in ("api", "worker")}
        os.kill(os.getpid(), ends)
        raise AssertionError("it went on")

    monkeypatch.setattr("builtins.input", asked)
    assert ops("deploy", "--service", "admin", types="y") == 128 + ends
    assert (production.images, production.tags) == ({}, OLD)
    ops.says("nothing was changed")
    assert not production.objects["leases"]
    assert signal.getsignal(ends) is before


@ENDS
def test_whoever_is_ended_in_the_preview_leaves_everything_as_it_was(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch, ends: signal.Signals
) -> None:
    monkeypatch.setattr("ops.plan.read", lambda *_, **__: os.kill(os.getpid(), ends))
    assert ops("deploy", "--service", "admin", "--yes") == 128 + ends
    assert (production.images, production.tags) == ({}, OLD)
    ops.says("nothing was changed")


def test_a_second_signal_does_not_stop_what_goes_back(
    ops: Operator, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closes a terminal sends more than one."""

    unset = FakeEngine.unset

    def again(engine: FakeEngine, key: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        unset(engine, key)

    def asked(_question: str) -> str:
        monkeypatch.setattr(FakeEngine, "unset", again)
        os.kill(os.getpid(), signal.SIGHUP)
        raise AssertionError("it went on")

    monkeypatch.setattr("builtins.input", asked)
    assert ops("deploy", "--service", "admin", types="y") == 129
    assert production.images == {}
    ops.says("nothing was changed")


def test_with_nohup_a_terminal_that_is_closed_ends_nothing(
    ops: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(_question: str) -> str:
        os.kill(os.getpid(), signal.SIGHUP)
        return "n"

    monkeypatch.setattr("builtins.input", asked)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ops("deploy", types="y") == 1
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
