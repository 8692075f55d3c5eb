"""The scan gate: what Trivy knows of an image, and whether that may be deployed.

Two runs of the Trivy CLI (0.58 or later): the image's packages as a CycloneDX SBOM, which needs no
database and is the only step that talks to the registry; then that SBOM against the vulnerability
database. So what is attested is exactly what was judged.

- Stops: a vulnerability of `severity` or above, also one without a fix: that it runs all the same
  is the operator's decision, and the ignore file is where that is written down, until a day.
- `deploy/trivyignore.yaml`, in Trivy's own format, accepts single ones until a day. Each entry must
  say why (`statement`) and until when (`expired_at`: from the beginning of that day, UTC, it does
  not count any more, which is Trivy's own rule).
- The database cannot be had: one from at most 7 days ago does, with a warning; else it stops.

Sources: Trivy's documentation, references/configuration/cli/trivy_image.md and trivy_sbom.md,
configuration/filtering.md (.trivyignore.yaml), advanced/air-gap.md, references/troubleshooting.md
(one process at a time); its source, pkg/types/report.go, pkg/types/finding.go
(ExperimentalModifiedFindings), pkg/version/version.go, pkg/result/ignore.go, pkg/log/logger.go.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

import yaml

from honeydue.images.registry import Login, scheme

SEVERITIES: Final = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN")
OLDEST_DATABASE: Final = timedelta(days=7)
_TIMEOUT: Final = 600.0  # seconds for one run; Trivy gives up by itself after 300
_LARGEST_IGNORES: Final = 256 << 10  # bytes
_MOST_SHOWN: Final = 40  # lines of one table
# Of the operator's environment Trivy gets what it needs to find its cache and the way out, and
# nothing that would change the verdict (TRIVY_SEVERITY, TRIVY_SKIP_FILES, …) or is our secret.
_PASSED: Final = (
    *("PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("TRIVY_CACHE_DIR", "TRIVY_DB_REPOSITORY", "TRIVY_JAVA_DB_REPOSITORY", "TRIVY_TIMEOUT"),
)


class ScanError(Exception):
    """The image was not scanned, and why; no verdict on the image."""


# --- what is accepted --------------------------------------------------------------------------


@dataclass(frozen=True)
class Ignore:
    """One accepted vulnerability. `until`: the first day on which it stops a deploy again."""

    id: str
    until: date
    statement: str
    paths: tuple[str, ...] = ()
    purls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ignores:
    """The ignore file on one day."""

    active: tuple[Ignore, ...] = ()
    expired: tuple[Ignore, ...] = ()

    def render(self) -> str:
        """What Trivy is given: exactly what was checked, without the expired entries."""
        entries = [
            {
                "id": entry.id,
                "statement": entry.statement,
                "expired_at": entry.until,
                **({"paths": list(entry.paths)} if entry.paths else {}),
                **({"purls": list(entry.purls)} if entry.purls else {}),
            }
            for entry in self.active
        ]
        return yaml.safe_dump({"vulnerabilities": entries}, sort_keys=False)


class IgnoresError(Exception):
    """The ignore file is wrong: one (place, what is wrong, what to write) for each mistake."""

    def __init__(self, problems: Sequence[tuple[str, str, str]]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(
            f"  {place}\n    wrong  {wrong}\n    mend   {mend}"
            for place, wrong, mend in self.problems
        )


_EXAMPLE: Final = """\
{id: CVE-2026-12345, expired_at: 2026-12-31, statement: "not reachable: we never parse XML"}"""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{2,79}")


def read_ignores(text: str, today: date) -> Ignores:
    """The text of deploy/trivyignore.yaml on a day (UTC). IgnoresError names every mistake."""
    if len(text) > _LARGEST_IGNORES:
        why = f"has {len(text)} characters; that is no list of exceptions any more"
        raise IgnoresError([("the file", why, "take out what is mended by now")])
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else "the file"
        raise IgnoresError([(place, "is not YAML", f"- {_EXAMPLE}")]) from None
    except (ValueError, RecursionError):  # 2026-02-30 is read as a date, and is none
        raise IgnoresError(
            [("the file", "holds a date that does not exist", "expired_at: <YYYY-MM-DD>")]
        ) from None
    if content is None:
        return Ignores()
    if not isinstance(content, dict) or not isinstance(content.get("vulnerabilities") or [], list):
        raise IgnoresError(
            [("the file", "has no list `vulnerabilities`", f"vulnerabilities: [{_EXAMPLE}]")]
        )
    problems: list[tuple[str, str, str]] = [
        (f"{key}", "is no part of this file: only vulnerabilities are scanned for", "take it out")
        for key in content
        if key != "vulnerabilities"
    ]
    entries = []
    for number, raw in enumerate(content.get("vulnerabilities") or [], 1):
        entry = _entry(number, raw, problems)
        if entry:
            entries.append(entry)
    if problems:
        raise IgnoresError(problems)
    return Ignores(
        active=tuple(entry for entry in entries if entry.until > today),
        expired=tuple(entry for entry in entries if entry.until <= today),
    )


def _entry(number: int, raw: object, problems: list[tuple[str, str, str]]) -> Ignore | None:
    place = f"vulnerabilities[{number}]"
    if not isinstance(raw, dict):
        problems.append((place, "is no entry", f"- {_EXAMPLE}"))
        return None
    before = len(problems)

    def refuse(wrong: str, mend: str) -> None:
        problems.append((place, wrong, mend))

    name, until, statement = raw.get("id"), raw.get("expired_at"), raw.get("statement")
    if isinstance(name, str) and _ID.fullmatch(name):
        place = f"{place} ({name})"
    else:
        refuse("has no id of a vulnerability", "id: CVE-2026-12345")
    if isinstance(until, datetime):  # a date with a time; Trivy's documentation has both
        until = until.date()
    if until is None:
        refuse("never expires, so nobody would look at it again", "expired_at: <YYYY-MM-DD>")
    elif not isinstance(until, date):
        refuse("has an expired_at that is no date", "expired_at: <YYYY-MM-DD>")
    if not isinstance(statement, str) or not statement.strip():
        refuse("does not say why it is accepted", 'statement: "<why>"')
    for key in ("paths", "purls"):
        value = raw.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            refuse(f"has {key} that are no list of texts", f'{key}: ["<one>"]')
    for key in raw.keys() - {"id", "expired_at", "statement", "paths", "purls"}:
        refuse(f"has a key that Trivy does not know: {_plain(str(key))}", "take it out")
    if len(problems) > before:
        return None
    return Ignore(
        id=str(name),
        until=cast(date, until),
        statement=" ".join(str(statement).split()),
        paths=tuple(raw.get("paths", ())),
        purls=tuple(raw.get("purls", ())),
    )


def load_ignores(path: Path, today: date) -> Ignores:
    """The same of a file, which need not exist. IgnoresError, its places beginning with `path`."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Ignores()
    except (OSError, UnicodeDecodeError):
        wrong = "cannot be read as text in UTF-8"
        raise IgnoresError([(str(path), wrong, f"chmod u+r {path}, or write it anew")]) from None
    try:
        return read_ignores(text, today)
    except IgnoresError as error:
        told = [(f"{path}: {at}", wrong, mend) for at, wrong, mend in error.problems]
        raise IgnoresError(told) from None


