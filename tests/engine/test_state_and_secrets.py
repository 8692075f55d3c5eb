"""The checkpoint on disk, its secrets, locks, backups and history; refresh and destroy."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rehearsal.engine import secrets, values
from rehearsal.engine.deployment import Deployment, EngineError, Project
from rehearsal.engine.events import PreludeEvent
from rehearsal.engine.provider import UNKNOWN
from rehearsal.engine.state import Backend, Resource, write_atomically
from rehearsal.engine.values import Secret
from tests.engine.conftest import STACK, Lab, urn
from tests.engine.fake import Fake

CANARY = "canary-5d1f"
SECRETS = f"""
hidden = pulumi.Output.secret("{CANARY}")
a = Thing("a", value=hidden, labels={{"x": hidden}},
          opts=opts(additional_secret_outputs=["upper"]))
b = Thing("b", value=a.value, opts=opts(additional_secret_outputs=["upper"]))
pulumi.export("plain", "visible")
pulumi.export("hidden", b.value)
"""


def every_file(folder: Path) -> dict[str, str]:
    return {str(p): p.read_text() for p in folder.rglob("*") if p.is_file()}


# --- secrets
# ---------------------------------------------------------------------------------------


def test_no_secret_is_in_any_file_or_event(lab: Lab) -> None:
    result = lab.up(SECRETS)
    assert lab.vendor.seen_inputs["a"]["value"] == CANARY
    files = every_file(lab.folder / "state")
    assert files
    for path, content in files.items():
        assert CANARY not in content, path
        assert CANARY.upper() not in content, path
    assert CANARY not in repr(lab.events)
    assert result.outputs == {"plain": "visible", "hidden": Secret(CANARY)}


def test_secretness_follows_names_and_additional_secret_outputs(lab: Lab) -> None:
    lab.up(SECRETS)
    outputs = lab.in_state("a")["outputs"]
    sealed = outputs["value"]
    assert sealed[values.SIGNATURE] == values.SECRET
    assert sealed["ciphertext"].startswith("v1:")
    assert outputs["upper"][values.SIGNATURE] == values.SECRET
    assert outputs["labels"]["x"][values.SIGNATURE] == values.SECRET
    assert outputs["computed"] == "computed-id-1"
    assert lab.deployment().outputs() == {"plain": "visible", "hidden": Secret(CANARY)}


def test_a_run_without_changes_changes_no_ciphertext(lab: Lab) -> None:
    lab.up(SECRETS)
    before = lab.in_state("a")
    lab.up()
    assert lab.in_state("a") == before


def test_equal_secrets_do_not_look_equal(lab: Lab) -> None:
    lab.up(SECRETS)
    a = lab.in_state("a")["inputs"]
    assert a["value"]["ciphertext"] != a["labels"]["x"]["ciphertext"]


def test_a_changed_secret_is_an_update_shown_as_secret(lab: Lab) -> None:
    lab.up(SECRETS)
    lab.preview(SECRETS.replace(CANARY, "other"))
    change = lab.pre("a").diff[-1]
    assert (change.path, repr(change.old), repr(change.new)) == ("value", "[secret]", "[secret]")


def test_secret_configuration_reaches_the_program_as_a_secret(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    crypter = secrets.open_crypter(None)
    sealed = crypter.encrypt(CANARY)
    lab.program(
        'c = pulumi.Config()\npulumi.export("token", c.require_secret("token"))\n'
        'pulumi.export("deep", c.require_secret_object("deep"))\n'
        'pulumi.export("size", c.require_int("size"))\npulumi.export("on", c.require("on"))'
    )
    (lab.folder / "project" / "Pulumi.dev.yaml").write_text(
        f"encryptionsalt: {crypter.salt}\nconfig:\n  shop:token:\n    secure: {sealed}\n"
        f"  shop:deep:\n    list:\n    - secure: {sealed}\n  shop:size: 3\n  shop:on: yes\n"
    )
    result = lab.up()
    assert result.outputs["token"] == Secret(CANARY)
    assert result.outputs["deep"] == Secret({"list": [CANARY]})
    assert result.outputs["size"] == 3
    assert result.outputs["on"] == "yes"
    prelude = next(e for e in lab.events if isinstance(e, PreludeEvent))
    assert prelude.config["shop:token"] == "[secret]"
    (lab.folder / "project" / "Pulumi.dev.yaml").write_text(
        (lab.folder / "project" / "Pulumi.dev.yaml").read_text().replace(sealed[:9], "v1:AAAA/B")
    )
    with pytest.raises(EngineError, match=r"secret shop:token does not open"):
        lab.preview()
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "wrong")
    with pytest.raises(EngineError, match=r"^incorrect passphrase: PULUMI_CONFIG_PASSPHRASE"):
        lab.preview()


def test_the_passphrase_may_come_from_a_file_and_must_come_from_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    salt = secrets.open_crypter(None).salt
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE")
    with pytest.raises(EngineError, match=r"^passphrase must be set with PULUMI_CONFIG_PASSPHRASE"):
        secrets.open_crypter(salt)
    (tmp_path / "word").write_text("correct horse\n")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE_FILE", str(tmp_path / "word"))
    assert secrets.open_crypter(salt).salt == salt
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(EngineError, match=r"^PULUMI_CONFIG_PASSPHRASE_FILE: cannot read"):
        secrets.open_crypter(salt)


def test_the_key_is_a_million_rounds_of_pbkdf2_as_the_clis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the standard library's PBKDF2, by the parameters of pulumi/sdk's
    NewSymmetricCrypter."""
    monkeypatch.setattr(secrets, "_ROUNDS", 1_000_000)
    secrets._derive.cache_clear()
    salt_line = secrets.open_crypter(None).salt
    version, salt, check_version, nonce, sealed = salt_line.split(":")
    key = hashlib.pbkdf2_hmac("sha256", b"correct horse", b64decode(salt), 1_000_000, 32)
    assert (version, check_version, len(b64decode(salt)), len(b64decode(nonce))) == (
        "v1",
        "v1",
        8,
        12,
    )
    assert AESGCM(key).decrypt(b64decode(nonce), b64decode(sealed), None) == b"pulumi"
    secrets._derive.cache_clear()


