"""The scan gate: which exceptions count, what stops, and what Trivy is given and may see."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from honeydue.images import scan
from honeydue.images.registry import Login
from rehearsal.registry import trivy_standin

TODAY = date(2026, 11, 22)
NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
IMAGE = "gitea.example/admin/honeydue-api@sha256:" + "a" * 64
TOKEN = "canary-registry-token"


# --- the ignore file ---------------------------------------------------------------------------


def entry(**changes: object) -> str:
    given: dict[str, object] = {
        "id": "CVE-2026-1",
        "expired_at": date(2026, 12, 31),
        "statement": "not reachable",
    }
    merged = {key: value for key, value in (given | changes).items() if value is not None}
    return yaml.safe_dump({"vulnerabilities": [merged]})


def problems(text: str) -> list[tuple[str, str, str]]:
    with pytest.raises(scan.IgnoresError) as refused:
        scan.read_ignores(text, TODAY)
    return list(refused.value.problems)


def test_an_entry_counts_until_its_day_and_not_on_it() -> None:
    for until, counts in ((date(2026, 11, 23), True), (TODAY, False), (date(2026, 11, 1), False)):
        read = scan.read_ignores(entry(expired_at=until), TODAY)
        assert [e.until for e in (read.active if counts else read.expired)] == [until]
        assert not (read.expired if counts else read.active)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "vulnerabilities: []", "vulnerabilities:"])
def test_an_empty_file_accepts_nothing(text: str) -> None:
    assert scan.read_ignores(text, TODAY) == scan.Ignores()


@pytest.mark.parametrize(
    ("text", "place", "wrong", "mend"),
    [
        (
            entry(expired_at=None),
            "vulnerabilities[1] (CVE-2026-1)",
            "never expires",
            "expired_at: <YYYY-MM-DD>",
        ),
        (
            entry(expired_at="next year"),
            "vulnerabilities[1] (CVE-2026-1)",
            "is no date",
            "expired_at: <YYYY-MM-DD>",
        ),
        (entry(statement=None), "vulnerabilities[1]", "does not say why", 'statement: "<why>"'),
        (entry(statement="  "), "vulnerabilities[1]", "does not say why", 'statement: "<why>"'),
        (entry(id=None), "vulnerabilities[1]", "has no id", "id: CVE-2026-12345"),
        (entry(id=12), "vulnerabilities[1]", "has no id", "id: CVE-2026-12345"),
        (
            entry(paths="usr/bin"),
            "vulnerabilities[1]",
            "paths that are no list",
            'paths: ["<one>"]',
        ),
        (entry(expires="2026"), "vulnerabilities[1]", "does not know: expires", "take it out"),
        ("vulnerabilities: [3]", "vulnerabilities[1]", "is no entry", "- {id: CVE-"),
        ("vulnerabilities: 3", "the file", "has no list `vulnerabilities`", "vulnerabilities: ["),
        ("[]", "the file", "has no list `vulnerabilities`", "vulnerabilities: ["),
        ("CVE-2026-1", "the file", "has no list `vulnerabilities`", "vulnerabilities: ["),
        ("secrets: []", "secrets", "is no part of this file", "take it out"),
        ("a: [\n- b", "line 2", "is not YAML", "- {id: CVE-"),
        ("a: 2026-02-30", "the file", "holds a date that does not exist", "expired_at:"),
        ("x" * 300_000, "the file", "has 300000 characters", "take out what is mended"),
    ],
)
def test_a_wrong_entry_is_told_with_its_place_and_the_line_that_mends_it(
    text: str, place: str, wrong: str, mend: str
) -> None:
    (found,) = problems(text)
    assert place in found[0]
    assert wrong in found[1]
    assert mend in found[2]


def test_every_mistake_is_told_at_once() -> None:
    text = yaml.safe_dump({"vulnerabilities": [{"id": "CVE-2026-1"}, {"statement": "x"}]})
    assert [wrong for _, wrong, _ in problems(text)] == [
        "never expires, so nobody would look at it again",
        "does not say why it is accepted",
        "has no id of a vulnerability",
        "never expires, so nobody would look at it again",
    ]


def test_what_a_message_proposes_is_accepted_when_written(tmp_path: Path) -> None:
    (_, _, mend), *_ = problems("vulnerabilities: 3")
    assert scan.read_ignores(mend, TODAY).active
    file = tmp_path / "trivyignore.yaml"
    assert scan.load_ignores(file, TODAY) == scan.Ignores()
    file.write_bytes(b"\xff")
    with pytest.raises(scan.IgnoresError, match="cannot be read as text"):
        scan.load_ignores(file, TODAY)
    file.write_text("[]")
    with pytest.raises(scan.IgnoresError) as refused:
        scan.load_ignores(file, TODAY)
    assert str(refused.value).startswith(f"  {file}: the file\n    wrong  has no list")


@given(st.text(max_size=300))
@settings(deadline=None)
def test_no_text_is_a_stack_trace(text: str) -> None:
    for candidate in (text, f"vulnerabilities: {text}", f"vulnerabilities: [{{id: {text}}}]"):
        try:
            scan.read_ignores(candidate, TODAY)
        except scan.IgnoresError as refused:
            assert str(refused)  # noqa: PT017 - both outcomes are right


def test_trivy_is_given_only_what_still_counts() -> None:
    text = yaml.safe_dump(
        {
            "vulnerabilities": [
                {
                    "id": "CVE-2026-1",
                    "expired_at": date(2026, 12, 31),
                    "statement": "a",
                    "paths": ["usr/**"],
                    "purls": ["pkg:golang/x"],
                },
                {"id": "CVE-2026-2", "expired_at": date(2026, 1, 1), "statement": "b"},
            ]
        }
    )
    rendered = scan.read_ignores(text, TODAY).render()
    assert yaml.safe_load(rendered) == {
        "vulnerabilities": yaml.safe_load(text)["vulnerabilities"][:1]
    }


# --- the verdict -------------------------------------------------------------------------------


def vulnerability(name: str, severity: str = "CRITICAL", **more: object) -> dict[str, object]:
    return {
        "VulnerabilityID": name,
        "PkgName": f"lib-{name}",
        "InstalledVersion": "1.0",
        "FixedVersion": "1.1",
        "Severity": severity,
        **more,
    }


def outcome(
    *found: dict[str, object],
    severity: str = "HIGH",
    ignored: tuple[dict[str, object], ...] = (),
    ignores: scan.Ignores | None = None,
    ended: bool = False,
    kind: str = "os-pkgs",
) -> scan.Outcome:
    report: dict[str, Any] = {
        "Metadata": {
            "OS": {"Family": "alpine", "Name": "3.1", **({"EOSL": True} if ended else {})}
        },
        "Results": [
            {
                "Target": "api",
                "Class": kind,
                "Vulnerabilities": list(found),
                "ExperimentalModifiedFindings": [
                    {"Type": "vulnerability", "Status": "ignored", "Finding": one}
                    for one in ignored
                ],
            }
        ],
    }
    findings, suppressed = scan.findings_of(report)
    return scan.Outcome(
        sbom={"bomFormat": "CycloneDX", "components": [{"type": "library"}]},
        report=report,
        severity=severity,
        findings=findings,
        ignored=suppressed,
        ignores=ignores or scan.Ignores(),
        database=NOW,
        trivy="0.58.0",
        started=NOW,
        finished=NOW,
    )


def ids(findings: tuple[scan.Finding, ...]) -> list[str]:
    return [finding.id for finding in findings]


@pytest.mark.parametrize(
    ("severity", "stops"),
    [
        ("CRITICAL", ["C"]),
        ("HIGH", ["C", "H"]),
        ("MEDIUM", ["C", "H", "M"]),
        ("LOW", ["C", "H", "M", "L"]),
        ("UNKNOWN", ["C", "H", "M", "L", "U", "W"]),
    ],
)
def test_the_threshold_and_everything_above_stops(severity: str, stops: list[str]) -> None:
    made = outcome(
        vulnerability("C"),
        vulnerability("H", "HIGH"),
        vulnerability("M", "MEDIUM"),
        vulnerability("L", "LOW"),
        vulnerability("U", "UNKNOWN"),
        vulnerability("W", "a word that Trivy does not have yet"),
        severity=severity,
    )
    assert ids(made.stops) == stops


def test_what_nobody_has_mended_stops_too_until_the_operator_accepts_it() -> None:
    made = outcome(vulnerability("A", FixedVersion="", Status="affected"))
    assert ids(made.stops) == ["A"]
    assert "high or above:\n  CRITICAL  A  lib-A  1.0  no fix so far" in made.summary()


def test_in_a_distribution_at_its_end_the_fix_is_a_newer_base_image() -> None:
    unfixed = vulnerability("A", FixedVersion="")
    assert outcome(unfixed, ended=True).summary().endswith("1.0  a newer base image")
    assert outcome(unfixed | {"Status": "end_of_life"}).stops[0].mended_by == "a newer base image"
    assert outcome(unfixed, ended=True, kind="lang-pkgs").stops[0].mended_by == ""


def test_the_most_severe_comes_first() -> None:
    made = outcome(vulnerability("H", "HIGH"), vulnerability("C"))
    assert ids(made.stops) == ["C", "H"]


def test_what_the_ignore_file_took_out_does_not_stop_and_is_shown_with_its_day() -> None:
    ignores = scan.read_ignores(entry(id="CVE-A"), TODAY)
    made = outcome(ignored=(vulnerability("CVE-A"),), ignores=ignores)
    assert made.stops == ()
    assert (
        "accepted by the ignore file:\n"
        "  CRITICAL  CVE-A  lib-CVE-A  1.0  until 2026-12-31: not reachable" in made.summary()
    )


def test_an_expired_exception_is_named() -> None:
    ignores = scan.read_ignores(entry(expired_at=date(2026, 11, 1)), TODAY)
    made = outcome(vulnerability("CVE-2026-1"), ignores=ignores)
    assert ids(made.stops) == ["CVE-2026-1"]
    assert "  CVE-2026-1  since 2026-11-01: not reachable" in made.summary()


def test_the_summary_is_a_calm_table_whatever_was_found() -> None:
    assert outcome().summary() == "1 packages, vulnerabilities of 2026-11-22 03:00 UTC: nothing"
    many = [vulnerability(f"CVE-{n:04}") for n in range(1000)]
    lines = outcome(*many, vulnerability("L", "LOW")).summary().splitlines()
    assert lines[0].endswith("UTC: 1000 critical, 1 low")
    assert lines[-1] == "  … and 960 more"
    assert len(lines) == 43
    twice = outcome(vulnerability("A"), vulnerability("A"))
    assert twice.summary().count("lib-A") == 1


def test_names_from_the_image_cannot_steer_the_terminal() -> None:
    made = outcome(vulnerability("A", PkgName="\x1b[2Jevil\n  CRITICAL", InstalledVersion="\r0"))
    assert "\x1b" not in made.summary()
    assert len(made.summary().splitlines()) == 3


@pytest.mark.parametrize(
    "report",
    [
        {"Results": [{"Vulnerabilities": [{}]}]},
        {"Results": [{"Vulnerabilities": ["x"]}]},
        {"Results": ["x"]},
        {"Results": 3},
        {"Metadata": []},
        {"Results": [{"ExperimentalModifiedFindings": [{"Type": "vulnerability"}]}]},
    ],
)
def test_what_is_no_report_is_no_verdict(report: dict[str, object]) -> None:
    with pytest.raises(scan.ScanError, match=r"is it 0\.58 or later"):
        scan.findings_of(report)


def test_the_attested_report_has_the_shape_that_cosign_documents() -> None:
    predicate = outcome(vulnerability("A")).predicate()
    assert predicate["scanner"]["result"]["Results"][0]["Vulnerabilities"]
    assert predicate["scanner"]["uri"] == "pkg:github/aquasecurity/trivy@0.58.0"
    assert predicate["metadata"] == {
        "scanStartedOn": "2026-11-22T03:00:00Z",
        "scanFinishedOn": "2026-11-22T03:00:00Z",
    }
    assert predicate["invocation"]["parameters"] == ["severity=HIGH"]


# --- running Trivy -----------------------------------------------------------------------------

RECORDER = """\
#!{python}
import json, os, sys, time
folder, words = {folder!r}, sys.argv[1:]
answers = json.load(open(os.path.join(folder, "answers.json")))
with open(os.path.join(folder, "calls"), "a") as calls:
    call = dict(argv=words, env=dict(os.environ), cwd=os.getcwd(), lies=os.listdir())
    if "--ignorefile" in words:
        call["ignores"] = open(words[words.index("--ignorefile") + 1]).read()
    calls.write(json.dumps(call) + "\\n")
