"""`ops config`: the application's environment, from the env file to the pods that read it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from honeydue import application, env_file
from honeydue.images.references import SERVICES
from ops import change, env_edit
from ops.change import How
from ops.cluster import configuration_objects
from ops.desired import Desired, Undo, apply
from ops.engine import Engine
from ops.problems import Misused, Problem, Refused, refused
from ops.rollout import DONE, Outcome
from ops.secret_values import SECRETS
from ops.stack_settings import (
    KEYS,
    StackSettings,
    content_of,
    refuse_all,
    rolling,
    what_rolls,
)
from ops.table import cells, table

_SECRETS = {key.name: key for key in application.SECRETS}
_ORDER = tuple(KEYS)


# Show


def show(engine: Engine, console: Console, key: str | None, *, as_json: bool) -> None:
    """The environment by the program's table, and of the secrets whether they are set."""
    stack = StackSettings.of(engine)
    if key is not None and key not in KEYS | _SECRETS:
        raise unknown(key, stack)
    values, given = stack.environment, stack.secrets
    environment = [
        {
            "key": each.name,
            "value": values.get(each.name),
            "meaning": each.meaning,
            "services": list(each.services),
            "required": each.required,
        }
        for each in application.ENVIRONMENT
        if key in (None, each.name)
    ]
    secrets = [
        {
            "key": each.name,
            "set": bool(given.get(each.name)),
            "meaning": each.meaning,
            "services": list(each.services),
            "required": each.required,
        }
        for each in application.SECRETS
        if key in (None, each.name)
    ]
    if as_json:
        shown = {
            "stack": engine.stack,
            "envFile": stack.env_name,
            "environment": environment,
            "secrets": secrets,
        }
        print(json.dumps(shown, indent=2))
        return
    _show_tables(stack, console, environment, secrets)


def _show_tables(
    stack: StackSettings,
    console: Console,
    environment: Sequence[Mapping[str, Any]],
    secrets: Sequence[Mapping[str, Any]],
) -> None:
    if environment:
        console.print(f"{stack.env_name} of the stack {stack.engine.stack}\n", markup=False)
        shown = table("Key", "Value", "Read by", "Meaning")
        for row in environment:
            by = _by(row["services"])
            shown.add_row(*cells(row["key"], row["value"], by, row["meaning"]))
        console.print(shown)
    if secrets:
        console.print("\nSecrets (encrypted in the stack's file)\n" if environment else "")
        shown = table("Key", "Set", "Read by", "Meaning")
        for row in secrets:
            given = "yes" if row["set"] else "MISSING" if row["required"] else "no"
            shown.add_row(*cells(row["key"], given, _by(row["services"]), row["meaning"]))
        console.print(shown)
    if wrong := stack.problems():
        console.print(f"\nThe program would refuse this ({len(wrong)}):", markup=False)
        for problem in wrong:
            console.print(f"  {problem}", markup=False, soft_wrap=True)


def _by(services: Sequence[str]) -> str:
    return ", ".join(services)


def unknown(key: str, stack: StackSettings) -> Refused:
    return refused(
        f"{key if key.isidentifier() else 'the key'} is no setting of the application",
        f"python -m ops config show --stack {stack.engine.stack} lists them",
    )


# Set, unset, import


def set_(engine: Engine, how: How, assignments: Sequence[str]) -> Outcome:
    """`assignments` are KEY=value. Nothing is written unless the whole is right."""
    values: dict[str, str] = {}
    for number, assignment in enumerate(assignments, start=1):
        key, equals, value = assignment.partition("=")
        # What is refused here is not repeated: it may be a secret, pasted into the wrong place.
        if not equals or not key:
            raise Misused(Problem(f"argument {number} is not KEY=value", "config set KEY=value"))
        if "\n" in value or "\r" in value:
            raise refused(f"{_name(key)} holds a line break", "one line: config set KEY=value")
        if key in SECRETS:
            raise refused(
                f"{key} is a secret, and stands in this shell's history now: take another one",
                f"python -m ops secret set {key}",
            )
        if key in values:
            raise Misused(Problem(f"{_name(key)} is given twice", "give it once"))
        values[key] = value
    stack = StackSettings.of(engine)
    text = _text(stack)
    fresh = env_edit.with_values(text, values, _ORDER).encode()
    return _change(stack, how, fresh, f"config set {' '.join(values)}")


def unset(engine: Engine, how: How, keys: Sequence[str]) -> Outcome:
    stack = StackSettings.of(engine)
    text = _text(stack)
    values, _ = env_file.read(stack.env or b"", stack.env_name)
    for number, key in enumerate(keys, start=1):
        if key not in (values or {}):
            named = key if key in KEYS | SECRETS else f"argument {number}, which is no setting,"
            raise refused(
                f"{named} does not stand in {stack.env_name}",
                f"python -m ops config show --stack {engine.stack} lists what does",
            )
    fresh = env_edit.without(text, keys).encode()
    return _change(stack, how, fresh, f"config unset {' '.join(keys)}")


def import_(engine: Engine, how: How, file: Path) -> Outcome:
    """`file` takes the env file's place, comments and all."""
    stack = StackSettings.of(engine)
    # What is wrong is mended in the file that was named; the stack's own is as good as it was.
    return _change(stack, how, content_of(file), f"config import {file.name}", named=str(file))