# --- values ---------------------------------------------------------------------------------------


def test_values_survive_the_wire() -> None:
    original = {
        "a": [1, 2.5, "x", True, {"b": Secret({"c": [UNKNOWN]})}],
        "d": UNKNOWN,
        "e": "",
        "f": {},
    }
    assert values.decode(values.encode(original)) == original


def test_a_list_with_a_secret_becomes_secret_as_a_whole() -> None:
    like = {"l": [Secret("x"), "y"], "d": {"s": Secret(1)}}
    marked = values.mark_secrets({"l": ["y", "x"], "d": {"s": 2, "t": 3}, "o": 1}, like, ["o"])
    assert marked == {"l": Secret(["y", "x"]), "d": {"s": Secret(2), "t": 3}, "o": Secret(1)}


def test_assets_are_refused_by_name(lab: Lab) -> None:
    result = lab.preview('Thing("a", value=pulumi.StringAsset("x"), opts=opts())')
    assert result.errors == ("value: the rehearsal's engine has no assets and archives",)


# --- files ----------------------------------------------------------------------------------------


def test_the_checkpoint_has_the_clis_layout(lab: Lab) -> None:
    lab.up('a = Thing("a", opts=opts())\nThing("b", value=a.computed, opts=opts(protect=True))')
    root = lab.folder / "state" / ".pulumi"
    assert (root / "meta.yaml").read_text() == "version: 1\n"
    written = json.loads((root / "stacks" / "shop" / "dev.json").read_text())
    assert written["version"] == 3
    assert written["checkpoint"]["stack"] == "organization/shop/dev"
    latest = written["checkpoint"]["latest"]
    assert lab.deployment().export() == {"version": 3, "deployment": latest}
    assert latest["secrets_providers"]["type"] == "passphrase"
    assert set(latest["manifest"]) == {"time", "magic", "version"}
    b = lab.in_state("b")
    assert {k: v for k, v in b.items() if k not in ("created", "modified", "provider")} == {
        "urn": urn("b"),
        "custom": True,
        "id": "id-2",
        "type": "fake:index:Thing",
        "inputs": {"defaulted": "default-1", "value": "computed-id-1"},
        "outputs": {
            "computed": "computed-id-2",
            "defaulted": "default-1",
            "upper": "COMPUTED-ID-1",
            "value": "computed-id-1",
        },
        "parent": STACK,
        "protect": True,
        "dependencies": [urn("a")],
        "propertyDependencies": {"value": [urn("a")]},
    }
    assert re.fullmatch(
        r"urn:pulumi:dev::shop::pulumi:providers:fake::fake::[0-9a-f-]{36}", b["provider"]
    )
    assert len(list((root / "history" / "shop" / "dev").glob("dev-*.history.json"))) == 1
    assert len(list((root / "history" / "shop" / "dev").glob("dev-*.checkpoint.json"))) == 1
    assert len(list((root / "backups" / "shop" / "dev").glob("dev.*.json"))) == 1
    assert list((root / "locks").rglob("*.json")) == []
    (update,) = lab.deployment().history()
    assert (update["kind"], update["result"]) == ("update", "succeeded")
    assert update["resourceChanges"] == {"create": 4}


