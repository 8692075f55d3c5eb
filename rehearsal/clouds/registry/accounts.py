"""Users and tokens, and who asks: Gitea's services/auth/basic.go and services/packages/auth.go.

A personal access token is accepted whatever user name comes with it. Gitea 1.26 has no expiry for
one: it is good until it is deleted. `expires` ends it by the clock, as its deletion would. What
/v2/token hands out is good for 24 hours, even when the token that it was made from is gone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import Any, Final

from rehearsal.clouds.http import State

READ: Final = "read:package"
WRITE: Final = "write:package"
BEARER_SECONDS: Final = 24 * 3600


@dataclass(frozen=True)
class Doer:
    """Who asks. `scopes` as the token was made; to write includes to read."""

    user: str
    admin: bool = False
    scopes: tuple[str, ...] = ()

    def may(self, scope: str) -> bool:
        return bool({scope, WRITE, "all"} & {*self.scopes})


GHOST: Final = Doer("", scopes=(READ,))  # whoever asks without credentials where that is allowed
_GHOST_ID: Final = -1


class WrongCredentials(Exception):  # noqa: N818 - an answer, not an error of ours
    """There are credentials, and they are nobody's."""


def add_user(state: State, name: str, *, admin: bool, now: float) -> None:
    users = state["users"]
    users.setdefault(
        name.lower(), {"id": len(users) + 1, "name": name, "admin": admin, "created": now}
    )


def add_token(
    state: State, user: str, scopes: tuple[str, ...], *, expires: float | None = None
) -> str:
    """40 hex digits, as Gitea's; only their hash is kept."""
    token = secrets.token_hex(20)
    state["tokens"][_hash(token)] = {
        "user": user.lower(),
        "scopes": list(scopes),
        "expires": expires,
    }
    return token


def revoke(state: State, token: str) -> None:
    del state["tokens"][_hash(token)]


def by_basic(state: State, encoded: str, now: float) -> Doer:
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        raise WrongCredentials from None
    # A token may also be given as the user name.
    return by_token(state, name if password in ("", "x-oauth-basic") else password, now)


def by_token(state: State, token: str, now: float) -> Doer:
    found = state["tokens"].get(_hash(token))
    if found is None or (found["expires"] is not None and found["expires"] <= now):
        raise WrongCredentials
    return _doer(state, found["user"], tuple(found["scopes"]))


def bearer(state: State, doer: Doer, now: float) -> str:
    """What /v2/token gives: a JWT (HS256) that names the user and the token's scopes."""
    claims = {
        "exp": int(now) + BEARER_SECONDS,
        "nbf": int(now),
        "UserID": _GHOST_ID if doer is GHOST else state["users"][doer.user]["id"],
        "Scope": ",".join(doer.scopes),
    }
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
    return f"{signed}.{_signature(state, signed)}"


def by_bearer(state: State, token: str, now: float) -> Doer:
    signed, _, signature = token.rpartition(".")
    if not hmac.compare_digest(_signature(state, signed).encode(), signature.encode()):
        raise WrongCredentials
    claims = json.loads(_decoded(signed.partition(".")[2]))
    if not claims["nbf"] <= now < claims["exp"]:
        raise WrongCredentials
    if claims["UserID"] == _GHOST_ID and not state["sign_in_required"]:
        return GHOST
    for name, user in state["users"].items():
        if user["id"] == claims["UserID"]:
            return _doer(state, name, tuple(claims["Scope"].split(",")))
    raise WrongCredentials


def _doer(state: State, name: str, scopes: tuple[str, ...]) -> Doer:
    return Doer(user=name, admin=bool(state["users"][name]["admin"]), scopes=scopes)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _part(document: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _signature(state: State, signed: str) -> str:
    key = bytes.fromhex(state["signing_key"])
    digest = hmac.digest(key, signed.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
