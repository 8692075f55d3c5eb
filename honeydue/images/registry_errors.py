"""What a registry's answers and silences mean to the operator, in a sentence and a mending line.

For what Gitea answers: its v1.26.0, `routers/api/packages/api.go` and `…/container/container.go`,
and a real one with a full disk, a quota and tokens of every kind.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from socket import EAI_AGAIN, gaierror
from typing import Final, Literal

import httpx

Kind = Literal["unreachable", "credentials", "scope", "broken", "full"]

LARGEST_MANIFEST: Final = 4 << 20  # bytes; what the specification asks a registry to accept


class RegistryError(Exception):
    """What the registry did not do, why, and the line that mends it; never a secret.

    `kind`: "unreachable": down, or too slow; "credentials": there are none, or they are wrong or
    revoked; "scope": they are right and do not suffice; "full": no room, or a quota;
    "broken": an answer that a registry does not give. A caller that knows a better `mend` (the
    stack's name) sets it.
    """

    def __init__(self, kind: Kind, why: str, mend: str) -> None:
        super().__init__(kind, why, mend)
        self.kind = kind
        self.why = why
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.why}\n    mend   {self.mend}"


@dataclass(frozen=True)
class Request:
    """`doing`: what it is for, in the operator's words; `most`: bytes that a body may have."""

    method: str
    url: httpx.URL
    doing: str
    scope: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    most: int = LARGEST_MANIFEST

    @property
    def writing(self) -> bool:
        return self.method not in ("GET", "HEAD")

    @property
    def needs(self) -> str:
        """The scope that Gitea wants to see; to write includes to read."""
        return "write:package" if self.scope.endswith("push") else "read:package"

    def with_headers(self, more: Mapping[str, str]) -> Request:
        return replace(self, headers={**self.headers, **more})

    def moved(self, url: httpx.URL, *, without: str) -> Request:
        kept = {name: value for name, value in self.headers.items() if name != without}
        return replace(self, url=url, headers=kept)


@dataclass(frozen=True)
class Answer:
    request: Request
    status: int
    headers: httpx.Headers
    body: bytes


_ROOM: Final = (
    "make room there, or raise its limits; `python -m ops images prune` deletes old releases"
)
# What Gitea's container.go says nothing about but in its own log: apiError sends no body. A token
# without the scope is a 401 there (reqPackageAccess in api.go), so its 403 is a quota.
_WORDLESS: Final = {500: "its disk is full", 403: "a quota is used up"}
_NO_ROOM: Final = re.compile(
    r"no space left|disk (is )?full|disk quota|quota|insufficient storage|ENOSPC", re.IGNORECASE
)


@dataclass
class Errors:
    """The errors of one registry. `secrets` are kept out of every sentence; more may be added."""

    server: str
    base: httpx.URL
    username: str | None
    timeout: float
    secrets: set[str]

    def refused(self, answer: Answer) -> RegistryError:
        """What an answer other than the wanted one means to the operator."""
        status, request = answer.status, answer.request
        words = self._words(answer)
        said = f"{self.server} answered {status}" + (f" ({words})" if words else "")
        kind: Kind = "broken"
        mend = self.look
        if status == 507 or _NO_ROOM.search(words):
            kind, said, mend = "full", f"it has no room: {said}", _ROOM
        elif request.writing and status in _WORDLESS and not words:
            kind, mend = "full", f"see the log of {self.server}; {_ROOM}"
            said += f" without a word, as Gitea does when {_WORDLESS[status]}"
        elif status in (401, 403) and self.username is None:
            return self.no_login(request)
        elif status in (401, 403) and self.username is not None:
            kind, mend = "scope", self._token(request)
            said += (
                f", although it knows the token of {self.username}: the token lacks "
                f"{request.needs}, or its owner has no right to do this there"
            )
        elif status == 413:
            said += ": it, or a proxy before it, takes no body of this size"
            mend = "raise the proxy's limit (nginx: client_max_body_size 0;)"
        elif status == 404 and request.writing:
            mend = f"honeydue:registry.namespace must be a user or organisation of {self.server}"
        elif status == 429 or status >= 500:
            kind = "unreachable"
        return self.error(kind, request.doing, said, mend)

    def lost(self, error: httpx.HTTPError, doing: str) -> tuple[RegistryError, bool]:
        """What became of a request that got no answer, and whether another try may get one."""
        again = True
        root = _root(error) if isinstance(error, httpx.ConnectError) else None
        if isinstance(root, ssl.SSLCertVerificationError):
            again = False
            why = f"the certificate of {self.server} is not good: {root.verify_message}"
        elif isinstance(root, ssl.SSLError):
            again = False
            why = f"{self.server} does not speak TLS as it should: {self._line(str(root))}"
        elif isinstance(root, gaierror):
            again = root.errno == EAI_AGAIN
            why = f"the name {self.base.host} cannot be resolved"
        elif isinstance(root, ConnectionRefusedError):
            why = f"{self.server} refuses connections: the registry is down"
        elif isinstance(error.__context__, httpx.InvalidURL):  # httpx looks at Location first
            return self.broken(doing, "it points to an address that is none"), False
        elif isinstance(error, httpx.TimeoutException):
            why = f"{self.server} did not answer within {self.timeout:g} s"
        elif isinstance(error, httpx.ConnectError | httpx.ProxyError):
            why = f"no connection to {self.server}: {self._line(str(error))}"
        elif isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
            why = f"{self.server} closed the connection before it had answered"
        else:
            return self.broken(doing, f"this is no answer ({type(error).__name__})"), False
        return self.error("unreachable", doing, why, self.look), again

    def error(self, kind: Kind, doing: str, why: str, mend: str) -> RegistryError:
        return RegistryError(kind, f"{doing} failed: {why}", mend)

    def broken(self, doing: str, why: str) -> RegistryError:
        return self.error("broken", doing, why, self.look)

    def other_bytes(self, doing: str, wanted: str, found: str) -> RegistryError:
        return self.error(
            "broken",
            doing,
            f"the bytes are not those of their digest: {wanted} was wanted, {found} came",
            f"use none of them; push the image again, and if this repeats look at the storage of "
            f"{self.server} and at what lies between",
        )

    def no_login(self, request: Request) -> RegistryError:
        why = f"{self.server} wants credentials and there are none"
        return self.error("credentials", request.doing, why, self._token(request))

    def wrong_login(self, answer: Answer) -> RegistryError:
        if self.username is None:
            return self.no_login(answer.request)
        words = self._words(answer)
        why = (
            f"{self.server} does not accept the token of {self.username} (it answered "
            f"{answer.status}{': ' if words else ''}{words}): the token is wrong, has expired or "
            f"was revoked, or is for no packages at all"
        )
        return self.error("credentials", answer.request.doing, why, self._token(answer.request))

    def _token(self, request: Request) -> str:
        mend = f"set honeydue:registry.token to a token with {request.needs}"
        if self.base.scheme == "http":
            return mend
        return f"{mend}, made at https://{self.server}/-/user/settings/applications"

    @property
    def look(self) -> str:
        return (
            f"see what {self.base.join('/v2/')} answers; the registry's name is the setting "
            f"honeydue:registry.server"
        )

    def _words(self, answer: Answer) -> str:
        """What the server said itself: one short line, or nothing."""
        text = answer.body.decode(errors="replace")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            # A page of HTML is a proxy's, and says nothing that the status does not.
            return "" if "<" in text else self._line(text)
        if isinstance(document, dict):
            errors = document.get("errors")
            first = errors[0] if isinstance(errors, list) and errors else document
            if isinstance(first, dict):
                parts = [first.get(key) for key in ("code", "message", "details", "detail")]
                return self._line(": ".join(p for p in parts if isinstance(p, str) and p))
        return ""

    def _line(self, text: str) -> str:
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        lines = "".join(c if c.isprintable() else "\n" for c in text).splitlines()
        line = next((line.strip() for line in lines if line.strip()), "")
        return line if len(line) <= 200 else line[:199] + "…"


def _root(error: BaseException) -> BaseException:
    """What the system said, beneath httpx's and httpcore's own exceptions."""
    below = error.__cause__ or error.__context__
    ours = type(error).__module__.partition(".")[0] in ("httpx", "httpcore")
    return _root(below) if ours and below is not None else error
