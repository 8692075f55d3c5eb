"""How Cloudflare authenticates, counts, refuses and pages.

Codes and messages are those that users quote in issue trackers, for Cloudflare documents few of
them. Those of wrong or unknown fields differ from product to product there; here they are 1004 with
an `error_chain`.
"""

from __future__ import annotations

import hmac
import math
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rehearsal.clouds.http import Call, Problem, Refusal, Reply

ROOT: Final = "/client/v4"
REQUESTS_PER_WINDOW: Final = 1200
WINDOW: Final = 300.0  # seconds
TOKEN: Final = re.compile(r"[0-9A-Za-z\-_]{40,80}")
IDENTIFIER: Final = re.compile(r"[0-9a-f]{32}")
_PUBLIC: Final = ("/ips",)  # asked without a token


class CloudflareDialect:
    """A fixed window per process: the quota is full again when the window ends, or at a restart."""

    def __init__(self, token: str | None, quota: int = REQUESTS_PER_WINDOW) -> None:
        self._token = token
        self._quota = quota
        self._lock = threading.Lock()
        self._window_ends = 0.0
        self._used = 0

    def admit(self, call: Call) -> None:
        if call.path not in _PUBLIC:
            self._authenticate(call)
        with self._lock:
            if call.now >= self._window_ends:
                self._window_ends, self._used = call.now + WINDOW, 0
            if self._used >= self._quota:
                raise _throttled(math.ceil(self._window_ends - call.now))
            self._used += 1

    def _authenticate(self, call: Call) -> None:
        given = call.headers.get("Authorization")
        if given is None:
            raise Refusal(400, "9106", "Missing X-Auth-Key, X-Auth-Email or Authorization headers")
        scheme, _, token = given.partition(" ")
        if scheme != "Bearer" or not TOKEN.fullmatch(token):
            raise Refusal(
                400,
                "6003",
                "Invalid request headers",
                details=chain(6111, "Invalid format for Authorization header"),
            )
        if self._token is not None and not hmac.compare_digest(token, self._token):
            if call.path == "/user/tokens/verify":
                raise Refusal(401, "1000", "Invalid API Token")
            raise Refusal(403, "10000", "Authentication error")

    def headers(self, call: Call) -> Mapping[str, str]:
        with self._lock:
            left = max(0, self._quota - self._used)
            resets = max(0, math.ceil(self._window_ends - call.now))
        return {
            "Ratelimit": f'"default";r={left};t={resets}',
            "Ratelimit-Policy": f'"default";q={self._quota};w={WINDOW:.0f}',
        }

    def wrong(self, problems: list[Problem]) -> Refusal:
        if any(problem.path == "body" for problem in problems):
            return Refusal(400, "6007", "Malformed JSON in request body")
        causes = [
            {"code": 9020, "message": f"{problem.path}: {problem.reason}"} for problem in problems
        ]
        return Refusal(400, "1004", "DNS Validation Error", details={"error_chain": causes})

    def no_route(self, method: str, path: str, allowed: Collection[str]) -> Refusal:
        del method
        if allowed:
            return Refusal(405, "10405", "Method not allowed for this authentication scheme")
        return no_such_path(path)

    def rate_limited(self) -> Refusal:
        return _throttled(1)  # an injected one is over soon

    def envelope(self, refusal: Refusal) -> Any:
        # An injected fault may carry a code in words; Cloudflare's are numbers.
        code = int(refusal.code) if refusal.code.isdigit() else 10001
        error = {"code": code, "message": refusal.message} | dict(refusal.details or {})
        return {"success": False, "errors": [error], "messages": [], "result": None}


def chain(code: int, message: str) -> dict[str, Any]:
    """The `error_chain` of an error that has one cause."""
    return {"error_chain": [{"code": code, "message": message}]}


def no_such_path(path: str) -> Refusal:
    """An unknown route, and also an id that is not 32 hex digits: to Cloudflare they are one."""
    where = f"Could not route to {ROOT}{path}, perhaps your object identifier is invalid?"
    return Refusal(400, "7003", where)


def success(result: Any, messages: Sequence[Mapping[str, Any]] = ()) -> Reply:
    return Reply({"result": result, "success": True, "errors": [], "messages": list(messages)})


def page(call: Call, found: Sequence[Any], *, default: int, most: int) -> Reply:
    """One page of a list, with `result_info`. Raises Refusal for a page size out of range."""
    number, size = _count(call, "page", 1), _count(call, "per_page", default)
    if size > most:
        raise Refusal(400, "1004", f"per_page must be at most {most}")
    shown = found[(number - 1) * size : number * size]
    body = success(list(shown)).body | {
        "result_info": {
            "page": number,
            "per_page": size,
            "count": len(shown),
            "total_count": len(found),
            "total_pages": math.ceil(len(found) / size),
        }
    }
    return Reply(body)


def _count(call: Call, name: str, default: int) -> int:
    text = call.query.get(name)
    try:
        # The Go client writes numbers as 1, the Python client may write 1.0.
        value = default if text is None else int(float(text))
    except ValueError:
        value = 0
    if value < 1:
        raise Refusal(400, "1004", f"{name} must be a positive number")
    return value


def timestamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _throttled(seconds: int) -> Refusal:
    return Refusal(
        429,
        "971",
        "Please wait and consider throttling your request speed",
        headers={"Retry-After": str(max(1, seconds))},
    )