def _change(stack: StackSettings, how: How, fresh: bytes, doing: str, named: str = "") -> Outcome:
    """`named`: the file that `fresh` is from, where that is not the stack's own."""
    console = how.console
    then = dataclasses.replace(stack, env=fresh)
    _refuse_wrong(dataclasses.replace(then, env_name=named or stack.env_name))
    if stack.env is None:
        console.print(f"{stack.env_name} does not exist yet", markup=False)
    before, after = stack.environment, then.environment
    if fresh == stack.env:
        # An earlier run may have been killed before that came true.
        console.print(f"{stack.env_name} says that already", markup=False, soft_wrap=True)
    else:
        _show_changes(console, before, after)
        console.print(f"\n{what_rolls(rolling(before, after))}", markup=False)
    if how.dry_run:
        console.print("dry run: nothing was changed")
        return Outcome(code=DONE, ended="unchanged")

    def make() -> Undo:
        return apply(stack, dataclasses.replace(Desired.of(stack), env=fresh))

    console.print()
    return change.settings(stack.engine, how, doing, make)


def _refuse_wrong(stack: StackSettings) -> None:
    """What the program would refuse. The book's env files hold secrets too; here they have a verb
    of their own."""
    told = []
    for problem in stack.problems():
        key = problem.what.removeprefix(f"{stack.env_name}: ").split(" ")[0]
        mend = problem.mend
        if key in _SECRETS and "is a secret" in problem.what:
            mend = f"take {key} out of the file; python -m ops secret set {key}"
        told.append(Problem(problem.what, mend))
    refuse_all(told)


def _show_changes(console: Console, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    changed = [key for key in _ORDER if before.get(key) != after.get(key)]
    if not changed:
        console.print("only comments or the order of lines change")
        return
    shown = table("Key", "Now", "Then", "Read by")
    for key in changed:
        shown.add_row(*cells(key, before.get(key), after.get(key), _by(KEYS[key].services)))
    console.print(shown)


def _name(key: str) -> str:
    return key if key in KEYS else "a key"


def _text(stack: StackSettings) -> str:
    """The env file to edit; Refused when it cannot be."""
    if stack.env is None:
        refuse_all(stack.problems())
        raise refused(f"{stack.env_name} does not exist", "python -m ops config import FILE")
    try:
        return stack.env.decode()
    except UnicodeDecodeError:
        refuse_all(stack.problems())
        raise


# Diff


def diff(engine: Engine, console: Console, file: Path | None, *, as_json: bool) -> None:
    """The env file (or `file`) against what the Deployments that exist now are told."""
    stack = StackSettings.of(engine)
    if file is not None:
        stack = StackSettings(engine, stack.configured, str(file), content_of(file))
    elif stack.env is None:
        refuse_all(stack.problems())
    source, runs = _running(engine)
    wanted = {
        service: application.environment_of(service, stack.environment) for service in SERVICES
    }
    rows: list[dict[str, Any]] = []
    for key, known in KEYS.items():
        sides: dict[tuple[str | None, str | None], list[str]] = {}
        for service in known.services:
            now, then = runs.get(service, {}).get(key), wanted[service].get(key)
            if now != then:
                sides.setdefault((now, then), []).append(service)
        rows += [
            {"key": key, "runs": now, "file": then, "services": services}
            for (now, then), services in sides.items()
        ]
    if as_json:
        shown = {"stack": engine.stack, "file": stack.env_name, "runsIn": source, "differ": rows}
        print(json.dumps(shown, indent=2))
        return
    if not rows:
        console.print(f"what runs is what {stack.env_name} says", markup=False)
        return
    differing = table("Key", "Runs", stack.env_name, "Read by")
    for row in rows:
        differing.add_row(*cells(row["key"], row["runs"], row["file"], _by(row["services"])))
    console.print(differing)


def _running(engine: Engine) -> tuple[str, dict[str, dict[str, str]]]:
    """("cluster" or "state", service → its environment). The state says it when no API server
    answers: what was deployed last."""
    kubeconfig = engine.outputs().get("kubeconfig")
    if not kubeconfig:
        raise refused(
            f"nothing of the stack {engine.stack} runs: it was never deployed",
            f"python -m ops config show --stack {engine.stack} says what is set",
        )
    try:
        return "cluster", environments(*configuration_objects(str(kubeconfig)))
    except Refused as silence:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"{silence.problems[0].what}\nshown instead: what was deployed last, from the state\n",
            markup=False,
        )
    deployment = engine.state().get("deployment") or {}
    inputs: dict[str, list[Any]] = {}
    for resource in deployment.get("resources") or ():
        if not resource.get("delete"):
            inputs.setdefault(resource.get("type", ""), []).append(resource.get("inputs") or {})
    return "state", environments(
        inputs.get("kubernetes:apps/v1:Deployment", []),
        inputs.get("kubernetes:core/v1:ConfigMap", []),
    )


def environments(
    deployments: Sequence[Any], config_maps: Sequence[Any]
) -> dict[str, dict[str, str]]:
    """Service → what its Deployment's ConfigMaps give it."""
    data = {each["metadata"]["name"]: each.get("data") or {} for each in config_maps}
    found: dict[str, dict[str, str]] = {}
    for deployment in deployments:
        name = deployment["metadata"]["name"]
        if name not in SERVICES:
            continue
        mine = found.setdefault(name, {})
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            for source in container.get("envFrom") or ():
                mine |= data.get((source.get("configMapRef") or {}).get("name"), {})
    return found
