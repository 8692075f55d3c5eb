"""The gate that Pulumi runs: what goes on, what stops, and what the operator is told."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from honeydue.images import attestations, gate, keys, scan, signing
from honeydue.images.registry import Login, Registry
from rehearsal.home import REPOSITORY as ROOT
from rehearsal.registry import trivy_standin
from tests.images import small_registry
from tests.images.signers import COSIGN_PRIVATE, COSIGN_PUBLIC, PASSWORD, TAG, another_key, key
from tests.images.small_registry import REPOSITORY, TOKEN, USERNAME, Content

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def outcome(*found: scan.Finding) -> scan.Outcome:
    return scan.Outcome(
        sbom={"bomFormat": "CycloneDX", "components": []},
        report={"Results": []},
        severity="CRITICAL",
        findings=found,
        ignored=(),
        ignores=scan.Ignores(),
        database=NOW,
        trivy="0.58.0",
        started=NOW,
        finished=NOW,
    )


CRITICAL = scan.Finding("CVE-2026-1", "CRITICAL", "example.com/one", "v1.0", "v1.1", "api")
UNFIXED = scan.Finding("CVE-2026-2", "CRITICAL", "example.com/two", "v1.0", "", "api")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@dataclass
class Bench:
    """A registry with one image, and the gate's environment."""

    content: Content
    digest: str
    environment: dict[str, str]
    scanned: list[str] = field(default_factory=list)
    finds: tuple[scan.Finding, ...] = ()
    while_scanning: Callable[[], object] = lambda: None

    def run(self, verb: str, **changes: str) -> Said:
        out, err = io.StringIO(), io.StringIO()
        code = gate.main([verb], self.environment | changes, out, err)
        return Said(code, out.getvalue(), err.getvalue())

    @property
    def image(self) -> str:
        return f"{self.content.server}/{REPOSITORY}@{self.digest}"

    def beside(self) -> set[str]:
        """What was put beside the image: sig, att."""
        return {tag.rpartition(".")[2] for _, tag in self.content.manifests if "." in tag}

    def scan(self, image: str, **_: object) -> scan.Outcome:
        self.scanned.append(image)
        self.while_scanning()
        return outcome(*self.finds)


@pytest.fixture(scope="module")
def content() -> Iterator[Content]:
    with small_registry.serve() as served:
        yield served


