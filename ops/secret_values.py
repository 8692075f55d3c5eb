"""`ops secret`: the application's secrets and the registry's token, encrypted in the stack's file.

A value comes from a prompt that shows nothing, from standard input or from a file, and goes to the
engine by standard input: it is in no command line, no message and no log.
"""

from __future__ import annotations

import getpass
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console

from honeydue import application, env_file, rules
from honeydue.problems import Wrong
from ops import change
from ops.change import How
from ops.engine import Engine
from ops.problems import Problem, Refused, refused
from ops.rollout import DONE, Outcome
from ops.stack_settings import StackSettings, content_of, what_rolls
from ops.table import cells, table


@dataclass(frozen=True)
class Secret:
    """One of them. `issued`: who makes its values, and where; empty: we do."""

    name: str
    section: str  # of the stack's file
    key: str  # in that section
    services: tuple[str, ...]
    rule: rules.Rule = field(repr=False)
    issued: str = ""
    file: str = ""  # its value is a file's content, of several lines


REGISTRY_TOKEN: Final = "REGISTRY_TOKEN"  # as deploy/registry.env calls it
_ISSUED: Final = {
    "POSTGRES_PASSWORD": "The database's host keeps it. Change it there first, since pods that "
    "roll log in with the new one at once: psql, then \\password <POSTGRES_USER>. Connections that "
    "are open stay open.",
    "EMAIL_HOST_PASSWORD": "The mail service issues it: in its console, the credentials of "
    "EMAIL_HOST_USER. Revoke the old one when the rollout is done.",
    "APNS_AUTH_KEY": "Apple issues it: developer.apple.com, Certificates, Identifiers & Profiles, "
    "Keys. A new key has a new id: set APNS_KEY_ID as well (python -m ops config set "
    "APNS_KEY_ID=…). Revoke the old key when both have rolled.",
    "FCM_SERVER_KEY": "Google issues it: console.firebase.google.com, project settings, Cloud "
    "Messaging. Delete the old one when the rollout is done.",
    "B2_KEY_ID": "Backblaze issues it, with B2_APP_KEY: secure.backblaze.com, Application Keys. "
    "Delete the old pair when the rollout is done.",
    "B2_APP_KEY": "Backblaze issues it, with B2_KEY_ID: secure.backblaze.com, Application Keys. "
    "Delete the old pair when the rollout is done.",
}
_TOGETHER: Final = (("B2_KEY_ID", "B2_APP_KEY"),)  # issued as a pair: one alone opens nothing

SECRETS: Final = {
    **{
        key.name: Secret(
            key.name,
            "secrets",
            key.name,
            key.services,
            key.rule,
            _ISSUED.get(key.name, ""),
            key.file,
        )
        for key in application.SECRETS
    },
    REGISTRY_TOKEN: Secret(
        REGISTRY_TOKEN,
        "registry",
        "token",
        (),  # kubelet reads the pull secret at each pull: no pod does
        rules.secret,
        "Gitea issues it: /user/settings/applications on the registry's host, scope "
        "write:package. Delete the old one when `up` is done.",
    ),
}


# The verbs


def set_(engine: Engine, how: How, name: str, file: Path | None) -> Outcome:
    secret = _known(name)
    value = _value(secret, file)
    return _change(engine, how, {name: value}, "set")


def rotate(engine: Engine, how: How, name: str, file: Path | None) -> Outcome:
    """A new value: made here where nobody else issues it, else asked for."""
    secret = _known(name)
    console = how.console
    if not secret.issued:
        console.print("Whoever is logged in has to log in again.", markup=False)
        made = {name: strong_key()}
        return _change(engine, how, made, "rotate")
    console.print(f"{secret.issued}\n", markup=False, soft_wrap=True)
    group = next((pair for pair in _TOGETHER if name in pair), (name,))
    if len(group) > 1 and (file is not None or not sys.stdin.isatty()):
        raise refused(
            f"{' and '.join(group)} change together",
            "python -m ops secret import FILE, with a line KEY=value for each",
        )
    values = {each: _value(SECRETS[each], file) for each in group}
    return _change(engine, how, values, "rotate")


def import_(engine: Engine, how: How, file: Path) -> Outcome:
    """KEY=value a line. What the file does not name stays as it is."""
    outcome = _change(engine, how, read(file), "import")
    if outcome.code == DONE and not how.dry_run:
        how.console.print(f"{file} is not needed any more: rm {file}", markup=False, soft_wrap=True)
    return outcome


def strong_key() -> str:
    """64 characters, 384 bits of chance."""
    while True:
        made = secrets.token_urlsafe(48)
        try:
            rules.secret_key(made)
        except Wrong:  # chance may draw, say, "todo" between two dashes
            continue
        return made


def read(file: Path) -> dict[str, str]:
    """The file's secrets; Refused with everything that is wrong with it, and none of its values."""
    values, told = env_file.read(content_of(file), str(file))
    problems = [Problem(f"{one.key} {one.wrong}", _mend(one.wrong, one.mend)) for one in told]
    for key in values or ():
        if key in SECRETS:
            continue
        mend = f"{file}: take {key} out"
        if key in {each.name for each in application.ENVIRONMENT}:
            mend = f"take it out of {file}; it is no secret: python -m ops config set {key}=…"
        problems.append(Problem(f"{file}: {key} is none of the secrets", mend))
    if not problems and not values:
        problems.append(Problem(f"{file} holds no secret", f"{file}: KEY=value"))
    if problems:
        raise Refused(*problems)
    return {key: value for key, value in (values or {}).items() if value is not None}


