"""The registry: a real Gitea on loopback, with one user and two tokens.

    gitea/            its work folder: database, packages, the file of secrets (mode 0600)
    gitea/app.ini     written anew at each start (mode 0600)

It asks everyone to sign in, also for public packages: otherwise a wrong pull secret would go
unnoticed. It sends nothing to anyone: no mail, no check for updates, no avatars from elsewhere.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import Final

from rehearsal.cluster.processes import Supervised
from rehearsal.registry.binaries import Tools

USER: Final = "admin"
START_SECONDS: Final = 180.0
"""Its first start makes a hundred tables, each with an fsync."""


class ForgeError(Exception):
    """Why there is no registry or no builder, and the line that mends it."""


@dataclass(frozen=True)
class Tokens:
    """What opens the registry: `read` has the scope read:package and no other; `write` has
    write:package, which in Gitea includes reading."""

    username: str
    read: str = field(repr=False)
    write: str = field(repr=False)


@dataclass(frozen=True)
class _Secrets:
    """What Gitea would else write into its own configuration file, which is not kept."""

    secret_key: str = field(repr=False)
    internal_token: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    tokens: Tokens | None = None


def why_not() -> str:
    """Why Gitea cannot run here, and what mends it; empty when it can."""
    if not shutil.which("git"):
        return "Gitea does not start without git\n  mend: apt-get install -y git"
    return ""


class Gitea:
    """One Gitea of one home, on 127.0.0.1:<port>."""

    def __init__(self, tools: Tools, folder: Path, port: int, log: Path) -> None:
        """`port`: images name it, so a home keeps it; another one at the next start is fine for
        Gitea itself."""
        self.server = f"127.0.0.1:{port}"
        self._tools = tools
        self._folder = folder
        self._port = port
        self._log = log
        self._configuration = folder / "app.ini"
        self._process: Supervised | None = None

    def start(self, asked_to_stop: Callable[[], bool] = lambda: False) -> Tokens:
        """Returns when it answers. Raises ForgeError, also when it is asked to stop before."""
        if reason := why_not():
            raise ForgeError(reason)
        if _listens(self._port):
            raise ForgeError(
                f"port {self._port} on 127.0.0.1, the registry's, is taken\n"
                f"  mend: end what listens there (`ss -ltnp 'sport = :{self._port}'` names it)"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = self._secrets()
        _write_privately(self._configuration, self._ini(kept))
        tokens = kept.tokens or self._make_user(kept)
        process = Supervised(
            "gitea",
            [*self._command, "web"],
            log=self._log,
            pid_file=self._folder.parent / "run" / "gitea.pid",
            environment=self._environment,
        )
        self._process = process.start()
        limit = time.monotonic() + START_SECONDS
        while not _healthy(self._port):
            if asked_to_stop() or process.reason() or time.monotonic() > limit:
                self.stop()
                raise ForgeError(
                    f"Gitea does not answer: {process.reason() or 'it was not ready in time'}\n"
                    f"  mend: see {self._log}, then run again"
                )
            time.sleep(0.05)
        return tokens

    def stop(self) -> None:
        if self._process:
            self._process.stop()
            self._process = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    # --- the user and its tokens ---

    def _secrets(self) -> _Secrets:
        with contextlib.suppress(OSError, ValueError, TypeError):
            said = json.loads(self._secrets_file.read_text())
            tokens = said.pop("tokens")
            return _Secrets(**said, tokens=Tokens(**tokens) if tokens else None)
        # A folder without its secrets is of no use: nobody knows its tokens, and none is made
        # twice under one name.
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        fresh = _Secrets(token_urlsafe(32), token_urlsafe(32), token_urlsafe(32))
        _write_privately(self._secrets_file, json.dumps(asdict(fresh)))
        return fresh

    def _make_user(self, kept: _Secrets) -> Tokens:
        # A run that was killed in the middle may have left a user, or one token that nobody read.
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        self._say("migrate")
        create = ["--username", USER, "--email", f"{USER}@honeydue.test", "--admin"]
        # The password is never used: it is made up by Gitea and printed, so no process list has it.
        self._say(
            "admin", "user", "create", *create, "--random-password", "--must-change-password=false"
        )
        tokens = Tokens(USER, self._token("read:package"), self._token("write:package"))
        made = _Secrets(kept.secret_key, kept.internal_token, kept.jwt_secret, tokens)
        _write_privately(self._secrets_file, json.dumps(asdict(made)))
        return tokens

    def _token(self, scope: str) -> str:
        about = ["--username", USER, "--token-name", scope, "--scopes", scope, "--raw"]
        return token_in(self._say("admin", "user", "generate-access-token", *about))

    def _say(self, *arguments: str) -> str:
        """One command of Gitea's own CLI; its output. Raises ForgeError without repeating it."""
        answer = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode:
            last = (answer.stderr.strip() or answer.stdout.strip()).splitlines()[-1:]
            raise ForgeError(
                f"`gitea {' '.join(arguments[:3])}` failed: {' '.join(last)[:300]}\n"
                f"  mend: python -m rehearsal reset, or delete {self._folder}"
            )
        return answer.stdout

    # --- its surroundings ---

    @property
    def _command(self) -> list[str]:
        return [str(self._tools.gitea), "--config", str(self._configuration)]

    @property
    def _environment(self) -> dict[str, str]:
        """Nothing of ours: Gitea reads variables, and git reads the operator's configuration."""
        return {
            "HOME": str(self._folder),
            "PATH": os.environ.get("PATH", os.defpath),
            "USER": os.environ.get("USER", "root"),
        }

    @property
    def _secrets_file(self) -> Path:
        return self._folder / "secrets.json"

    def _ini(self, kept: _Secrets) -> str:
        return f"""\
WORK_PATH = {self._folder}
RUN_MODE = prod
# Only BuildKit needs root; Gitea beside it opens no port but this one on loopback.
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = {str(os.geteuid() == 0).lower()}

[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {self._port}
ROOT_URL = http://{self.server}/
STATIC_ROOT_PATH = {self._tools.gitea_static}
DISABLE_SSH = true
OFFLINE_MODE = true

[database]
DB_TYPE = sqlite3
PATH = {self._folder}/data/gitea.db
SQLITE_JOURNAL_MODE = WAL

[security]
INSTALL_LOCK = true
SECRET_KEY = {kept.secret_key}
INTERNAL_TOKEN = {kept.internal_token}

[oauth2]
ENABLED = false
JWT_SECRET = {kept.jwt_secret}

[service]
REQUIRE_SIGNIN_VIEW = true
DISABLE_REGISTRATION = true

[packages]
ENABLED = true

[actions]
ENABLED = false

[mailer]
ENABLED = false

[cron.update_checker]
ENABLED = false

[indexer]
ISSUE_INDEXER_TYPE = db

[log]
MODE = console
LEVEL = Warn
"""


