"""Random stacks, random edits and random faults: what must hold of every run of the engine.

The vendor has unique names, as real ones have: a create whose name is taken is refused. So what the
engine has forgotten, or would make twice, fails at once.

Every run is checked while it goes (what a resource needs is there when it is made, and nothing that
stays refers to what is deleted) and the stack afterwards: one `up` without a fault converges,
whatever came before it; then the state is the world, and the next run is empty.

CI runs some examples, always the same. A long hunt:
    HYPOTHESIS_PROFILE=long .venv/bin/python -m pytest tests/engine/test_properties.py
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from rehearsal.engine.deployment import Deployment, Project, Result
from rehearsal.engine.provider import Context, Properties, ProviderError
from rehearsal.engine.state import Backend, Unsaved
from rehearsal.engine.wal import Entry
from tests.engine.conftest import Lab
from tests.engine.fake import Vendor, outputs_of

settings.register_profile(
    "ci",
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("long", settings.get_profile("ci"), max_examples=1000, derandomize=False)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# --- stacks ---------------------------------------------------------------------------------------

NAMES = [f"r{i}" for i in range(7)]
# Replaced delete-first, with one name for good; the others get a new name and are made first.
FIXED = frozenset(NAMES[::2])


@dataclass(frozen=True)
class Thing:
    """One resource of a program. Those that it names stand before it."""

    value: int
    generation: int  # a change replaces
    uses: tuple[str, ...]  # whose outputs are in its inputs
    after: tuple[str, ...]  # dependsOn
    tied: bool  # cannot outlive the first that it uses: its id is in what cannot be changed
    boxed: bool  # a child of the component
    second: bool  # of the second provider
    protect: bool
    retain: bool
    ignore: bool  # ignoreChanges of `value`

    @property
    def needs(self) -> frozenset[str]:
        return frozenset((*self.uses, *self.after))


Program = Mapping[str, Thing]


def source(program: Program) -> str:
    lines = ['other = Provider("other", token="good")', 'box = Box("box")']
    for name, thing in program.items():
        # The vendor's unique name is what stands before the slash. Whatever gives a resource
        # another URN or provider gives it another name, as a careful program does.
        unique = name + "-box" * thing.boxed
        if name not in FIXED:
            unique += f"-{thing.generation}-{int(thing.second)}"
        unique += "-kept" * thing.retain
        tie = f"{thing.uses[0]}.computed" if is_tied(name, thing) else '""'
        options = {
            "provider": "other" if thing.second else "fake",
            "parent": "box" if thing.boxed else "None",
            "depends_on": f"[{', '.join(thing.after)}]",
            "protect": thing.protect,
            "retain_on_delete": thing.retain,
            "delete_before_replace": name in FIXED or "None",
            "ignore_changes": ["value"] if thing.ignore else [],
        }
        told = ", ".join(f"{key}={value}" for key, value in options.items())
        used = ", ".join(f"{u}.computed" for u in thing.uses)
        lines.append(
            f'{name} = Thing("{name}", value={thing.value}, items=[{used}], '
            f'name=pulumi.Output.concat("{unique}/{thing.generation}/", {tie}), opts=Opts({told}))'
        )
    return "\n".join(lines) + "\n"


def is_tied(name: str, thing: Thing) -> bool:
    return thing.tied and name in FIXED and bool(thing.uses)


@st.composite
def things(draw: st.DrawFn, earlier: Sequence[str], step: int) -> Thing:
    few = st.lists(st.sampled_from(earlier), max_size=2, unique=True) if earlier else st.just([])
    rarely = st.sampled_from([False, False, False, True])
    return Thing(
        value=draw(st.integers(0, 2)),
        generation=step,
        uses=tuple(draw(few)),
        after=tuple(draw(few)),
        tied=draw(st.booleans()),
        boxed=draw(st.booleans()),
        second=draw(rarely),
        protect=draw(rarely),
        retain=draw(rarely),
        ignore=draw(rarely),
    )


@st.composite
def programs(draw: st.DrawFn) -> Program:
    chosen = [name for name in NAMES if draw(st.booleans())]
    return {name: draw(things(chosen[:at], 0)) for at, name in enumerate(chosen)}


@st.composite
def edited(draw: st.DrawFn, program: Program, step: int) -> Program:
    """Some resources go, some come, some change a little and some altogether."""
    result: dict[str, Thing] = {}
    for name in NAMES:
        thing = program.get(name)
        kinds = ["keep", "keep", "value", "replace", "anew", "remove"]
        edit = draw(st.sampled_from(kinds if thing else ["keep", "keep", "anew"]))
        if edit == "anew":
            result[name] = draw(things(list(result), step))
        elif thing and edit != "remove":
            result[name] = dataclasses.replace(
                thing,
                value=thing.value + (edit == "value"),
                generation=step if edit == "replace" else thing.generation,
                uses=tuple(u for u in thing.uses if u in result),
                after=tuple(a for a in thing.after if a in result),
            )
    return result


# --- faults ---------------------------------------------------------------------------------------

FAULTS = {
    "refused": "the vendor refuses, and makes no change",
    "lost": "the connection breaks after the change was made",
    "half": "it was made, and is not ready",
    "defect": "the provider raises what it should not, before the change",
    "killed": "nothing that the run does after a save happens any more",
    "disk full": "neither this save nor any later one succeeds",
}


AT_SAVES = ("killed", "disk full")


@dataclass(frozen=True)
class Fault:
    """At the n-th call that changes something, or the n-th save of the state."""

    kind: str
    at: int


class World(Vendor):
    """The vendor. It keeps the rules of a vendor, and notes where the engine breaks its own."""

    def __init__(self) -> None:
        super().__init__()
        self.violations: list[str] = []
        self.on_call, self.on_done = self._before, self._after
        self.begin({}, None)

    def begin(self, program: Program, fault: Fault | None) -> None:
        self.program, self.fault = program, fault
        self.changes = self.saves = 0
        self.killed = False

    def _due(self, *kinds: str) -> bool:
        fault = self.fault
        return fault is not None and fault.kind in kinds and self.changes == fault.at + 1

    def _before(self, operation: str, _name: str) -> None:
        if self.killed:
            raise ProviderError("this process is dead", lost=True)
        if operation in {"create", "update", "delete"}:
            self.changes += 1
            if self._due("refused"):
                raise ProviderError("refused")
            if self._due("defect"):
                raise RuntimeError("a defect")

    def _after(self, operation: str, name: str, id_: str) -> None:
        if operation == "delete":
            self._check_delete(name, id_)
        if self._due("lost"):
            raise ProviderError("the connection broke", lost=True)
        if self._due("half") and operation != "delete":
            inputs = {k: v for k, v in self.things[id_].items() if k != "logical"}
            raise ProviderError("not ready", id=id_, outputs=outputs_of(id_, inputs))

    def made(self, ctx: Context, inputs: Properties) -> tuple[str, Properties]:
        unique = unique_name(inputs)
        if not unique.endswith("-kept") and unique in map(unique_name, self.things.values()):
            raise ProviderError(f"uniqueness_error: {unique}")
        logical = ctx.urn.rpartition("::")[2]
        there = {thing["logical"] for thing in self.things.values()}
        ids = {f"computed-{id_}" for id_ in self.things}
        if missing := (self.program[logical].needs - there) | (set(inputs["items"]) - ids):
            self.violations.append(f"{logical} was made before {missing}")
        return super().made(ctx, inputs)

    def _check_delete(self, name: str, id_: str) -> None:
        """A delete-first replacement leaves alone what can be given the successor's outputs."""
        replaced = name in self.program and name in FIXED
        for other in self.things.values():
            if unique_name(other).endswith("-kept"):
                continue
            tied = other["name"].endswith(f"/computed-{id_}")
            if tied or (f"computed-{id_}" in other["items"] and not replaced):
                self.violations.append(f"{name} was deleted before {other['logical']}")


