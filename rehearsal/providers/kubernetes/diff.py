"""What a change of a Kubernetes resource, or of the provider itself, means. Pure functions.

Source of the rules: pulumi-kubernetes, provider/pkg/provider/diff.go (which fields force a
replacement) and provider.go, `Diff` and `DiffConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rehearsal.engine.provider import Diff, Properties, Unknown
from rehearsal.providers.kubernetes.kubeconfig import active_server
from rehearsal.providers.kubernetes.values import (
    Path,
    differences,
    normalized,
    path_text,
    pluck,
    prune,
)

AUTONAMED: Final = "pulumi.com/autonamed"

_SELECTOR: Final = ("spec.selector",)
_POD: Final = (
    *(
        f"spec.{field}"
        for field in [
            "affinity",
            "automountServiceAccountToken",
            "dnsConfig",
            "dnsPolicy",
            "enableServiceLinks",
            "hostAliases",
            "hostIPC",
            "hostNetwork",
            "hostPID",
            "hostname",
            "imagePullSecrets",
            "nodeName",
            "nodeSelector",
            "overhead",
            "preemptionPolicy",
            "priority",
            "priorityClassName",
            "readinessGates",
            "restartPolicy",
            "runtimeClassName",
            "schedulerName",
            "securityContext",
            "serviceAccount",
            "serviceAccountName",
            "shareProcessNamespace",
            "subdomain",
            "terminationGracePeriodSeconds",
            "volumes",
        ]
    ),
    *(
        f"spec.{containers}.*.{field}"
        for containers in ("containers", "initContainers")
        for field in [
            "args",
            "command",
            "env",
            "image",
            "imagePullPolicy",
            "lifecycle",
            "livenessProbe",
            "ports",
            "readinessProbe",
            "resources",
            "securityContext",
            "stdin",
            "stdinOnce",
            "terminationMessagePath",
            "terminationMessagePolicy",
            "tty",
            "volumeDevices",
            "volumeMounts",
            "workingDir",
        ]
    ),
)
_BINDING: Final = ("roleRef",)

# (group, kind) → the fields that cannot be changed in place; `*` stands for a list index.
# StatefulSet's revisionHistoryLimit is mutable in Kubernetes; the plugin's table has it too.
_FORCE_NEW: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("apps", "Deployment"): _SELECTOR,
    ("apps", "DaemonSet"): _SELECTOR,
    ("apps", "StatefulSet"): (
        "spec.podManagementPolicy",
        "spec.revisionHistoryLimit",
        "spec.selector",
        "spec.serviceName",
        "spec.volumeClaimTemplates",
    ),
    ("batch", "Job"): ("spec.completions", "spec.parallelism", "spec.selector", "spec.template"),
    ("", "PersistentVolumeClaim"): (
        "spec.accessModes",
        "spec.selector",
        "spec.storageClassName",
        "spec.volumeName",
    ),
    ("", "PersistentVolume"): tuple(
        f"spec.{source}" for source in ("csi", "fc", "hostPath", "iscsi", "local", "nfs")
    ),
    ("", "Pod"): _POD,
    ("", "ResourceQuota"): ("spec.scopes",),
    ("", "Secret"): ("type",),
    ("", "Service"): ("spec.clusterIP",),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): _BINDING,
    ("rbac.authorization.k8s.io", "RoleBinding"): _BINDING,
    ("storage.k8s.io", "StorageClass"): ("parameters", "provisioner"),
}


def group_of(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def force_new(
    new: Properties, *, mutable_config_maps: bool = False, mutable_secrets: bool = False
) -> tuple[str, ...]:
    """The fields of this object whose change is a replacement.

    The data of a ConfigMap or Secret is one of them by the provider's own choice (so that what
    reads it restarts), unless the provider is told otherwise and the object is not `immutable`.
    """
    group, kind = group_of(str(new.get("apiVersion", ""))), str(new.get("kind", ""))
    fields = ("metadata.name", "metadata.namespace", *_FORCE_NEW.get((group, kind), ()))
    immutable = new.get("immutable") is True
    if (group, kind) == ("", "Secret") and (immutable or not mutable_secrets):
        fields += ("data",)
    if (group, kind) == ("", "ConfigMap") and (immutable or not mutable_config_maps):
        fields += ("data", "binaryData")
    return fields


def resource_diff(
    old_inputs: Properties,
    old_live: Properties,
    new_inputs: Properties,
    *,
    namespaced: bool,
    default_namespace: str = "default",
    mutable_config_maps: bool = False,
    mutable_secrets: bool = False,
) -> Diff:
    """Compares the new inputs with the last known live object, pruned to the old inputs' shape.

    So what the cluster defaults or fills in is no change, and drift that a refresh found is one.
    """
    kind = str(new_inputs.get("kind", ""))
    new = normalized(kind, new_inputs)
    old = normalized(kind, old_inputs)
    if old_live:
        old = prune(old_live, old)
    _align_identity(old, old_live, new, namespaced=namespaced, default=default_namespace)

    fields = force_new(
        new, mutable_config_maps=mutable_config_maps, mutable_secrets=mutable_secrets
    )
    changed: list[str] = []
    replaces: list[str] = []
    for path, before, after in differences(old, new):
        text = path_text(path)
        changed.append(text)
        if any(_forces(path, before, after, field) for field in fields):
            replaces.append(text)
    return Diff(
        changed=tuple(changed),
        replaces=tuple(replaces),
        delete_before_replace=bool(replaces) and _would_collide(old, new),
    )


def _align_identity(
    old: Properties, live: Properties, new: Properties, *, namespaced: bool, default: str
) -> None:
    """An omitted namespace is the default one; an autonamed object has its live name."""
    old["metadata"] = dict(pluck(old, "metadata", default={}))
    if not isinstance(new.get("metadata"), Mapping | None):
        return  # unknown as a whole: a change, and nothing to align
    new["metadata"] = dict(new.get("metadata") or {})
    for metadata in (old["metadata"], new["metadata"]):
        if not namespaced:
            metadata.pop("namespace", None)
        elif not metadata.get("namespace"):
            metadata["namespace"] = default
    name = pluck(live, "metadata", "name")
    if name and new["metadata"].get("name"):
        old["metadata"]["name"] = name


def _forces(path: Path, before: Any, after: Any, field: str) -> bool:
    """Whether a change at `path` lies in `field`, or takes a parent of it away or brings it."""
    pattern = field.split(".")
    for step, wanted in zip(path, pattern, strict=False):
        if wanted not in {"*", step}:
            return False
    if len(path) >= len(pattern):
        return True
    rest = [0 if step == "*" else step for step in pattern[len(path) :]]
    return any(pluck(value, *rest) is not None for value in (before, after))


def _would_collide(old: Properties, new: Properties) -> bool:
    """A replacement with the same explicit name cannot be made while the old object is there."""
    a, b = old["metadata"], new.get("metadata")
    if not isinstance(b, Mapping) or pluck(b, "annotations", AUTONAMED) == "true":
        return False
    name = b.get("name")
    return bool(name) and name == a.get("name") and a.get("namespace") == b.get("namespace")


def provider_diff(olds: Properties, news: Properties) -> Diff:
    """What a change of the provider resource means for everything that it made.

    With a `clusterIdentifier` that was there before and is the same, nothing is ever replaced.
    Without it, the provider guesses: an unknown kubeconfig, or one whose active cluster differs
    (server or CA), replaces the provider and with it every Kubernetes resource.
    """
    changed = tuple(k for k in sorted({*olds, *news}) if olds.get(k) != news.get(k))
    if not changed:
        return Diff()
    before, after = olds.get("clusterIdentifier"), news.get("clusterIdentifier")
    if after and before == after:
        return Diff(changed=changed)
    replaces: set[str] = set()
    if before and after:  # adding or removing it is not a change of cluster
        replaces.add("clusterIdentifier")
    where = [key for key in ("kubeconfig", "context", "cluster") if key in changed]
    unknown = [key for key in where if isinstance(news.get(key), Unknown)]
    if unknown:
        replaces.update(unknown)
    elif where and active_server(olds) != active_server(news):
        replaces.update(where)
    return Diff(changed=changed, replaces=tuple(sorted(replaces)))
