"""A kubeconfig read in memory: which cluster it opens, and the TLS context that opens it.

The official client's own loader (`kubernetes.config.new_client_from_config_dict`) writes the
client's private key to a file in /tmp that stays until the process ends. Here a key never touches
a file system: OpenSSL wants a *path* for the certificate chain, and gets `/proc/self/fd/N` of an
anonymous memory file (memfd), which has no name, and is gone as soon as it is closed.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from rehearsal.engine.provider import Properties, ProviderError

_MEND = (
    "Give the provider the kubeconfig that the program makes (`kubeconfig=` of "
    "pulumi_kubernetes.Provider in honeydue/kubernetes/)."
)


@dataclass(frozen=True)
class Connection:
    """One API server and how to prove who we are. Its repr shows no secret."""

    server: str
    namespace: str
    ca_pem: str | None
    client_pem: bytes = field(repr=False, default=b"")
    token: str | None = field(repr=False, default=None)

    def tls(self) -> ssl.SSLContext:
        """A context that trusts only the kubeconfig's CA. Raises ProviderError for unusable PEM."""
        try:
            context = ssl.create_default_context(cadata=self.ca_pem)
        except ssl.SSLError:
            raise _unusable("its certificate-authority-data is no PEM certificate") from None
        # Python 3.13 asks of a CA what OpenSSL and Go do not (key identifiers).
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.client_pem:
            memory = os.memfd_create("kubeconfig", os.MFD_CLOEXEC)
            try:
                os.write(memory, self.client_pem)
                context.load_cert_chain(f"/proc/self/fd/{memory}")
            except ssl.SSLError:
                raise _unusable(
                    "its client-certificate-data and client-key-data are no matching PEM pair"
                ) from None
            finally:
                os.close(memory)
        return context


def parse(inputs: Properties) -> Connection:
    """The connection that `kubeconfig`, `context` and `cluster` of the provider's inputs name.

    Raises ProviderError in words; nothing of the kubeconfig's content is in them.
    """
    config = _load(inputs.get("kubeconfig"))
    context_name = inputs.get("context") or config.get("current-context")
    context = _named(config, "contexts", "context", context_name)
    if context is None:
        raise _unusable(
            f"it has no context {context_name!r}" if context_name else "it has no current-context"
        )
    cluster_name = inputs.get("cluster") or context.get("cluster")
    cluster = _named(config, "clusters", "cluster", cluster_name)
    if cluster is None or not cluster.get("server"):
        raise _unusable(f"its cluster {cluster_name!r} is missing or has no server")
    user = _named(config, "users", "user", context.get("user")) or {}
    for owner, key in (
        (cluster, "certificate-authority"),
        (cluster, "insecure-skip-tls-verify"),
        (user, "client-certificate"),
        (user, "client-key"),
        (user, "exec"),
        (user, "auth-provider"),
        (user, "tokenFile"),
    ):
        if owner.get(key):
            raise _unusable(
                f"it uses {key!r}, which depends on this machine; "
                "the data must stand in the kubeconfig itself"
            )
    certificate = _decode(user, "client-certificate-data")
    private = _decode(user, "client-key-data")
    ca = _decode(cluster, "certificate-authority-data")
    return Connection(
        server=str(cluster["server"]).rstrip("/"),
        namespace=str(inputs.get("namespace") or context.get("namespace") or "default"),
        ca_pem=ca.decode("ascii", "replace") if ca else None,
        client_pem=certificate + b"\n" + private if certificate and private else b"",
        token=user.get("token"),
    )


def active_server(inputs: Properties) -> Mapping[str, Any] | None:
    """The active cluster's entry (server, CA); None when the kubeconfig does not say."""
    try:
        config = _load(inputs.get("kubeconfig"))
    except ProviderError:
        return None
    context = _named(
        config, "contexts", "context", inputs.get("context") or config.get("current-context")
    )
    return _named(
        config, "clusters", "cluster", inputs.get("cluster") or (context or {}).get("cluster")
    )


def _load(text: Any) -> Mapping[str, Any]:
    if not isinstance(text, str) or not text.strip():
        # pulumi-kubernetes takes "" and None for "not set" and falls back to $KUBECONFIG and the
        # operator's current context: production would be applied to whatever that is.
        raise ProviderError(
            "kubeconfig: it is empty. pulumi-kubernetes would then use $KUBECONFIG and this "
            f"machine's current context, whatever cluster that is. {_MEND}"
        )
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:
        config = None  # its message would quote the kubeconfig
    if not isinstance(config, Mapping):
        raise _unusable("it is no YAML or JSON object")
    return config


def _named(config: Mapping[str, Any], group: str, key: str, name: Any) -> Mapping[str, Any] | None:
    for entry in config.get(group) or ():
        if isinstance(entry, Mapping) and entry.get("name") == name:
            return entry.get(key) or {}
    return None


def _decode(owner: Mapping[str, Any], key: str) -> bytes:
    try:
        return base64.b64decode(str(owner.get(key) or ""), validate=True)
    except binascii.Error:
        raise _unusable(f"its {key} is not base64") from None


def _unusable(why: str) -> ProviderError:
    return ProviderError(f"kubeconfig: {why}. {_MEND}")