def unique_name(thing: Properties) -> str:
    return str(thing["name"]).partition("/")[0]


@dataclass(frozen=True)
class Folder(Backend):
    world: World

    def save(self, project: str, stack: str, deployment: dict[str, Any]) -> None:
        if self._alive():
            super().save(project, stack, deployment)

    def note(self, project: str, stack: str, entry: Entry) -> None:
        if self._alive():
            super().note(project, stack, entry)

    def record(self, *arguments: Any) -> None:
        if not self.world.killed:
            super().record(*arguments)

    def _alive(self) -> bool:
        world, fault = self.world, self.world.fault
        world.saves += 1
        due = fault is not None and world.saves > fault.at
        if fault is not None and due and fault.kind == "disk full":
            raise Unsaved("cannot save the state")
        if fault is not None and due and fault.kind == "killed":
            world.killed = True
        return not world.killed


# --- one stack ------------------------------------------------------------------------------------


class Stack:
    def __init__(self, folder: Path) -> None:
        self.world = World()
        self.lab = Lab(folder, vendor=self.world)

    def deployment(self) -> Deployment:
        folder = self.lab.folder
        backend = Folder(folder / "state", self.world)
        project = Project.load(folder / "project")
        return Deployment(project, "dev", backend, load_provider=self.world.load, parallel=4)

    def run(self, verb: str, program: Program, fault: Fault | None = None) -> Result | None:
        """None: the run ended with an error of its own (the disk was full to its end)."""
        self.lab.program(source(program))
        self.world.begin(program, fault)
        self.world.forget_calls()
        try:
            result: Result | None = getattr(self.deployment(), verb)(lambda _event: None)
        except Unsaved:
            result = None
        self.world.begin({}, None)
        note(f"{verb} {fault or ''}: {result and (result.changes, result.errors)}")
        note(f"  calls: {self.world.calls}")
        assert self.world.violations == []
        return result

    def unprotect(self) -> None:
        """`pulumi state unprotect --all`, by way of export and import."""
        if not self.lab.backend.path("shop", "dev").exists():
            return  # no run has reached its first save
        exported = self.deployment().export()
        for resource in exported["deployment"]["resources"]:
            resource.pop("protect", None)
        self.deployment().import_(exported)

    def check_state_is_world(self, program: Program) -> None:
        exported = self.deployment().export()["deployment"]
        assert "pending_operations" not in exported
        in_state = {r["id"]: r for r in exported["resources"] if r["type"] == "fake:index:Thing"}
        assert sorted(r["urn"].rpartition("::")[2] for r in in_state.values()) == sorted(program)
        kept = {i for i, t in self.world.things.items() if unique_name(t).endswith("-kept")}
        orphaned = [self.world.things[i] for i in self.world.things.keys() - in_state.keys() - kept]
        assert orphaned == []
        assert in_state.keys() <= self.world.things.keys()
        for id_, resource in in_state.items():
            real = {k: v for k, v in self.world.things[id_].items() if k != "logical"}
            assert resource["inputs"] == real
            assert resource["outputs"] == outputs_of(id_, real)
            thing = program[resource["urn"].rpartition("::")[2]]
            assert real["value"] == thing.value or thing.ignore
            assert "initErrors" not in resource
            assert "delete" not in resource


