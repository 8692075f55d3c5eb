"""Resource options, explicit providers, invokes, hooks and targets."""

from __future__ import annotations

import threading

from rehearsal.engine.events import Event, ResourceProgress
from rehearsal.engine.provider import UNKNOWN
from tests.engine.conftest import STACK, Lab, urn

ONE = 'Thing("a", value="one", opts=opts({}))'


def test_a_protected_resource_is_not_deleted_and_nothing_else_is_either(lab: Lab) -> None:
    lab.up(ONE.format("protect=True") + '\nThing("b", opts=opts())')
    result = lab.preview("")
    assert result.errors[0].startswith(
        f'{urn("a")}: resource "{urn("a")}" cannot be deleted\nbecause it is protected.'
    )
    assert not lab.run("up").ok
    assert lab.calls == []
    assert not lab.run("destroy").ok
    assert lab.calls == []
    assert {"a", "b", "fake"} <= set(lab.names)


def test_retain_on_delete_leaves_it_at_the_vendor(lab: Lab) -> None:
    lab.up(ONE.format("retain_on_delete=True"))
    assert lab.up("").changes == {"same": 2, "delete": 1}
    assert lab.calls == []
    assert lab.vendor.ids("a") == ["id-1"]


def test_what_goes_with_its_owner_is_not_deleted_by_itself(lab: Lab) -> None:
    lab.up('a = Thing("a", opts=opts())\nThing("b", opts=opts(deleted_with=a))')
    lab.run("destroy")
    assert lab.calls == ["delete a"]
    assert lab.state == []


def test_an_alias_keeps_a_renamed_resource(lab: Lab) -> None:
    lab.up('a = Thing("a", opts=opts())\nThing("b", value=a.computed, opts=opts())')
    new = 'a = Thing("new", opts=opts(aliases=[pulumi.Alias(name="a")]))\n'
    result = lab.up(new + 'Thing("b", value=a.computed, opts=opts())')
    assert result.changes == {"same": 4}
    assert lab.in_state("b")["dependencies"] == [urn("new")]


def test_an_alias_by_urn_and_by_parent_work_too(lab: Lab) -> None:
    lab.up('Thing("a", opts=opts())\nThing("c", opts=opts())')
    changed = f"""
    box = Box("box")
    Thing("a", opts=opts(parent=box, aliases=[pulumi.Alias(parent=pulumi.ROOT_STACK_RESOURCE)]))
    Thing("c2", opts=opts(aliases=["{urn("c")}"]))
    """
    assert lab.up(changed).changes == {"same": 4, "create": 1}


def test_a_renamed_component_keeps_its_children(lab: Lab) -> None:
    lab.up('box = Box("box")\nThing("box-a", opts=opts(parent=box))')
    new = 'box = Box("crate", Opts(aliases=[pulumi.Alias(name="box")]))\n'
    assert lab.up(new + 'Thing("crate-a", opts=opts(parent=box))').changes == {"same": 4}


def test_a_failed_run_with_an_alias_leaves_a_sound_state(lab: Lab) -> None:
    lab.up('a = Thing("a", opts=opts())\nThing("b", value=a.computed, opts=opts())')
    new = 'a = Thing("new", opts=opts(aliases=[pulumi.Alias(name="a")]))\n'
    lab.run("up", new + 'Thing("b", value=a.computed, boom="no", opts=opts())')
    assert lab.in_state("b")["dependencies"] == [urn("new")]
    assert lab.up(new + 'Thing("b", value=a.computed, opts=opts())').changes == {"same": 4}


def test_custom_timeouts_reach_the_provider_in_seconds_and_the_state(lab: Lab) -> None:
    lab.up(ONE.format('custom_timeouts=pulumi.CustomTimeouts(create="1h30m", delete="90s")'))
    assert lab.in_state("a")["customTimeouts"] == {"create": 5400, "delete": 90}


def test_progress_is_shown_under_its_resource(lab: Lab) -> None:
    lab.up(ONE.format(""))
    assert ResourceProgress(urn("a"), "making it") in lab.events


def test_a_forgotten_provider_is_an_error_when_default_ones_are_disabled(lab: Lab) -> None:
    lab.project_config = 'config:\n  pulumi:disable-default-providers:\n    value: ["*"]\n'
    result = lab.preview('Thing("a")')
    assert result.errors == (
        f"Default provider for 'fake' disabled. '{urn('a')}' must use an explicit provider.",
    )


def test_a_changed_provider_is_updated_and_its_resources_stay(lab: Lab) -> None:
    source = 'other = Provider("other", {}="{}")\nThing("a", opts=opts(provider=other))'
    lab.up(source.format("token", "good"))
    id_ = lab.in_state("other")["id"]
    assert lab.up(source.format("token", "better")).changes == {"same": 3, "update": 1}
    assert lab.in_state("other")["id"] == id_
    assert lab.in_state("a")["provider"].endswith(f"::{id_}")


