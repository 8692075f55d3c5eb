"""One API server: requests through the official client, discovery, and errors in words.

Of the official `kubernetes` package only the transport is used (`ApiClient.call_api`): its typed
models drop fields that they do not know, and its kubeconfig loader leaves keys on disk (see
kubeconfig.py). Objects travel as plain dicts.
"""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from kubernetes.client import ApiClient, ApiException, Configuration

from rehearsal.providers.kubernetes.kubeconfig import Connection
from rehearsal.providers.kubernetes.values import pluck

Json = dict[str, Any]

APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
MERGE: Final = "application/merge-patch+json"

_CONNECT_SECONDS: Final = 10.0  # the TLS handshake in it, for which client-go has as many
_ANSWER_SECONDS: Final = 20.0

# Cluster-scoped kinds, for when no cluster answers that could be asked.
_CLUSTER_SCOPED: Final = frozenset(
    [
        "APIService",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "IngressClass",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "RuntimeClass",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
    ]
)


class UnreachableError(Exception):
    """No answer at all: refused, timed out, not trusted. `str()` is the reason."""


class NoMatchError(Exception):
    """The API server has no such kind."""


class ApiError(Exception):
    """The API server's refusal (its Status object)."""

    def __init__(self, code: int, reason: str, message: str, causes: list[Json]):
        super().__init__(message)
        self.code = code
        self.reason = reason  # AlreadyExists, NotFound, Conflict, Invalid, Forbidden…
        self.causes = causes


@dataclass(frozen=True)
class Kind:
    """A kind that the API server has: where its objects live."""

    api_version: str
    name: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, name: str | None = None) -> str:
        parts = ["apis", *self.api_version.split("/")]
        if "/" not in self.api_version:
            parts = ["api", self.api_version]
        if self.namespaced:
            parts += ["namespaces", namespace or "default"]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        return "/" + "/".join(urllib.parse.quote(part, safe="") for part in parts)


def cluster_scoped(kind: str) -> bool:
    return kind in _CLUSTER_SCOPED


class Client:
    """Thread-safe. `warn` gets the server's Warning headers (unknown fields, deprecations)."""

    def __init__(self, connection: Connection):
        self._server = connection.server
        configuration = Configuration()
        configuration.host = connection.server
        self._api = ApiClient(configuration)
        # Connecting is never retried here: whether the cluster answers is a decision (`answers`).
        # Reads are, because one API server's idle connection may have been closed under us.
        self._api.rest_client.pool_manager = urllib3.PoolManager(
            maxsize=32,
            ssl_context=connection.tls(),
            retries=urllib3.Retry(total=2, connect=0, read=2, redirect=0, status=0),
        )
        self._token = connection.token
        self._lock = threading.Lock()
        self._discovered: dict[str, dict[str, Kind]] = {}

    def answers(self) -> None:
        """Returns when the API server answers. Raises UnreachableError after at most some 20 s,
        or ApiError when it does not know us."""
        self._send("GET", "/version", None, None, "", seconds=6.0)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
        warn: Callable[[str], None] | None = None,
    ) -> Json:
        """Sends and returns the decoded JSON. Raises ApiError or UnreachableError."""
        text, headers = self._send(method, path, query, body, content_type)
        if warn is not None:
            for value in headers.getlist("Warning"):
                warn(_warning_text(value))
        return json.loads(text) if text else {}

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """A plain-text answer, such as a container's log."""
        return self._send("GET", path, query, None, "application/json")[0]

    def _send(  # noqa: PLR0917 - private, and called in three places
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        content_type: str,
        seconds: float = _ANSWER_SECONDS,
    ) -> tuple[str, Any]:
        url = self._server + path + ("?" + urllib.parse.urlencode(query) if query else "")
        headers = {"Accept": "application/json, */*", "User-Agent": "honeydue-rehearsal"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        payload: Any = body
        if body is not None:
            headers["Content-Type"] = content_type
            if not content_type.endswith("json"):  # the transport encodes JSON itself, but not YAML
                payload = json.dumps(body)
        try:
            response = self._api.call_api(
                method,
                url,
                header_params=headers,
                body=payload,
                _request_timeout=(_CONNECT_SECONDS, seconds),
            )
            text = (response.response.read() or b"").decode()
        except ApiException as error:  # the transport's word for a TLS failure
            raise UnreachableError(_reason(error.reason)) from None
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(_reason(error)) from None
        if response.status >= 400:
            raise _api_error(response.status, text)
        return text, response.response.headers

    def kind(self, api_version: str, kind: str) -> Kind:
        """Where objects of this kind live. Asks the server once more for one that it did not know
        (a CRD may have been added since). Raises NoMatchError, UnreachableError."""
        for fresh in (False, True):
            found = self._kinds(api_version, fresh=fresh).get(kind)
            if found is not None:
                return found
        raise NoMatchError(f'no matches for kind "{kind}" in version "{api_version}"')

    def _kinds(self, api_version: str, *, fresh: bool) -> dict[str, Kind]:
        with self._lock:
            if not fresh and api_version in self._discovered:
                return self._discovered[api_version]
        root = "/apis/" if "/" in api_version else "/api/"
        try:
            listed = self.request("GET", root + api_version).get("resources", [])
        except ApiError as error:
            if error.code != 404:
                raise
            listed = []  # no such group or version
        kinds = {
            entry["kind"]: Kind(api_version, entry["kind"], entry["name"], entry["namespaced"])
            for entry in listed
            if "/" not in entry["name"]  # deployments/scale is a subresource
        }
        with self._lock:
            self._discovered[api_version] = kinds
        return kinds


def _api_error(code: int, text: str) -> ApiError:
    try:
        status = json.loads(text)
    except ValueError:
        status = {}
    if not isinstance(status, dict) or status.get("kind") != "Status":
        return ApiError(code, "", f"HTTP {code}: {text.strip()[:200]}", [])
    return ApiError(
        code,
        str(status.get("reason") or ""),
        str(status.get("message") or f"HTTP {code}"),
        pluck(status, "details", "causes", default=[]),
    )


def _warning_text(header: str) -> str:
    """`299 - "unknown field \\"spec.foo\\""` → `unknown field "spec.foo"` (RFC 9111)."""
    _, _, text = header.partition('"')
    return text.removesuffix('"').replace('\\"', '"')


def _reason(error: Any) -> str:
    """The cause inside urllib3's wrapping, without object addresses."""
    while True:
        inner = getattr(error, "reason", None)
        if inner is None or isinstance(inner, str) or inner is error:
            break
        error = inner
    text = str(error)
    text = text.rpartition(": ")[2] if " object at 0x" in text else text
    return " ".join(text.split()) or type(error).__name__
