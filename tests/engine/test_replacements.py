"""Replace in both orders, what forces it, and what it takes along."""

from __future__ import annotations

import pytest

from rehearsal.engine.steps import ignore_changes
from tests.engine.conftest import Lab, urn

CREATE_FIRST = """
a = Thing("a", name="{}", value="x", opts=opts())
b = Thing("b", value=a.computed, opts=opts())
"""
DELETE_FIRST = """
a = Thing("a", name="{}", value="x", opts=opts(delete_before_replace=True))
b = Thing("b", {}=a.computed, opts=opts())
c = Thing("c", value="c", opts=opts(depends_on=[a]))
"""


def test_the_successor_is_made_before_the_old_one_is_deleted(lab: Lab) -> None:
    lab.up(CREATE_FIRST.format("one"))
    lab.program(CREATE_FIRST.format("two"))
    assert lab.preview().changes == {"same": 2, "replace": 1, "update": 1}
    assert lab.pre("a").replace_reasons == ("name",)
    assert lab.pre("a").diff[0].replaces
    assert lab.vendor.calls == []
    lab.up()
    assert lab.calls == ["create a", "update b", "delete a"]
    assert lab.ops("a") == ["create-replacement", "replace", "delete-replaced"]
    assert lab.names.count("a") == 1
    assert lab.preview().changes == {"same": 4}


def test_an_old_half_that_could_not_be_deleted_is_deleted_by_the_next_up(lab: Lab) -> None:
    lab.up(CREATE_FIRST.format("one"))
    lab.vendor.delete_fails = {"a"}
    assert not lab.run("up", CREATE_FIRST.format("two")).ok
    assert [r.get("delete", False) for r in lab.state if r["urn"] == urn("a")] == [False, True]
    lab.vendor.delete_fails = set()
    lab.up()
    assert lab.calls == ["delete a"]
    assert lab.vendor.ids("a") == ["id-3"]


def test_delete_before_replace_takes_along_only_what_would_be_replaced(lab: Lab) -> None:
    """b's `name` comes from a, so b cannot outlive it; c only waits for a."""
    lab.up(DELETE_FIRST.format("one", "name"))
    lab.program(DELETE_FIRST.format("two", "name"))
    assert lab.preview().changes == {"same": 3, "replace": 2}
    lab.up()
    assert lab.calls == ["delete b", "delete a", "create a", "create b"]
    assert lab.preview().changes == {"same": 5}


def test_a_dependent_that_can_be_updated_stays(lab: Lab) -> None:
    lab.up(DELETE_FIRST.format("one", "value"))
    lab.up(DELETE_FIRST.format("two", "value"))
    assert lab.calls == ["delete a", "create a", "update b"]


def test_a_delete_first_replacement_interrupted_after_the_delete_goes_on(lab: Lab) -> None:
    lab.up(DELETE_FIRST.format("one", "name"))
    broken = DELETE_FIRST.format("two", "name").replace('value="x"', 'value="x", boom="sold out"')
    assert not lab.run("up", broken).ok
    assert lab.in_state("a")["pendingReplacement"] is True
    assert lab.vendor.ids("a") == []
    lab.up(DELETE_FIRST.format("two", "name"))
    assert lab.calls == ["create a", "create b"]
    assert lab.preview().changes == {"same": 5}


def test_what_was_deleted_for_a_successor_that_is_no_longer_wanted_is_forgotten(lab: Lab) -> None:
    lab.up('Thing("a", name="one", opts=opts(delete_before_replace=True))')
    lab.run("up", 'Thing("a", name="two", boom="no", opts=opts(delete_before_replace=True))')
    lab.up("")
    assert lab.calls == []
    assert "a" not in lab.names


def test_a_protected_dependent_stops_a_delete_first_replacement(lab: Lab) -> None:
    source = DELETE_FIRST.replace("opts=opts())", "opts=opts(protect=True))")
    lab.up(source.format("one", "name"))
    result = lab.preview(source.format("two", "name"))
    assert (
        f'unable to replace resource "{urn("b")}" as part of replacing "{urn("a")}"'
        in (result.errors[0])
    )