# --- what was found ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One vulnerability in one package. `fixed`: the versions with a fix, "" when there is none."""

    id: str
    severity: str
    package: str
    installed: str
    fixed: str
    where: str
    title: str = ""
    end_of_life: bool = False

    @property
    def mended_by(self) -> str:
        """ "" when nobody has a fix. A distribution at its end of life will have none; a newer
        one has."""
        return self.fixed or ("a newer base image" if self.end_of_life else "")


@dataclass(frozen=True)
class Outcome:
    """`sbom` and `report` are Trivy's own documents (CycloneDX; Trivy's JSON)."""

    sbom: Mapping[str, Any]
    report: Mapping[str, Any]
    severity: str
    findings: tuple[Finding, ...]
    ignored: tuple[Finding, ...]
    ignores: Ignores
    database: datetime
    trivy: str
    started: datetime
    finished: datetime

    @property
    def stops(self) -> tuple[Finding, ...]:
        """What forbids a deploy, the most severe first."""
        worst_first = sorted(self.findings, key=lambda f: SEVERITIES.index(f.severity))
        limit = SEVERITIES.index(self.severity)
        return tuple(f for f in worst_first if SEVERITIES.index(f.severity) <= limit)

    def predicate(self) -> dict[str, Any]:
        """For the attestation: cosign's COSIGN_VULN_ATTESTATION_SPEC, with the threshold beside."""
        return {
            "invocation": {
                "parameters": [f"severity={self.severity}"],
                "uri": "",
                "event_id": "",
                "builder.id": "",
            },
            "scanner": {
                "uri": f"pkg:github/aquasecurity/trivy@{self.trivy}",
                "version": self.trivy,
                "db": {"uri": "", "version": _iso(self.database)},
                "result": self.report,
            },
            "metadata": {
                "scanStartedOn": _iso(self.started),
                "scanFinishedOn": _iso(self.finished),
            },
        }

    def summary(self) -> str:
        """A few calm lines for the operator, whatever was found."""
        counts = Counter(finding.severity for finding in self.findings)
        packages = sum(
            component.get("type") == "library" for component in self.sbom.get("components") or ()
        )
        found = ", ".join(f"{counts[s]} {s.lower()}" for s in SEVERITIES if counts[s]) or "nothing"
        lines = [
            f"{packages} packages, vulnerabilities of {self.database:%Y-%m-%d %H:%M} UTC: {found}"
        ]
        if self.stops:
            lines.append(f"{self.severity.lower()} or above:")
            lines += _table(self.stops, lambda f: f.mended_by or "no fix so far")
        if self.ignored:
            until = {entry.id: entry for entry in self.ignores.active}
            lines.append("accepted by the ignore file:")
            lines += _table(self.ignored, lambda f: _accepted(until.get(f.id)))
        if self.ignores.expired:
            lines.append("expired in the ignore file, so not accepted any more:")
            lines += [
                f"  {entry.id}  since {entry.until}: {_plain(entry.statement)}"
                for entry in self.ignores.expired
            ]
        return "\n".join(lines)