kind = "download" if "--download-db-only" in words else words[0]
answer = answers.get(kind, {{}})
time.sleep(answer.get("sleep", 0))
print(answer.get("stderr", ""), file=sys.stderr)
print(answer.get("stdout", ""), end="")
if "--output" in words and "document" in answer:
    with open(words[words.index("--output") + 1], "w") as out:
        out.write(answer["document"])
sys.exit(answer.get("code", 0))
"""


class Recorder:
    """A `trivy` that notes how it is called and answers what the test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, dict[str, Any]] = {
            "version": {"stdout": json.dumps(self.version(NOW))},
            "image": {"document": json.dumps({"bomFormat": "CycloneDX", "components": []})},
            "sbom": {"document": json.dumps({"ArtifactName": "sbom.json", "Results": None})},
        }
        script = folder / "bin" / "trivy"
        script.parent.mkdir()
        script.write_text(RECORDER.format(python=sys.executable, folder=str(folder)))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.environment = {"PATH": str(script.parent), "HOME": str(folder)}

    def version(self, made: datetime) -> dict[str, object]:
        # As Go writes it, with nanoseconds.
        text = made.strftime("%Y-%m-%dT%H:%M:%S.123456789Z")
        return {"Version": "0.58.0", "VulnerabilityDB": {"Version": 2, "UpdatedAt": text}}

    def scan(
        self,
        image: str = IMAGE,
        *,
        say: Callable[[str], None] = lambda _: None,
        token: str = TOKEN,
        ignores: scan.Ignores | None = None,
        **environment: str,
    ) -> scan.Outcome:
        (self.folder / "answers.json").write_text(json.dumps(self.answers))
        return scan.scan(
            image,
            severity="HIGH",
            ignores=ignores or scan.Ignores(),
            login=Login("admin", token),
            environment=self.environment | environment,
            say=say,
            now=lambda: NOW + timedelta(hours=1),
        )

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def trivy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # a lock of its own
    return Recorder(tmp_path)


