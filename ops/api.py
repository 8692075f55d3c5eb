"""The cluster's API servers, one per node: whichever answers is asked.

Plain HTTPS with the stack's own kubeconfig, as in ops.cluster.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final

import httpx

from ops.cluster import contexts
from ops.engine import Engine
from ops.problems import Problem, Refused, refused

NAMESPACE: Final = "honeydue"
LISTS: Final = {
    "deployments": f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
    "replicasets": f"/apis/apps/v1/namespaces/{NAMESPACE}/replicasets",
    "pods": f"/api/v1/namespaces/{NAMESPACE}/pods",
    "events": f"/api/v1/namespaces/{NAMESPACE}/events",
}
"""What a rollout of ours is seen by."""

# Not `kubectl-rollout`, as `kubectl rollout restart` calls itself: before it updates a Deployment,
# Pulumi's provider takes over what managers whose names begin with `kubectl`, `before-first-apply`
# or `pulumi-kubernetes` have set (pulumi-kubernetes, provider/pkg/await: fixCSAFieldManagers,
# fluxssa/patch.go), and its apply then removes it. So an `up` that changed no more than an
# annotation of the Deployment would roll its pods, and one would end a pause. Ours stays as it is.
FIELD_MANAGER: Final = "honeydue-ops"

_TIMEOUT: Final = httpx.Timeout(5.0, connect=2.0)  # a node that is off answers nothing at all
_MEND: Final = (
    "python -m ops status shows which node answers; if none does, compare this machine's public "
    "address with operator.apiCidrs in the settings"
)


class Unanswered(Exception):  # noqa: N818 - not an error of ours
    """One API server gave no usable answer; another one may."""


class Conflict(Refused):
    """409: the object is there already, or is not any more as it was when it was read."""


@dataclass(frozen=True)
class Health:
    """What one node's API server says of itself. `fault`: "" when it is in order."""

    node: str
    fault: str
    etcd: bool
    """Whether it reaches its own etcd member."""
    certificate_ends: datetime | None
    """Of its serving certificate, which K3s renews when it starts."""


