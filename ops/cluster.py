"""What the live cluster says: which of our images it refers to, and what its pods are told.

Plain HTTPS with the stack's own kubeconfig instead of the official client's loader: that one writes
the client's private key to a file in /tmp (kubernetes.config, FileOrData).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import httpx
import yaml

from honeydue.images.references import TAG_ANNOTATION
from honeydue.k3s.gate import tls_context
from ops.problems import Refused, refused
from ops.references import references_in
from ops.retention import Reference

Answer = TypeVar("Answer")

RUNNING: Final = "running"
REMEMBERED: Final = "in the cluster"

_PODS: Final = "/api/v1/pods"
# All that makes pods or remembers how it made them. ReplicaSets that are scaled to 0 are what
# `kubectl rollout undo` goes back to; ControllerRevisions are that for StatefulSets and DaemonSets.
_OWNERS: Final = (
    "/api/v1/replicationcontrollers",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/replicasets",
    "/apis/apps/v1/statefulsets",
    "/apis/apps/v1/daemonsets",
    "/apis/apps/v1/controllerrevisions",
    "/apis/batch/v1/jobs",
    "/apis/batch/v1/cronjobs",
)
_DEPLOYMENTS: Final = "/apis/apps/v1/namespaces/honeydue/deployments"
_CONFIG_MAPS: Final = "/api/v1/namespaces/honeydue/configmaps"
_SECONDS: Final = 10.0

_MEND: Final = (
    "look at the nodes (kubectl get nodes); while the cluster is down nothing can be pruned, "
    "since nothing says what it needs to come back"
)


def used_by_cluster(kubeconfig: str) -> dict[Reference, str]:
    """Every reference in the cluster: first what pods have (RUNNING), then what only makes pods or
    made them (REMEMBERED). The first of the kubeconfig's API servers that answers (there is one
    per node) is asked. Raises Refused unless every kind was listed whole."""

    def ask(client: httpx.Client) -> dict[Reference, str]:
        # Unpaged, so each list is of one moment.
        running = dict.fromkeys(_references(client, _PODS), RUNNING)
        owners = {r: REMEMBERED for path in _OWNERS for r in _references(client, path)}
        return {**running, **owners, **running}

    return _from_one(kubeconfig, ask, "the cluster cannot be listed", _MEND)


def configuration_objects(kubeconfig: str) -> tuple[list[Any], list[Any]]:
    """(Deployments, ConfigMaps) of the application, from the first API server that answers.
    Raises Refused when none does."""

    def ask(client: httpx.Client) -> tuple[list[Any], list[Any]]:
        return _items(client, _DEPLOYMENTS), _items(client, _CONFIG_MAPS)

    mend = "look at the nodes (kubectl get nodes)"
    return _from_one(kubeconfig, ask, "the cluster cannot be asked", mend)


def _from_one(
    kubeconfig: str, ask: Callable[[httpx.Client], Answer], failed: str, mend: str
) -> Answer:
    """All of it from the first API server that answers, so that it fits together."""
    silent: list[str] = []
    for _, client in contexts(kubeconfig):
        with client:
            try:
                return ask(client)
            except httpx.HTTPError as cause:
                silent.append(f"{client.base_url.host}: {str(cause) or type(cause).__name__}")
    raise refused(f"{failed}: no API server answers ({'; '.join(silent)})", mend)


def contexts(kubeconfig: str) -> list[tuple[str, httpx.Client]]:
    """Node and the client of its API server, one per context, the current one first."""
    try:
        config = yaml.safe_load(kubeconfig)
        current = config["current-context"]
        named = sorted(config["contexts"], key=lambda entry: bool(entry["name"] != current))
        return [(entry["name"], _client(config, entry["context"])) for entry in named]
    except (yaml.YAMLError, LookupError, TypeError, ValueError, OSError, StopIteration):
        # Outside the message: what is wrong with it would quote it.
        raise refused(
            "the cluster cannot be listed: the kubeconfig of the stack's outputs is not readable",
            "`up` writes it anew: run `up`, then this again",
        ) from None


def _client(config: Mapping[str, Any], context: Mapping[str, Any]) -> httpx.Client:
    cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["cluster"])
    user = next(u["user"] for u in config["users"] if u["name"] == context["user"])
    tls = tls_context(
        server_ca=_pem(cluster["certificate-authority-data"]),
        certificate=_pem(user["client-certificate-data"]),
        key=_pem(user["client-key-data"]),
    )
    # The API servers are reached directly, as kubectl would have to be told with NO_PROXY.
    return httpx.Client(base_url=cluster["server"], verify=tls, timeout=_SECONDS, trust_env=False)


def _references(client: httpx.Client, path: str) -> frozenset[Reference]:
    found: set[Reference] = set()
    for item in _items(client, path):
        mine = references_in(item)
        tag = ((item.get("metadata") or {}).get("annotations") or {}).get(TAG_ANNOTATION)
        found |= mine | {Reference(each.image, str(tag)) for each in mine if tag}
    return frozenset(found)


def _items(client: httpx.Client, path: str) -> list[Any]:
    answer = client.get(path)
    if answer.status_code != 200:
        raise _refusal(path, answer)
    return list(answer.json().get("items") or ())


def _refusal(path: str, answer: httpx.Response) -> Refused:
    kind = path.rsplit("/", 1)[-1]
    return refused(
        f"the cluster cannot be listed: {answer.url.host} answered {answer.status_code} for {kind}",
        "the kubeconfig of the stack's outputs is an admin's; `up` writes it anew: run `up`, then "
        "this again"
        if answer.status_code in (401, 403)
        else _MEND,
    )


def _pem(data: str) -> str:
    return base64.b64decode(data).decode("ascii")