def _accepted(entry: Ignore | None) -> str:
    return f"until {entry.until}: {_plain(entry.statement)}" if entry else "accepted"


def _table(findings: Sequence[Finding], last: Callable[[Finding], str]) -> list[str]:
    ordered = sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.package, f.id))
    rows = [(f.severity, f.id, f.package, f.installed, last(f)) for f in ordered]
    rows = [tuple(map(_plain, row)) for row in dict.fromkeys(rows)]  # type: ignore[misc]
    shown = rows[:_MOST_SHOWN]
    widths = [max(len(row[i]) for row in shown) for i in range(4)]
    lines = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        + f"  {row[4]}"
        for row in shown
    ]
    if len(rows) > len(shown):
        lines.append(f"  … and {len(rows) - len(shown)} more")
    return lines


def _plain(text: str, most: int = 120) -> str:
    """A package's name comes from the image: no control characters reach the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def findings_of(report: Mapping[str, Any]) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """(what was found, what the ignore file took out of it); ScanError if it is no report."""
    try:
        ended = bool((report.get("Metadata", {}).get("OS") or {}).get("EOSL"))
        found, ignored = [], []
        for result in report.get("Results") or ():
            of_the_system = result.get("Class") == "os-pkgs"
            where = str(result.get("Target", ""))
            for raw in result.get("Vulnerabilities") or ():
                found.append(_finding(raw, where, ended and of_the_system))
            for modified in result.get("ExperimentalModifiedFindings") or ():
                if modified.get("Type") == "vulnerability":
                    ignored.append(_finding(modified["Finding"], where, ended and of_the_system))
    except (KeyError, TypeError, AttributeError):
        raise ScanError(f"what Trivy wrote is no report of Trivy's; {OLD}") from None
    return tuple(found), tuple(ignored)


def _finding(raw: Mapping[str, Any], where: str, ended: bool) -> Finding:
    severity = str(raw.get("Severity") or "UNKNOWN")
    return Finding(
        id=str(raw["VulnerabilityID"]),
        severity=severity if severity in SEVERITIES else "UNKNOWN",
        package=str(raw["PkgName"]),
        installed=str(raw.get("InstalledVersion") or ""),
        fixed=str(raw.get("FixedVersion") or ""),
        where=str(raw.get("PkgPath") or where),
        title=str(raw.get("Title") or ""),
        end_of_life=ended or raw.get("Status") == "end_of_life",
    )


# --- running Trivy -----------------------------------------------------------------------------

Say = Callable[[str], None]

OLD: Final = "is it 0.58 or later?"
INSTALL: Final = (
    "install it: brew install trivy (macOS), or the package of "
    "https://trivy.dev/latest/getting-started/installation/, then run this again"
)


class Trivy:
    """The command line. The registry's credentials are in the child's environment only."""

    def __init__(
        self, environment: Mapping[str, str], login: Login | None, *, insecure: bool
    ) -> None:
        program = shutil.which("trivy", path=environment.get("PATH", os.defpath))
        if program is None:
            raise ScanError(f"Trivy is not installed (no `trivy` in PATH); {INSTALL}")
        if login and "," in login.username + login.password:
            # Trivy splits both at commas (trivy_image.md: "Comma-separated passwords allowed").
            raise ScanError("Trivy takes no registry token with a comma in it; make another token")
        self._program = program
        self._secret = login.password if login else ""
        self._environment = {
            **{name: environment[name] for name in _PASSED if name in environment},
            # Unknown to older versions as variables, where a flag would be an error.
            "TRIVY_DISABLE_TELEMETRY": "true",
            "TRIVY_SKIP_VERSION_CHECK": "true",
        }
        self._credentials = (
            {"TRIVY_USERNAME": login.username, "TRIVY_PASSWORD": login.password} if login else {}
        )
        if insecure:
            # go-containerregistry speaks plain http to 127.0.0.1 and localhost by itself, and to
            # the other loopback addresses when it is told so (pkg/name/registry.go).
            self._credentials["TRIVY_INSECURE"] = "true"

    def run(self, *arguments: str, folder: Path, credentials: bool = False) -> str:
        """stdout of one run; ScanError with Trivy's own last words."""
        environment = {**self._environment, **(self._credentials if credentials else {})}
        try:
            done = subprocess.run(
                [self._program, *arguments],
                cwd=folder,  # an empty one: a trivy.yaml or .trivyignore lying about does not count
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ScanError(f"Trivy did not end within {_TIMEOUT:.0f} s ({arguments[0]})") from None
        except OSError as error:
            raise ScanError(f"Trivy cannot be started ({error.strerror}); {INSTALL}") from None
        if done.returncode != 0:
            raise ScanError(self._last_words(done.stderr) or f"it ended with {done.returncode}")
        return done.stdout

    def _last_words(self, stderr: str) -> str:
        """What follows FATAL: its causes stand on lines of their own, each with an asterisk."""
        said = stderr[stderr.rfind("FATAL") :].removeprefix("FATAL")
        if self._secret:
            said = said.replace(self._secret, "[registry token]")
        return _plain(" ".join(said.split()).removeprefix("Fatal error "), 600)

    def version(self, folder: Path) -> tuple[str, datetime | None]:
        """(its version, when its vulnerability database was made; None: it has none)."""
        try:
            said: Any = json.loads(self.run("version", "--format", "json", folder=folder))
            made = (said.get("VulnerabilityDB") or {}).get("UpdatedAt")
            return str(said["Version"]), _moment(made) if made else None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ScanError(f"`trivy version` says nothing usable; {OLD}") from None


def scan(
    image: str,
    *,
    severity: str,
    ignores: Ignores,
    login: Login | None,
    environment: Mapping[str, str],
    say: Say,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Outcome:
    """Scans `image` (`<server>/<repository>@sha256:…`); the caller decides on `Outcome.stops`.

    ScanError when there is no verdict: no Trivy, no image, no usable database.
    """
    trivy = Trivy(environment, login, insecure=scheme(image.split("/", maxsplit=1)[0]) == "http")
    started = now()
    with tempfile.TemporaryDirectory(prefix="honeydue-scan-") as name:
        folder = Path(name)
        (folder / "ignore.yaml").write_text(ignores.render())
        try:
            trivy.run(
                *("image", "--no-progress", "--format", "cyclonedx", "--output", "sbom.json"),
                # The cache on disk can be open in one process only, and three images are scanned.
                *("--cache-backend", "memory"),
                # Not what a Docker daemon on this machine holds under the same name.
                *("--image-src", "remote", image),
                folder=folder,
                credentials=True,
            )
            with _alone():
                version, database = _database(trivy, folder, say, now)
                trivy.run(
                    *("sbom", "--format", "json", "--output", "report.json"),
                    *("--scanners", "vuln", "--skip-db-update", "--show-suppressed"),
                    *("--ignorefile", "ignore.yaml", "sbom.json"),
                    folder=folder,
                )
        except ScanError as error:
            raise ScanError(f"{image} was not scanned: {error}") from None
        sbom, report = _document(folder / "sbom.json"), _document(folder / "report.json")
    if sbom.get("bomFormat") != "CycloneDX":
        raise ScanError(f"what Trivy wrote is no CycloneDX document; {OLD}")
    found, ignored = findings_of(report)
    # The report says where it came from: a file in a folder that is gone. It is about this image.
    report = {**report, "ArtifactName": image}
    return Outcome(
        sbom=sbom,
        report=report,
        severity=severity,
        findings=found,
        ignored=ignored,
        ignores=ignores,
        database=database,
        trivy=version,
        started=started,
        finished=now(),
    )


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time: Trivy's database file is locked while it is open, a second scan gives
    up after a few seconds, and two downloads at once leave an empty one (its issue 8454)."""
    lock = Path(tempfile.gettempdir()) / f"honeydue-trivy-{os.getuid()}.lock"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        handle = os.open(lock, flags, 0o600)
    except OSError as error:
        raise ScanError(f"{lock} cannot be opened ({error.strerror}); delete it") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which unlocks it


_GO_ON: Final = (
    "Run `trivy image --download-db-only` when the network is back, or name a mirror in "
    "TRIVY_DB_REPOSITORY, then run this again"
)


def _database(
    trivy: Trivy, folder: Path, say: Say, now: Callable[[], datetime]
) -> tuple[str, datetime]:
    """Updates the database, or makes do with a recent one: (Trivy's version, when it was made)."""
    refusal = ""
    try:
        # Downloads only when the one that is there is due for an update (every 6 hours).
        trivy.run("image", "--no-progress", "--download-db-only", folder=folder)
    except ScanError as error:
        refusal = str(error)
    version, made = trivy.version(folder)
    if made is None:
        raise ScanError(
            f"Trivy has no vulnerability database, and it cannot be had now"
            f" ({refusal or 'it does not say why'}). {_GO_ON}"
        )
    age = now() - made
    days = f"{age.days} day{'' if age.days == 1 else 's'} old"
    if refusal and age > OLDEST_DATABASE:
        raise ScanError(
            f"Trivy's vulnerability database is {days}, more than {OLDEST_DATABASE.days}, and a "
            f"newer one cannot be had ({refusal}). {_GO_ON}"
        )
    if refusal:
        say(
            f"warning: a newer vulnerability database cannot be had ({refusal}); going on with "
            f"the one of {made:%Y-%m-%d %H:%M} UTC, {days}"
        )
    return version, made


def _document(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        raise ScanError(f"Trivy wrote no {path.name}; {OLD}") from None
    if not isinstance(found, dict):
        raise ScanError(f"Trivy's {path.name} is not what it documents; {OLD}")
    return found


def _moment(text: str) -> datetime:
    """Go's RFC 3339, whose nanoseconds are more than Python reads."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).astimezone(UTC)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