@pytest.fixture
def b(content: Content, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    content.manifests.clear()
    content.requests.clear()
    digest = content.push(REPOSITORY, TAG)
    made = Bench(
        content,
        digest,
        {
            "HONEYDUE_IMAGE": f"{content.server}/{REPOSITORY}",
            "HONEYDUE_DIGEST": digest,
            "HONEYDUE_TAG": TAG,
            "HONEYDUE_STACK": "prod",
            "REGISTRY_USERNAME": USERNAME,
            "REGISTRY_TOKEN": TOKEN,
            "COSIGN_PUBLIC_KEY": keys.public_pem(key()),
            "COSIGN_PRIVATE_KEY": keys.private_pem(key()),
            "COSIGN_PASSWORD": "",
            "HONEYDUE_SCAN_SEVERITY": "CRITICAL",
            "HONEYDUE_SCAN_IGNORE": str(tmp_path / "trivyignore.yaml"),
        },
    )
    monkeypatch.setattr(scan, "scan", made.scan)
    return made


# --- what goes on ------------------------------------------------------------------------------


def test_a_clean_image_is_scanned_attested_and_signed_and_then_verifies(b: Bench) -> None:
    vouched = b.run("vouch")
    assert (vouched.code, vouched.out) == (0, b.digest)
    assert b.scanned == [b.image]
    assert b.beside() == {"sig", "att", "pin"}
    assert b.run("verify") == Said(0, b.digest, b.run("verify").err)
    with Registry(b.content.server, Login(USERNAME, TOKEN)) as registry:
        found = attestations.read(registry, REPOSITORY, b.digest, key().public_key())
    assert found[attestations.SBOM]["bomFormat"] == "CycloneDX"
    assert found[attestations.SCAN]["scanner"]["result"] == {"Results": []}


def test_the_phases_are_told_with_their_durations(b: Bench) -> None:
    said = b.run("vouch").err + b.run("verify").err
    assert re.findall(r"^(\w+) \d+\.\d s$", said, re.MULTILINE) == [
        "scan",
        "attest",
        "sign",
        "verify",
    ]


def test_vouching_again_signs_nothing_new(b: Bench) -> None:
    b.run("vouch")
    before = b.content.manifests[REPOSITORY, signing.beside(b.digest, "sig")]
    again = b.run("vouch")
    assert (again.code, again.out) == (0, b.digest)
    assert "was signed already" in again.err
    assert b.content.manifests[REPOSITORY, signing.beside(b.digest, "sig")] == before


def test_a_release_given_by_digest_is_verified_without_a_tag(b: Bench) -> None:
    b.run("vouch")
    assert b.run("verify", HONEYDUE_TAG="").out == b.digest


def test_a_pair_that_cosign_made_signs_too(b: Bench) -> None:
    said = b.run(
        "vouch",
        COSIGN_PUBLIC_KEY=COSIGN_PUBLIC,
        COSIGN_PRIVATE_KEY=COSIGN_PRIVATE,
        COSIGN_PASSWORD=PASSWORD,
    )
    assert (said.code, said.out) == (0, b.digest)
    assert b.run("verify", COSIGN_PUBLIC_KEY=COSIGN_PUBLIC).code == 0


# --- what stops --------------------------------------------------------------------------------


def stops(b: Bench, verb: str, *words: str, **changes: str) -> str:
    """Runs the gate, which must refuse with these words and print no digest; what it said."""
    said = b.run(verb, **changes)
    assert (said.code, said.out) == (1, "")
    error = said.err[said.err.index("error: ") :]
    for word in words:
        assert word in error
    return error


def test_an_unsigned_image_is_named_with_what_to_do(b: Bench) -> None:
    error = stops(b, "verify", f"error: {b.image} (tag {TAG}) is not signed")
    assert (
        "Nothing was rolled out\n    mend   take a release that is signed (python -m ops images "
        "list): pulumi config set -s prod --path honeydue:images.api <tag>\n    or     " in error
    )


def test_an_old_image_under_a_new_tag_is_refused(b: Bench) -> None:
    b.run("vouch")
    stops(b, "verify", f"signed these bytes as tag {TAG}, never as 9999999", HONEYDUE_TAG="9999999")


def test_an_image_that_another_key_signed_is_refused(b: Bench) -> None:
    b.run("vouch")
    public = keys.public_pem(another_key())
    stops(b, "verify", "is signed by another key", COSIGN_PUBLIC_KEY=public)


def test_a_critical_stops_before_anything_is_signed(b: Bench) -> None:
    b.finds = (CRITICAL, UNFIXED)
    error = stops(b, "vouch", "of severity CRITICAL or above: CVE-2026-1, CVE-2026-2. It was not")
    assert error.endswith(
        "    mend   in the application or its base image, raise example.com/one to v1.1; commit, "
        "and `up` again\n"
        "    or     accept it until a day, and say why, in deploy/trivyignore.yaml:\n"
        '           - {id: CVE-2026-2, expired_at: <YYYY-MM-DD>, statement: "<why>"}\n'
    )
    assert b.beside() == set()


def test_what_has_no_fix_can_only_be_accepted(b: Bench) -> None:
    b.finds = (UNFIXED,)
    error = stops(b, "vouch", "CVE-2026-2", "mend   accept it until a day")
    assert "raise" not in error


def test_the_line_that_a_refusal_proposes_is_a_valid_entry(b: Bench) -> None:
    b.finds = (CRITICAL,)
    line = stops(b, "vouch").splitlines()[-1]
    text = f"vulnerabilities:\n{line.replace('<YYYY-MM-DD>', '2026-12-31')}\n"
    (entry,) = scan.read_ignores(text, NOW.date()).active
    assert entry.id == "CVE-2026-1"


def test_an_image_that_is_gone_is_told(b: Bench) -> None:
    gone = "sha256:" + "0" * 64
    for verb in ("vouch", "verify"):
        stops(b, verb, f"@{gone} is not in the registry", HONEYDUE_DIGEST=gone)
    assert b.scanned == []


def test_a_tag_that_was_overwritten_is_refused_with_both_digests(b: Bench) -> None:
    other = b.content.put(REPOSITORY, TAG, b'{"layers": []}')
    error = stops(b, "vouch", f":{TAG} points at {other} now, not at {b.digest}")
    assert "another deploy pushed the same tag, or somebody moved it" in error
    assert b.scanned == []
    assert b.beside() == set()


def test_a_tag_that_was_overwritten_after_it_was_signed_is_refused_with_what_was_signed(
    b: Bench,
) -> None:
    b.run("vouch")
    other = b.content.put(REPOSITORY, TAG, b'{"layers": []}')
    error = stops(b, "verify", f"@{other} (tag {TAG}) is not signed", HONEYDUE_DIGEST=other)
    assert f"Our key signed {TAG} as {b.digest}: somebody has overwritten the tag since" in error
    assert error.endswith(
        f"pulumi config set -s prod --path honeydue:images.api {TAG}@{b.digest}\n"
    )
    assert b.run("verify").code == 0


def test_what_another_key_signed_or_ours_as_another_tag_is_not_what_was_overwritten(
    b: Bench,
) -> None:
    b.content.put(REPOSITORY, "0000000", b.content.manifests[REPOSITORY, TAG][1])
    assert b.run("vouch", HONEYDUE_TAG="0000000").code == 0
    with Registry(b.content.server, Login(USERNAME, TOKEN)) as registry:
        signing.sign(registry, REPOSITORY, b.digest, TAG, another_key())
    other = b.content.put(REPOSITORY, TAG, b'{"layers": []}')
    error = stops(b, "verify", "is not signed", HONEYDUE_DIGEST=other)
    assert "overwritten" not in error


def test_a_tag_that_is_overwritten_while_the_scan_runs_is_refused_too(b: Bench) -> None:
    b.while_scanning = lambda: b.content.put(REPOSITORY, TAG, b'{"layers": []}')
    stops(b, "vouch", f"not at {b.digest}")
    assert b.beside() == set()


def test_a_tag_that_was_deleted_is_refused(b: Bench) -> None:
    del b.content.manifests[REPOSITORY, TAG]
    stops(b, "vouch", f":{TAG} is gone now, not at {b.digest}")


def test_when_the_attestation_fails_there_is_no_signature(b: Bench) -> None:
    b.content.put(REPOSITORY, signing.beside(b.digest, "att"), b"{}")
    stops(b, "vouch", "is no list of signatures. Delete that tag in the registry")
    assert b.beside() == {"att"}


def test_a_wrong_ignore_file_stops_before_anything_is_asked(b: Bench) -> None:
    file = Path(b.environment["HONEYDUE_SCAN_IGNORE"])
    file.write_text("vulnerabilities: [{id: CVE-2026-1, statement: why}]")
    error = stops(b, "vouch", "nothing was scanned, the ignore file is wrong:\n")
    assert f"  {file}: vulnerabilities[1] (CVE-2026-1)\n    wrong  never expires" in error
    assert "mend   expired_at: <YYYY-MM-DD>" in error
    assert (b.scanned, b.content.requests) == ([], [])


def test_no_trivy_is_told(b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    stops(b, "vouch", "Trivy is not installed", "brew install trivy", PATH="/nowhere")


@pytest.mark.parametrize("verb", ["vouch", "verify"])
def test_a_wrong_token_is_told_with_its_setting(b: Bench, verb: str) -> None:
    error = stops(b, verb, "does not accept the token of admin", REGISTRY_TOKEN="canary-wrong")
    assert "honeydue:registry.token" in error
    assert "canary" not in error


@pytest.mark.parametrize("verb", ["vouch", "verify"])
def test_a_registry_that_is_down_is_told(
    b: Bench, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("honeydue.images.registry_session._WAITS", ())
    stops(b, verb, "127.0.0.1:1", HONEYDUE_IMAGE=f"127.0.0.1:1/{REPOSITORY}")


# --- settings ----------------------------------------------------------------------------------

MEND_PUBLIC = (
    "mend   pulumi config get -s prod --path honeydue:signing.privateKey | python -m "
    "honeydue.images.signing public | pulumi config set -s prod --path honeydue:signing.publicKey"
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"COSIGN_PUBLIC_KEY": keys.public_pem(another_key())},
            ["signing.publicKey is not the public half of", MEND_PUBLIC],
        ),
        ({"COSIGN_PUBLIC_KEY": "canary"}, ["honeydue:signing.publicKey is not a PEM", MEND_PUBLIC]),
        (
            {"COSIGN_PRIVATE_KEY": "canary"},
            ["honeydue:signing.privateKey is not a PEM", "honeydue/images/signing.py says how"],
        ),
        (
            {"COSIGN_PRIVATE_KEY": COSIGN_PRIVATE, "COSIGN_PASSWORD": "canary"},
            ["signing.privateKey cannot be decrypted: its password is wrong (signing.password)"],
        ),
        (
            {"HONEYDUE_SCAN_SEVERITY": "SEVERE"},
            ["none of CRITICAL, HIGH, MEDIUM", "--path honeydue:image.scan.severity CRITICAL"],
        ),
        ({"HONEYDUE_DIGEST": "latest"}, ["HONEYDUE_DIGEST is no sha256 digest"]),
        *(
            ({name: ""}, [f"{name} is not set; the gate is run by Pulumi"])
            for name in (
                "HONEYDUE_IMAGE",
                "HONEYDUE_DIGEST",
                "HONEYDUE_TAG",
                "HONEYDUE_STACK",
                "REGISTRY_USERNAME",
                "REGISTRY_TOKEN",
                "COSIGN_PUBLIC_KEY",
                "COSIGN_PRIVATE_KEY",
                "HONEYDUE_SCAN_SEVERITY",
            )
        ),
    ],
)
def test_a_wrong_setting_is_named_before_the_registry_is_asked(
    b: Bench, changes: dict[str, str], words: list[str]
) -> None:
    error = stops(b, "vouch", *words, **changes)
    assert "canary" not in error
    assert b.content.requests == []