def refusal(trivy: Recorder, **more: Any) -> str:
    with pytest.raises(scan.ScanError) as refused:
        trivy.scan(**more)
    return str(refused.value)


def test_credentials_are_in_the_environment_of_the_call_that_pulls(
    trivy: Recorder,
) -> None:
    trivy.scan()
    calls = trivy.calls()
    assert not any(TOKEN in word for call in calls for word in call["argv"])
    with_token = [call["argv"][0] for call in calls if TOKEN in call["env"].values()]
    assert with_token == ["image"]
    pulls = next(call for call in calls if IMAGE in call["argv"])
    assert pulls["env"]["TRIVY_USERNAME"] == "admin"
    assert pulls["env"]["TRIVY_PASSWORD"] == TOKEN


def test_nothing_of_the_operators_environment_changes_the_verdict_or_leaks(
    trivy: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "canary")
    trivy.scan(
        COSIGN_PRIVATE_KEY="canary",
        REGISTRY_TOKEN="canary",
        PULUMI_CONFIG_PASSPHRASE="canary",
        TRIVY_SEVERITY="LOW",
        TRIVY_SKIP_FILES="**",
        TRIVY_IGNOREFILE="/evil",
        TRIVY_CACHE_DIR="/cache",
        HTTPS_PROXY="http://proxy",
    )
    for call in trivy.calls():
        assert "canary" not in call["env"].values()
        assert {"TRIVY_SEVERITY", "TRIVY_SKIP_FILES", "TRIVY_IGNOREFILE"}.isdisjoint(call["env"])
        assert call["env"]["TRIVY_CACHE_DIR"] == "/cache"
        assert call["env"]["HTTPS_PROXY"] == "http://proxy"


