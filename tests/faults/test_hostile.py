"""Hostile stack files end quickly, in little memory, with an error that names what is wrong."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.faults.hostile import HARMLESS, HOSTILE, MEMORY, SECONDS, Hostile
from tests.rehearsal.operator import STACK_FILE, Operator


@dataclass
class Desk:
    operator: Operator
    good: str

    def preview(self, stack: bytes) -> tuple[int, str, float]:
        """Exit code, what was printed, and the processor seconds that it took."""
        (self.operator.checkout / STACK_FILE).write_bytes(stack)

        def bounded() -> None:
            resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY, 2 * MEMORY))

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "rehearsal", "preview"],
            cwd=self.operator.checkout, env=self.operator.environment, capture_output=True,
            timeout=600, check=False, preexec_fn=bounded,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace"), seconds


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    operator = Operator.in_folder(tmp_path_factory.mktemp("desk"))
    one = Desk(operator, (operator.checkout / STACK_FILE).read_text())
    operator.must("preview")  # the stand-ins are served from here on, and modules compiled
    yield one
    operator.run("down")


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_stack_file_is_refused_quickly_and_by_name(desk: Desk, hostile: Hostile) -> None:
    code, said, seconds = desk.preview(hostile.make(desk.good))
    assert code == 1, said[-2000:]
    for word in hostile.says:
        assert word in said, said[-2000:]
    assert "Traceback" not in said
    assert "MemoryError" not in said
    assert len(said) < 20_000
    assert not any(ord(c) < 32 and c not in "\n\t" for c in said)
    assert seconds < SECONDS


@pytest.mark.parametrize("name", HARMLESS)
def test_what_editors_add_is_no_error(desk: Desk, name: str) -> None:
    make: Callable[[str], bytes] = HARMLESS[name]
    code, said, _ = desk.preview(make(desk.good))
    assert code == 0, said[-2000:]
