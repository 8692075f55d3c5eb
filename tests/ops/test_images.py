"""`images list` and `images prune`, as the operator meets them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from ops.cli import main
from ops.images_table import GOES, families
from ops.retention import Version, retain
from rehearsal.clouds.faults import Fault
from rehearsal.engine.state import Backend
from tests.ops.registries import NOW, attached, registries
from tests.ops.world import Stock, World, world

Ops = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Five releases of api, one a day, the newest yesterday's; each signed and attested."""
    folder = tmp_path_factory.mktemp("stocked")
    with world(folder) as made:
        for age, sha in enumerate(("eeeeeee", "ddddddd", "ccccccc", "bbbbbbb", "aaaaaaa"), 1):
            made.shelf.age = age
            made.shelf.release(sha)
        return Stock(folder / "gitea", made.token)


@pytest.fixture
def prod(tmp_path: Path, stocked: Stock, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with world(tmp_path, stocked) as made:
        monkeypatch.setenv("PATH", str(made.pulumi.folder), prepend=os.pathsep)
        yield made


@pytest.fixture
def ops(prod: World, capsys: pytest.CaptureFixture[str]) -> Ops:
    """Runs a verb on `prod`: (exit code, what the operator read)."""

    def run(*words: str) -> tuple[int, str]:
        code = main(["images", *words])
        printed = capsys.readouterr()
        read = printed.out + printed.err
        assert prod.token not in read
        assert prod.token not in prod.pulumi.log
        return code, read

    return run


def lines(text: str) -> list[str]:
    """Words of each line, without what changes from run to run."""
    return [
        re.sub(r"\s+", " ", re.sub(r"\b[0-9a-f]{12}\b", "…", line)).strip()
        for line in text.splitlines()
    ]


# --- list ---------------------------------------------------------------------------------------


def test_the_list_says_of_every_release_why_it_stays(prod: World, ops: Ops) -> None:
    prod.cluster.runs(prod.reference("bbbbbbb"), "pods")
    prod.cluster.runs(prod.reference("aaaaaaa"), "replicasets")
    prod.shelf.age = 50
    prod.shelf.push("before-migration")
    prod.shelf.push("buildcache")
    prod.shelf.age = 0
    code, read = ops("list", "--keep", "2")
    assert code == 0
    assert lines(read) == [
        "Image Release Digest Age Size Kept because With it",
        "honeydue-api eeeeeee … 24 h 80 kB last 2 attestation, signature",
        "ddddddd … 2 d 80 kB last 2 attestation, signature",
        "ccccccc … 3 d 80 kB goes attestation, signature",
        "bbbbbbb … 4 d 80 kB running attestation, signature",
        "aaaaaaa … 5 d 80 kB in the cluster attestation, signature",
        "buildcache … 50 d 71 kB layer cache",
        "before-migration … 50 d 71 kB tagged by hand",
        "",
        "3 of 17 versions go, which frees up to 30 kB",
    ]


def test_what_runs_from_an_overwritten_tag_is_there_by_its_pin(prod: World, ops: Ops) -> None:
    """As honeydue/images/gate.py pins it: a second tag, named after the digest."""
    prod.shelf.age = 9
    digest = prod.shelf.release("0000001")
    pin = attached(digest, ".pin")
    assert prod.shelf.push(pin, "honeydue-api 0000001") == digest
    prod.shelf.age = 8
    prod.shelf.push("0000001", "other bytes")
    prod.shelf.age = 0
    prod.cluster.runs(prod.reference(digest), "pods")
    code, read = ops("list", "--keep", "1")
    assert code == 0
    assert lines(read)[-4:-2] == [
        "0000001 … 8 d 71 kB goes",
        "(pin) … 9 d 80 kB running attestation, signature",
    ]
    assert ops("prune", "--keep", "1", "--yes")[0] == 0
    assert prod.shelf.pull(digest)
    assert prod.shelf.tags() >= {pin, attached(digest)}
    assert "0000001" not in prod.shelf.tags()


def test_the_list_of_a_dead_cluster_says_that_nothing_is_known_to_go(prod: World, ops: Ops) -> None:
    prod.cluster.stop()
    code, read = ops("list", "--keep", "2")
    assert code == 0
    assert "not known" in read
    assert "goes" not in read
    assert "warning: the cluster cannot be listed: no API server answers (127.0.0.1: " in read
    assert "nothing can be pruned now" in read


def test_the_list_for_programs_has_every_version(prod: World, ops: Ops) -> None:
    prod.cluster.runs(prod.reference("bbbbbbb"), "pods")
    code, read = ops("list", "--keep", "2", "--json")
    found = json.loads(read)
    assert code == 0
    assert len(found["kept"]) == 9
    assert len(found["goes"]) == 6
    assert {entry["version"]: entry["keptBecause"] for entry in found["kept"]}[
        "bbbbbbb"
    ] == "running"
    assert found["freedBytesAtMost"] > 30_000


@given(registries())
@settings(max_examples=200, deadline=None)
def test_every_version_is_in_some_row_that_has_its_fate(versions: list[Version]) -> None:
    decided = retain(versions, {}, keep=1, now=NOW)
    fates = {**decided.kept, **dict.fromkeys(decided.goes, GOES)}
    shown: set[Version] = set()
    for head, parts in families(fates):
        assert {fates[part] == GOES for part in parts} <= {fates[head] == GOES}
        shown |= {head, *parts}
    assert shown == set(versions)


# --- prune --------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_goes_and_changes_nothing(prod: World, ops: Ops) -> None:
    code, read = ops("prune", "--keep", "4", "--dry-run")
    assert code == 0
    assert lines(read) == [
        "Image Release Digest Age Size Kept because With it",
        "honeydue-api aaaaaaa … 5 d 80 kB goes attestation, signature",
        "",
        "3 of 15 versions go, which frees up to 30 kB",
        "nothing was changed (--dry-run)",
    ]
    assert prod.deletes == []


def test_what_goes_is_deleted_and_what_stays_can_be_pulled(prod: World, ops: Ops) -> None:
    prod.cluster.runs(prod.reference("aaaaaaa"))
    code, read = ops("prune", "--keep", "2", "--yes")
    assert code == 0
    assert lines(read)[-1] == (
        "6 versions deleted; Gitea frees the bytes with its own task, within a day"
    )
    prod.gitea.clean_up(older_than=0)
    for sha in ("eeeeeee", "ddddddd", "aaaaaaa"):
        assert prod.shelf.pull(sha)
    assert not {"ccccccc", "bbbbbbb"} & prod.shelf.tags()
    assert len(prod.shelf.tags()) == 9
    code, read = ops("prune", "--keep", "2", "--yes")
    assert (code, read) == (0, "nothing goes: all of 9 versions are needed, or new\n")


@pytest.mark.parametrize(
    ("kind", "by"),
    [("replicasets", "digest"), ("pods", "tag"), ("jobs", "digest"), ("statefulsets", "tag")],
)
def test_whatever_the_cluster_refers_to_stays(prod: World, ops: Ops, kind: str, by: str) -> None:
    digest = prod.shelf.registry.digest("admin/honeydue-api", "aaaaaaa") or ""
    prod.cluster.runs(prod.reference("aaaaaaa" if by == "tag" else digest), kind)
    assert ops("prune", "--keep", "1", "--yes")[0] == 0
    assert prod.shelf.pull(digest)
    assert not prod.shelf.pull("bbbbbbb")


def test_the_tag_beside_a_digest_stays_too(prod: World, ops: Ops) -> None:
    """The Deployment runs a digest that the registry has lost; the tag says which one it was."""
    annotations = {"honeydue.com/image-tag": "aaaaaaa"}
    lost = prod.reference(f"sha256:{'0' * 64}")
    prod.cluster.runs(lost, "deployments", annotations=annotations)
    assert ops("prune", "--keep", "1", "--yes")[0] == 0
    assert prod.shelf.pull("aaaaaaa")


def test_what_the_settings_the_state_and_its_past_refer_to_stays(prod: World, ops: Ops) -> None:
    prod.deployed["images"] = prod.reference("bbbbbbb")
    prod.say(images={"api": "ccccccc"})
    prod.deployed_once(prod.reference("aaaaaaa"), at=1)
    assert ops("prune", "--keep", "1", "--yes")[0] == 0
    assert not prod.shelf.pull("ddddddd")
    assert all(map(prod.shelf.pull, ("aaaaaaa", "bbbbbbb", "ccccccc", "eeeeeee")))


def test_a_pin_of_the_settings_keeps_its_digest_and_its_tag(prod: World, ops: Ops) -> None:
    """`rollback` writes it: a tag that points elsewhere meanwhile is not what it means."""
    pinned = prod.shelf.registry.digest("admin/honeydue-api", "aaaaaaa") or ""
    prod.say(images={"api": f"bbbbbbb@{pinned}"})
    assert ops("prune", "--keep", "1", "--yes")[0] == 0
    assert prod.shelf.pull(pinned)
    assert prod.shelf.pull("bbbbbbb")
    assert not prod.shelf.pull("ccccccc")


def test_past_states_count_as_far_back_as_releases_are_kept(prod: World, ops: Ops) -> None:
    """Each update leaves a state for ever: if all counted, nothing that ran once would ever go."""
    prod.deployed_once(prod.reference("aaaaaaa"), at=1)
    prod.deployed_once(prod.reference("bbbbbbb"), at=2)
    prod.deployed_once(prod.reference("bbbbbbb"), at=3)
    assert ops("prune", "--keep", "1", "--yes")[0] == 0
    assert prod.shelf.pull("bbbbbbb")
    assert not prod.shelf.pull("aaaaaaa")


def test_an_index_keeps_its_platforms_and_goes_with_them(prod: World, ops: Ops) -> None:
    prod.shelf.age = 40
    old = [prod.shelf.push("", f"old {arch}") for arch in ("amd64", "arm64")]
    prod.shelf.push_index("0000001", *old)
    prod.shelf.age = 0.5
    new = [prod.shelf.push("", f"new {arch}") for arch in ("amd64", "arm64")]
    prod.shelf.push_index("0000002", *new)
    prod.shelf.age = 0
    assert ops("prune", "--keep", "1", "--yes")[0] == 0
    assert prod.shelf.pull("0000002")
    assert not any(map(prod.shelf.pull, ["0000001", *old]))
    ends = [line.rsplit("/", 1)[-1].split(" ")[0] for line in prod.deletes]
    assert ends.index("0000001") < min(ends.index(child) for child in old)


def test_packages_that_are_not_ours_are_left_alone(prod: World, ops: Ops) -> None:
    prod.shelf.age = 200
    for image in ("honeydue-api-test", "old-honeydue-api", "website"):
        prod.shelf.push("aaaaaaa", image=image)
    prod.shelf.age = 0
    assert ops("prune", "--keep", "1", "--yes")[0] == 0
    assert all("/container/honeydue-api/" in line for line in prod.deletes)


# --- asking -------------------------------------------------------------------------------------


def test_without_a_terminal_it_asks_nobody_and_does_nothing(prod: World, ops: Ops) -> None:
    code, read = ops("prune", "--keep", "1")
    assert code == 1
    assert read.endswith(
        "error: without a terminal nobody can be asked\n    mend   pass --yes to go on\n"
    )
    assert prod.deletes == []


@pytest.mark.parametrize(("answer", "deleted"), [("", 0), ("n", 0), ("y", 12)])
def test_the_operator_is_asked(
    prod: World, ops: Ops, monkeypatch: pytest.MonkeyPatch, answer: str, deleted: int
) -> None:
    said = _operator(monkeypatch, lambda: answer)
    code, read = ops("prune", "--keep", "1")
    assert code == (0 if deleted else 1)
    assert ("nothing was changed" in read) is (not deleted)
    assert said == ["Delete 12 versions? [y/N] "]
    assert len(prod.deletes) == deleted


def _operator(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], str]) -> list[str]:
    """Someone at the terminal; the questions they were asked."""
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return answer()

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", ask)
    return asked