def test_a_preview_writes_nothing(lab: Lab) -> None:
    lab.preview('Thing("a", opts=opts())')
    assert not (lab.folder / "state").exists()


def test_what_only_the_cli_knows_about_a_resource_is_kept(lab: Lab) -> None:
    lab.up('Thing("a", opts=opts())')
    exported = lab.deployment().export()
    exported["deployment"]["resources"][-1]["taint"] = True
    lab.deployment().import_(exported)
    assert lab.in_state("a")["taint"] is True


def test_export_and_import_round_trip(lab: Lab) -> None:
    lab.up(SECRETS)
    exported = lab.deployment().export()
    lab.run("destroy")
    lab.deployment().import_(exported)
    assert (
        lab.deployment().export()["deployment"]["resources"] == exported["deployment"]["resources"]
    )
    with pytest.raises(EngineError, match=r"^stack import: not a deployment"):
        lab.deployment().import_({"version": 2})


def test_a_damaged_state_names_its_backup_and_how_to_go_back(lab: Lab) -> None:
    lab.up('Thing("a", opts=opts())')
    path = lab.backend.path("shop", "dev")
    path.write_text(path.read_text()[:100])
    with pytest.raises(EngineError) as refused:
        lab.preview()
    assert f"\n  cp {path}.bak {path}\nthen `refresh`" in str(refused.value)
    os.replace(f"{path}.bak", path)
    assert lab.preview().ok


def test_a_state_whose_references_dangle_is_refused(lab: Lab) -> None:
    lab.up('a = Thing("a", opts=opts())\nThing("b", value=a.computed, opts=opts())')
    exported = lab.deployment().export()
    del exported["deployment"]["resources"][2]
    with pytest.raises(EngineError, match=r"snapshot integrity failure: .*::b refers to .*::a"):
        lab.deployment().import_(exported)