def test_called_wrongly_it_shows_how(b: Bench) -> None:
    assert b.run("sign") == Said(2, "", "usage: python -m honeydue.images.gate vouch|verify\n")


# --- secrets -----------------------------------------------------------------------------------

SECRETS = {
    "REGISTRY_TOKEN": TOKEN,
    "COSIGN_PRIVATE_KEY": COSIGN_PRIVATE,
    "COSIGN_PUBLIC_KEY": COSIGN_PUBLIC,
    "COSIGN_PASSWORD": "hunter2",
}
TOLD = " ".join((TOKEN, COSIGN_PRIVATE, keys.private_pem(key()), PASSWORD))


def fail(*_: object, **__: object) -> object:
    raise RuntimeError(TOLD)


@pytest.mark.parametrize(
    "where",
    [
        "honeydue.images.registry.Registry.manifest",
        "honeydue.images.registry.Registry.push_blob",
        "honeydue.images.signing.make_signature",
        "honeydue.images.keys.private_key",
        "honeydue.images.keys.public_key",
        "honeydue.images.scan.scan",
        "httpx.Client.send",
    ],
)
def test_no_failure_of_any_library_shows_a_secret_or_a_stack_trace(
    b: Bench, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, fail)
    said = b.run("vouch")
    assert (said.code, said.out) == (1, "")
    assert re.search(r"^error: the gate broke \(RuntimeError at \S+\.py:\d+\)", said.err, re.M)
    assert "Traceback" not in said.err
    for line in TOLD.splitlines():
        assert line.strip() not in said.err


