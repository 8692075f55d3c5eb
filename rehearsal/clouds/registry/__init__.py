"""A stand-in for Gitea's container registry and its packages API. It is not Gitea: the rehearsal
runs the real one (rehearsal/registry/). This one is for tests that need faults, a full disk or
many registries in a moment.

    gitea = Gitea(Path("gitea"))
    token = gitea.token("admin", "write:package")
    listener = Listener(gitea.wsgi_app); listener.start()
    Registry(f"127.0.0.1:{listener.port}", Login("admin", token))
    # or without any socket, where connections need not be lost:
    Registry("localhost", Login("admin", token), transport=httpx.WSGITransport(gitea.wsgi_app))

Written from the source of v1.26.0 (the files are named where they were read) and compared with a
real v1.26.0, whose answers to one long conversation are recorded in
tests/clouds/golden/gitea-1.26.json. Where it differs on purpose:
* parameters that Gitea would ignore are refused, and logged;
* users have tokens and no passwords; there are no organisations and no private users;
* a token may expire (`Gitea.token(expires=…)`); Gitea's are good until they are deleted;
* of a user, the API shows less.

Faults are those of every stand-in (/_rehearsal/faults), for both /v2 and the API; paths are those
below /v2 and /api/v1. A full disk is `PUT /_rehearsal/room {"bytes": 0}`, or `gitea.blobs.room`:
then, as with Gitea, the answer is a 500 without a word.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rehearsal.clouds.http import App, Call, Field, Reply, State, Store
from rehearsal.clouds.registry import accounts, container, images, packages
from rehearsal.clouds.registry.dialect import ApiDialect, ContainerDialect

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Gitea"]

OLDER_THAN: Final = 24 * 3600.0  # seconds; [cron.cleanup_packages] OLDER_THAN


class Gitea:
    """One Gitea with a site administrator's account. `folder` keeps everything; a second Gitea
    on the same folder is the first one restarted."""

    def __init__(
        self,
        folder: Path,
        *,
        admin: str = "admin",
        sign_in_required: bool = True,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self.blobs = images.Blobs(folder / "blobs")
        self.store = Store(folder / "gitea.json", initial=_empty)
        self.v2 = App(
            "Gitea registry",
            store=self.store,
            dialect=ContainerDialect(),
            root="/v2",
            clock=clock,
            sleep=sleep,
            shown=_without_keys,
        )
        self.api = App(
            "Gitea API",
            store=self.store,
            dialect=ApiDialect(),
            root="/api/v1",
            clock=clock,
            sleep=sleep,
        )
        # One server: one list of faults, of requests and of what was not known.
        self.api.faults, self.api.requests = self.v2.faults, self.v2.requests
        self.api.unknown = self.v2.unknown
        with self.store.transaction() as state:
            state["sign_in_required"] = sign_in_required
            accounts.add_user(state, admin, admin=True, now=clock())
        container.declare(self.v2, self.blobs)
        packages.declare(self.api, self.blobs)

        @self.v2.operator("PUT", "/room", body={"bytes": Field(int, required=True, nullable=True)})
        def room(call: Call) -> Reply:
            self.blobs.room = call.body["bytes"]
            return Reply({"bytes": self.blobs.room})

        @self.v2.operator("POST", "/clean-up")
        def clean_up(_call: Call) -> Reply:
            self.clean_up()
            return Reply()

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        app = self.api if environ["PATH_INFO"].startswith("/api/v1/") else self.v2
        return app.wsgi_app(environ, start_response)

    # What an administrator does on Gitea's pages

    def user(self, name: str) -> None:
        """A user without any rights but over what is theirs."""
        with self.store.transaction() as state:
            accounts.add_user(state, name, admin=False, now=self._clock())

    def token(self, user: str, *scopes: str, expires: float | None = None) -> str:
        """A new personal access token; `expires` in seconds since the epoch."""
        with self.store.transaction() as state:
            return accounts.add_token(state, user, scopes, expires=expires)

    def revoke(self, token: str) -> None:
        with self.store.transaction() as state:
            accounts.revoke(state, token)

    def clean_up(self, older_than: float = OLDER_THAN) -> None:
        """Runs Gitea's cron task: see images.clean_up."""
        with self.store.transaction() as state:
            images.clean_up(state, self.blobs, self._clock(), older_than)


def _empty() -> State:
    return {
        "sign_in_required": True,
        "signing_key": secrets.token_hex(32),
        "users": {},
        "tokens": {},
        "packages": {},
        "uploads": {},
        "ids": {},
    }


def _without_keys(state: State) -> State:
    return {name: value for name, value in state.items() if name not in ("signing_key", "tokens")}
