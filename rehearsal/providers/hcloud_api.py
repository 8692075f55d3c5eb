"""The Hetzner Cloud API as the provider uses it: requests, actions, and refusals in plain words.

Requests go through the vendor's official Python client (`Client.request`), which retries conflicts,
rate limits and gateway errors by itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import requests
import requests.adapters
from hcloud import APIException, Client

from rehearsal.engine.provider import Context, Properties, ProviderError, Unknown

LOCKED_SECONDS: Final = 30.0
ACTION_SECONDS: Final = 600.0
READ_AGAIN: Final = 2
Record = dict[str, Any]


class Refused(Exception):  # noqa: N818 - the vendor's answer; becomes a ProviderError with words
    """The API said no: `code` is the vendor's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class ConnectionLostError(ProviderError):
    """No answer came: what was asked for may have been done."""

    def __init__(self, message: str) -> None:
        super().__init__(message, lost=True)


class _UnansweredPostError(requests.exceptions.ConnectionError):
    """A POST that got no answer in time."""


class _OnePost(requests.adapters.HTTPAdapter):
    """The client (and hcloud-go in the plugin) repeats what timed out. A POST may have been done by
    then: its repetition is refused because of what the first one made, which nobody has in a state.
    So it is not repeated here: the provider looks what became of it."""

    def send(self, *args: Any, **options: Any) -> requests.Response:
        request: requests.PreparedRequest = args[0]
        try:
            return super().send(*args, **options)
        except requests.exceptions.ReadTimeout as error:
            if request.method == "POST":
                raise _UnansweredPostError(request=request) from error
            raise


def _cause(error: requests.exceptions.RequestException) -> str:
    match error:
        case _UnansweredPostError() | requests.exceptions.Timeout():
            return "it took too long"
        case requests.exceptions.ConnectionError() if "refused" in str(error):
            return "connection refused"
        case requests.exceptions.ConnectionError():
            return "the connection broke"
    return type(error).__name__


class Api:
    """One configured project. The endpoint must be the rehearsal's own: see `_endpoint`."""

    def __init__(self, inputs: Properties) -> None:
        token = inputs.get("token") or os.environ.get("HCLOUD_TOKEN")
        # The real plugin checks this much offline, when it is configured.
        if not isinstance(token, Unknown) and len(token or "") != 64:
            raise ProviderError(
                f"the Hetzner Cloud token must have exactly 64 characters, not {len(token or '')}; "
                "set it: pulumi config set --secret honeydue:hcloudToken"
            )
        self._token = token
        self._inputs = inputs
        self._made: Client | None = None

    def _client(self) -> Client:
        """Made when it is first needed: a preview of new resources asks the API nothing."""
        if self._made is None:
            if isinstance(self._token, Unknown):
                raise ProviderError("the Hetzner Cloud token is not known yet")
            endpoint = _endpoint(self._inputs.get("endpoint") or os.environ.get("HCLOUD_ENDPOINT"))
            self._made = Client(
                str(self._token), endpoint, application_name="honeydue-rehearsal", timeout=60
            )
            self._made._client._session.mount("http://", _OnePost())
        return self._made

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Record:
        """One request; waits a while for what is locked. Raises Refused, ConnectionLostError."""
        arguments = {} if body is None else {"json": body}
        deadline, again = time.monotonic() + LOCKED_SECONDS, READ_AGAIN
        while True:
            try:
                return self._client().request(method, path, **arguments)
            except APIException as error:
                if error.code == "locked" and time.monotonic() < deadline:
                    time.sleep(0.2)
                    continue
                raise Refused(str(error.code), _reason(error)) from None
            except requests.exceptions.RequestException as error:
                if method == "GET" and again:  # the vendor may have closed an idle connection
                    again -= 1
                    continue
                raise ConnectionLostError(
                    f"no answer from the Hetzner Cloud API to {method} {path} ({_cause(error)}). "
                    "Does the stand-in run? `python -m rehearsal serve`; then run it again: what "
                    "was done is not done twice"
                ) from None

    def find(self, kind: str, one: str, id_: str | int) -> Record | None:
        """`GET /servers/3`, or None when there is no such thing."""
        try:
            found: Record = self.ask("GET", f"/{kind}/{id_}")[one]
        except Refused as refused:
            if refused.code == "not_found":
                return None
            raise
        return found

    def by_name(self, kind: str, name: str) -> Record | None:
        found: list[Record] = self.ask("GET", f"/{kind}?{urlencode({'name': name})}")[kind]
        return found[0] if found else None

    def act(self, path: str, command: str, ctx: Context, body: Record | None = None) -> None:
        """`POST <path>/actions/<command>` and waits until it is done."""
        answer = self.ask("POST", f"{path}/actions/{command}", body)
        actions = answer["actions"] if "actions" in answer else [answer["action"]]
        self.wait(actions, ctx)

    def wait(self, actions: Iterable[Record | None], ctx: Context) -> None:
        """Polls `GET /actions?id=…` until every action is done. Raises ProviderError."""
        waiting = {action["id"]: action for action in actions if action is not None}
        pause, deadline = 0.05, time.monotonic() + (ctx.timeout or ACTION_SECONDS)
        while waiting:
            for action in list(waiting.values()):
                if action["status"] == "error":
                    error = action["error"] or {}
                    raise ProviderError(
                        f"Hetzner's action {action['command']} failed: "
                        f"{error.get('message')} ({error.get('code')})"
                    )
                if action["status"] == "success":
                    del waiting[action["id"]]
            if not waiting:
                return
            commands = ", ".join(sorted({action["command"] for action in waiting.values()}))
            if ctx.cancelled():
                raise ProviderError(f"interrupted while Hetzner was busy with {commands}")
            if time.monotonic() > deadline:
                raise ProviderError(f"Hetzner did not finish {commands} in time")
            ctx.progress(f"waiting for {commands}")
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
            query = urlencode([("id", id_) for id_ in sorted(waiting)])
            for action in self.ask("GET", f"/actions?{query}")["actions"]:
                waiting[action["id"]] = action


