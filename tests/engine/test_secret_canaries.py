"""Planted secrets that must not be found: in what a run tells, in any file, in any process list.

A canary is planted in each place where a secret may enter: configuration, inputs, outputs that are
declared secret, nested values. Each is hunted in every place where a run writes.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rehearsal import providers
from rehearsal.cli import watch
from rehearsal.display import Tree, preview_digest
from rehearsal.engine import secrets
from rehearsal.engine.deployment import Deployment, Project
from rehearsal.engine.provider import ProviderError
from rehearsal.engine.redaction import Redaction
from rehearsal.engine.state import Backend
from rehearsal.engine.values import Secret
from tests.engine.conftest import Lab

IN_CONFIG = "canary-config-7e1f"
DEEP = "canary-deep-03aa"
IN_INPUT = "canary-input-99c4"
MULTILINE = 'canary-begin\n"canary-middle" \\ ü\ncanary-end'
FROM_VENDOR = "CANARY-OUTPUT-4B2D"  # what the vendor makes of an input that is no secret
KNOWN = [IN_CONFIG, DEEP, IN_INPUT, MULTILINE]
CANARIES = [*KNOWN, FROM_VENDOR]

PROGRAM = f"""
config = pulumi.Config()
token = config.require_secret("token")
deep = config.require_secret_object("deep")
hidden = pulumi.Output.secret({IN_INPUT!r})
lines = pulumi.Output.secret({MULTILINE!r})
def secretive():
    return opts(additional_secret_outputs=["upper"])
a = Thing("a", value=token, labels={{"deep": deep["list"][0], "lines": lines}}, opts=secretive())
b = Thing("b", value=hidden, items=[hidden, "visible"], opts=secretive())
c = Thing("c", value={FROM_VENDOR.lower()!r}, opts=secretive())
last = opts(additional_secret_outputs=["upper"], depends_on=[a, b, c])
d = Thing("d", value=a.labels["lines"], opts=last)
pulumi.export("token", token)
pulumi.export("mixed", {{"hidden": b.value, "visible": "seen"}})
"""
CHANGED = PROGRAM.replace('"visible"]', '"visible", "more"]').replace('"seen"', '"new"')


class Planted(Lab):
    def program(self, source: str) -> None:
        super().program(source)
        crypter = secrets.open_crypter(None)
        (self.folder / "project" / "Pulumi.dev.yaml").write_text(
            f"encryptionsalt: {crypter.salt}\nconfig:\n"
            f"  shop:token: {{secure: {crypter.encrypt(IN_CONFIG)}}}\n"
            f"  shop:deep: {{list: [{{secure: {crypter.encrypt(DEEP)}}}]}}\n"
        )


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


def forms(canary: str) -> set[str]:
    """As itself, and as JSON, Python, base64 and capitals would write it."""
    whole = {canary, json.dumps(canary)[1:-1], repr(canary)[1:-1], canary.upper()}
    return whole | {base64.b64encode(canary.encode()).decode()}


def assert_clean(text: str, place: str) -> None:
    for canary in CANARIES:
        for form in forms(canary):
            assert form not in text, f"{canary.splitlines()[0]} is in {place}"


def shown(lab: Lab, verb: str, *, diff: bool = True) -> str:
    """What the operator reads of a run, and its `preview --json`."""
    lab.run(verb)
    tree = Tree()
    for event in lab.events:
        tree.take(event)
    console = Console(width=400, record=True, file=open(os.devnull, "w"))  # noqa: SIM115

    def replay(take: Any, **_: Any) -> None:
        for event in lab.events:
            take(event)

    options: Any = type("Options", (), {"stack": "dev", "target": [], "diff": diff})
    watch(replay, verb, options, console, dry_run=verb == "preview")  # type: ignore[arg-type]
    console.file.close()
    return console.export_text() + json.dumps(preview_digest(tree)) + repr(lab.events)


def files(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_text(errors="replace")


def assert_all_files_clean(lab: Lab) -> None:
    found = list(files(lab.folder / "state"))
    assert len(found) > 5
    for path, content in found:
        assert_clean(content, path)
    assert_clean(json.dumps(lab.deployment().export()), "the exported state")
    assert_clean(repr(lab.deployment().outputs()), "the printed outputs")


def test_no_canary_is_in_any_text_or_file_of_a_whole_life(planted: Planted) -> None:
    planted.program(PROGRAM)
    for verb in ("preview", "up", "preview", "refresh", "up"):
        assert_clean(shown(planted, verb), f"what `{verb}` shows")
        assert planted.run(verb).ok
    assert planted.vendor.seen_inputs["a"]["value"] == IN_CONFIG  # the vendor does get them
    assert planted.vendor.seen_inputs["a"]["labels"] == {"deep": DEEP, "lines": MULTILINE}
    assert_all_files_clean(planted)
    planted.program(CHANGED)
    for thing in planted.vendor.things.values():
        thing["value"] = f"{thing['value']} drifted"
    assert_clean(shown(planted, "refresh"), "what `refresh` shows of drift")
    assert_clean(shown(planted, "preview"), "a preview of changes")
    assert_clean(shown(planted, "up"), "an up with changes")
    assert_clean(shown(planted, "destroy"), "what `destroy` shows")
    for path, content in files(planted.folder / "state"):
        assert_clean(content, path)


@pytest.mark.parametrize("how", ["refused", "half", "defect", "lost"])
@pytest.mark.parametrize("operation", ["create", "update", "delete"])
def test_a_provider_that_quotes_its_secret_inputs_is_masked_in_every_text_and_file(
    planted: Planted, how: str, operation: str
) -> None:
    planted.program(PROGRAM)
    if operation != "create":
        assert planted.run("up").ok
        planted.program(CHANGED if operation == "update" else "")

    def quote(done: str, name: str, *id_: str) -> None:
        # A first run knows a secret from when its resource is declared: the last one knows all.
        if done != operation or (operation == "create" and name != "d"):
            return
        told = f"invalid: {' '.join(KNOWN)} {KNOWN!r} {json.dumps(KNOWN)}"
        if how == "defect":
            raise RuntimeError(told)
        half: dict[str, Any] = {}
        if how == "half":
            half = {"id": id_[0], "outputs": {"value": "x"}}
        raise ProviderError(told, lost=how == "lost", **half)

    planted.vendor.on_done = quote
    text = shown(planted, "up")
    assert "invalid: [secret] [secret]" in text
    assert_clean(text, "what a failed `up` shows")
    assert_clean(repr(planted.run("up").errors), "the result's errors")
    assert_all_files_clean(planted)
    planted.vendor.on_done = lambda *_: None
    assert_clean(shown(planted, "up"), "the next `up`")


def test_prints_logs_and_tracebacks_of_what_the_configuration_keeps_secret_are_masked(
    planted: Planted,
) -> None:
    """What the program makes up itself, the engine knows only once a resource has it."""
    planted.program(
        PROGRAM
        + """
