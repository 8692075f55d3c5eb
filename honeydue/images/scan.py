"""The scan gate: what Trivy knows of an image, and whether that may be deployed.

Two runs of the Trivy CLI (0.58 or later): the image's packages as a CycloneDX SBOM, which needs no
database and is the only step that talks to the registry; then that SBOM against the vulnerability
database. So what is attested is exactly what was judged.

- Stops: a vulnerability of `severity` or above, also one without a fix: that it runs all the same
  is the operator's decision, and the ignore file is where that is written down, until a day.
- `deploy/trivyignore.yaml` accepts single ones until a day (honeydue/images/ignores.py).
- The database cannot be had: one from at most 7 days ago does, with a warning; else it stops.

Sources: Trivy's source, pkg/types/report.go and finding.go (ExperimentalModifiedFindings). How
it is called stands in honeydue/images/trivy.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from honeydue.images import trivy
from honeydue.images.ignores import (
    Ignore,
    Ignores,
    IgnoresError,
    load_ignores,
    plain,
    read_ignores,
)
from honeydue.images.registry import Login
from honeydue.images.trivy import OLD, ScanError

__all__ = [
    "SEVERITIES",
    "Finding",
    "Ignore",
    "Ignores",
    "IgnoresError",
    "Outcome",
    "ScanError",
    "findings_of",
    "load_ignores",
    "read_ignores",
    "scan",
]

SEVERITIES: Final = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "UNKNOWN")
_MOST_SHOWN: Final = 40  # lines of one table


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
        if not packages:
            lines.append("warning: no package was recognised in it, so this says nothing about it")
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
                f"  {entry.id}  since {entry.until}: {plain(entry.statement)}"
                for entry in self.ignores.expired
            ]
        return "\n".join(lines)


def _accepted(entry: Ignore | None) -> str:
    return f"until {entry.until}: {plain(entry.statement)}" if entry else "accepted"


def _table(findings: Sequence[Finding], last: Callable[[Finding], str]) -> list[str]:
    ordered = sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.package, f.id))
    rows = [(f.severity, f.id, f.package, f.installed, last(f)) for f in ordered]
    rows = [tuple(map(plain, row)) for row in dict.fromkeys(rows)]  # type: ignore[misc]
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


def scan(
    image: str,
    *,
    severity: str,
    ignores: Ignores,
    login: Login | None,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Outcome:
    """Scans `image` (`<server>/<repository>@sha256:…`); the caller decides on `Outcome.stops`.

    ScanError when there is no verdict: no Trivy, no image, no usable database.
    """
    started = now()
    try:
        seen = trivy.examine(
            image, ignores=ignores.render(), login=login, environment=environment, say=say, now=now
        )
        found, ignored = findings_of(seen.report)
    except ScanError as error:
        raise ScanError(f"{image} was not scanned: {error}") from None
    return Outcome(
        sbom=seen.sbom,
        # It says where it came from: a file in a folder that is gone. It is about this image.
        report={**seen.report, "ArtifactName": image},
        severity=severity,
        findings=found,
        ignored=ignored,
        ignores=ignores,
        database=seen.database,
        trivy=seen.version,
        started=started,
        finished=now(),
    )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