class Api:
    """`nodes`: node → client of that node's API server, the preferred one first."""

    def __init__(self, nodes: Mapping[str, httpx.Client]) -> None:
        self._nodes = dict(nodes)
        for client in self._nodes.values():
            client.timeout = _TIMEOUT
        self._order = list(self._nodes)
        self._ahead = timedelta()  # of this machine's clock

    @staticmethod
    def of(engine: Engine, outputs: Mapping[str, Any] | None = None) -> Api:
        """By the stack's output `kubeconfig`."""
        found = (engine.outputs() if outputs is None else outputs).get("kubeconfig")
        if not isinstance(found, str) or not found:
            raise refused(
                f"the cluster cannot be asked: the stack {engine.stack} has no output `kubeconfig`",
                "`up` makes it: before the first one there is no cluster",
            )
        return Api(dict(contexts(found)))

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for client in self._nodes.values():
            client.close()

    @property
    def nodes(self) -> Sequence[str]:
        return tuple(self._nodes)

    def prefer(self, nodes: Sequence[str]) -> None:
        """Asks these first: they have just answered."""
        self._order.sort(key=lambda node: node not in nodes)

    def get(self, path: str, **query: str) -> Any:
        """The JSON at `path`; None when there is no such object."""
        return self._first("GET", path, query)

    def list(self, path: str, **query: str) -> list[Any]:
        found = self.get(path, **query)
        listed = found.get("items") if isinstance(found, dict) else None
        return listed if isinstance(listed, list) else []

    def patch(self, path: str, change: Any, *, dry_run: bool) -> Any:
        """A merge patch, judged but not kept with `dry_run`; None when there is no such object.
        Sent again to the next API server when one does not answer: twice is as once."""
        query = {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}
        return self._first("PATCH", path, query, change)

    def create(self, path: str, thing: Any) -> Any:
        """As it was kept; None: there is no such namespace. Conflict: it is there already, be it by
        an earlier try of this very call, whose answer was lost."""
        return self._first("POST", path, {"fieldManager": FIELD_MANAGER}, thing)

    def replace(self, path: str, thing: Any) -> Any:
        """`thing` whole, with the resourceVersion that was read, or else Conflict; None: it is not
        there any more."""
        return self._first("PUT", path, {"fieldManager": FIELD_MANAGER}, thing)

    def delete(self, path: str, *, like: Any = None) -> bool:
        """Whether it was there. `like`: as it was read; Conflict when it is not so any more."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if like is not None:
            read = like["metadata"]
            options["preconditions"] = {key: read[key] for key in ("uid", "resourceVersion")}
        return self._first("DELETE", path, {}, options) is not None

    def now(self) -> datetime:
        """By the clock of the API server that answered last, to the second: operators' own clocks
        differ, and one that is wrong must not make a lock look old."""
        return datetime.now(UTC) + self._ahead

    @contextmanager
    def stream(self, path: str, **query: str) -> Iterator[Iterator[str]]:
        """The lines at `path`, as they come. Raises Unanswered(what was said) when refused."""
        last = Unanswered("no API server")
        for node in self._order:
            client = self._nodes[node]
            # A follower waits for the next line as long as it takes.
            patient = httpx.Timeout(None, connect=_TIMEOUT.connect)
            request = client.build_request("GET", path, params=query, timeout=patient)
            try:
                answer = client.send(request, stream=True)
            except httpx.HTTPError as cause:
                last = Unanswered(_said(cause))
                continue
            try:
                if answer.status_code == 200:
                    yield answer.iter_lines()
                    return
                answer.read()
                last = Unanswered(_message(answer))
                if answer.status_code < 500:
                    break
            finally:
                answer.close()
        raise last

    def health(self, node: str) -> Health:
        """What `node` says, and nobody else; never raises."""
        try:
            answer = self._nodes[node].get("/readyz", params={"verbose": ""})
        except httpx.HTTPError as cause:
            return Health(node, f"does not answer ({_said(cause)})", False, None)
        ends = _certificate_ends(answer)
        failed = re.findall(r"^\[-\](\S+)", answer.text, re.MULTILINE)
        etcd = re.search(r"^\[\+\]etcd ok", answer.text, re.MULTILINE) is not None
        if failed:
            return Health(node, f"not ready: {', '.join(failed)} failed", etcd, ends)
        if answer.status_code in (401, 403):
            return Health(node, f"refuses our certificate ({answer.status_code})", etcd, ends)
        if answer.status_code != 200:
            return Health(node, f"answers {answer.status_code}", etcd, ends)
        return Health(node, "", etcd, ends)

    def _first(
        self, verb: str, path: str, query: Mapping[str, str], change: Any = None
    ) -> dict[str, Any] | None:
        silent: list[str] = []
        for node in self._order:
            try:
                return self._ask(node, verb, path, query, change)
            except Unanswered as cause:
                silent.append(f"{node}: {cause}")
        raise refused(f"no API server answers ({'; '.join(silent)})", _MEND)

    def _ask(
        self, node: str, verb: str, path: str, query: Mapping[str, str], change: Any
    ) -> dict[str, Any] | None:
        headers = {"Content-Type": "application/merge-patch+json"} if verb == "PATCH" else None
        try:
            answer = self._nodes[node].request(
                verb, path, params=dict(query), json=change, headers=headers
            )
        except httpx.HTTPError as cause:
            raise Unanswered(_said(cause)) from None
        with suppress(ValueError, TypeError):
            said = parsedate_to_datetime(answer.headers.get("Date", ""))
            self._ahead = said - datetime.now(UTC)
        if answer.status_code == 404:
            return None
        if answer.status_code == 409:
            raise Conflict(
                Problem(f"{node} refuses {verb} {path}: {_message(answer)}", "run the same again")
            )
        if answer.status_code == 429 or answer.status_code >= 500:
            raise Unanswered(_message(answer))
        if answer.status_code in (401, 403):
            raise refused(
                f"{node} refuses {verb} {path}: {_message(answer)}",
                "the kubeconfig of the stack's outputs is an admin's; `up` writes it anew",
            )
        if answer.status_code >= 300:
            raise refused(f"{node} refuses {verb} {path}: {_message(answer)}", "see its words")
        try:
            found = answer.json()
        except ValueError:
            raise Unanswered("its answer is no JSON") from None
        return found if isinstance(found, dict) else None


def _message(answer: httpx.Response) -> str:
    """Kubernetes' own sentence (kind Status), or what it is over HTTP."""
    with suppress(ValueError, AttributeError):
        said = answer.json().get("message")
        if isinstance(said, str) and said:
            return said
    return f"HTTP {answer.status_code}"


def _said(cause: httpx.HTTPError) -> str:
    if isinstance(cause, httpx.ConnectTimeout):
        return f"no answer within {_TIMEOUT.connect:g} s"
    if isinstance(cause, httpx.ReadTimeout):
        return f"no answer within {_TIMEOUT.read:g} s"
    said = re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(cause).split()))
    return said or type(cause).__name__


def _certificate_ends(answer: httpx.Response) -> datetime | None:
    stream = answer.extensions.get("network_stream")
    tls = stream.get_extra_info("ssl_object") if stream is not None else None
    shown = tls.getpeercert() if tls is not None else None
    ends = shown.get("notAfter") if shown else None
    if not isinstance(ends, str):
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)