def test_a_protected_resource_is_not_replaced_unless_unprotected_in_this_update(lab: Lab) -> None:
    source = 'Thing("a", name="{}", opts=opts(protect={}))'
    lab.up(source.format("one", True))
    result = lab.preview(source.format("two", True))
    assert result.errors[0].startswith(f'{urn("a")}: unable to replace resource "{urn("a")}"')
    assert lab.pre("a").op == "replace"
    assert lab.preview(source.format("two", False)).ok
    lab.up()
    assert lab.calls == ["create a", "delete a"]


def test_replace_on_changes_turns_an_update_into_a_replacement(lab: Lab) -> None:
    source = 'Thing("a", labels={{"generation": "{}", "x": "{}"}}, opts=opts({}))'
    option = 'replace_on_changes=["labels.generation"]'
    lab.up(source.format(1, 1, option))
    assert lab.preview(source.format(1, 2, option)).changes == {"same": 2, "update": 1}
    assert lab.preview(source.format(2, 1, option)).changes == {"same": 2, "replace": 1}
    assert lab.preview(source.format(2, 1, "")).changes == {"same": 2, "update": 1}


def test_a_replacement_trigger_replaces_when_its_recorded_value_changes(lab: Lab) -> None:
    source = 'Thing("a", opts=opts({}))'
    lab.up(source.format(""))
    assert lab.up(source.format("replacement_trigger=1")).changes == {"same": 3}
    assert lab.up(source.format("replacement_trigger=1")).changes == {"same": 3}
    assert lab.up(source.format("replacement_trigger=2")).changes == {"same": 2, "replace": 1}
    assert lab.pre("a").replace_reasons == ("replacement trigger",)
    assert lab.up(source.format("")).changes == {"same": 3}


def test_ignored_changes_are_kept_from_an_update_but_sent_on_a_replacement(lab: Lab) -> None:
    source = 'Thing("a", name="{}", value="{}", opts=opts(ignore_changes=["value"]))'
    lab.up(source.format("one", "old"))
    assert lab.up(source.format("one", "new")).changes == {"same": 3}
    assert lab.in_state("a")["inputs"]["value"] == "old"
    lab.up(source.format("two", "new"))
    assert lab.vendor.seen_inputs["a"]["value"] == "new"


def test_defaults_survive_updates_and_are_made_anew_by_a_replacement(lab: Lab) -> None:
    source = 'Thing("a", name="{}", value="{}", opts=opts())'
    lab.up(source.format("one", 1))
    lab.up(source.format("one", 2))
    assert lab.in_state("a")["inputs"]["defaulted"] == "default-0"
    lab.up(source.format("two", 2))
    assert lab.in_state("a")["inputs"]["defaulted"] == "default-1"


@pytest.mark.parametrize(
    ("pattern", "old", "new", "expected"),
    [
        ("a", {"a": 1}, {"a": 2}, {"a": 1}),
        ("a", {}, {"a": 2}, {}),
        ("a", {"a": 1}, {}, {"a": 1}),
        ("a.b", {"a": {"b": 1, "c": 1}}, {"a": {"b": 2, "c": 2}}, {"a": {"b": 1, "c": 2}}),
        ("a[0].b", {"a": [{"b": 1}]}, {"a": [{"b": 2}, {"b": 3}]}, {"a": [{"b": 1}, {"b": 3}]}),
        ("a[*].b", {"a": [{"b": 1}]}, {"a": [{"b": 2}, {"b": 3}]}, {"a": [{"b": 1}, {"b": 3}]}),
        ("a.*", {"a": {"b": 1}}, {"a": {"b": 2, "c": 3}}, {"a": {"b": 1}}),
        ('a["b.c"]', {"a": {"b.c": 1}}, {"a": {"b.c": 2}}, {"a": {"b.c": 1}}),
        ("a.b", {}, {"a": {"b": 2, "c": 2}}, {"a": {"c": 2}}),
        ("a.b", {"a": {"b": 1}}, {}, {}),
    ],
)
def test_ignored_paths_take_the_old_value(
    pattern: str, old: dict[str, object], new: dict[str, object], expected: dict[str, object]
) -> None:
    assert ignore_changes([pattern], old, new) == expected