def test_a_secret_that_gets_into_a_message_all_the_same_is_taken_out(
    b: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise scan.ScanError(f"Trivy says: {b.environment['COSIGN_PRIVATE_KEY']} and {TOKEN}")

    monkeypatch.setattr(scan, "scan", refuse)
    error = stops(b, "vouch", "[REGISTRY_TOKEN]", "[COSIGN_PRIVATE_KEY]")
    assert TOKEN not in error
    assert not any(line in error for line in keys.private_pem(key()).splitlines()[1:-1])


# --- as a program ------------------------------------------------------------------------------


def program(b: Bench, verb: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, *flags, "-m", "honeydue.images.gate", verb],
        env=b.environment | {"PATH": path, "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_whole_way_with_a_trivy_on_the_path(b: Bench, tmp_path: Path) -> None:
    trivy_standin.launcher(tmp_path / "bin", tmp_path / "cache")
    vouched = program(b, "vouch", tmp_path)
    assert (vouched.returncode, vouched.stdout) == (0, b.digest), vouched.stderr
    verified = program(b, "verify", tmp_path)
    assert (verified.returncode, verified.stdout) == (0, b.digest), verified.stderr
    # Nothing of the secrets stays on the disk.
    secrets = [TOKEN, *keys.private_pem(key()).splitlines()[1:-1]]
    for file in (f for f in tmp_path.rglob("*") if f.is_file()):
        assert not any(secret in file.read_text(errors="replace") for secret in secrets)


def test_a_python_without_the_packages_is_told_in_one_line(b: Bench, tmp_path: Path) -> None:
    done = program(b, "verify", tmp_path, "-S")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"error: the gate's Python \(\S+\) has no package \w+: make the program's virtualenv with "
        r"'make setup'\n",
        done.stderr,
    )


def test_what_was_vouched_for_outlives_its_tag(b: Bench) -> None:
    """A build of the same commit that comes out different takes the tag; Gitea would then forget
    the digest that runs."""
    assert b.run("vouch").code == 0
    pin = b.digest.replace(":", "-") + ".pin"
    with Registry(b.content.server, Login(USERNAME, TOKEN)) as registry:
        assert registry.digest(REPOSITORY, pin) == b.digest
