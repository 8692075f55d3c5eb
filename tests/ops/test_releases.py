"""`ops releases`: what was released, how it ended, and what can be brought back."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honeydue import application
from honeydue.images.references import SERVICES
from ops.cli import main
from ops.engine import Engine, Run, resources_of
from ops.problems import Refused, refused
from ops.releases import (
    Release,
    barrier,
    current,
    find,
    images_gone,
    last_good,
    obstacle,
    releases,
)
from ops.releases_screen import states, told
from tests.ops.past import (
    ENVIRONMENT,
    REPOSITORY,
    Json,
    Past,
    all_of,
    config_map,
    deploy,
    image,
    resources,
    rollback,
    run,
    secret,
)
from tests.ops.world import World, world

A, B, C, D = (resources(all_of(tag)) for tag in ("aaaaaaa", "bbbbbbb", "ccccccc", "ddddddd"))


def past(*lefts: list[Json] | tuple[list[Json] | Exception, dict[str, Any]]) -> list[Run]:
    """Newest first; `lefts`: oldest first, what each run left, and how it ended."""
    runs = []
    for number, left in enumerate(lefts, start=1):
        what, more = left if isinstance(left, tuple) else (left, {})
        runs.append(run(number, what, **more))
    return runs[::-1]


def outcomes(found: list[Release]) -> list[tuple[int, str]]:
    return [(each.number, each.outcome) for each in found]


FAILED = {"result": "failed"}


# --- what is a release --------------------------------------------------------------------------


def test_a_run_that_changed_what_runs_is_a_release_and_any_other_is_not() -> None:
    dns_only = (A, {"message": "Point www elsewhere"})
    refreshed = (D, {"kind": "refresh"})  # somebody used kubectl; the next `up` takes it back
    found = releases(past(A, dns_only, refreshed, A, (B, {"message": deploy("bbbbbbb")})))
    assert outcomes(found) == [(5, "succeeded"), (1, "succeeded")]


def test_what_a_release_had_is_read_from_what_its_run_left() -> None:
    message = deploy("aaaaaaa", Point_of_no_return="drops the column users.email")
    (found,) = releases(past((A, {"message": message})))
    assert found.services["api"].tag == "aaaaaaa"
    assert found.services["api"].digest == image("api", all_of("aaaaaaa"))
    assert found.services["api"].reference == f"{REPOSITORY}api@{found.services['api'].digest}"
    assert found.services["api"].pin == f"aaaaaaa@{found.services['api'].digest}"
    assert found.config_maps == {service: config_map(service) for service in SERVICES}
    assert re.fullmatch("[0-9a-f]{8}", found.configuration)
    assert found.secrets == {"api": secret("first"), "worker": secret("first")}
    assert found.point_of_no_return == "drops the column users.email"
    assert found.by == "trey@laptop"
    assert (found.ended - found.at).total_seconds() == 95
    assert str(found) == "1 (aaaaaaa)"


def test_the_environment_of_a_release_is_the_whole_env_file_again() -> None:
    (found,) = releases(past(A))
    assert found.environment == ENVIRONMENT


def test_half_of_a_release_has_the_environment_of_its_api() -> None:
    """The old ConfigMap of worker is still in the state, marked to be deleted."""
    changed = ENVIRONMENT | {"DB_HOST": "other.vendor.net"}
    new, old = resources(all_of("bbbbbbb"), environment=changed), A
    half = [
        *(each for each in new if not _is_deployment(each, "worker")),
        *(each for each in old if _is_deployment(each, "worker")),
        *({**each, "delete": True} for each in old if each.get("type", "").endswith("ConfigMap")),
    ]
    found = releases(past(A, (half, FAILED)))[0]
    assert found.environment["DB_HOST"] == "other.vendor.net"
    assert found.config_maps["worker"] == config_map("worker")
    assert found.states == {"api": "rolled", "worker": "as before", "admin": "rolled"}


def _is_deployment(each: Json, service: str) -> bool:
    return bool(
        each.get("type", "").endswith("Deployment")
        and each["inputs"]["metadata"]["name"] == service
    )


def test_an_environment_that_the_state_does_not_have_whole_is_not_known() -> None:
    (found,) = releases(past([each for each in A if "ConfigMap" not in each.get("type", "")]))
    assert found.environment == {}
    hidden = json.loads(json.dumps(A))
    for each in hidden:
        if each.get("type", "").endswith("ConfigMap"):
            each["inputs"]["data"] = {"4dabf18193072939515e22adb298388d": "1b47", "ciphertext": "x"}
    (found,) = releases(past(hidden))
    assert found.environment == {}


def test_settings_alone_make_a_release_and_a_secret_alone_too() -> None:
    changed = resources(
        all_of("aaaaaaa"),
        environment=ENVIRONMENT | {"ALLOWED_HOSTS": "api.example.org"},
    )
    rotated = resources(all_of("aaaaaaa"), secrets="second")
    third, second, first = releases(past(A, changed, rotated))
    assert second.states == {"api": "rolled", "worker": "as before", "admin": "as before"}
    assert second.configuration != first.configuration == third.configuration
    assert third.states == {"api": "rolled", "worker": "rolled", "admin": "as before"}


def test_a_destroy_is_no_release_and_what_comes_after_it_is() -> None:
    found = releases(past(A, ([], {"kind": "destroy"}), A))
    assert outcomes(found) == [(3, "succeeded"), (1, "succeeded")]


def test_after_a_destroy_nothing_runs_and_what_ran_can_come_back() -> None:
    found = releases(
        past(A, B, ([], {"kind": "destroy"}), ([], {**FAILED, "message": deploy("b")}))
    )
    assert outcomes(found) == [(4, "failed"), (2, "succeeded"), (1, "succeeded")]
    assert current(found) is None
    assert obstacle(found, found[1], {}) == ""


def test_a_failed_release_says_what_state_each_service_is_in() -> None:
    left = resources(all_of("bbbbbbb", worker="aaaaaaa"), faulty={"admin"})
    found = releases(past(A, (left, FAILED)))[0]
    assert found.outcome == "failed"
    assert found.states == {"api": "rolled", "worker": "as before", "admin": "failed"}
    assert states(found) == "admin did not become ready, api rolled, worker as before"
    assert found.reached


def test_a_deploy_that_failed_before_anything_rolled_is_listed_and_is_not_what_runs() -> None:
    found = releases(past(A, (A, {**FAILED, "message": deploy("bbbbbbb")})))
    assert outcomes(found) == [(2, "failed"), (1, "succeeded")]
    assert states(found[0]) == "nothing rolled"
    assert current(found) is found[1]


def test_a_failed_run_of_others_that_rolled_nothing_is_no_release() -> None:
    assert outcomes(releases(past(A, (A, FAILED)))) == [(1, "succeeded")]


def test_the_run_that_brings_a_failed_release_to_its_end_is_the_release_that_went_well() -> None:
    """Run again after a failure, `up` leaves what the failed one left, ready this time."""
    half = resources(all_of("bbbbbbb"), faulty={"admin"})
    found = releases(past(A, (half, FAILED), (half, FAILED), B))
    assert outcomes(found) == [(4, "succeeded"), (2, "failed"), (1, "succeeded")]
    assert last_good(found) is found[0]
    assert current(found) is found[0]
    assert set(found[0].states.values()) == {"rolled"}


def test_after_a_killed_deploy_which_leaves_no_record_the_next_run_is_the_release() -> None:
    """It changed nothing by itself; but before it, as far as the history knows, another one ran."""
    found = releases(past(A, (B, {"resourceChanges": {"same": 173}})))
    assert outcomes(found) == [(2, "succeeded"), (1, "succeeded")]


def test_a_release_that_was_taken_back_says_by_which_run_and_why() -> None:
    back = rollback(1, "aaaaaaa", back=2, because="the URL check failed")
    third, second, first = releases(
        past((A, {"message": deploy("aaaaaaa")}), B, (A, {"message": back}))
    )
    assert (first.outcome, second.outcome, third.outcome) == (
        "succeeded",
        "rolled back",
        "succeeded",
    )
    assert (second.rolled_back_by, second.rolled_back_because) == (3, "the URL check failed")
    assert (third.rolls_back, third.because) == (2, "the URL check failed")


def test_a_rollback_that_failed_took_nothing_back_but_nobody_calls_it_good_any_more() -> None:
    back = rollback(1, "aaaaaaa", back=2, because="the URL check failed")
    found = releases(past(A, B, (B, {**FAILED, "message": back})))
    assert outcomes(found) == [(3, "failed"), (2, "succeeded"), (1, "succeeded")]
    assert told(found[0]) == "failed: nothing rolled; was to take 2 back"
    assert told(found[1]) == "succeeded; rollback 3 of it failed"
    assert current(found) is found[1]
    assert last_good(found) is found[2]
    once_more = releases(past(A, B, (B, {**FAILED, "message": back}), (A, {"message": back})))
    assert told(once_more[2]) == "rolled back by 4: the URL check failed"


def test_what_is_under_way_is_listed_without_reading_what_it_left() -> None:
    under_way = {"result": "in-progress", "message": deploy("bbbbbbb")}
    found = releases(past(A, (refused("not yet", "wait"), under_way)))
    assert outcomes(found) == [(2, "running"), (1, "succeeded")]
    assert current(found) is found[1]


def test_a_state_that_cannot_be_read_hides_none_of_the_others() -> None:
    found = releases(past(A, (refused("it is cut off", "bring it back"), {}), B, A))
    assert outcomes(found) == [
        (4, "succeeded"),
        (3, "succeeded"),
        (2, "unreadable"),
        (1, "succeeded"),
    ]
    assert last_good(found, before=found[1]) is found[3]


def test_no_more_of_the_past_is_read_than_is_shown() -> None:
    runs = (
        run(number, resources(all_of(f"{number:07x}")) if number > 80 else AssertionError())
        for number in range(100, 0, -1)
    )
    assert [each.number for each in releases(runs, limit=3)] == [100, 99, 98]


@pytest.mark.parametrize(
    ("message", "environment", "by"),
    [
        (deploy("aaaaaaa"), {"git.author": "Ann"}, "trey@laptop"),
        ("Add a column", {"git.author": "Ann"}, "Ann (commit)"),
        ("", {}, "?"),
    ],
)
def test_who_it_was_is_told_as_far_as_it_is_known(
    message: str, environment: dict[str, str], by: str
) -> None:
    (found,) = releases(past((A, {"message": message, "environment": environment})))
    assert found.by == by


# --- the last good one, points of no return -----------------------------------------------------


def test_before_a_failed_release_the_last_good_one_is_the_newest_that_succeeded() -> None:
    found = releases(past(A, B, (C, FAILED)))
    assert last_good(found, before=found[0]) is found[1]


def test_one_that_runs_the_very_same_is_no_way_back() -> None:
    back = rollback(1, "aaaaaaa", back=2, because="it crashed")
    found = releases(
        past(D, A, B, (A, {"message": back.replace("Rolls-back: 2", "Rolls-back: 3")}))
    )
    assert outcomes(found)[:2] == [(4, "succeeded"), (3, "rolled back")]
    good = last_good(found, before=found[0])
    assert good is not None
    assert good.tags == {"ddddddd"}


def test_there_may_be_nothing_to_go_back_to() -> None:
    found = releases(past((A, FAILED)))
    assert last_good(found) is None
    assert last_good([]) is None
    assert current([]) is None


def test_a_point_of_no_return_lies_before_everything_that_is_older() -> None:
    point = deploy("bbbbbbb", Point_of_no_return="drops the column users.email")
    third, second, first = releases(past(A, (B, {"message": point}), C))
    assert barrier([third, second, first], first) is second
    assert barrier([third, second, first], second) is None
    assert obstacle([third, second, first], first, {}) == (
        "behind the point of no return (2: drops the column users.email)"
    )


def test_a_point_of_no_return_that_failed_counts_when_its_migration_may_have_run() -> None:
    point = deploy("bbbbbbb", Point_of_no_return="drops a table")
    half = resources(all_of("aaaaaaa", api="bbbbbbb"), faulty={"api"})
    found = releases(past(A, (half, {**FAILED, "message": point})))
    assert barrier(found, found[1]) is found[0]
    never_rolled = releases(past(A, (A, {**FAILED, "message": point})))
    assert barrier(never_rolled, never_rolled[1]) is None


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (5, "current"),
        (4, ""),
        (3, "no: it failed"),
        (2, "images gone: worker"),
        (1, "runs now, as 5"),
    ],
)
def test_of_every_release_it_is_told_whether_it_can_come_back(number: int, told: str) -> None:
    found = releases(past(A, B, (C, FAILED), D, A))
    lost = {"worker": [image("worker", all_of("bbbbbbb"))]}
    assert obstacle(found, found[5 - number], lost) == told


def test_without_a_word_from_the_registry_it_is_not_known() -> None:
    found = releases(past(A, B))
    assert obstacle(found, found[1], None) == "not known"
    assert obstacle(found, found[0], None) == "current"


def test_an_unfinished_first_deploy_is_nothing_to_go_back_to() -> None:
    api_alone = resources({"api": "aaaaaaa"})
    found = releases(past(api_alone, B))
    assert obstacle(found, found[1], {}) == "no: it had no worker and no admin"


def pasts() -> st.SearchStrategy[list[Run]]:
    """Random histories: deploys that go well, fail before, or fail half way; runs of others;
    rollbacks, of anything and to anything; refreshes, destroys; states that cannot be read."""
    return st.builds(_past, st.integers(1, 14), st.integers(0, 2**32))


def _past(count: int, seed: int) -> list[Run]:
    chance = Random(seed)
    runs: list[Run] = []
    now: list[Json] = []
    for number in range(1, count + 1):
        tag = chance.choice(("aaaaaaa", "bbbbbbb", "ccccccc", "ddddddd"))
        services = chance.sample(SERVICES, chance.randint(0, 3))
        result = chance.choice(("succeeded", "succeeded", "failed"))
        kind = chance.choices(("update", "refresh", "destroy"), (10, 1, 1))[0]
        message = chance.choice(
            (
                "",
                deploy(tag),
                deploy(tag, Point_of_no_return="drops a column"),
                rollback(1, tag, back=chance.randint(1, number), because="it failed"),
            )
        )
        if kind == "update":
            tags = {
                each["inputs"]["metadata"]["name"]: each["inputs"]["metadata"]["annotations"][
                    "honeydue.com/image-tag"
                ]
                for each in now
                if each.get("type", "").endswith("Deployment")
            }
            tags |= dict.fromkeys(SERVICES if result == "succeeded" else services, tag)
            now = resources(
                tags,
                secrets=chance.choice(("first", "second")),
                environment=ENVIRONMENT | {"DB_HOST": chance.choice(("a.net", "b.net"))},
                faulty=services[:1] if result == "failed" else (),
            )
        elif kind == "destroy":
            now = []
        left = refused("cut off", "mend") if chance.random() < 0.05 else now
        runs.append(run(number, left, message, kind=kind, result=result))
    return runs[::-1]


@given(pasts())
@settings(max_examples=150, deadline=None)
def test_the_last_good_release_succeeded_was_not_taken_back_and_is_older(runs: list[Run]) -> None:
    found = releases(runs)
    taken_back = {
        int(each.message.partition("Rolls-back: ")[2].split("\n")[0])
        for each in runs
        if "Rolls-back" in each.message and each.kind != "refresh"
    }
    succeeded = {each.number for each in runs if each.result == "succeeded"}
    for before in (None, *found):
        good = last_good(found, before=before)
        assert good is None or good.number in succeeded - taken_back
        if good is not None and before is not None:
            assert good.number < before.number
            assert not before.well or good.content != before.content


@given(pasts())
@settings(max_examples=150, deadline=None)
def test_releases_are_in_order_and_what_runs_is_what_the_last_readable_run_left(
    runs: list[Run],
) -> None:
    found = releases(runs)
    numbers = [each.number for each in found]
    assert numbers == sorted(set(numbers), reverse=True)
    last = next((r for r in runs if r.kind != "refresh" and _readable(r)), None)
    left = resources_of(last.checkpoint()) if last else []
    now, deployed = current(found), [each for each in left if each.get("type", "").endswith("ment")]
    assert (now is None) == (not deployed)
    if now is not None:
        assert {image.reference for image in now.services.values()} == {
            each["inputs"]["spec"]["template"]["spec"]["containers"][0]["image"]
            for each in deployed
        }
    for limit in range(len(found)):
        assert releases(runs, limit=limit) == found[:limit]


def _readable(of: Run) -> bool:
    try:
        of.checkpoint()
    except Refused:
        return False
    return True


# --- find ---------------------------------------------------------------------------------------


def test_a_release_is_found_by_number_by_short_name_and_by_the_whole_sha() -> None:
    found = releases(past(A, B, C))
    assert find(found, "2").number == find(found, "#2").number == 2
    assert find(found, "bbbbbbb").number == find(found, "BBBB").number == 2
    assert find(found, "bbbbbbb" + "0" * 33).number == find(found, "bbbbbbb0").number == 2


def test_git_may_have_given_one_commit_two_short_names() -> None:
    found = releases(past(resources(all_of("abcdef0")), A, resources(all_of("abcdef01"))))
    assert find(found, "abcdef01" + "2" * 32).number == 3
    assert find(found, "abcdef0").number == 1
    assert find(found, "abcdef012").number == 3
    both = releases(past(resources(all_of("abcdef0")), A, resources(all_of("abcdef012"))))
    assert find(both, "abcdef01").number == 3


def test_of_several_with_one_commit_the_newest_that_went_well_and_has_it_everywhere() -> None:
    mixed = resources(all_of("bbbbbbb", admin="aaaaaaa"))
    found = releases(past(A, B, A, mixed, (B, FAILED)))
    assert find(found, "bbbbbbb").number == 2
    assert find(found, "aaaaaaa").number == 3
    assert find(releases(past(A, mixed)), "bbbbbbb").number == 2


def test_a_commit_of_digits_alone_is_not_taken_for_a_number() -> None:
    digits = resources(all_of("1234567"))
    assert find(releases(past(digits)), "1234567").number == 1
    assert find(releases(past(digits)), "1").number == 1


def test_a_dirty_build_is_found_by_its_whole_name_and_hides_no_clean_one() -> None:
    dirty = resources(all_of("aaaaaaa-dirty-0123456789ab"))
    found = releases(past(A, dirty))
    assert find(found, "aaaaaaa").number == 1
    assert find(found, "aaaaaaa-dirty-0123456789ab").number == 2
    assert find(releases(past(dirty)), "aaaaaaa").number == 1
    with pytest.raises(Refused, match="no release ran aaaaaaa0"):
        find(releases(past(dirty)), "aaaaaaa0")
    longer = resources(all_of("aaaaaaa1"))
    assert find(releases(past(longer, dirty)), "aaaaaaa").number == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("9", "there is no release 9; there are releases 1 to 4, the nearest is 4"),
        (
            "2",
            "there is no release 2 (a run of that number changed nothing that runs); there are "
            "releases 1 to 4, the nearest is 1",
        ),
        (
            "abcdeff",
            "no release ran abcdeff; there are releases 1 to 4, the nearest: abcdef0 (release 4), "
            "abcdef1 (release 3), aaaaaaa (release 1)",
        ),
        ("abc", "no release ran abc; there are releases 1 to 4, the nearest: "),
        ("abcdef", "abcdef is the beginning of abcdef0 and of abcdef1"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(said: str, told: str) -> None:
    found = releases(past(A, A, resources(all_of("abcdef1")), resources(all_of("abcdef0"))))
    with pytest.raises(Refused) as refusal:
        find(found, said)
    assert refusal.value.problems[0].what.startswith(told)
    assert "python -m ops releases" in refusal.value.problems[0].mend


def test_of_one_release_there_is_no_nearest() -> None:
    with pytest.raises(Refused) as refusal:
        find(releases(past(A)), "99")
    assert refusal.value.problems[0].what == "there is no release 99; the only one is release 1"


def test_before_the_first_release_nothing_is_found() -> None:
    with pytest.raises(Refused, match="there is no release yet"):
        find([], "1")


# --- the verb -----------------------------------------------------------------------------------

Ops = Callable[..., tuple[int, str]]


@pytest.fixture
def prod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with world(tmp_path) as made:
        monkeypatch.setenv("PATH", str(made.pulumi.folder), prepend=os.pathsep)
        yield made


@pytest.fixture
def ops(prod: World, capsys: pytest.CaptureFixture[str]) -> Ops:
    """Runs a verb on `prod`: (exit code, what the operator read)."""

    def ran(*words: str) -> tuple[int, str]:
        code = main(list(words))
        printed = capsys.readouterr()
        read = printed.out + printed.err
        for canary in (prod.token, "v1:canary", ENVIRONMENT["DB_HOST"]):
            assert canary not in read
        return code, read

    return ran


def pushed(prod: World, tag: str, *services: str) -> dict[str, str]:
    """Service → digest of what was pushed."""
    return {
        service: prod.shelf.push(tag, image=f"honeydue-{service}")
        for service in services or SERVICES
    }


def lines(read: str) -> list[str]:
    """Without the spaces at the ends, and without how long ago."""
    return [re.sub(r", \d+ \w+ ago", ", … ago", line).rstrip() for line in read.splitlines()]


def test_the_list_says_of_every_release_what_it_was_how_it_ended_and_whether_it_can_come_back(
    prod: World, ops: Ops
) -> None:
    state = Past(prod.folder / "state")
    lost = {service: "sha256:" + 64 * "0" for service in SERVICES}
    some = pushed(prod, "1111111")
    state.add(resources(all_of("1111111"), digests=some | {"worker": lost["worker"]}))
    state.add(
        resources(all_of("2222222"), digests=(two := pushed(prod, "2222222"))),
        deploy("2222222"),
    )
    mixed = two | pushed(prod, "3333333", "api")
    point = deploy("3333333", Service="api", Point_of_no_return="drops users.email")
    state.add(resources(all_of("2222222", api="3333333"), digests=mixed), point)
    four = pushed(prod, "4444444")
    state.add(
        resources(all_of("4444444", worker="2222222"), digests=mixed | four, faulty={"admin"}),
        deploy("4444444"),
        result="failed",
    )
    state.add(
        resources(all_of("2222222", api="3333333"), digests=mixed, secrets="second"),
        rollback(3, "3333333", back=4, because="admin did not become ready"),
    )
    state.add(
        resources(all_of("2222222", api="3333333"), digests=mixed, secrets="second"),
        deploy("5555555"),
        result="failed",
    )
    code, read = ops("releases")
    assert code == 0
    configuration = releases(past(A))[0].configuration
    shown = "\n".join(lines(read)).replace(configuration, "<config>") + "\n"
    assert shown == (Path(__file__).parent / "golden" / "releases.txt").read_text()


def test_a_registry_that_does_not_answer_leaves_only_that_unknown(prod: World, ops: Ops) -> None:
    state = Past(prod.folder / "state")
    state.add(A, deploy("aaaaaaa"))
    state.add(B, deploy("bbbbbbb"))
    prod.server = "127.0.0.1:1"
    prod.say()
    code, read = ops("releases")
    assert code == 0
    _, newer, older, *_ = lines(read)
    assert newer.endswith("current")
    assert older.endswith("not known (registry does not answer)")
    assert "warning: 127.0.0.1:1 does not answer: whether the images are still there" in read
    told = json.loads(ops("releases", "--json")[1])["releases"][1]
    assert (told["canBeRolledBackTo"], told["whyNot"]) == (None, "registry does not answer")


def test_that_secrets_are_not_rolled_back_is_said_where_they_differ(prod: World, ops: Ops) -> None:
    state = Past(prod.folder / "state")
    digests = pushed(prod, "1111111")
    state.add(resources(all_of("1111111"), digests=digests, secrets="first"))
    state.add(resources(all_of("2222222"), digests=pushed(prod, "2222222"), secrets="second"))
    assert lines(ops("releases")[1])[-1].endswith("yes; secrets stay today's")


def test_on_a_narrow_terminal_the_digests_go_and_nothing_is_cut_off(
    prod: World, ops: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.cli._PLAIN_WIDTH", 100)
    Past(prod.folder / "state").add(A, deploy("aaaaaaa"))
    (head, row) = lines(ops("releases")[1])
    assert re.split(r"\s{2,}", head) == (
        ["No", "Tag", "Config", "When (UTC)", "By", "Outcome", "Rollback"]
    )
    assert re.split(r"\s{2,}", row)[:2] == ["1", "aaaaaaa"]
    assert row.endswith("current")


def test_a_wrong_token_leaves_only_that_unknown(prod: World, ops: Ops) -> None:
    state = Past(prod.folder / "state")
    state.add(A)
    state.add(B)
    prod.say(token="0" * 40)
    code, read = ops("releases")
    assert code == 0
    assert "not known (registry refuses the login)" in read


def test_a_wrong_passphrase_leaves_the_list_readable(prod: World, ops: Ops) -> None:
    state = Past(prod.folder / "state")
    state.add(A)
    state.add(B)
    prod.pulumi.answers(
        whoami={"url": f"file://{prod.folder / 'state'}"},
        config={"error": "incorrect passphrase"},
    )
    code, read = ops("releases")
    assert code == 0
    assert "not known (the stack's registry is not known)" in read
    assert "the passphrase does not open this stack's secrets" in read


def test_a_damaged_state_is_told_and_its_release_is_in_the_list(prod: World, ops: Ops) -> None:
    state = Past(prod.folder / "state")
    state.add(A)
    damaged = state.add(B)
    state.add(C)
    path = next((prod.folder / "state").rglob(f"prod-{damaged:019d}.checkpoint.json"))
    path.write_text("{")
    code, read = ops("releases")
    assert code == 0
    assert "its state cannot be read" in lines(read)[2]
    assert f"warning: 2: a past state of prod cannot be read: {path}" in read


def test_the_document_has_everything_and_no_value_of_the_settings(prod: World, ops: Ops) -> None:
    state = Past(prod.folder / "state")
    digests = pushed(prod, "1111111")
    state.add(resources(all_of("1111111"), digests=digests), deploy("1111111"))
    state.add(B, deploy("bbbbbbb"))
    told = json.loads(ops("releases", "--json")[1])
    assert (told["stack"], told["current"]) == ("prod", 2)
    first = told["releases"][1]
    assert first == {
        "number": 1,
        "outcome": "succeeded",
        "well": True,
        "message": "deploy 1111111",
        "by": "trey@laptop",
        "startedAt": "2026-11-20T03:00:00+00:00",
        "endedAt": "2026-11-20T03:01:35+00:00",
        "services": {
            service: {
                "tag": "1111111",
                "digest": digests[service],
                "reference": f"{REPOSITORY}{service}@{digests[service]}",
                "state": "rolled",
            }
            for service in SERVICES
        },
        "configuration": first["configuration"],
        "configMaps": {service: config_map(service) for service in SERVICES},
        "secrets": {"api": secret("first"), "worker": secret("first")},
        "pointOfNoReturn": None,
        "rollsBack": None,
        "because": None,
        "rolledBackBy": None,
        "rolledBackBecause": None,
        "canBeRolledBackTo": True,
        "whyNot": None,
    }
    assert json.loads(ops("releases", "--json", "--limit", "1")[1])["releases"][0]["number"] == 2


def test_each_image_is_asked_for_once(prod: World, ops: Ops) -> None:
    state = Past(prod.folder / "state")
    digests = pushed(prod, "1111111")
    for hosts in "abcdef":  # another ConfigMap of api each time, and the same images
        environment = ENVIRONMENT | {"ALLOWED_HOSTS": f"{hosts}.example.org"}
        state.add(resources(all_of("1111111"), digests=digests, environment=environment))
    prod.gitea.api.requests.clear()
    ops("releases")
    asked = [line for line in prod.gitea.api.requests if "/manifests/" in line]
    assert len(asked) == len(SERVICES)


def test_images_prune_keeps_what_every_listed_release_ran(prod: World, ops: Ops) -> None:
    """Also after a deploy that was killed, which left no record, and a refresh, which found it."""
    state = Past(prod.folder / "state")
    prod.shelf.age = 9
    digests = [pushed(prod, tag) for tag in ("1111111", "2222222", "3333333")]
    made = [resources(all_of("1111111"), digests=each) for each in digests]
    for left, kind in ((made[0], "update"), (made[1], "update"), (made[2], "refresh")):
        state.add(left, kind=kind)
    prod.shelf.age = 0
    assert ops("images", "prune", "--keep", "1", "--yes")[0] == 0
    assert all(prod.shelf.pull(digests[1][s], image=f"honeydue-{s}") for s in SERVICES)
    assert not prod.shelf.pull(digests[0]["api"])
    assert "images gone: api, worker, admin" in ops("releases")[1]


def test_a_hundred_runs_of_a_whole_production_are_read_in_a_moment(prod: World) -> None:
    """CPU time, since the machine may have other work; seventy of them are not even opened."""
    state = Past(prod.folder / "state")
    rest = [
        {"urn": f"urn:pulumi:prod::honeydue::{n}", "inputs": {str(i): "x" * 30 for i in range(60)}}
        for n in range(170)
    ]
    for number in range(100):
        state.add([*rest, *resources(all_of(f"{number:07x}"))])
    assert next(state.state.rglob("*.checkpoint.json")).stat().st_size > 400_000
    began = time.process_time()
    assert len(releases(Engine("pulumi", "prod").runs(), limit=30)) == 30
    assert time.process_time() - began < 1.0  # measured: 0.15


def test_a_stack_that_never_ran_has_no_releases(prod: World, ops: Ops) -> None:
    assert prod
    assert ops("releases") == (0, "nothing was released on prod yet\n")


def test_a_message_cannot_move_the_cursor(prod: World, ops: Ops) -> None:
    state = Past(prod.folder / "state")
    state.add(A, environment={"git.author": "\x1b[2J\x1b]0;owned\x07Eve"})
    assert "\x1b" not in ops("releases")[1]


def test_every_key_of_the_settings_is_read_by_somebody() -> None:
    """Or a rollback could not bring it back."""
    assert all(key.services for key in application.ENVIRONMENT)


def test_images_that_are_gone_are_those_of_this_release_only() -> None:
    (found,) = releases(past(A))
    assert images_gone(found, {"api": [image("api", all_of("bbbbbbb"))]}) == []
    assert images_gone(found, {"api": [image("api", all_of("aaaaaaa"))]}) == ["api"]