def _endpoint(endpoint: str | None) -> str:
    """Only loopback: a rehearsal with a real token must never touch the real project."""
    if not endpoint:
        raise ProviderError(
            "HCLOUD_ENDPOINT is not set, and a rehearsal never talks to the real Hetzner Cloud; "
            "run `python -m rehearsal serve` and use the environment that it prints"
        )
    host = urlsplit(endpoint).hostname or ""
    try:
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ProviderError(
            f"HCLOUD_ENDPOINT points at {host}, and a rehearsal talks to loopback only; for the "
            "real Hetzner Cloud use Pulumi's own engine: pulumi up"
        )
    return endpoint.rstrip("/")


def _reason(error: APIException) -> str:
    """The vendor's message with the fields that it names."""
    fields = error.details.get("fields", []) if isinstance(error.details, dict) else []
    told = "; ".join(f"{field['name']}: {', '.join(field['messages'])}" for field in fields)
    return f"{error.message}: {told}" if told else str(error.message)


def explain(refused: Refused, what: str) -> ProviderError:
    """A refusal in words for the operator: what failed, why, and what to do about it."""
    lost = refused.code in _UNSURE or (refused.code.isdigit() and int(refused.code) >= 500)
    advice = _ADVICE.get(refused.code, _THEIRS if lost else "")
    return ProviderError(f"{what}: {refused}{advice}", lost=lost)


# The vendor's own trouble: what was asked for may have been done. (A 5xx without a body of the
# vendor's has its status as code.)
_UNSURE: Final = frozenset({"server_error", "service_error", "timeout", "unavailable"})


_THEIRS: Final = (
    ". That is Hetzner's own trouble: see status.hetzner.com, then run it again; what was done is "
    "not done twice"
)
_ADVICE: Final = {
    "unauthorized": ". The token is wrong or revoked; set it again: "
    "pulumi config set --secret honeydue:hcloudToken",
    "protected": ". Its delete protection must be lifted first: "
    "pulumi config set honeydue:protect false, then `up`, then try again",
    "uniqueness_error": ". Something with this name (or this ssh key) is in the project but not in "
    "this stack's state: delete it in the console, or `pulumi import` it",
    "rate_limit_exceeded": ". The project's quota is 3600 requests an hour; wait some minutes and "
    "run `up` again, it goes on where it stopped",
    "resource_limit_exceeded": ". The project's limit is reached: delete what is not needed, or "
    "ask for more in the console under Limits",
    "resource_in_use": ". Something that this stack does not manage still uses it",
    "must_be_unassigned": ". A server still has it: delete that server, or unassign it, first",
    "locked": ". Another action on it was still running; run `up` again",
}


def _monthly_price(server_type: Record, location: str) -> float:
    prices = [p["price_monthly"]["net"] for p in server_type["prices"] if p["location"] == location]
    return float(prices[0]) if prices else 0.0  # not sold there: left out for another reason


def sold_out(api: Api, server_type: str, location: str, what: str) -> ProviderError:
    """The type is not to be had there: says where it is, and what is there, cheapest first."""
    types: list[Record] = api.ask("GET", "/server_types?per_page=50")["server_types"]
    wanted = next(t for t in types if t["name"] == server_type)
    elsewhere = [p["name"] for p in wanted["locations"] if p["available"]]
    instead = [
        f"{t['name']} ({t['cores']} cores, {t['memory']:g} GB)"
        for t in sorted(types, key=lambda t: _monthly_price(t, location))
        if t["architecture"] == wanted["architecture"]
        and t["cores"] >= wanted["cores"]
        and t["memory"] >= wanted["memory"]
        and any(p["name"] == location and p["available"] for p in t["locations"])
    ]
    return ProviderError(
        f"{what}: Hetzner has no {server_type} left in {location} (resource_unavailable). "
        f"It is available in: {', '.join(elsewhere) or 'no location'}. "
        f"In {location} are available: {', '.join(instead) or 'none of its size'}. "
        "Change `serverType` of this node in Pulumi.<stack>.yaml (its addresses stay), or its "
        "`location` (they do not), or wait and run `up` again"
    )