print("printed", json.loads(config.get("deep"))["list"][0])
pulumi.log.info("logged " + config.get("token"))
pulumi.log.warn("warned " + config.get("token"))
raise ValueError("died of " + config.get("token"))
"""
    )
    main = planted.folder / "project" / "__main__.py"
    main.write_text("import json\n" + main.read_text())
    text = shown(planted, "preview")
    for told in ("printed", "logged", "warned", "died of"):
        assert f"{told} [secret]" in text
    assert_clean(text, "what the program says")


def test_what_the_program_prints_is_an_info_and_leaves_the_engines_output_alone(
    planted: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    planted.program('print("one\\ntwo", end="")\nprint()\nprint("three", end="")')
    planted.run("preview")
    assert planted.diagnostics("info") == ["one", "two", "three"]
    assert capsys.readouterr().out == ""


def test_no_canary_is_in_a_process_list_or_a_temporary_file(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command's environment holds what the program puts there, by design: only its owner reads
    it. The arguments of a process are everyone's."""
    temporary = planted.folder / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    planted.program(
        "import pulumi_command as command\nconfig = pulumi.Config()\n"
        'token = config.require_secret("token")\n'
        'shell = command.Provider("shell")\n'
        'command.local.Command("gate", create="n=0; until [ -e $SEEN ] || [ $n = 1200 ]; do "\n'
        '    "n=$((n+1)); sleep 0.05; done; echo $TOKEN; echo $TOKEN >&2; exit 3", stdin=token,\n'
        f'    environment={{"TOKEN": token, "SEEN": {str(planted.folder / "seen")!r}}},\n'
        "    opts=Opts(provider=shell))\n"
    )
    seen: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    seen.append((process / "cmdline").read_bytes().decode(errors="replace"))
                except OSError:
                    continue
            if "until [ -e $SEEN ]" in "".join(seen):  # the command waits for this
                (planted.folder / "seen").touch()

    watcher = threading.Thread(target=look)
    watcher.start()
    events: list[Any] = []
    try:
        folder = planted.folder
        engine = Deployment(
            Project.load(folder / "project"),
            "dev",
            Backend(folder / "state"),
            load_provider=lambda package, inputs: (
                planted.vendor if package == "fake" else providers
            ).load(package, inputs),
        )
        result = engine.up(events.append)
    finally:
        over.set()
        watcher.join()
    assert not result.ok
    assert (planted.folder / "seen").exists()
    assert_clean("".join(seen), "the process list")
    assert "[secret]" in repr(events)
    assert_clean(repr(events) + repr(result), "what the command's output told")
    for path, content in (*files(temporary), *files(folder / "state")):
        assert_clean(content, path)


def test_short_words_are_not_masked_and_longer_secrets_win() -> None:
    redaction = Redaction()
    redaction.learn({"a": Secret("true"), "b": [Secret({"c": "abcdef", "port": 6443})]})
    redaction.learn(Secret("abcdef-longer"))
    assert redaction.text("true 6443 abcdef-longer abcdef") == "true 6443 [secret] [secret]"
