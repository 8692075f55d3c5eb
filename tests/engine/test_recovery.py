"""Lost answers: what was under way is settled before anything else, whatever the next run is."""

from __future__ import annotations

import pytest

from rehearsal.engine.provider import ProviderError
from tests.engine.conftest import Lab, urn

ONE = 'Thing("a", value="1", name="a", opts=opts())'
TWO = ONE.replace('"1"', '"2"')


def lose(lab: Lab, operation: str, verb: str, source: str) -> None:
    """The change is made, and the connection breaks before the answer."""

    def broken(done: str, _name: str, _id: str) -> None:
        if done == operation:
            raise ProviderError("the connection broke", lost=True)

    lab.vendor.on_done = broken
    result = lab.run(verb, source)
    assert [e.rpartition(": ")[2] for e in result.errors] == ["the connection broke"]
    lab.vendor.on_done = lambda *_: None
    (pending,) = lab.deployment().export()["deployment"]["pending_operations"]
    assert pending["resource"]["urn"] == urn("a")


def test_a_lost_create_is_found_and_completed(lab: Lab) -> None:
    lose(lab, "create", "up", ONE)
    assert lab.preview().changes == {"same": 2, "update": 1}
    assert lab.diagnostics("warning") == [
        f"resource {urn('a')} was being created when the last run ended: "
        "it was made (id id-1), and is in the state now; `up` completes it"
    ]
    lab.up()
    assert lab.calls == ["find a", "update a"]
    assert lab.vendor.ids("a") == [lab.in_state("a")["id"]] == ["id-1"]
    assert lab.preview().changes == {"same": 3}


@pytest.mark.parametrize("verb", ["up", "destroy"])
def test_a_lost_create_that_is_not_wanted_any_more_is_deleted(lab: Lab, verb: str) -> None:
    lose(lab, "create", "up", ONE)
    lab.run(verb, "")
    assert lab.calls == ["find a", "delete a"]
    assert lab.vendor.things == {}


def test_a_lost_create_that_made_nothing_is_made(lab: Lab) -> None:
    lose(lab, "create", "up", ONE)
    lab.vendor.things.clear()
    lab.up()
    assert lab.diagnostics("warning")[0].endswith("when the last run ended: nothing was made")
    assert lab.calls == ["find a", "create a"]


def test_a_lost_replacement_is_found_and_its_predecessor_goes(lab: Lab) -> None:
    lab.up(ONE)
    lose(lab, "create", "up", ONE.replace('"a", opts', '"new", opts'))
    assert lab.vendor.ids("a") == ["id-1", "id-2"]
    lab.up()
    assert lab.calls == ["find a", "update a", "delete a"]
    assert lab.vendor.ids("a") == [lab.in_state("a")["id"]] == ["id-2"]


def test_a_lost_update_is_made_again_even_when_the_program_has_gone_back(lab: Lab) -> None:
    lab.up(ONE)
    lose(lab, "update", "up", TWO)
    assert lab.vendor.things["id-1"]["value"] == "2"
    lab.up(ONE)
    assert lab.vendor.things["id-1"]["value"] == "1"
    assert lab.preview().changes == {"same": 3}


def test_a_lost_delete_is_made_again_when_the_program_has_gone_back(lab: Lab) -> None:
    lab.up(ONE)
    lose(lab, "delete", "up", "")
    lab.up(ONE)
    assert lab.vendor.ids("a") == [lab.in_state("a")["id"]] == ["id-2"]
    assert lab.preview().changes == {"same": 3}


def test_a_lost_delete_that_was_not_made_is_told_and_made(lab: Lab) -> None:
    lab.up(ONE)
    thing = dict(lab.vendor.things["id-1"])
    lose(lab, "delete", "up", "")
    lab.vendor.things["id-1"] = thing
    lab.up("")
    assert lab.diagnostics("warning")[0].endswith(
        "was being deleted when the last run ended: it is still there"
    )
    assert lab.vendor.things == {}


@pytest.mark.parametrize("verb", ["preview", "up", "refresh", "destroy"])
def test_what_cannot_be_looked_up_is_left_alone_and_stays_known(lab: Lab, verb: str) -> None:
    lose(lab, "create", "up", ONE)

    def down(operation: str, _name: str) -> None:
        if operation == "find":
            raise ProviderError("the vendor does not answer")

    lab.vendor.on_call = down
    result = lab.run(verb, ONE + '\nThing("b", opts=opts())')
    (error,) = result.errors
    assert error.startswith(
        f"resource {urn('a')} was being created when the last run ended, and what became of it "
        "cannot be found out: the vendor does not answer. It is left alone until a run can tell"
    )
    assert [call for call in lab.calls if call.endswith(" a")] == ["find a"]
    lab.vendor.on_call = lambda *_: None
    lab.up(ONE)
    assert lab.vendor.ids("a") == [lab.in_state("a")["id"]] == ["id-1"]


def test_what_failed_may_still_need_the_old_half_of_a_replacement(lab: Lab) -> None:
    source = 'a = Thing("a", name="{}", opts=opts())\nb = Thing("b", value=a.computed, opts=opts())'
    lab.up(source.format("1"))

    def refuse(operation: str, name: str) -> None:
        if (operation, name) == ("update", "b"):
            raise ProviderError("refused")

    lab.vendor.on_call = refuse
    assert not lab.run("up", source.format("2")).ok
    assert lab.calls == ["create a", "update b"]
    lab.vendor.on_call = lambda *_: None
    lab.up()
    assert lab.calls == ["update b", "delete a"]