Chapter = tuple[str, Program, Fault | None]


@st.composite
def stories(draw: st.DrawFn, kind: str) -> list[Chapter]:
    """Runs of one stack, each with its program: the first makes it, the last must converge."""
    fault = st.builds(Fault, st.just(kind), st.integers(0, 14 if kind in AT_SAVES else 7))
    first = draw(programs())
    story: list[Chapter] = [("up", first, draw(st.one_of(st.none(), fault)))]
    for step in range(1, draw(st.integers(2, 4))):
        verb = draw(st.sampled_from(["up", "up", "up", "up", "destroy", "refresh"]))
        program = draw(edited(story[-1][1], step))
        story.append((verb, program, draw(fault)))
    back = {  # to the first program; a name that was given up is not used again
        name: thing if name in FIXED else dataclasses.replace(thing, generation=9)
        for name, thing in first.items()
    }
    story.append(("up", draw(st.sampled_from([story[-1][1], back])), None))
    return story


@pytest.mark.parametrize("kind", FAULTS)
@settings(PROFILE)
@given(data=st.data())
def test_whatever_happened_one_up_converges_and_the_next_is_empty(
    kind: str, data: st.DataObject
) -> None:
    story = data.draw(stories(kind))
    # Nobody pulls the plug here, and waiting for the disk would be most of the test's time.
    with tempfile.TemporaryDirectory() as folder, mock.patch("os.fsync"):
        stack = Stack(Path(folder))
        for verb, program, fault in story[:-1]:
            note(source(program))
            result = stack.run(verb, program, fault)
            event(
                f"{verb} with {fault.kind if fault else 'no fault'}: {bool(result and result.ok)}"
            )
        stack.unprotect()
        final = story[-1][1]
        note(source(final))
        converged = stack.run("up", final)
        assert converged is not None
        assert converged.ok, converged.errors
        stack.check_state_is_world(final)

        again = stack.run("up", final)
        assert again is not None
        assert again.changes.keys() <= {"same"}
        assert stack.world.calls == []
        stack.check_state_is_world(final)

        stack.unprotect()
        gone = stack.run("destroy", final)
        assert gone is not None
        assert gone.ok, gone.errors
        left = [t for t in stack.world.things.values() if not unique_name(t).endswith("-kept")]
        assert left == []