def token_in(said: str) -> str:
    """The token that `gitea admin user generate-access-token --raw` printed.

    Gitea's logger writes to the same output from a thread of its own, so a warning stands before
    the token or, on a busy machine, after it. Raises ForgeError when there is none."""
    found = re.search(r"^[0-9a-f]{40}$", said, re.MULTILINE)
    if found is None:
        raise ForgeError("Gitea made a token and did not print it\n  mend: run again")
    return found[0]


# --- asking the registry ---------------------------------------------------------------------


def digest_of(server: str, tokens: Tokens, repository: str, tag: str) -> str | None:
    """The digest that the registry says a tag has, or None when it has no such tag.

    Raises ForgeError when it does not answer as a registry does."""
    login = base64.b64encode(f"{tokens.username}:{tokens.read}".encode()).decode()
    types = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
    connection = http.client.HTTPConnection(server, timeout=10)
    try:
        connection.request(
            "HEAD",
            f"/v2/{repository}/manifests/{tag}",
            headers={"Authorization": f"Basic {login}", "Accept": types},
        )
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ForgeError(f"the registry {server} does not answer: {error}") from None
    finally:
        connection.close()
    if answer.status == http.HTTPStatus.NOT_FOUND:
        return None
    digest = answer.headers.get("Docker-Content-Digest")
    if answer.status != http.HTTPStatus.OK or not digest:
        raise ForgeError(f"the registry {server} answers {answer.status} for {repository}:{tag}")
    return digest


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def _write_privately(file: Path, text: str) -> None:
    """Mode 0600 from its first byte, and whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".tmp")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    fresh.replace(file)
