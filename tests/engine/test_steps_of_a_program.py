"""Same, create, update, delete: what a program's changes come to."""

from __future__ import annotations

import threading

from rehearsal.engine.provider import UNKNOWN
from tests.engine.conftest import Lab, urn

TWO = """
a = Thing("a", value="one", opts=opts())
b = Thing("b", value=a.computed, opts=opts())
pulumi.export("of_b", b.upper)
"""


def test_a_first_up_creates_in_dependency_order_and_a_second_changes_nothing(lab: Lab) -> None:
    assert lab.preview(TWO).changes == {"create": 4}
    assert lab.calls == []
    result = lab.up()
    assert lab.calls == ["create a", "create b"]
    assert result.outputs == {"of_b": "COMPUTED-ID-1"}
    assert lab.preview().changes == {"same": 4}
    assert lab.up().changes == {"same": 4}
    assert lab.calls == []


def test_outputs_of_a_resource_to_be_created_are_unknown_in_a_preview(lab: Lab) -> None:
    lab.preview(TWO)
    new = lab.pre("b").new
    assert new is not None
    assert new.inputs["value"] is UNKNOWN


def test_a_changed_input_updates_and_its_dependents_see_the_prediction(lab: Lab) -> None:
    source = """
    a = Thing("a", value="{}", opts=opts())
    b = Thing("b", value=a.upper, opts=opts())
    """
    lab.up(source.format("one"))
    lab.program(source.format("two"))
    assert lab.preview().changes == {"same": 2, "update": 2}
    (change,) = lab.pre("b").diff
    assert (change.path, change.old, change.new) == ("value", "ONE", "TWO")
    lab.up()
    assert lab.calls == ["update a", "update b"]


def test_what_the_program_no_longer_declares_is_deleted_dependents_first(lab: Lab) -> None:
    lab.up(TWO)
    assert lab.preview("").changes == {"same": 2, "delete": 2}
    lab.up()
    assert lab.calls == ["delete b", "delete a"]
    assert lab.vendor.things == {}
    assert lab.names == ["shop-dev", "fake"]


def test_a_program_that_dies_deletes_nothing_and_shows_its_own_lines(lab: Lab) -> None:
    lab.up(TWO)
    result = lab.run("up", 'Thing("a", value="one", opts=opts())\nraise ValueError("no good")')
    assert not result.ok
    assert lab.calls == []
    (message,) = lab.diagnostics("error")
    assert message.startswith("Program failed with an unhandled exception:")
    assert message.endswith("ValueError: no good")
    assert "runpy" not in message
    assert "b" in lab.names


def test_a_run_error_is_shown_without_traceback(lab: Lab) -> None:
    lab.run("up", 'raise pulumi.RunError("set honeydue:dns first")')
    assert lab.diagnostics("error") == ["set honeydue:dns first"]


def test_a_failing_resource_stops_its_dependents_only(lab: Lab) -> None:
    result = lab.run(
        "up",
        """
        a = Thing("a", boom="the vendor said no", opts=opts())
        b = Thing("b", value=a.computed, opts=opts())
        c = Thing("c", opts=opts(depends_on=[b]))
        d = Thing("d", value="free", opts=opts())
        e = Thing("e", value=d.upper, opts=opts())
        pulumi.export("of_e", e.upper)
        """,
    )
    assert not result.ok
    assert sorted(lab.calls) == ["create a", "create d", "create e"]
    assert lab.failures == {"a": "the vendor said no"}
    assert result.errors == (f"{urn('a')}: the vendor said no",)
    assert result.outputs["of_e"] == "FREE"


def test_nothing_is_deleted_after_a_failure(lab: Lab) -> None:
    lab.up('Thing("old", opts=opts())')
    lab.run("up", 'Thing("a", boom="no", opts=opts())')
    assert lab.calls == ["create a"]
    assert "old" in lab.names


def test_a_wrong_input_is_refused_with_resource_and_property(lab: Lab) -> None:
    result = lab.preview('Thing("a", colour="red", opts=opts())')
    assert result.errors == (
        "fake:index:Thing resource 'a' has a problem:\n  a.colour: unknown property",
    )