def test_it_runs_in_a_folder_where_no_configuration_lies_about(
    trivy: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trivy.yaml").write_text("severity: [LOW]")
    trivy.scan()
    for call in trivy.calls():
        assert {"trivy.yaml", ".trivyignore", ".trivyignore.yaml"}.isdisjoint(call["lies"])
        assert not Path(call["cwd"]).exists()  # gone afterwards


def test_the_image_comes_from_the_registry_and_the_verdict_from_its_sbom(trivy: Recorder) -> None:
    ignores = scan.read_ignores(entry(), TODAY)
    made = trivy.scan(ignores=ignores)
    pull, download, version, match = (call["argv"] for call in trivy.calls())
    assert pull[0] == "image"
    assert pull[-3:] == ["--image-src", "remote", IMAGE]
    assert "--download-db-only" in download
    assert version == ["version", "--format", "json"]
    assert match[0] == "sbom"
    assert {"--skip-db-update", "--show-suppressed"} <= set(match)
    assert match[-1] == "sbom.json"
    assert trivy.calls()[3]["ignores"] == ignores.render()
    assert made.report["ArtifactName"] == IMAGE
    assert made.trivy == "0.58.0"


# What Trivy's own pages list for 0.58: references/configuration/cli/trivy_image.md and so on.
DOCUMENTED = {
    "version": {"--format"},
    "image": {
        *("--cache-backend", "--download-db-only", "--format", "--image-src"),
        *(
            "--no-progress",
            "--output",
            "--platform",
            "--scanners",
            "--severity",
            "--skip-db-update",
        ),
    },
    "sbom": {
        *("--format", "--ignorefile", "--output", "--scanners", "--severity", "--show-suppressed"),
        *("--skip-db-update", "--ignore-unfixed", "--exit-code"),
    },
}


def test_only_flags_that_trivy_documents_are_used_and_the_stand_in_knows_them(
    trivy: Recorder,
) -> None:
    trivy.scan()
    for call in trivy.calls():
        command, *words = call["argv"]
        assert {word for word in words if word.startswith("--")} <= DOCUMENTED[command]
        trivy_standin._parser().parse_args(call["argv"])


@pytest.mark.parametrize(
    ("server", "insecure"),
    [
        ("gitea.example", None),
        ("127.0.0.1:3000", "true"),
        ("127.9.8.7:3000", "true"),
        ("localhost:3000", "true"),
        ("10.0.0.1:3000", None),
    ],
)
def test_plain_http_is_for_loopback_only(
    trivy: Recorder, server: str, insecure: str | None
) -> None:
    trivy.scan(IMAGE.replace("gitea.example", server))
    pulls = next(call for call in trivy.calls() if "cyclonedx" in call["argv"])
    assert pulls["env"].get("TRIVY_INSECURE") == insecure


def test_without_trivy_it_says_how_to_install_it(trivy: Recorder) -> None:
    said = refusal(trivy, PATH="/nowhere")
    assert "Trivy is not installed (no `trivy` in PATH); install it: brew install trivy" in said


def test_a_token_that_trivy_would_split_is_refused(trivy: Recorder) -> None:
    said = refusal(trivy, token="canary,comma")
    assert "takes no registry token with a comma" in said
    assert "canary" not in said


def test_trivys_own_last_words_are_told_without_the_token(trivy: Recorder) -> None:
    trivy.answers["image"] = {
        "code": 1,
        "stderr": "2026-11-22T03:00:00Z\tINFO\tsomething\n"
        "2026-11-22T03:00:00Z\tFATAL\tFatal error\t"
        "run error: image scan error: 1 error occurred:\n\t* remote error: GET http://admin:"
        f"{TOKEN}@gitea.example/v2/: UNAUTHORIZED\n\n",
    }
    assert refusal(trivy) == (
        f"{IMAGE} was not scanned: run error: image scan error: 1 error occurred: * remote error: "
        "GET http://admin:[registry token]@gitea.example/v2/: UNAUTHORIZED"
    )


@pytest.mark.parametrize(
    ("kind", "answer", "says"),
    [
        ("image", {"document": "{}"}, "is no CycloneDX document"),
        ("image", {"document": "not json"}, "wrote no sbom.json"),
        ("image", {}, "wrote no sbom.json"),
        ("sbom", {"document": "[]"}, "report.json is not what it documents"),
        ("sbom", {"code": 1, "stderr": ""}, "was not scanned: it ended with 1"),
        ("sbom", {"code": 1, "stderr": "Error: bad"}, "was not scanned: Error: bad"),
        ("version", {"stdout": "Version: 0.20"}, "`trivy version` says nothing usable"),
        ("version", {"stdout": "[]"}, "`trivy version` says nothing usable"),
        (
            "version",
            {"stdout": '{"Version": "1", "VulnerabilityDB": {"UpdatedAt": "x"}}'},
            "usable",
        ),
    ],
)
def test_an_answer_that_trivy_does_not_document_is_no_verdict(
    trivy: Recorder, kind: str, answer: dict[str, object], says: str
) -> None:
    trivy.answers[kind] = answer
    assert says in refusal(trivy)


def test_a_full_disk_is_told(
    trivy: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(scan.ScanError) as refused:
        scan.scan(
            IMAGE,
            severity="HIGH",
            ignores=scan.Ignores(),
            login=None,
            environment=trivy.environment,
            say=print,
        )
    assert f"written to {tmp_path} (No space left on device); make room" in str(refused.value)


def offline(trivy: Recorder, made: datetime | None) -> None:
    trivy.answers["download"] = {"code": 1, "stderr": "FATAL\tFatal error\tno such host"}
    said = trivy.version(made) if made else {"Version": "0.58.0"}
    trivy.answers["version"] = {"stdout": json.dumps(said)}


def test_a_database_of_this_week_will_do_when_a_newer_one_cannot_be_had(trivy: Recorder) -> None:
    offline(trivy, NOW - timedelta(days=6))
    said: list[str] = []
    assert trivy.scan(say=said.append).database.day == 16
    assert said == [
        "warning: a newer vulnerability database cannot be had (no such host); going on with the "
        "one of 2026-11-16 03:00 UTC, 6 days old"
    ]


def test_an_older_database_stops_and_says_how_to_go_on(trivy: Recorder) -> None:
    offline(trivy, NOW - timedelta(days=8))
    said = refusal(trivy)
    assert "is 8 days old, more than 7, and a newer one cannot be had (no such host)" in said
    assert "Run `trivy image --download-db-only` when the network is back" in said


def test_no_database_at_all_stops_and_says_how_to_go_on(trivy: Recorder) -> None:
    offline(trivy, None)
    said = refusal(trivy)
    assert "has no vulnerability database, and it cannot be had now (no such host)" in said
    assert "TRIVY_DB_REPOSITORY" in said


def test_a_database_that_was_updated_is_not_judged_by_its_age(trivy: Recorder) -> None:
    trivy.answers["version"] = {"stdout": json.dumps(trivy.version(NOW - timedelta(days=30)))}
    said: list[str] = []
    trivy.scan(say=said.append)
    assert said == []


def test_three_scans_at_once_open_the_database_one_after_the_other(trivy: Recorder) -> None:
    trivy.answers["sbom"]["sleep"] = 0.2
    (trivy.folder / "answers.json").write_text(json.dumps(trivy.answers))
    threads = [threading.Thread(target=trivy.scan) for _ in range(3)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began > 0.6
    words = [call["argv"][0] + str("--download-db-only" in call["argv"]) for call in trivy.calls()]
    alone = [word for word in words if word != "imageFalse"]
    assert alone == ["imageTrue", "versionFalse", "sbomFalse"] * 3


def test_a_lock_that_somebody_else_made_is_told(trivy: Recorder, tmp_path: Path) -> None:
    (tmp_path / f"honeydue-trivy-{os.getuid()}.lock").symlink_to("/etc/passwd")
    assert "cannot be opened" in refusal(trivy)
