"""Faults of Hetzner and Cloudflare at each request by which the program changes something there.

A sample, in which each request meets a fault and each fault some requests; `make faults` runs
every pair and writes docs/faults.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.lab import lab
from tests.faults.matrix import Bench, Case, sample, trial


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    with lab(folder) as one:
        yield Bench(one, folder / "kept")


@pytest.mark.parametrize("case", [*sample()], ids=lambda case: case.name)
def test_a_fault_is_told_loses_nothing_and_is_over_with_the_next_run(
    bench: Bench, case: Case
) -> None:
    outcome = trial(bench, case)
    assert outcome.problems == []
