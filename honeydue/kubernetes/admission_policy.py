"""Which images may run in the cluster, as CEL that every API server evaluates itself: plain data.

The floor under everything else (docs/adr/0008): whoever asks, what runs is ours by digest, pinned
in honeydue/versions.py, or K3s's own. Three policies of one text, because a policy is type-checked
against the kinds that it matches, and these keep a pod's spec in three places.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from honeydue.kubernetes.catalogue import labels

Manifest = dict[str, Any]

SYSTEM_NAMESPACE: Final = "kube-system"

# By repository, not by version: K3s brings these itself and names them by tag. A list of exact
# versions would refuse K3s's own pods (DNS, Traefik) on the day that it is upgraded. These are all
# of scripts/airgap/image-list.txt in k3s-io/k3s, branch release-1.34; a minor version may add one.
# klipper-helm runs the jobs that install Traefik, busybox is local-path-provisioner's helper pod;
# both run in kube-system too.
K3S_REPOSITORIES: Final = (
    "klipper-helm",
    "klipper-lb",
    "local-path-provisioner",
    "mirrored-coredns-coredns",
    "mirrored-library-busybox",
    "mirrored-library-traefik",
    "mirrored-metrics-server",
    "mirrored-pause",
)

_DIGEST = "@sha256:[a-f0-9]{64}"
_K3S = rf"^(docker\.io/)?rancher/({'|'.join(K3S_REPOSITORIES)})"
_TAG = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Kinds that keep a pod's spec in the same place, and who makes them out of other kinds.

    What these controllers make repeats a template that was admitted, or is older than the policy.
    It is let through: when a node dies they make the pods of the running release anew, and that
    must work even while `up` has changed the policy but not yet the release. Their names hold since
    K3s starts its controller manager with use-service-account-credentials; if one did not, its
    pods would just be checked once more.
    """

    name: str
    rules: Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]]  # group, resources, operations
    spec: str  # the pod's spec, from the object
    makers: tuple[str, ...]  # service accounts in kube-system