def test_a_duplicate_urn_ends_the_run(lab: Lab) -> None:
    result = lab.preview('Thing("a", opts=opts())\nThing("a", opts=opts())')
    assert result.errors == (f"Duplicate resource URN '{urn('a')}'; try giving it a unique name",)


def test_a_resource_made_but_not_ready_is_kept_and_updated_next_time(lab: Lab) -> None:
    result = lab.run("up", 'Thing("a", half="not ready", opts=opts())')
    assert not result.ok
    assert lab.in_state("a")["initErrors"] == ["not ready"]
    assert lab.in_state("a")["id"] == "id-1"
    lab.up()
    assert lab.calls == ["update a"]
    assert "initErrors" not in lab.in_state("a")


def test_a_defect_in_a_provider_leaves_the_operation_pending(lab: Lab) -> None:
    lab.run("up", 'Thing("a", explodes=True, opts=opts())')
    assert lab.failures == {"a": "RuntimeError: a defect"}
    lab.up('Thing("a", opts=opts())')
    (warning,) = lab.diagnostics("warning")
    assert warning.startswith(f"resource {urn('a')} was being created when the last run ended")
    assert "pending_operations" not in lab.deployment().export()["deployment"]


def test_parallel_bounds_the_steps_at_work(lab: Lab) -> None:
    three = threading.Barrier(3, timeout=60)  # seconds; nobody goes on before there are three

    def meet(_operation: str, _name: str) -> None:
        three.wait()

    lab.vendor.on_call = meet
    lab.up("for i in range(9): Thing(f't{i}', opts=opts())", parallel=3)
    assert lab.vendor.most_at_work == 3


def test_components_nest_their_children_in_urn_and_state(lab: Lab) -> None:
    lab.up('box = Box("box")\nThing("a", opts=opts(parent=box))\nbox.register_outputs({"x": 1})')
    child = lab.in_state("a")
    assert child["urn"] == urn("a", "test:index:Box$fake:index:Thing")
    assert child["parent"] == urn("box", "test:index:Box")
    assert lab.in_state("box")["outputs"] == {"x": 1}
    assert lab.preview().changes == {"same": 4}


def test_a_component_is_not_given_its_last_outputs(lab: Lab) -> None:
    """What it declares may have another shape than what it registers."""
    source = """
    class Typed(pulumi.ComponentResource):
        nodes: tuple[str, ...]

        def __init__(self, name):
            super().__init__("test:index:Typed", name)
            self.nodes = ("a", "b")
            self.register_outputs({"nodes": {"a": 1}})

    Typed("typed")
    """
    lab.up(source)
    assert lab.in_state("typed")["outputs"] == {"nodes": {"a": 1}}
    assert lab.up(source).changes == {"same": 3}
    assert lab.in_state("typed")["outputs"] == {"nodes": {"a": 1}}


def test_a_child_inherits_protection_from_its_parent(lab: Lab) -> None:
    lab.up(
        'box = Box("box", Opts(protect=True))\nThing("a", opts=opts(parent=box))\n'
        'Thing("b", opts=opts(parent=box, protect=False))'
    )
    assert lab.in_state("a")["protect"] is True
    assert "protect" not in lab.in_state("b")


def test_get_reads_and_never_deletes(lab: Lab) -> None:
    lab.vendor.things["id-9"] = {"value": "theirs", "logical": "x"}
    source = 'x = Thing("x", opts=opts(id="id-9"))\npulumi.export("value", x.upper)'
    result = lab.up(source)
    assert result.outputs == {"value": "THEIRS"}
    assert lab.in_state("x")["external"] is True
    lab.up("")
    assert "id-9" in lab.vendor.things
    assert "x" not in lab.names


def test_getting_what_does_not_exist_fails(lab: Lab) -> None:
    lab.run("up", 'Thing("x", opts=opts(id="id-404"))')
    assert lab.failures == {"x": "resource 'id-404' does not exist"}
