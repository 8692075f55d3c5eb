"""How Gitea authenticates and refuses: in the container registry, and in its API.

Codes, headers and bodies are those of a real v1.26.0, recorded in
tests/clouds/golden/gitea-1.26.json.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from rehearsal.clouds.http import Call, Problem, Refusal
from rehearsal.clouds.registry import accounts
from rehearsal.clouds.registry.accounts import READ, WRITE, Doer, WrongCredentials

VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}


class ContainerDialect:
    """/v2: nothing without credentials, even where packages are public; then a Bearer token of
    /v2/token, or a personal access token by Basic."""

    def admit(self, call: Call) -> None:
        """Who must be known to ask at all; what they may do depends on the route."""
        if call.path != "/token":
            known(call)

    def headers(self, call: Call) -> Mapping[str, str]:
        del call
        return {}

    def wrong(self, problems: list[Problem]) -> Refusal:
        # Gitea ignores what it does not know; a stand-in that did would prove nothing.
        return Refusal(400, "UNSUPPORTED", f"{problems[0].path}: {problems[0].reason}")

    def no_route(self, method: str, path: str, allowed: Collection[str]) -> Refusal:
        del method, path, allowed
        return no_page()

    def rate_limited(self) -> Refusal:
        # Gitea itself has no limit; a proxy before it may.
        return Refusal(429, "", "", headers={"Retry-After": "1"})

    def envelope(self, refusal: Refusal) -> bytes | dict[str, Any]:
        """Named errors as the distribution specification has them. Whatever else goes wrong is
        wordless (apiError in container.go), and so are injected faults, unless their code is one
        of the specification's: DENIED."""
        if refusal.code == "text":
            return f"{refusal.message}\n".encode()
        if not refusal.code.isupper():
            return b""
        return {"errors": [{"code": refusal.code, "message": refusal.message}]}


def not_found(words: str = "Not found.") -> Refusal:
    return Refusal(404, "text", words, headers=_PLAIN)


def no_page() -> Refusal:
    """What Gitea says where it has no route."""
    return not_found("404 page not found")


def unauthorized(call: Call) -> Refusal:
    host = call.headers.get("Host", "localhost")
    realm = f'Bearer realm="http://{host}/v2/token",service="container_registry",scope="*"'
    # Gitea sends them as two headers; ours can send one with both, which means the same.
    both = f'{realm}, Basic realm="Gitea Container Registry"'
    return Refusal(401, "UNAUTHORIZED", "", headers={"WWW-Authenticate": both} | VERSION)


def known(call: Call) -> Doer:
    """Who asks the registry. Raises Refusal for nobody, and for wrong credentials."""
    kind, _, value = call.headers.get("Authorization", "").partition(" ")
    by = {"basic": accounts.by_basic, "bearer": accounts.by_bearer}.get(kind.lower())
    try:
        if by is None:
            raise WrongCredentials
        return by(call.state, value, call.now)
    except WrongCredentials:
        raise unauthorized(call) from None


def allowed(call: Call, scope: str) -> Doer:
    """Who asks, if they may do this to the packages of the owner in the path (reqPackageAccess
    in routers/api/packages/api.go). Every user is visible: who is known may read."""
    doer, owner = known(call), call.values["owner"].lower()
    if owner not in call.state["users"]:
        raise not_found()
    if not doer.may(scope) or (scope == WRITE and doer.user != owner and not doer.admin):
        headers = {"WWW-Authenticate": 'Basic realm="Gitea Package API"'}
        raise Refusal(401, "text", "reqPackageAccess", headers=headers | _PLAIN)
    return doer


_PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


class ApiDialect:
    """/api/v1: a personal access token as `token …`, `Bearer …` or by Basic."""

    def admit(self, call: Call) -> None:
        kind, _, value = call.headers.get("Authorization", "").partition(" ")
        methods: dict[str, Callable[..., Doer]] = {
            "token": accounts.by_token,
            "bearer": accounts.by_token,
            "basic": accounts.by_basic,
        }
        if kind.lower() not in methods:
            if call.state["sign_in_required"]:
                raise Refusal(403, "", "Only signed in user is allowed to call APIs.")
            raise Refusal(401, "url", "token is required")
        try:
            doer = methods[kind.lower()](call.state, value, call.now)
        except WrongCredentials:
            raise Refusal(401, "url", "invalid username, password or token") from None
        scope = READ if call.method in ("GET", "HEAD") else WRITE
        if not doer.may(scope):
            raise Refusal(
                403,
                "url",
                "token does not have at least one of required scope(s), "
                f"required=[{scope}], token scope={','.join(doer.scopes)}",
            )
        # The path is known to be a package's: there are no other routes here.
        owner = call.path.split("/")[2].lower() if call.path.startswith("/packages/") else ""
        if owner not in call.state["users"]:
            raise Refusal(404, "url", f"user redirect does not exist [name: {owner}]")
        if scope == WRITE and doer.user != owner and not doer.admin:
            raise Refusal(403, "url", "user should have specific permission or be a site admin")

    def headers(self, call: Call) -> Mapping[str, str]:
        del call
        return {}

    def wrong(self, problems: list[Problem]) -> Refusal:
        return Refusal(400, "url", f"{problems[0].path}: {problems[0].reason}")

    def no_route(self, method: str, path: str, allowed: Collection[str]) -> Refusal:
        del method, path, allowed
        return Refusal(404, "url", "The target couldn't be found.")

    def rate_limited(self) -> Refusal:
        return Refusal(429, "", "", headers={"Retry-After": "1"})

    def envelope(self, refusal: Refusal) -> dict[str, Any]:
        """A 500 says nothing outside development (APIError in services/context/api.go)."""
        message = "" if refusal.status == 500 else refusal.message
        swagger = {} if refusal.code == "" else {"url": "http://localhost/api/swagger"}
        return {"message": message} | swagger