def test_a_write_that_fails_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dev.json"
    write_atomically(path, "old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EngineError, match=r"No space left on device. .* Free some space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_run_is_refused_and_told_who_is_at_work(lab: Lab) -> None:
    lab.program('Thing("a", opts=opts())')
    with lab.backend.lock("shop", "dev"), pytest.raises(EngineError) as refused:
        lab.run("up")
    message = str(refused.value)
    assert message.startswith("the stack is currently locked by 1 lock(s).")
    assert f"@{socket.gethostname()} (pid {os.getpid()}) at " in message
    assert "That process is gone" not in message
    assert lab.run("up").ok


def test_the_lock_of_a_dead_process_says_so_and_cancel_removes_it(lab: Lab) -> None:
    lab.program('Thing("a", opts=opts())')
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock = lab.folder / "state/.pulumi/locks/organization/shop/dev/x.json"
    held = {"pid": dead.pid, "username": "op", "hostname": socket.gethostname(), "timestamp": "t"}
    write_atomically(lock, json.dumps(held))
    with pytest.raises(EngineError, match=r"python -m rehearsal cancel --stack dev\n.*\n.*is gone"):
        lab.run("up")
    assert lab.deployment().cancel() == 1
    assert lab.run("up").ok


def test_an_unknown_stack_is_refused_and_the_known_ones_named(lab: Lab) -> None:
    lab.program("")
    project = Project.load(lab.folder / "project")
    with pytest.raises(EngineError, match=r"no stack named 'prd': .* Stacks with a file: dev"):
        Deployment(project, "prd", Backend(lab.folder)).preview(lambda _event: None)


# --- refresh and destroy --------------------------------------------------------------------------


def test_refresh_takes_over_what_the_vendor_has_and_the_next_up_brings_it_back(lab: Lab) -> None:
    lab.up('a = Thing("a", value="one", opts=opts())\nThing("b", value=a.value, opts=opts())')
    lab.vendor.things["id-1"]["value"] = "drifted"
    before = lab.state
    assert lab.run("refresh", dry_run=True).changes == {"update": 1, "same": 1}
    assert lab.state == before
    lab.run("refresh")
    assert lab.in_state("a")["inputs"]["value"] == "drifted"
    assert lab.preview().changes == {"same": 3, "update": 1}


def test_what_only_the_vendor_says_of_itself_is_noted_by_refresh_and_is_no_change(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.up('Thing("a", value="one", opts=opts())')

    def read(_self: object, *given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        _type, _id, inputs, outputs, _context = given
        return inputs, {**outputs, "computed": "used by two"}

    monkeypatch.setattr(Fake, "read", read)
    assert lab.run("refresh").changes == {"same": 1}
    assert lab.in_state("a")["outputs"]["computed"] == "used by two"


def test_refresh_forgets_what_is_gone_and_the_next_up_makes_it_again(lab: Lab) -> None:
    source = 'a = Thing("a", opts=opts())\nThing("b", value="x", opts=opts(depends_on=[a]))'
    lab.up(source)
    lab.vendor.things.pop("id-1")
    assert lab.run("refresh").changes == {"delete": 1, "same": 1}
    assert "a" not in lab.names
    assert "dependencies" not in lab.in_state("b")
    assert lab.up().changes == {"same": 3, "create": 1}


def test_refresh_keeps_secrets_secret(lab: Lab) -> None:
    lab.up(SECRETS)
    lab.run("refresh")
    for path, content in every_file(lab.folder / "state").items():
        assert CANARY not in content, path


def test_destroy_deletes_everything_dependents_first(lab: Lab) -> None:
    lab.up('a = Thing("a", opts=opts())\nb = Thing("b", value=a.computed, opts=opts())')
    assert lab.run("destroy", dry_run=True).changes == {"delete": 4}
    assert lab.vendor.ids("a") == ["id-1"]
    result = lab.run("destroy")
    assert result.changes == {"delete": 4}
    assert lab.calls == ["delete b", "delete a"]
    assert lab.state == []
    assert lab.vendor.things == {}


def test_a_destroy_that_fails_keeps_what_the_failed_one_needs(lab: Lab) -> None:
    lab.up(
        'a = Thing("a", opts=opts())\nb = Thing("b", value=a.computed, opts=opts())\n'
        'Thing("c", opts=opts())'
    )
    lab.vendor.delete_fails = {"b"}
    result = lab.run("destroy")
    assert result.errors == (f"{urn('b')}: still in use",)
    assert sorted(lab.calls) == ["delete b", "delete c"]
    assert lab.names == ["shop-dev", "fake", "a", "b"]
    lab.vendor.delete_fails = set()
    assert lab.run("destroy").ok
    assert lab.state == []


def test_resources_are_immutable_so_that_a_saved_one_cannot_change() -> None:
    with pytest.raises(AttributeError):
        Resource("u", "t", custom=True).id = "x"  # type: ignore[misc]
