"""The Trivy command line, 0.58 or later: how it is called, and what it may see.

Of the operator's environment it gets what it needs to find its cache and the way out, nothing that
would change the verdict, and no secret but the registry's, for the one call that pulls.

Sources: Trivy's documentation, references/configuration/cli/trivy_image.md and trivy_sbom.md,
advanced/air-gap.md, references/troubleshooting.md (one process at a time); its source,
pkg/version/version.go, pkg/log/logger.go.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from honeydue.images.ignores import plain
from honeydue.images.registry import Login, scheme

OLDEST_DATABASE: Final = timedelta(days=7)
_TIMEOUT: Final = 600.0  # seconds for one run; Trivy gives up by itself after 300
# Of the operator's environment Trivy gets what it needs to find its cache and the way out, and
# nothing that would change the verdict (TRIVY_SEVERITY, TRIVY_SKIP_FILES, …) or is our secret.
_PASSED: Final = (
    *("PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("TRIVY_CACHE_DIR", "TRIVY_DB_REPOSITORY", "TRIVY_JAVA_DB_REPOSITORY", "TRIVY_TIMEOUT"),
)


class ScanError(Exception):
    """The image was not scanned, and why; no verdict on the image."""


OLD: Final = "is it 0.58 or later?"
INSTALL: Final = (
    "install it: brew install trivy (macOS), or the package of "
    "https://trivy.dev/latest/getting-started/installation/, then run this again"
)


@dataclass(frozen=True)
class Examined:
    """Trivy's own documents (CycloneDX; its JSON), its version, and when its database was made."""

    sbom: dict[str, Any]
    report: dict[str, Any]
    version: str
    database: datetime


def examine(
    image: str,
    *,
    ignores: str,
    login: Login | None,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    now: Callable[[], datetime],
) -> Examined:
    """Runs Trivy on `image` (`<server>/<repository>@sha256:…`). `ignores`: the text of an ignore
    file; `say` hears warnings. ScanError."""
    insecure = scheme(image.partition("/")[0]) == "http"
    trivy = _Trivy(environment, login, insecure=insecure)
    try:
        with tempfile.TemporaryDirectory(prefix="honeydue-scan-") as name:
            folder = Path(name)
            (folder / "ignore.yaml").write_text(ignores)
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
            sbom, report = _document(folder / "sbom.json"), _document(folder / "report.json")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ScanError(
            f"nothing can be written to {tempfile.gettempdir()} ({reason}); make room there, or "
            "set TMPDIR to a folder that has some"
        ) from None
    if sbom.get("bomFormat") != "CycloneDX":
        raise ScanError(f"what Trivy wrote is no CycloneDX document; {OLD}")
    return Examined(sbom, report, version, database)


class _Trivy:
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
        _, fatal, said = stderr.rpartition("FATAL")
        said = said if fatal else stderr[-600:]
        if self._secret:
            said = said.replace(self._secret, "[registry token]")
        return plain(" ".join(said.split()).removeprefix("Fatal error "), 600)

    def version(self, folder: Path) -> tuple[str, datetime | None]:
        """(its version, when its vulnerability database was made; None: it has none)."""
        try:
            said: Any = json.loads(self.run("version", "--format", "json", folder=folder))
            made = (said.get("VulnerabilityDB") or {}).get("UpdatedAt")
            return str(said["Version"]), _moment(made) if made else None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ScanError(f"`trivy version` says nothing usable; {OLD}") from None


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
    trivy: _Trivy, folder: Path, say: Callable[[str], None], now: Callable[[], datetime]
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
