"""Every command of the deployment book is run, and what the book says that it prints is printed.

One rehearsal, with real images, serves the whole book; its chapters run in order, and within a
chapter its commands. `proven` says what is not simply run, and why.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from honeydue import versions
from honeydue.cloudflare.zone import ORIGIN_DAYS
from honeydue.hetzner import firewall
from honeydue.k3s.cloud_init import NETWORK_SECONDS
from honeydue.kubernetes.catalogue import (
    PRE_STOP_SECONDS,
    PROBE_SECONDS,
    REDIS,
    ROLLOUT_SECONDS,
    WORKLOADS,
)
from honeydue.settings import Settings
from ops import diagnosis, lock, rollout, urls
from rehearsal.cluster import binaries as cluster_binaries
from rehearsal.home import cache_folder
from rehearsal.registry.service import why_not
from tests.book.chapters import BOOK, KINDS, ROOT, Chapter, Command, chapters, missing
from tests.book.proven import ASKING, ELSEWHERE, TYPED
from tests.registry.forge import WITHOUT
from tests.rehearsal.operator import Operator

CHAPTERS = chapters()
START = "make rehearse IMAGES=1"
APP = "honeyDueAPI-go"  # beside the checkout, as on the operator's laptop
FUNCTIONS = """
python() { "$HONEYDUE_PYTHON" "$@"; }
pulumi() { PYTHONPATH="$BOOK_ROOT" "$HONEYDUE_PYTHON" "$BOOK_ROOT/tests/book/pulumi.py" "$@"; }
make() { command make -o .venv/.set-up "$@"; }
export -f python
"""


@dataclass
class Reader:
    """Somebody who types what the book says. `said`: what each command printed, run once each."""

    operator: Operator
    kubectl: Path
    values: dict[str, str] = field(default_factory=dict)
    """Placeholder → what stands there in this world."""
    said: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        home = self.operator.home.parent / "somebody"
        home.mkdir(exist_ok=True)
        return {
            **self.operator.environment,
            "HOME": str(home),
            "HONEYDUE_REHEARSAL_CACHE": str(cache_folder()),  # which is below HOME elsewhere
            "PATH": f"{self.kubectl.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "KUBECONFIG": str(home / ".kube" / "honeydue-k3s.yaml"),
            "BOOK_ROOT": str(ROOT),
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "user.name",
            "GIT_CONFIG_VALUE_0": "somebody",
            "GIT_CONFIG_KEY_1": "user.email",
            "GIT_CONFIG_VALUE_1": "somebody@honeydue.test",
        }

    def types(self, command: Command, *, again: bool) -> None:
        """Runs it unless it was run and need not be `again`; it must do what the book says."""
        if command.text not in self.said or again:
            self._run(command)
        if unsaid := missing(command.printed, self.said[command.text]):
            pytest.fail(f"{command}\ndoes not print\n{unsaid}\nbut\n{self.said[command.text]}")

    def _run(self, command: Command) -> None:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", FUNCTIONS + self.line(command.text)],
            cwd=self.operator.checkout, env=self.environment, input=self._typed(command.text),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1500, check=False,
        )  # fmt: skip
        self.said[command.text] = done.stdout
        refused = any(line.startswith("error:") for line in command.printed)
        if (done.returncode != 0) != refused:
            pytest.fail(f"{command}\nended with {done.returncode}:\n{done.stdout}")

    def line(self, text: str) -> str:
        """What is typed in this world."""
        for placeholder, value in self.values.items():
            text = re.sub(rf"(?<![\w-]){re.escape(placeholder)}(?![\w-])", value, text)
        for verb in ASKING:
            if "--dry-run" not in text and re.match(rf"python -m ops {verb}\b", text):
                text = re.sub(rf"^python -m ops {verb}\b", r"\g<0> --yes", text)
        # These ask too, and have no word for yes: what they would run is a verb that is run.
        return re.sub(r"^make (deploy|rollback)\b", r"make -n \1", text)

    def _typed(self, text: str) -> str:
        return next((typed for verb, typed in TYPED.items() if f"ops {verb}" in text), "")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    if reason := why_not():
        pytest.fail(f"{reason}\n  or: {WITHOUT}=1, and nothing about images is tested")
    operator = Operator.in_folder(tmp_path_factory.mktemp("book"))
    (operator.checkout / ".venv").symlink_to(sys.prefix)
    (operator.checkout / "docs").symlink_to(ROOT / "docs")
    someone = Reader(operator, cluster_binaries.ensure().kube("kubectl"))
    try:
        someone.types(Command("the fixture", 0, START), again=True)
        (operator.checkout.parent / APP).symlink_to(operator.home / "app")
        someone.values |= _world(operator)
        _files(operator)
        yield someone
    finally:
        operator.run("reset")


def _world(operator: Operator) -> dict[str, str]:
    """A commit that somebody has pushed since, and the placeholders of the book."""
    app, origin = operator.home / "app", operator.home.parent / "origin.git"
    author = operator.home.parent / "author"

    def git(folder: Path, *words: str) -> str:
        who = ("-c", "user.name=author", "-c", "user.email=author@honeydue.test")
        done = subprocess.run(
            ["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    first = git(app, "rev-parse", "--short", "HEAD")
    git(app.parent, "clone", "--quiet", "--bare", str(app), str(origin))
    git(app, "remote", "add", "origin", str(origin))
    git(app, "fetch", "--quiet", "origin")
    git(app, "branch", "--quiet", "--set-upstream-to=origin/main")
    git(author.parent, "clone", "--quiet", str(origin), str(author))
    file = author / "admin" / "main.go"
    file.write_text(file.read_text() + "\n// One more line.\n")
    git(author, "commit", "--quiet", "--all", "--message", "admin: one more line")
    git(author, "push", "--quiet")
    second = git(author, "rev-parse", "--short", "HEAD")
    return {"237c6b8": first, "1a2b3c4": second}


def _files(operator: Operator) -> None:
    """What the operator has beside the repository, and the book names."""
    deploy = operator.checkout / "deploy"
    env = (deploy / "rehearsal.env").read_text()
    (deploy / "another.env").write_text(env.replace("TIMEZONE=UTC", "TIMEZONE=Europe/Berlin"))
    (deploy / "secrets.env").write_text("B2_KEY_ID=another-id\nB2_APP_KEY=another-key\n")
    key = ec.generate_private_key(ec.SECP256R1())
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (deploy / "AuthKey.p8").write_bytes(key.private_bytes(*form))
    registry = operator.output("images")["api"].split("/")[0]
    secrets = json.loads((operator.home / "registry" / "gitea" / "secrets.json").read_text())
    (deploy / "registry.env").write_text(
        f"REGISTRY={registry}\nREGISTRY_NAMESPACE=admin\nREGISTRY_USERNAME=admin\n"
        f"REGISTRY_TOKEN={secrets['tokens']['write']}\n"
    )


# --- run ----------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.images
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.path.stem)
def test_every_command_of_the_chapter_does_what_it_says(chapter: Chapter, reader: Reader) -> None:
    for command in chapter.commands():
        if not command.mentioned and elsewhere(command.text) is None:
            reader.types(command, again=command.text != START)


@pytest.mark.cluster
@pytest.mark.images
def test_every_command_that_is_only_mentioned_works_as_well(reader: Reader) -> None:
    """After the chapters, since most of these were run there."""
    for chapter in CHAPTERS:
        for command in chapter.commands():
            if command.mentioned and elsewhere(command.text) is None:
                reader.types(command, again=False)


def elsewhere(text: str) -> str | None:
    return next((rule.why for rule in ELSEWHERE if rule.fits(text)), None)


# --- read ---------------------------------------------------------------------------------------


def test_every_reason_not_to_run_a_command_is_needed() -> None:
    typed = [command.text for chapter in CHAPTERS for command in chapter.commands()]
    unused = [rule.pattern for rule in ELSEWHERE if not any(map(rule.fits, typed))]
    assert not unused


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.path.stem)
def test_every_command_can_be_read_by_bash(chapter: Chapter) -> None:
    for command in chapter.commands():
        done = subprocess.run(
            ["bash", "-n", "-c", command.text], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert shlex.split(command.text, comments=True), command


# --- every name that is mentioned ----------------------------------------------------------------

EACH = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.path.stem)
SOURCES = "\n".join(
    path.read_text()
    for folder in ("honeydue", "ops", "rehearsal", "deploy", "examples")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".sh", ".env", ".example", ".md") and path.is_file()
)
# A sentence of the program may run over several literals.
SENTENCES = re.sub(r'"\s*\n\s*f?"', "", SOURCES)
NOT_IN_GIT = {"deploy/prod.env", "deploy/registry.env", "deploy/hooks/"}  # the operator's own


@EACH
def test_a_chapter_has_no_code_that_the_tests_do_not_read(chapter: Chapter) -> None:
    assert {block.kind for block in chapter.blocks()} <= set(KINDS)
    assert not [line for _, line in chapter.prose() if line.startswith("    ")]


@EACH
def test_every_link_leads_to_a_page_and_a_heading_that_are_there(chapter: Chapter) -> None:
    for number, line in chapter.prose():
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", line):
            page = (BOOK / target) if target else chapter.path
            assert page.exists(), f"{chapter.name}:{number}: {target}"
            if anchor:
                assert anchor in _anchors(page), f"{chapter.name}:{number}: {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


@EACH
def test_every_file_that_is_named_is_there(chapter: Chapter) -> None:
    for number, span in chapter.spans():
        if re.fullmatch(r"[a-z_.]\w*(?:[/.-][\w.-]+)*/?", span) and ("/" in span):
            there = (ROOT / span).exists() or (ROOT / f"{span}.yaml").exists()
            named = span.startswith(OF_THE_CLUSTER) or span in NOT_IN_GIT
            assert there or named, f"{chapter.name}:{number}: {span}"


# Paths that are no files of ours: a bucket of a node's disk, a name in Kubernetes.
OF_THE_CLUSTER = ("honeydue.com/", "server/db")


@EACH
def test_every_setting_that_is_named_is_one(chapter: Chapter) -> None:
    blocks = "\n".join(
        "\n".join(block.content) for block in chapter.blocks() if block.kind == "yaml"
    )
    named = [span for _, span in chapter.spans() if span.startswith("honeydue:")]
    for text in [*named, *re.findall(r"^(honeydue:\w+)", blocks, re.MULTILINE)]:
        _setting(text.removeprefix("honeydue:").split("."), Settings, f"{chapter.name}: {text}")
    for block in (block for block in chapter.blocks() if block.kind == "yaml"):
        for key, value in yaml.safe_load("\n".join(block.content)).items():
            for inner in value:
                _setting([key.removeprefix("honeydue:"), inner], Settings, chapter.name)


def _setting(path: list[str], model: Any, where: str) -> None:
    names = {field.alias or name: field for name, field in model.model_fields.items()}
    if path[0] == "envFile":
        return  # it is not part of the model: where it is read from
    assert path[0] in names, where
    inside = [
        each
        for each in (names[path[0]].annotation, *get_args(names[path[0]].annotation))
        if isinstance(each, type) and hasattr(each, "model_fields")
    ]
    if path[1:]:
        assert inside, where
        _setting(path[1:], inside[0], where)


@EACH
def test_every_flag_and_variable_that_is_named_is_one(chapter: Chapter) -> None:
    for number, span in chapter.spans():
        if re.fullmatch(r"--[a-z-]+(?:=\w+)?", span):
            known = span.split("=")[0] in SOURCES
            assert known, f"{chapter.name}:{number}: {span}"
        if re.fullmatch(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", span):
            assert span in SOURCES, f"{chapter.name}:{number}: {span}"


# --- what the chapters say of the program --------------------------------------------------------


def chapter_of(stem: str) -> Chapter:
    (found,) = (chapter for chapter in CHAPTERS if chapter.path.stem.endswith(stem))
    return found


def rows(chapter: Chapter, columns: int) -> list[list[str]]:
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for _, line in chapter.prose()
        if line.startswith("|")
    ]
    return [row for row in cells if len(row) == columns]


def test_the_table_of_services_is_the_programs() -> None:
    told = {row[0]: row[1:] for row in rows(chapter_of("services"), 7)}
    for each in WORKLOADS:
        boot = f"{each.health.startup_failures * PROBE_SECONDS} s" if each.health else "none asked"
        assert told[each.name] == [
            str(each.replicas),
            str(each.port or "none"),
            f"{each.memory_mib} MiB",
            f"{each.cpu_millis}m",
            boot,
            f"{each.grace_seconds} s",
        ]
    assert told[REDIS.name][1:4] == [str(REDIS.port), f"{REDIS.memory_mib} MiB", "100m"]
    assert REDIS.cpu_millis == 100


def test_the_table_of_the_firewall_is_the_programs() -> None:
    told = " ".join(row[0] for row in rows(chapter_of("firewall-and-cloudflare"), 3))
    operator = SimpleNamespace(api_cidrs=["203.0.113.7/32"], ssh_cidrs=["203.0.113.7/32"])
    for rule in firewall.rules(operator=cast(Any, operator), cloudflare=["173.245.48.0/20"]):
        assert f"{rule.port}/{rule.protocol}" in told or rule.protocol in told


def test_the_numbers_in_the_text_are_the_programs() -> None:
    said = {chapter.path.stem[3:]: chapter.path.read_text() for chapter in CHAPTERS}
    assert versions.K3S_VERSION in said["k3s-and-pki"]
    assert versions.NODE_IMAGE in said["nodes-and-network"]
    assert versions.TRAEFIK_CHART.split("+")[0] in said["traefik"]
    assert f"{urls.ATTEMPTS} tries, {urls.PAUSE:.0f} s apart" in said["deploying"]
    stale = lock.STALE_AFTER.total_seconds()
    assert f"every {lock.RENEWED_EVERY:.0f} s, stale after {stale:.0f} s" in said["deploying"]
    assert f"{PRE_STOP_SECONDS} s while Traefik" in " ".join(said["services"].split())
    assert f"without progress for {ROLLOUT_SECONDS // 60} minutes" in said["services"]
    assert f"{NETWORK_SECONDS // 60} minutes for the private address" in said["k3s-and-pki"]
    assert f"certificate for {ORIGIN_DAYS // 365} years" in said["firewall-and-cloudflare"]


def test_every_likely_cause_that_status_knows_stands_in_what_can_go_wrong() -> None:
    told = chapter_of("what-can-go-wrong").path.read_text()
    tables = (diagnosis._PULL, diagnosis._CREATE, diagnosis._SCHEDULE, diagnosis._REFUSED)
    causes = [rule.cause for table in tables for rule in table]
    causes += [cause for _, cause in diagnosis._READINESS]
    for cause in causes:
        assert f"| {re.sub(r'{[a-z]+}', '…', cause)} |" in told


@pytest.mark.parametrize("stem", ["what-can-go-wrong", "firewall-and-cloudflare"])
def test_what_the_tables_quote_as_likely_is_said_by_the_program(stem: str) -> None:
    chapter = chapter_of(stem)
    inside = False
    for number, line in chapter.prose():
        inside = line.startswith("|") and (inside or line.startswith(("| likely |", "| code |")))
        if not inside or line.startswith(("| likely", "| code", "|---")):
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        cause = cells[0] if len(cells) == 2 else cells[1]
        for part in cause.split("…"):
            assert part.strip() in SENTENCES, f"{chapter.name}:{number}: {part}"


def test_the_cheat_sheet_has_every_command_of_the_old_chapters() -> None:
    told = chapter_of("cheat-sheet").path.read_text().replace("\\|", "|")
    old = (Path(__file__).with_name("by_hand.txt")).read_text().splitlines()
    left = "\n".join(line for line in told.splitlines() if line.startswith("| `"))
    assert [command for command in old if f"`{command}`" not in left] == []


@pytest.mark.parametrize("verb", ["deploy", "rollback"])
def test_the_exit_codes_of_the_book_are_those_of_the_program(verb: str) -> None:
    codes = {rollout.DONE, rollout.UNCHANGED, 2, rollout.ROLLED_BACK, rollout.FAILED}
    told = re.findall(r"^\| (\d+) \|", chapter_of("deploying").path.read_text(), re.MULTILINE)
    assert {int(code) for code in told} == codes | {rollout.INTERRUPTED}
    assert f"`{verb}`" in chapter_of("cheat-sheet").path.read_text()


def test_the_table_of_contents_has_every_chapter() -> None:
    told = re.findall(r"^\| \[[^]]+\]\(([^)]+)\)", (BOOK / "README.md").read_text(), re.MULTILINE)
    assert told == [chapter.name for chapter in CHAPTERS[1:]]
    assert [int(name[:2]) for name in told] == list(range(1, len(told) + 1))
