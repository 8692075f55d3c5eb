"""`ops deploy`: which images shall run, and what ends it from outside."""

from __future__ import annotations

import os
import signal

import pytest

from honeydue.images.references import SERVICES
from tests.ops.production import FakeEngine, Operator, Production, ops, pin, production

__all__ = ["ops", "production"]  # the fixtures

OLD = dict.fromkeys(SERVICES, "1a2b3c4")
ENDS = pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGHUP])


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