def test_a_replaced_provider_replaces_what_it_made_with_the_old_one_deleting(lab: Lab) -> None:
    source = 'other = Provider("other", cluster="{}")\nThing("a", opts=opts(provider=other))'
    lab.up(source.format("one"))
    assert lab.preview(source.format("two")).changes == {"same": 2, "replace": 2}
    lab.vendor.configured.clear()
    lab.up()
    assert lab.calls == ["create a", "delete a"]
    assert {"cluster": "one"} in lab.vendor.configured
    assert lab.preview().changes == {"same": 4}


def test_a_provider_that_refuses_its_configuration_stops_only_its_own_resources(lab: Lab) -> None:
    result = lab.run(
        "up",
        'bad = Provider("bad", token="bad")\n'
        'a = Thing("a", opts=opts(provider=bad))\nThing("b", opts=opts())\n'
        'pulumi.export("answer", echo("x", bad))',
    )
    assert result.errors == ("the token is not valid",)
    assert lab.calls == ["create b"]


def test_an_invoke_answers_and_is_unknown_while_its_argument_is(lab: Lab) -> None:
    source = """
    pulumi.export("now", echo("hi", fake))
    a = Thing("a", value="v", opts=opts())
    pulumi.export("later", echo(a.computed, fake))
    """
    assert lab.preview(source).outputs == {"now": "echo hi", "later": UNKNOWN}
    assert lab.up().outputs == {"now": "echo hi", "later": "echo computed-id-1"}


def test_a_failing_invoke_ends_the_program_with_its_cause(lab: Lab) -> None:
    result = lab.preview(
        'pulumi.runtime.invoke("fake:index:no", {}, pulumi.InvokeOptions(provider=fake))'
    )
    assert "invoke of fake:index:no failed: unknown function fake:index:no" in result.errors[0]


HOOK = """
def guard(args):
    raise Exception("only 1 of 3 members is healthy")

hook = pulumi.ResourceHook("quorum", guard, opts=pulumi.ResourceHookOptions(on_dry_run={}))
Thing("a", value="{}", opts=opts(hooks=pulumi.ResourceHookBinding({}=[hook])))
"""


def test_a_before_hook_that_raises_stops_the_step(lab: Lab) -> None:
    lab.up(HOOK.format(True, "one", "before_update"))
    result = lab.preview(HOOK.format(True, "two", "before_update"))
    assert 'before hook "quorum" failed: only 1 of 3 members is healthy' in result.errors[0]
    assert lab.preview(HOOK.format(False, "two", "before_update")).ok
    assert not lab.run("up").ok
    assert lab.calls == []


def test_an_after_hook_that_raises_is_a_warning(lab: Lab) -> None:
    lab.up(HOOK.format(False, "one", "after_create"))
    assert lab.calls == ["create a"]
    assert 'after hook "quorum" failed' in lab.diagnostics("warning")[0]


def test_a_delete_hook_runs_while_the_program_is_still_there(lab: Lab) -> None:
    lab.up(HOOK.format(False, "one", "before_delete"))
    only_hook = HOOK.split("Thing", maxsplit=1)[0].format(False)
    result = lab.run("up", only_hook)
    assert "only 1 of 3" in result.errors[0]
    assert "a" in lab.names
    assert "has delete hooks" in lab.run("destroy").errors[0]


def test_targets_leave_everything_else_as_it_is(lab: Lab) -> None:
    source = 'for n in "ab": Thing(n, value="{}", opts=opts())\nThing("{}", opts=opts())'
    lab.up(source.format("one", "old"))
    result = lab.up(source.format("two", "new"), targets=[urn("a")])
    assert lab.calls == ["update a"]
    assert result.changes == {"same": 3, "update": 1}
    assert lab.in_state("b")["inputs"]["value"] == "one"
    assert "old" in lab.names
    assert "new" not in lab.names


def test_a_target_that_does_not_exist_is_an_error(lab: Lab) -> None:
    result = lab.preview(ONE.format(""), targets=[urn("z")])
    assert result.errors == (f"--target: the stack has no resource {urn('z')}",)


def test_a_targeted_destroy_refuses_to_orphan_dependents(lab: Lab) -> None:
    lab.up('a = Thing("a", opts=opts())\nThing("b", value=a.computed, opts=opts())')
    result = lab.run("destroy", targets=[urn("a")])
    assert result.errors == (f"cannot delete {urn('a')}: {urn('b')} depends on it; target both",)
    assert lab.run("destroy", targets=[urn("a"), urn("b")]).ok
    assert STACK in {r["urn"] for r in lab.state}
    assert lab.vendor.things == {}


def test_ctrl_c_finishes_what_has_begun_and_starts_nothing_else(lab: Lab) -> None:
    cancelled = threading.Event()

    def interrupt(event: Event) -> None:
        if isinstance(event, ResourceProgress):
            cancelled.set()

    lab.listener = interrupt
    source = 'a = Thing("a", opts=opts())\nThing("b", value=a.computed, opts=opts())'
    result = lab.run("up", source, cancelled=cancelled)
    assert not result.ok
    assert lab.calls == ["create a"]
    assert lab.in_state("a")["id"] == "id-1"
    lab.listener = None
    assert lab.up().changes == {"same": 3, "create": 1}
