"""Where the seconds of `ops deploy` go, by what it prints; and a history of a hundred runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.deploy import fill, spans

SAID = [
    (0.1, "deploy de8c207 of api (rehearsal)"),
    (2.0, "  ok      passphrase   0.5 s  it opens the stack's secrets"),
    (3.0, "  skipped images       0.0 s  all are built"),
    (7.0, "api     rolls if its image differs  419565a 9fe15b1e6446 → de8c207 (built by up)"),
    (7.5, "api: untouched, 3 of 3 ready"),
    (8.0, "Updating (rehearsal)"),
    (9.0, "~ docker-build:Image  images-api  updated (10.6 s)"),
    (20.0, "api: 3 of 3 ready, converged"),
    (21.0, "3 updated, 2 replaced, 4 deleted, 125 unchanged   (51.3 s)"),
    (24.0, "URL                                    Status  Latency  Version"),
    (25.0, "deployed de8c207 as release 9 in 1 min 3 s"),
]


def test_the_verb_s_own_phases_are_read_from_what_it_prints() -> None:
    assert spans(SAID) == pytest.approx({"preflight": 3.0, "plan": 4.5, "URL check": 3.0})


def test_a_verb_that_prints_something_else_is_not_measured_wrongly() -> None:
    with pytest.raises(SystemExit, match="what its phases are read by"):
        spans(SAID[:-2])


def test_a_history_is_filled_with_older_copies_of_its_own_runs(tmp_path: Path) -> None:
    for at in (1_795_000_000, 1_795_000_100):
        name = f"rehearsal-{at * 10**9}"
        (tmp_path / f"{name}.history.json").write_text(json.dumps({"startTime": at}))
        (tmp_path / f"{name}.checkpoint.json").write_text(json.dumps({"of": at}))
    fill(tmp_path)
    records = sorted(tmp_path.glob("*.history.json"))
    assert len(records) == 100
    assert len(list(tmp_path.glob("*.checkpoint.json"))) == 100
    starts = [json.loads(each.read_text())["startTime"] for each in records]
    assert starts == sorted(starts)
    assert starts[-2:] == [1_795_000_000, 1_795_000_100]
