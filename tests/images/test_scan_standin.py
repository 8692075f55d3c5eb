"""The rehearsal's stand-in of trivy: really pulls and looks, and answers as Trivy documents."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from honeydue.images import scan
from honeydue.images.registry import Login
from rehearsal.cluster.binaries import find_go
from rehearsal.registry import trivy_standin
from tests.images import small_registry
from tests.images.small_registry import REPOSITORY, TOKEN, USERNAME, Content

SENTINEL = "0123456789abcdef"  # 16 bytes before and after the modules; Go does not look at them
MODULES = (
    "path\texample.com/app/api\n"
    "mod\texample.com/app\t(devel)\t\n"
    "dep\texample.com/one\tv1.2.3\th1:x=\n"
    "dep\texample.com/two\tv1.0.0\n"
    "=>\texample.com/fork\tv1.9.0\th1:y=\n"
    "build\tGOOS=linux\n"
)


def varint(size: int) -> bytes:
    out = b""
    while True:
        out += bytes([size & 0x7F | (0x80 if size > 0x7F else 0)])
        size >>= 7
        if not size:
            return out


def go_binary(modules: str = MODULES, version: str = "go1.25.1") -> bytes:
    strings = (version.encode(), (SENTINEL + modules + SENTINEL).encode())
    header = b"\xff Go buildinf:" + bytes([8, 2]) + bytes(16)
    body = b"".join(varint(len(text)) + text for text in strings)
    return b"\x7fELF" + bytes(60) + header + body + b"code"


def layer(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), 1, mtime=0)


ALPINE = {
    "etc/os-release": b'ID=alpine\nVERSION_ID="3.22.1"\n',
    "lib/apk/db/installed": b"P:musl\nV:1.2.5-r9\n\nP:busybox\nV:1.37.0-r1\n",
}


@pytest.fixture(scope="module")
def content() -> Iterator[Content]:
    with small_registry.serve() as served:
        yield served


class Standin:
    """The stand-in as the operator's PATH has it."""

    def __init__(self, folder: Path, content: Content) -> None:
        self.content = content
        self.said: list[str] = []
        self.advisories = folder / "advisories.json"
        self.cache = folder / "cache"
        trivy_standin.launcher(folder / "bin", self.cache)
        self.environment = {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.defpath}",
            "HOME": str(folder),
            "TRIVY_DB_REPOSITORY": str(self.advisories),
        }
        self.knows()

    def knows(self, *advisories: dict[str, str], **more: object) -> None:
        content = {"end_of_life": [], "advisories": advisories} | more
        self.advisories.write_text(json.dumps(content))

    def push(self, *layers: bytes) -> str:
        digest = self.content.push(REPOSITORY, "237c6b8", list(layers))
        return f"{self.content.server}/{REPOSITORY}@{digest}"

    def scan(self, image: str, *, token: str = TOKEN, ignores: str = "") -> scan.Outcome:
        return scan.scan(
            image,
            severity="CRITICAL",
            ignores=scan.read_ignores(ignores, datetime.now(UTC).date()),
            login=Login(USERNAME, token),
            environment=self.environment,
            say=self.said.append,
        )


@pytest.fixture
def trivy(content: Content, tmp_path: Path) -> Standin:
    return Standin(tmp_path, content)


def advisory(package: str, fixed: str, severity: str = "CRITICAL") -> dict[str, str]:
    return {
        "id": "CVE-2026-1",
        "package": package,
        "fixed": fixed,
        "severity": severity,
        "title": "t",
    }


# --- what is in an image -----------------------------------------------------------------------


def test_the_modules_of_a_go_binary_are_read_with_their_replacements() -> None:
    found = {p.name: p.version for p in trivy_standin.go_modules(go_binary())}
    assert found == {
        "stdlib": "v1.25.1",
        "example.com/app": "",
        "example.com/one": "v1.2.3",
        "example.com/fork": "v1.9.0",
    }


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\xff Go buildinf:", go_binary()[:100]])
def test_what_is_no_whole_go_binary_has_no_modules(data: bytes) -> None:
    assert not {p.name for p in trivy_standin.go_modules(data)} - {"stdlib"}


