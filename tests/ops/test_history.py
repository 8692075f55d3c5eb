"""`ops history`: who did what and when."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ops.cli import main
from tests.ops.past import BEGAN, Past, all_of, deploy, resources, rollback
from tests.ops.pulumi import Pulumi

Ops = Callable[..., tuple[int, str]]

A = resources(all_of("aaaaaaa"))


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pulumi:
    made = Pulumi(tmp_path / "bin").answers(whoami={"url": f"file://{tmp_path / 'state'}"})
    monkeypatch.setenv("PATH", str(made.folder), prepend=os.pathsep)
    return made


@pytest.fixture
def past(tmp_path: Path, pulumi: Pulumi) -> Past:
    assert pulumi
    (tmp_path / "state").mkdir()
    return Past(tmp_path / "state")


@pytest.fixture
def ops(capsys: pytest.CaptureFixture[str]) -> Ops:
    def ran(*words: str) -> tuple[int, str]:
        code = main(["history", *words, "--stack", "prod"])
        printed = capsys.readouterr()
        read = printed.out + printed.err
        assert "canary" not in read  # what the settings of every run hold
        return code, read

    return ran


def filled(past: Past) -> None:
    past.add(
        A,
        "First production",
        environment={"git.author": "Ann", "git.head": "c" * 40, "git.dirty": "true"},
        resourceChanges={"create": 173},
        endTime=int((BEGAN + timedelta(hours=1)).timestamp()),
    )
    past.add(A, kind="refresh", resourceChanges={"same": 173})
    past.add(A, deploy("bbbbbbb"), result="failed", resourceChanges={"same": 170, "update": 1})
    past.add(
        A,
        rollback(1, "aaaaaaa", back=3, because="api did not become ready"),
        resourceChanges={"same": 170, "update": 1, "replace": 1, "create": 2, "delete": 2},
    )


def test_every_run_is_told_with_who_what_when_and_how_it_ended(past: Past, ops: Ops) -> None:
    filled(past)
    past.add([], "Good night", kind="destroy", resourceChanges={"delete": 173})
    code, read = ops()
    assert code == 0
    shown = "".join(f"{line.rstrip()}\n" for line in read.splitlines())
    assert shown == (Path(__file__).parent / "golden" / "history.txt").read_text()


def test_a_limit_is_the_newest_and_says_that_there_are_more(past: Past, ops: Ops) -> None:
    filled(past)
    lines = ops("--limit", "2")[1].splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["4", "3"]
    assert lines[-1] == "older ones: --limit 4"
    assert "older ones" not in ops("--limit", "5")[1]


def test_the_export_is_whole_and_its_keys_are_a_contract(past: Past, ops: Ops) -> None:
    filled(past)
    for _ in range(40):
        past.add(A)
    code, read = ops("--json")
    told = json.loads(read)
    assert code == 0
    assert told["stack"] == "prod"
    assert [each["number"] for each in told["runs"]] == list(range(44, 0, -1))
    assert told["runs"][-1] == {
        "number": 1,
        "kind": "update",
        "result": "succeeded",
        "startedAt": "2026-11-20T03:00:00+00:00",
        "endedAt": "2026-11-20T04:00:00+00:00",
        "seconds": 3600.0,
        "by": "Ann (commit)",
        "message": "First production",
        "trailers": {},
        "changes": {"create": 173},
        "commit": "c" * 40,
        "dirty": True,
        "configKeys": ["honeydue:secrets"],
    }
    assert told["runs"][-4]["by"] == "trey@laptop"
    assert told["runs"][-4]["trailers"]["Because"] == "api did not become ready"
    assert told["runs"][-2]["by"] is told["runs"][-2]["commit"] is told["runs"][-2]["dirty"] is None
    assert set(map(frozenset, told["runs"])) == {frozenset(told["runs"][0])}


def test_what_is_under_way_has_no_end_yet(past: Past, ops: Ops) -> None:
    past.add(A, result="in-progress", endTime=0)
    (run,) = json.loads(ops("--json")[1])["runs"]
    assert (run["result"], run["endedAt"], run["seconds"]) == ("in-progress", None, None)
    assert "under way" in ops()[1]


def test_a_spreadsheet_gets_a_row_for_each_run_and_no_formula(past: Past, ops: Ops) -> None:
    filled(past)
    past.add(A, '=HYPERLINK("http://evil.test", "x")')
    code, read = ops("--csv")
    rows = list(csv.DictReader(io.StringIO(read)))
    assert code == 0
    assert [row["number"] for row in rows] == ["5", "4", "3", "2", "1"]
    assert rows[0]["message"] == '\'=HYPERLINK("http://evil.test", "x")'
    assert rows[1] == {
        "number": "4",
        "kind": "update",
        "result": "succeeded",
        "startedAt": "2026-11-20T06:00:00+00:00",
        "endedAt": "2026-11-20T06:01:35+00:00",
        "seconds": "95.0",
        "by": "trey@laptop",
        "created": "2",
        "updated": "1",
        "deleted": "2",
        "replaced": "1",
        "unchanged": "170",
        "commit": "",
        "dirty": "",
        "message": "rollback to 1 (aaaaaaa)",
    }


def test_one_form_at_a_time(past: Past, ops: Ops) -> None:
    assert past
    code, read = ops("--json", "--csv")
    assert code == 2
    assert "--json or --csv, not both" in read


def test_a_stack_that_never_ran_has_no_history(past: Past, ops: Ops) -> None:
    assert past
    assert ops() == (0, "nothing was ever run on prod\n")
    assert json.loads(ops("--json")[1]) == {"stack": "prod", "runs": []}


def test_no_state_is_read_for_it(past: Past, ops: Ops) -> None:
    filled(past)
    for path in past.state.rglob("*.checkpoint.json"):
        path.write_text("{")
    assert ops()[0] == 0


def test_a_record_that_cannot_be_read_is_named_and_hides_no_other(past: Past, ops: Ops) -> None:
    filled(past)
    before = json.loads(ops("--json")[1])["runs"]
    (path,) = past.state.rglob("*2.history.json")
    path.write_text("{")
    code, read = ops("--json")
    assert code == 0
    assert str(path) in read
    after = json.loads(read)["runs"]
    assert len(after) == len(before)
    assert [each["result"] for each in after].count("unreadable") == 1


def test_a_message_cannot_move_the_cursor_nor_pass_for_markup(past: Past, ops: Ops) -> None:
    past.add(A, "\x1b[2Jfine [red]x[/red]\n\nBy: \x1b]0;owned\x07Eve")
    read = ops()[1]
    assert "\x1b" not in read
    assert "[red]x[/red]" in read
    assert "\x1b" not in ops("--csv")[1]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0 s"), (59, "59 s"), (95, "1 min 35 s"), (7265, "2 h 01 min")]
)
def test_how_long_it_took_is_told_in_words(past: Past, ops: Ops, seconds: int, told: str) -> None:
    past.add(A, startTime=1_795_000_000, endTime=1_795_000_000 + seconds)
    assert f"  {told}  " in ops()[1]