def test_what_is_needed_by_the_time_of_the_answer_stays(
    prod: World, ops: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rolled_back() -> str:
        prod.cluster.runs(prod.reference("aaaaaaa"))
        return "y"

    _operator(monkeypatch, rolled_back)
    assert ops("prune", "--keep", "1")[0] == 0
    assert prod.shelf.pull("aaaaaaa")
    assert len(prod.deletes) == 9


def test_when_more_would_go_than_was_shown_nothing_does(
    prod: World, ops: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deploy meanwhile: the release that was the last one is not any more."""

    def deployed() -> str:
        prod.shelf.release("fffffff")
        return "y"

    _operator(monkeypatch, deployed)
    code, read = ops("prune", "--keep", "1")
    assert code == 1
    assert "has changed since: more would go than was shown" in read
    assert prod.deletes == []


def test_a_tag_that_was_overwritten_meanwhile_stays(
    prod: World, ops: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwritten() -> str:
        prod.shelf.push("before-migration", "by hand")
        prod.shelf.age = 0.5  # older than eeeeeee would be a release that goes
        prod.shelf.push(tag, "other bytes")
        prod.shelf.age = 0
        return "y"

    tag = "aaaaaaa"
    _operator(monkeypatch, overwritten)
    code, _ = ops("prune", "--keep", "2")
    assert code == 1  # ddddddd would go now, and was not shown
    assert prod.shelf.pull("aaaaaaa")
    assert prod.deletes == []


# --- refused ------------------------------------------------------------------------------------


def refused(prod: World, ops: Ops) -> str:
    """What is read of a prune that must not begin."""
    code, read = ops("prune", "--keep", "1", "--yes")
    assert code == 1
    assert prod.deletes == []
    return read


def test_a_page_that_fails_is_refused(prod: World, ops: Ops) -> None:
    for number in range(50):
        prod.shelf.push(f"{number:07x}")
    # The first page is answered.
    faults = prod.gitea.api.faults
    take = faults.take
    pages: list[str] = []

    def second(method: str, path: str) -> Fault | None:
        pages.extend([path] if path == "/packages/admin" else [])
        broken = len(pages) == 2 and path == "/packages/admin"
        return Fault("status", status=500) if broken else take(method, path)

    faults.take = second  # type: ignore[method-assign]
    read = refused(prod, ops)
    assert "error: listing the packages of admin, page 2: 127.0.0.1:" in read
    assert "answered 500 INTERNAL SERVER ERROR" in read
    assert "    mend   look at Gitea's log" in read


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/packages/admin/container/*/files", "listing the files of honeydue-api:"),
        ("/admin/honeydue-api/manifests/*", "fetching admin/honeydue-api@sha256:"),
    ],
)
def test_a_version_that_cannot_be_read_is_refused(
    prod: World, ops: Ops, path: str, said: str
) -> None:
    prod.gitea.api.faults.inject(Fault("status", path=path, status=500))
    assert said in refused(prod, ops)


def test_a_manifest_whose_bytes_are_lost_is_refused_with_its_page(prod: World, ops: Ops) -> None:
    digest = prod.shelf.registry.digest("admin/honeydue-api", "ccccccc") or ""
    prod.gitea.api.faults.inject(
        Fault("status", path=f"/admin/honeydue-api/manifests/{digest}", status=404, times=None)
    )
    read = refused(prod, ops)
    assert f"does not have the manifest {digest} of honeydue-api:ccccccc" in read
    assert f"http://{prod.server}/admin/-/packages/container/honeydue-api/ccccccc" in read


def test_a_dead_cluster_is_refused(prod: World, ops: Ops) -> None:
    prod.cluster.stop()
    assert "the cluster cannot be listed: no API server answers" in refused(prod, ops)


def test_a_cluster_that_does_not_list_everything_is_refused(prod: World, ops: Ops) -> None:
    prod.cluster.status = 403
    assert "127.0.0.1 answered 403 for pods" in refused(prod, ops)


def test_a_stack_without_a_kubeconfig_is_refused(prod: World, ops: Ops) -> None:
    prod.cluster.kubeconfig = ""
    prod.say()
    assert "the stack prod has no output `kubeconfig`" in refused(prod, ops)


def test_a_past_state_that_cannot_be_read_is_refused(prod: World, ops: Ops) -> None:
    prod.deployed_once(prod.reference("aaaaaaa"), at=1)
    (path,) = (prod.folder / "state").rglob("*.checkpoint.json")
    path.write_text("{")
    assert f"a past state of prod cannot be read: {path}" in refused(prod, ops)


def test_every_source_that_is_missing_is_told_at_once(prod: World, ops: Ops) -> None:
    prod.cluster.stop()
    prod.deployed_once(prod.reference("aaaaaaa"), at=1)
    next((prod.folder / "state").rglob("*.checkpoint.json")).unlink()
    assert refused(prod, ops).count("error: ") == 2


def test_while_a_run_holds_the_state_nothing_is_deleted(prod: World, ops: Ops) -> None:
    with Backend(prod.folder / "state").lock("honeydue", "prod"):
        read = refused(prod, ops)
    assert "the stack prod is locked by " in read
    assert ops("prune", "--keep", "1", "--yes")[0] == 0


def test_a_wrong_token_is_refused(prod: World, ops: Ops) -> None:
    prod.say(token="0" * 40)
    assert "the token is wrong, revoked or expired" in refused(prod, ops)


def test_a_token_that_may_only_read_is_told_at_the_first_delete(prod: World, ops: Ops) -> None:
    prod.say(token=prod.gitea.token("admin", "read:package"))
    code, read = ops("prune", "--keep", "1", "--yes")
    assert code == 1
    assert "stopped: 0 of 12 deleted" in read
    assert "the token has no write:package" in read
    assert len(prod.shelf.tags()) == 15


def test_settings_without_a_registry_are_refused_with_the_line_that_mends_them(
    prod: World, ops: Ops
) -> None:
    prod.pulumi.answers(config={"honeydue:registry": {"objectValue": {"server": "gitea.test"}}})
    code, read = ops("list")
    assert code == 1
    assert "honeydue:registry of the stack prod: namespace, username, token missing" in read
    assert "pulumi config set -s prod --path honeydue:registry.namespace" in read


# --- faults in the middle -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["status", "drop_before_change", "drop_after_change"])
def test_a_delete_that_fails_loses_nothing_and_the_next_run_goes_on(
    prod: World, ops: Ops, kind: str
) -> None:
    prod.shelf.age = 40
    parts = [prod.shelf.push("", f"old {arch}") for arch in ("amd64", "arm64")]
    prod.shelf.push_index("0000001", *parts)
    prod.shelf.age = 0
    prod.gitea.api.faults.inject(Fault(kind, "DELETE", "*/0000001", status=500))
    code, read = ops("prune", "--keep", "4", "--yes")
    assert code == 1
    assert "stopped: 0 of 6 deleted; what is left is whole" in read
    assert prod.shelf.pull("0000001") == (kind != "drop_after_change")
    assert all(map(prod.shelf.pull, parts))
    code, read = ops("prune", "--keep", "4", "--yes")
    assert code == 0
    assert not any(map(prod.shelf.pull, [*parts, "0000001", "aaaaaaa"]))
    assert all(map(prod.shelf.pull, ("bbbbbbb", "ccccccc", "ddddddd", "eeeeeee")))


def test_ctrl_c_in_the_middle_says_how_far_it_came(
    prod: World, ops: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ops.packages import Packages  # noqa: PLC0415 - patched here alone

    delete = Packages.delete
    gone: list[Any] = []

    def interrupted(self: Packages, version: Any) -> None:
        if len(gone) == 2:
            raise KeyboardInterrupt
        gone.append(version)
        delete(self, version)

    monkeypatch.setattr(Packages, "delete", interrupted)
    code, read = ops("prune", "--keep", "1", "--yes")
    assert code == 1
    assert "stopped: 2 of 12 deleted; what is left is whole" in read
    assert not list((prod.folder / "state").rglob("locks/**/*.json"))


# --- usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["prune", "--keep", "0"], ["prune", "--keep", "many"], ["prun"], ["list", "--all"]]
)
def test_a_wrong_command_line_is_exit_code_2(words: list[str], ops: Ops) -> None:
    assert ops(*words)[0] == 2


@pytest.mark.parametrize("verb", ["list", "prune"])
def test_the_help_has_the_exit_codes(verb: str, ops: Ops) -> None:
    code, read = ops(verb, "--help")
    assert code == 0
    assert "0 done; 1 refused, failed or answered with no; 2 wrong usage" in re.sub(
        r"\s+", " ", read
    )