def _mend(wrong: str, mend: str) -> str:
    """What an env file cannot hold, the other verb takes as it is."""
    if "PEM" in wrong:
        return "take it out; python -m ops secret set APNS_AUTH_KEY --from-file AuthKey_….p8"
    if "$ reference" in wrong or "comment" in wrong:
        return f"{mend}; a value that is meant so: python -m ops secret set KEY"
    return mend


# Where a value comes from


def _known(name: str) -> Secret:
    if name not in SECRETS:
        raise refused("no secret has that name", f"one of {', '.join(SECRETS)}")
    return SECRETS[name]


def _value(secret: Secret, file: Path | None) -> str:
    """Without the line end that editors and `echo` add."""
    try:
        if file is not None:
            return content_of(file).decode().rstrip("\n")
        if not sys.stdin.isatty():
            return sys.stdin.buffer.read().decode().rstrip("\n")
    except UnicodeDecodeError:
        raise refused(f"{secret.name} is no text in UTF-8", "give the value itself") from None
    if secret.file:
        raise refused(
            f"{secret.name} is a file's content, of several lines",
            f"python -m ops secret set {secret.name} --from-file {secret.file}",
        )
    return getpass.getpass(f"{secret.name} (nothing is shown): ")


# Changing


def _change(engine: Engine, how: How, values: Mapping[str, str], verb: str) -> Outcome:
    console = how.console
    stack = StackSettings.of(engine)
    before = {name: _now(stack, SECRETS[name]) for name in values}
    changed = {name: value for name, value in values.items() if before[name] != value}
    problems = _refused_values(values)
    sections = {
        section: stack.section(section)
        | {SECRETS[name].key: v for name, v in values.items() if SECRETS[name].section == section}
        for section in {SECRETS[name].section for name in values}
    }
    known = {problem.what for problem in stack.problems()}
    rest = stack.problems(sections=sections)
    # A new stack gets its secrets one after the other: what was wrong before is no reason.
    fresh = [each for each in rest if each.what not in known or _names(each, values)]
    told = {problem.what for problem in problems}
    problems += [each for each in fresh if each.what not in told]
    if problems:
        raise Refused(*problems)
    if changed:
        _show_changes(console, changed, before)
    else:
        # An earlier run may have been killed before that came true.
        console.print("the stack has that already")
    if how.dry_run:
        console.print("dry run: nothing was changed")
        return Outcome(code=DONE, ended="unchanged")
    if rest:
        _write(engine, changed, before)
        console.print(
            f"\nset. Nothing rolls yet: {len(rest)} other "
            f"setting{'s are' if len(rest) > 1 else ' is'} wrong or missing:",
            markup=False,
        )
        for problem in rest:
            console.print(f"  {problem}", markup=False, soft_wrap=True)
        return Outcome(code=DONE, ended="nothing to do")
    console.print()
    doing = f"secret {verb} {' '.join(values)}"
    return change.settings(engine, how, doing, lambda: _write(engine, changed, before))


def _show_changes(
    console: Console, changed: Mapping[str, str], before: Mapping[str, str | None]
) -> None:
    shown = table("Secret", "Change", "Read by")
    for name in changed:
        reader = ", ".join(SECRETS[name].services) or "kubelet, at each pull"
        shown.add_row(*cells(name, "new value" if before[name] else "set", reader))
    console.print(shown)
    rolls = what_rolls(tuple(dict.fromkeys(s for name in changed for s in SECRETS[name].services)))
    if REGISTRY_TOKEN in changed:
        rolls += "; the pull secret is made anew, in place"
    console.print(f"\n{rolls}", markup=False)


def _write(
    engine: Engine, values: Mapping[str, str], before: Mapping[str, str | None]
) -> Callable[[], None]:
    """Sets them all, or none; returns what takes them back."""
    done: list[str] = []

    def setting(name: str) -> str:
        return f"{engine.project}:{SECRETS[name].section}.{SECRETS[name].key}"

    def undo() -> None:
        for name in done:
            old = before[name]
            if old is None:
                engine.unset(setting(name))
            else:
                engine.set(setting(name), old, secret=True)

    try:
        for name, value in values.items():
            done.append(name)
            engine.set(setting(name), value, secret=True)
    except Refused:
        done.pop()  # the engine did not take it
        undo()
        raise
    except BaseException:
        undo()
        raise
    return undo


def _now(stack: StackSettings, secret: Secret) -> str | None:
    found = stack.section(secret.section).get(secret.key)
    return None if found is None else str(found)


def _refused_values(values: Mapping[str, str]) -> list[Problem]:
    found = []
    for name, value in values.items():
        try:
            SECRETS[name].rule(value)
        except Wrong as wrong:
            mend = f"python -m ops secret set {name}"
            found.append(Problem(f"{_setting(name)} {wrong.why}", mend))
    return found


def _setting(name: str) -> str:
    return f"honeydue:{SECRETS[name].section}.{SECRETS[name].key}"


def _names(problem: Problem, names: Sequence[str] | Mapping[str, str]) -> bool:
    return problem.what.split(" ")[0] in {_setting(name) for name in names}
