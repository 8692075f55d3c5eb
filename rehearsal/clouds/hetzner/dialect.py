"""How the Hetzner Cloud API authenticates, counts requests and says no.

Error codes and their HTTP statuses: https://docs.hetzner.cloud/reference/cloud#errors. hcloud-go
and the Python client decide by `code` alone, except for 502 and 504.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Collection, Mapping
from typing import Any, Final

from rehearsal.clouds.http import Call, Problem, Refusal

REQUESTS_PER_HOUR: Final = 3600

_STATUS: Final = {
    "invalid_input": 422,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "deprecated_api_endpoint": 410,
    "uniqueness_error": 409,
    "resource_limit_exceeded": 403,
    "resource_unavailable": 412,
    "placement_error": 412,
    "locked": 423,
    "protected": 423,
    "rate_limit_exceeded": 429,
    "service_error": 500,
}


def refuse(code: str, message: str, details: Mapping[str, Any] | None = None) -> Refusal:
    """A refusal by its code; operation-specific codes (`server_not_stopped`, …) come with 422."""
    return Refusal(_STATUS.get(code, 422), code, message, details=details)


def invalid(field: str, reason: str) -> Refusal:
    """`invalid_input` for one field."""
    return _invalid_fields([(field, reason)])


def _invalid_fields(wrong: list[tuple[str, str]]) -> Refusal:
    names = ", ".join(f"'{field}'" for field, _ in wrong)
    return refuse(
        "invalid_input",
        f"invalid input in field{'s' if len(wrong) > 1 else ''} {names}",
        {"fields": [{"name": field, "messages": [reason]} for field, reason in wrong]},
    )


class HetznerDialect:
    """`token` None accepts any that is there. The quota is a bucket that refills by the second."""

    def __init__(self, token: str | None, requests_per_hour: int = REQUESTS_PER_HOUR) -> None:
        self._token = token
        self._limit = requests_per_hour
        self._left = float(requests_per_hour)
        self._counted_at: float | None = None
        self._lock = threading.Lock()

    def admit(self, call: Call) -> None:
        scheme, _, token = call.headers.get("Authorization", "").partition(" ")
        known = token if self._token is None else self._token
        if scheme != "Bearer" or not token or not hmac.compare_digest(token, known):
            raise refuse("unauthorized", "unable to authenticate")
        with self._lock:
            self._refill(call.now)
            if self._left < 1:
                raise self.rate_limited()
            self._left -= 1

    def headers(self, call: Call) -> Mapping[str, str]:
        with self._lock:
            self._refill(call.now)
            missing = self._limit - self._left
            return {
                "RateLimit-Limit": str(self._limit),
                "RateLimit-Remaining": str(int(self._left)),
                "RateLimit-Reset": str(int(call.now + missing * 3600 / self._limit)),
            }

    def _refill(self, now: float) -> None:
        elapsed = 0.0 if self._counted_at is None else max(0.0, now - self._counted_at)
        self._left = min(float(self._limit), self._left + elapsed * self._limit / 3600)
        self._counted_at = now

    def wrong(self, problems: list[Problem]) -> Refusal:
        if any(problem.path == "body" for problem in problems):
            return Refusal(400, "json_error", "invalid JSON in request")
        return _invalid_fields([(problem.path, problem.reason) for problem in problems])

    def no_route(self, method: str, path: str, allowed: Collection[str]) -> Refusal:
        if allowed:
            return refuse("method_not_allowed", f"method {method} is not allowed for {path}")
        return refuse("not_found", f"the rehearsal's Hetzner Cloud has no route {method} {path}")

    def rate_limited(self) -> Refusal:
        return refuse("rate_limit_exceeded", f"limit of {self._limit} requests per hour reached")

    def envelope(self, refusal: Refusal) -> Any:
        details = refusal.details
        return {
            "error": {"code": refusal.code, "message": refusal.message, "details": details or {}}
        }