_BOTH = ("CREATE", "UPDATE")
SHAPES: Final = (
    Shape(
        name="honeydue-images-pods",
        # `kubectl debug` adds ephemeral containers through a door of their own.
        rules=[("", ("pods",), _BOTH), ("", ("pods/ephemeralcontainers",), ("UPDATE",))],
        spec="spec",
        makers=(
            "replicaset-controller",
            "replication-controller",
            "statefulset-controller",
            "daemon-set-controller",
            "job-controller",
        ),
    ),
    Shape(
        # Checked here so that `kubectl set image` is refused at once, and not as a rollout that is
        # stuck ten minutes later. Every kind from which the makers above make pods has to be here.
        name="honeydue-images-templates",
        rules=[
            ("", ("replicationcontrollers",), _BOTH),
            ("apps", ("daemonsets", "deployments", "replicasets", "statefulsets"), _BOTH),
            ("batch", ("jobs",), _BOTH),
        ],
        spec="spec.template.spec",
        makers=("deployment-controller", "cronjob-controller"),
    ),
    Shape(
        name="honeydue-images-cronjobs",
        rules=[("batch", ("cronjobs",), _BOTH)],
        spec="spec.jobTemplate.spec.template.spec",
        makers=(),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A ValidatingAdmissionPolicy and the binding that puts it into force; both bear `name`."""

    name: str
    policy: Manifest
    binding: Manifest


def policies(*, server: str, namespace: str, pinned: Sequence[str]) -> list[Policy]:
    """`server`/`namespace` as in Registry; `pinned` are whole references, each with a digest.

    Raises ValueError for a pinned image without a digest: a bug in honeydue/versions.py.
    """
    for image in pinned:
        if "@sha256:" not in image:
            raise ValueError(f"{image} is pinned without a digest (honeydue/versions.py)")
    return [_policy(shape, f"{server}/{namespace}/honeydue-", pinned) for shape in SHAPES]


def _policy(shape: Shape, own: str, pinned: Sequence[str]) -> Policy:
    metadata = {"name": shape.name, "labels": labels("admission")}
    return Policy(
        name=shape.name,
        policy={
            "metadata": metadata,
            "spec": {
                # Also when the expressions fail: evaluated in the API server's own process, they
                # cannot be unreachable, so this cannot deadlock a cold start as a webhook does.
                "failurePolicy": "Fail",
                # With everything that the API server would fill in: this field is owned as a whole,
                # so a policy that is taken over (state lost, snapshot restored) would conflict.
                "matchConstraints": {
                    "matchPolicy": "Equivalent",
                    "namespaceSelector": {},
                    "objectSelector": {},
                    "resourceRules": [
                        {
                            "apiGroups": [group],
                            "apiVersions": ["v1"],
                            "resources": list(resources),
                            "operations": list(operations),
                            "scope": "*",
                        }
                        for group, resources, operations in shape.rules
                    ],
                },
                "matchConditions": _conditions(shape),
                "variables": _variables(shape, own, pinned),
                "validations": [
                    {
                        "expression": "size(variables.refused) == 0",
                        "messageExpression": _message(own),
                        # For when the other grows beyond Kubernetes' 5 KiB.
                        "message": f"an image is neither {own}<service>@sha256:… nor pinned",
                        # As RBAC and Pod Security answer; without it "Invalid" would make a
                        # refusal look like a mistake in the manifest.
                        "reason": "Forbidden",
                    }
                ],
            },
        },
        binding={
            "metadata": metadata,
            "spec": {"policyName": shape.name, "validationActions": ["Deny"]},
        },
    )


def _conditions(shape: Shape) -> list[Manifest]:
    conditions = [
        {
            # Pulumi previews by dry-run. When a pin or the registry changes, the policy of today
            # would refuse the release of tomorrow there, and no `up` would ever get beyond its
            # preview. Nothing of a dry run is kept, so nothing of it can run.
            "name": "not-a-dry-run",
            "expression": "!request.?dryRun.orValue(false)",
        }
    ]
    if shape.makers:
        users = [f"system:serviceaccount:{SYSTEM_NAMESPACE}:{maker}" for maker in shape.makers]
        conditions.append(
            {
                "name": "not-made-from-an-admitted-template",
                "expression": f"!(request.userInfo.username in {_cel(users)})",
            }
        )
    return conditions


def _variables(shape: Shape, own: str, pinned: Sequence[str]) -> list[Manifest]:
    """Evaluated at most once per request each, and with CEL's budget for hundreds of containers:
    the cost grows with their number, in an update with its square."""
    tag_is_latest = f"i.matches({_cel(':latest($|@)')})"
    allowed = " || ".join(
        [
            f"(i.startsWith({_cel(own)}) && "
            f"i.substring({len(own)}).matches({_cel(f'^[a-z0-9._-]+{_DIGEST}$')}))",
            f"i in {_cel(list(pinned))}",
            f"(request.namespace == {_cel(SYSTEM_NAMESPACE)} && "
            f"i.matches({_cel(f'{_K3S}({_TAG}|{_DIGEST}|{_TAG}{_DIGEST})$')}) && !{tag_is_latest})",
        ]
    )
    # What was there before the change stays allowed: a pod that is older than the policy must still
    # lose its finalizers, and a Deployment of the release before be scaled and annotated.
    before = f'request.operation == "UPDATE" ? {_images(f"oldObject.{shape.spec}")} : []'
    return [
        {"name": "images", "expression": _images(f"object.{shape.spec}")},
        {"name": "before", "expression": before},
        {
            "name": "refused",
            "expression": f"variables.images.filter(i, !(i in variables.before || {allowed}))",
        },
    ]


def _images(spec: str) -> str:
    """Every image that a pod of this spec pulls. A template may leave an image out; then it is ''.

    Volumes of type `image` too: they mount what somebody else has built.
    """
    parts = [
        f'{spec}.{field}.map(c, c.?image.orValue(""))'
        for field in (
            "containers",
            "?initContainers.orValue([])",
            "?ephemeralContainers.orValue([])",
        )
    ]
    parts.append(
        f"{spec}.?volumes.orValue([]).filter(v, has(v.image))"
        '.map(v, v.image.?reference.orValue(""))'
    )
    return " + ".join(parts)


def _message(own: str) -> str:
    """Names the first image that is refused, the rule that it breaks, and what mends it."""
    first = "variables.refused[0]"
    ours = f"{own}<service>@sha256:<digest>"
    by_tag = (
        "our own images are named by digest and without a tag (a tag can move, latest most of "
        f"all). Use {ours}, as pulumi up does"
    )
    k3s = "K3s's own images need their version here, never latest. Name the tag that K3s ships"
    foreign = (
        f"only {ours} and images pinned in honeydue/versions.py run in this cluster, and K3s's own "
        f"in {SYSTEM_NAMESPACE}. Push it to that registry and name it by digest, or add it with "
        "its digest to PINNED_IMAGES there, and run pulumi up"
    )
    is_k3s = f"{first}.matches({_cel(f'{_K3S}($|:|@)')})"
    rule = (
        f"({first}.startsWith({_cel(own)}) ? {_cel(by_tag)} : "
        f"request.namespace == {_cel(SYSTEM_NAMESPACE)} && {is_k3s} ? {_cel(k3s)} : "
        f"{_cel(foreign)})"
    )
    more = (
        'size(variables.refused) > 1 ? " (and " + string(size(variables.refused) - 1) + " more)"'
        ' : ""'
    )
    return f'"image " + {first} + ({more}) + " is refused: " + {rule}'


def _cel(value: str | list[str]) -> str:
    """A literal. What JSON writes, CEL reads."""
    return json.dumps(value)