def test_it_agrees_with_go_itself_on_a_binary_that_was_just_built(tmp_path: Path) -> None:
    go = find_go((1, 21))
    (tmp_path / "go.mod").write_text("module example.com/tiny\n\ngo 1.21\n")
    (tmp_path / "main.go").write_text("package main\n\nfunc main() {}\n")
    environment = os.environ | {"GOFLAGS": "-ldflags=-s -ldflags=-w", "GOTOOLCHAIN": "local"}
    subprocess.run([go, "build", "-o", "tiny", "."], cwd=tmp_path, env=environment, check=True)
    said = subprocess.run(
        [go, "version", "-m", "tiny"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    found = {p.name: p.version for p in trivy_standin.go_modules((tmp_path / "tiny").read_bytes())}
    assert set(found) == {"stdlib", "example.com/tiny"}
    assert f"go{found['stdlib'].removeprefix('v')}" in said


def test_upper_layers_replace_and_remove_what_lower_ones_brought(trivy: Standin) -> None:
    image = trivy.push(
        layer(ALPINE | {"app/api": go_binary(), "old/api": go_binary(), "opt/a/b": go_binary()}),
        layer(
            {
                "lib/apk/db/installed": b"P:musl\nV:1.2.5-r10\n",
                "old/.wh.api": b"",
                "opt/.wh..wh..opq": b"",
            }
        ),
    )
    components = trivy.scan(image).sbom["components"]
    assert [c["name"] for c in components if c["type"] == "application"] == ["app/api"]
    system = [c["purl"] for c in components if c.get("purl", "").startswith("pkg:apk/")]
    assert system == ["pkg:apk/alpine/musl@1.2.5-r10?distro=alpine-3.22.1"]


def test_the_sbom_is_cyclonedx_names_the_digest_and_says_that_it_is_a_stand_in(
    trivy: Standin,
) -> None:
    image = trivy.push(layer(ALPINE | {"api": go_binary()}))
    made = trivy.scan(image)
    assert (made.sbom["bomFormat"], made.sbom["specVersion"]) == ("CycloneDX", "1.6")
    said = {p["name"]: p["value"] for p in made.sbom["metadata"]["component"]["properties"]}
    assert said["aquasecurity:trivy:RepoDigest"] == image
    assert made.sbom["metadata"]["tools"]["components"][0]["name"] == "trivy-standin"
    assert "standin" in made.trivy
    refs = [c["bom-ref"] for c in made.sbom["components"]]
    assert len(refs) == len(set(refs))
    named = {on for entry in made.sbom["dependencies"] for on in entry["dependsOn"]}
    assert named == set(refs)


# --- the verdict through the gate's own eyes ---------------------------------------------------


def test_a_planted_critical_is_found_in_a_go_binary_and_in_the_system(trivy: Standin) -> None:
    image = trivy.push(layer(ALPINE | {"api": go_binary()}))
    for package, fixed, installed in (
        ("example.com/one", "v1.2.4", "v1.2.3"),
        ("musl", "1.2.5-r10", "1.2.5-r9"),
    ):
        trivy.knows(advisory(package, fixed))
        (found,) = trivy.scan(image).stops
        assert (found.package, found.installed, found.fixed) == (package, installed, fixed)


def test_a_mended_version_is_clean(trivy: Standin) -> None:
    trivy.knows(advisory("example.com/one", "v1.2.3"), advisory("musl", "1.2.5-r9"))
    assert trivy.scan(trivy.push(layer(ALPINE | {"api": go_binary()}))).findings == ()


def test_an_exception_counts_until_it_expires(trivy: Standin) -> None:
    image = trivy.push(layer({"api": go_binary()}))
    trivy.knows(advisory("example.com/one", "v1.2.4"))
    entry = "vulnerabilities: [{{id: CVE-2026-1, expired_at: {}, statement: why}}]"
    today = datetime.now(UTC).date()
    accepted = trivy.scan(image, ignores=entry.format(today + timedelta(days=1)))
    assert (accepted.stops, [f.id for f in accepted.ignored]) == ((), ["CVE-2026-1"])
    expired = trivy.scan(image, ignores=entry.format(today))
    assert [f.id for f in expired.stops] == ["CVE-2026-1"]
    assert [e.id for e in expired.ignores.expired] == ["CVE-2026-1"]


def test_a_system_at_its_end_of_life_is_told(trivy: Standin) -> None:
    trivy.knows(advisory("musl", ""), end_of_life=["alpine 3.22"])
    (found,) = trivy.scan(trivy.push(layer(ALPINE))).stops
    assert found.mended_by == "a newer base image"


def test_a_missing_and_an_outdated_database_stop(trivy: Standin) -> None:
    image = trivy.push(layer(ALPINE))
    trivy.advisories.unlink()
    with pytest.raises(scan.ScanError, match="has no vulnerability database"):
        trivy.scan(image)
    week = (datetime.now(UTC) - timedelta(days=8)).isoformat()
    trivy.knows(UpdatedAt=week)
    trivy.scan(image)
    trivy.advisories.unlink()
    with pytest.raises(scan.ScanError, match="is 8 days old, more than 7"):
        trivy.scan(image)


def test_a_database_of_yesterday_will_do_with_a_warning(trivy: Standin) -> None:
    image = trivy.push(layer(ALPINE))
    trivy.knows(UpdatedAt=(datetime.now(UTC) - timedelta(days=1)).isoformat())
    trivy.scan(image)
    trivy.advisories.unlink()
    assert trivy.scan(image).findings == ()
    assert trivy.said[-1].startswith("warning: a newer vulnerability database cannot be had")


def test_a_wrong_token_is_told_and_not_shown(trivy: Standin) -> None:
    image = trivy.push(layer(ALPINE))
    with pytest.raises(scan.ScanError, match="remote error") as refused:
        trivy.scan(image, token="canary-wrong")
    assert "canary" not in str(refused.value)


def test_an_image_that_is_not_there_is_told(trivy: Standin) -> None:
    image = f"{trivy.content.server}/{REPOSITORY}@sha256:{'0' * 64}"
    with pytest.raises(scan.ScanError, match="unable to find the specified image"):
        trivy.scan(image)


def test_a_damaged_layer_is_no_verdict(trivy: Standin) -> None:
    image = trivy.push(gzip.compress(b"no tar" * 1000))
    with pytest.raises(scan.ScanError, match="ReadError"):
        trivy.scan(image)


# --- as the real one ---------------------------------------------------------------------------


def call(*words: str, **environment: str) -> str:
    return trivy_standin.run(words, environment)


@pytest.mark.parametrize(
    "words",
    [
        ["image", "--severity", "HIGH", "x"],
        ["image", "--format", "cyclonedx", "--output", "x", "--image-sr", "remote", "x"],
        ["fs", "."],
        ["version", "--format", "table"],
        [],
    ],
)
def test_every_other_command_and_flag_is_refused(words: list[str]) -> None:
    with pytest.raises(trivy_standin.Fatal):
        call(*words)


def test_of_loopback_only_one_address_is_plain_http_unless_told() -> None:
    """Trivy's client library has that rule; the gate must know it."""
    words = ("--format", "cyclonedx", "--output", "x", "--image-src", "remote")
    image = f"127.9.9.9:1/{REPOSITORY}@sha256:{'0' * 64}"
    with pytest.raises(trivy_standin.Fatal, match="HTTP response to HTTPS client"):
        call("image", *words, image)
    with pytest.raises(trivy_standin.Fatal, match="does not answer"):
        call("image", *words, image, TRIVY_INSECURE="true")


def test_an_ignored_path_and_package_url_must_fit(tmp_path: Path) -> None:
    file = tmp_path / "ignore.yaml"
    found = {"VulnerabilityID": "A", "PkgIdentifier": {"PURL": "pkg:golang/example.com/one@v1"}}
    for entry, fits in (
        ({"id": "A"}, True),
        ({"id": "B"}, False),
        ({"id": "A", "paths": ["app/*"]}, True),
        ({"id": "A", "paths": ["lib/*"]}, False),
        ({"id": "A", "purls": ["pkg:golang/example.com/one"]}, True),
        ({"id": "A", "purls": ["pkg:golang/example.com/on"]}, False),
    ):
        file.write_text(json.dumps({"vulnerabilities": [entry]}))
        ignored = trivy_standin.read_ignored(file, datetime.now(UTC))
        assert bool(trivy_standin._match(found, "app/api", ignored)) is fits


def test_an_expired_entry_is_none(tmp_path: Path) -> None:
    file = tmp_path / "ignore.yaml"
    file.write_text("vulnerabilities: [{id: A, expired_at: 2026-11-22}]")
    day = date(2026, 11, 22)
    before = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(seconds=1)
    assert len(trivy_standin.read_ignored(file, before)) == 1
    assert trivy_standin.read_ignored(file, before + timedelta(seconds=2)) == []


def test_a_real_trivys_cache_is_never_touched(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HONEYDUE_REHEARSAL_CACHE", str(tmp_path / "rehearsal"))
    call("image", "--download-db-only", HOME=str(tmp_path))
    assert (tmp_path / "rehearsal" / "trivy-standin" / "db" / "metadata.json").is_file()
    assert not (tmp_path / ".cache").exists()


def test_what_the_rehearsal_ships_finds_nothing_in_the_example_and_something_when_asked() -> None:
    shipped = json.loads(trivy_standin.ADVISORIES.read_text())
    packages = {entry["package"] for entry in shipped["advisories"]}
    assert packages == {"example.com/rehearsal/leaky"}
    assert {entry["severity"] for entry in shipped["advisories"]} <= set(scan.SEVERITIES)
