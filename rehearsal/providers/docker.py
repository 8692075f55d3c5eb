"""The rehearsal's `docker` provider: as much of pulumi-docker 5 as says why it cannot serve.

The plugin asks the Docker daemon when it is configured, so a stack that declares any `docker:*`
resource fails without one, in its preview too. So does this one. Where a daemon answers, it stops
at the builder all the same: a rehearsal makes none in somebody's Docker.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from rehearsal.engine.provider import (
    CheckFailure,
    Context,
    Diff,
    Properties,
    ProviderError,
    Unknown,
)
from rehearsal.providers import schema
from rehearsal.providers.compare import changed_paths

BUILDER: Final = "docker:index/buildxBuilder:BuildxBuilder"
SOCKET: Final = "unix:///var/run/docker.sock"
TIMEOUT: Final = 5.0  # seconds for the daemon to answer
MEND: Final = (
    "  mend: pulumi config set --path honeydue:image.driver remote, with a builder that leads to a "
    "BuildKit of your own (the rehearsal has one: IMAGES=1)"
)


class DockerProvider:
    """Raises ProviderError when no Docker daemon answers."""

    def __init__(self, inputs: Properties) -> None:
        given = inputs.get("host") or os.environ.get("DOCKER_HOST")
        if isinstance(given, Unknown):
            return
        # Where the plugin looks without being told: Docker's own place, and Docker Desktop's two.
        desktop = [f"unix://{Path.home()}/.docker/{x}/docker.sock" for x in ("run", "desktop")]
        silent = {}
        for host in [given] if given else [SOCKET, *desktop]:
            silent[host] = _why_silent(host)
            if not silent[host]:
                return
        host, reason = next(iter(silent.items()))
        raise ProviderError(
            "docker native provider returned an unexpected error from Configure: failed to "
            f"connect to any docker daemon ({host}: {reason})\n{MEND}"
        )

    def check(
        self, type_: str, olds: Properties | None, news: Properties
    ) -> tuple[Properties, list[CheckFailure]]:
        del olds
        if type_ != BUILDER:
            return news, [CheckFailure("", f"the rehearsal has no {type_!r}; it has {BUILDER}")]
        return news, schema.check(type_, news)

    def diff(
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
    ) -> Diff:
        del type_, id, old_outputs
        return Diff(changed_paths(old_inputs, new_inputs))

    def create(self, type_: str, inputs: Properties, ctx: Context) -> NoReturn:
        del type_, ctx
        raise ProviderError(
            f"the rehearsal makes no builder {inputs.get('name')!r} in this machine's Docker\n"
            f"{MEND}"
        )

    def find(self, type_: str, inputs: Properties, ctx: Context) -> None:
        """None was ever made here."""

    def read(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> None:
        """None was ever made here."""

    def update(  # noqa: PLR0917 - the engine's protocol
        self,
        type_: str,
        id: str,
        old_inputs: Properties,
        old_outputs: Properties,
        new_inputs: Properties,
        ctx: Context,
    ) -> NoReturn:
        del id, old_inputs, old_outputs
        self.create(type_, new_inputs, ctx)

    def delete(
        self, type_: str, id: str, inputs: Properties, outputs: Properties, ctx: Context
    ) -> None:
        """None was ever made here."""

    def invoke(self, token: str, args: Mapping[str, Any]) -> NoReturn:
        del args
        raise ProviderError(f"the rehearsal's provider 'docker' has no function {token!r}")


def _why_silent(host: str) -> str:
    """Why no Docker daemon answers there; empty when one does."""
    where = urlsplit(host)
    if where.scheme == "tcp" and where.hostname:
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=TIMEOUT)
    elif where.scheme == "unix":
        connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(TIMEOUT)
    else:
        return "the rehearsal speaks to unix:// and tcp:// only"
    try:
        if where.scheme == "unix":
            connection.sock.connect(where.path)
        connection.request("GET", "/_ping")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "strerror", None) or error) or type(error).__name__
    finally:
        connection.close()
    return "" if status == http.HTTPStatus.OK else f"answers {status}"
