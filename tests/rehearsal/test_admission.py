"""Which images a real API server lets in, with the program's policies in force."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from honeydue.kubernetes.admission import SETTLE_SECONDS
from honeydue.kubernetes.admission_policy import K3S_REPOSITORIES, Policy, policies
from honeydue.versions import PINNED_IMAGES, REDIS_IMAGE
from rehearsal.engine.provider import Context, Diff
from rehearsal.providers.kubernetes import KubernetesProvider
from rehearsal.providers.kubernetes.client import APPLY, ApiError, Client
from rehearsal.providers.kubernetes.kubeconfig import parse
from tests.providers import api_server

pytestmark = pytest.mark.cluster

Object = dict[str, Any]

OWN: Final = "gitea.treytartt.com/admin/honeydue-"
DIGEST: Final = "@sha256:" + "0123456789abcdef" * 4
API: Final = f"{OWN}api{DIGEST}"
GROUP: Final = "admissionregistration.k8s.io/v1"
POLICIES: Final = f"/apis/{GROUP}/validatingadmissionpolicies"
STRATEGIC: Final = "application/strategic-merge-patch+json"
BINDINGS: Final = f"/apis/{GROUP}/validatingadmissionpolicybindings"

# scripts/airgap/image-list.txt of k3s-io/k3s for v1.34.6+k3s1, in the two spellings that its
# manifests and charts use.
K3S: Final = [
    f"{registry}rancher/{image}"
    for registry in ("", "docker.io/")
    for image in (
        "klipper-helm:v0.9.14-build20260309",
        "klipper-lb:v0.4.15",
        "local-path-provisioner:v0.0.35",
        "mirrored-coredns-coredns:1.14.2",
        "mirrored-library-busybox:1.37.0",
        "mirrored-library-traefik:3.6.10",
        "mirrored-metrics-server:v0.8.1",
        "mirrored-pause:3.6",
    )
]

_numbers = itertools.count(1)


class Cluster:
    """What an operator has: a kubeconfig."""

    def __init__(self, kubeconfig: str) -> None:
        self.client = Client(parse({"kubeconfig": kubeconfig}))

    def create(self, thing: Object, *, dry_run: bool = False) -> Object:
        kind = self.client.kind(thing["apiVersion"], thing["kind"])
        path = kind.path(thing["metadata"].get("namespace"))
        query = {"dryRun": "All"} if dry_run else None
        return self.client.request("POST", path, body=thing, query=query)

    def path(self, thing: Object) -> str:
        kind = self.client.kind(thing["apiVersion"], thing["kind"])
        return kind.path(thing["metadata"].get("namespace"), thing["metadata"]["name"])

    def read(self, thing: Object) -> Object:
        return self.client.request("GET", self.path(thing))

    def patch(self, thing: Object, change: Object, subresource: str = "") -> Object:
        """As kubectl does, `kubectl set image` included."""
        path = self.path(thing) + subresource
        return self.client.request("PATCH", path, body=change, content_type=STRATEGIC)

    def delete(self, thing: Object) -> None:
        self.client.request("DELETE", self.path(thing), query={"gracePeriodSeconds": "0"})

    def pods(self, owner: Object) -> list[Object]:
        """Those of a template that are neither gone nor going."""
        selector = {"labelSelector": f"app={owner['metadata']['name']}"}
        path = f"/api/v1/namespaces/{owner['metadata']['namespace']}/pods"
        listed = self.client.request("GET", path, query=selector)["items"]
        return [
            {"apiVersion": "v1", "kind": "Pod", **one}
            for one in listed
            if "deletionTimestamp" not in one["metadata"]
        ]

    def apply(self, made: Sequence[Policy]) -> None:
        """As the Kubernetes provider does."""
        for one in made:
            for path, kind, body in (
                (POLICIES, "ValidatingAdmissionPolicy", one.policy),
                (BINDINGS, "ValidatingAdmissionPolicyBinding", one.binding),
            ):
                self.client.request(
                    "PATCH",
                    f"{path}/{one.name}",
                    query={"fieldManager": "pulumi-kubernetes", "force": "true"},
                    body={"apiVersion": GROUP, "kind": kind, **body},
                    content_type=APPLY,
                )

    def policy(self, name: str) -> Object:
        return self.client.request("GET", f"{POLICIES}/{name}")

    def refuses(self, thing: Object) -> bool:
        try:
            self.delete(self.create(thing))
        except ApiError as error:
            return "denied request" in str(error)
        return False


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds} s"
        time.sleep(0.1)


def ours(server: str = "gitea.treytartt.com") -> list[Policy]:
    return policies(server=server, namespace="admin", pinned=PINNED_IMAGES)


def name(prefix: str) -> str:
    return f"{prefix}-{next(_numbers)}"


def spec(*images: str, **more: Any) -> Object:
    containers = [{"name": f"c{number}", "image": image} for number, image in enumerate(images)]
    return {"containers": containers, **more}


def pod(*images: str, namespace: str = "default", **more: Any) -> Object:
    metadata = {"name": name("pod"), "namespace": namespace}
    body = spec(*images, automountServiceAccountToken=False, **more)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def template(api: str, kind: str, *images: str, namespace: str = "default", **more: Any) -> Object:
    title = name(kind.lower())
    labels = {"app": title}
    selector: Any = {"matchLabels": labels} if api == "apps/v1" else labels
    body: Object = {
        "template": {"metadata": {"labels": labels}, "spec": spec(*images)},
        **({} if api == "batch/v1" else {"selector": selector}),
        **more,
    }
    if api == "batch/v1":
        body["template"]["spec"]["restartPolicy"] = "Never"
    metadata = {"name": title, "namespace": namespace}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": body}


def deployment(*images: str, **more: Any) -> Object:
    return template("apps/v1", "Deployment", *images, **{"replicas": 1, **more})


def cron_job(*images: str, namespace: str = "default") -> Object:
    job = template("batch/v1", "Job", *images)["spec"]
    metadata = {"name": name("cronjob"), "namespace": namespace}
    body = {"schedule": "0 3 1 1 *", "jobTemplate": {"spec": job}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": body}


@dataclass(frozen=True)
class Living:
    """A production of before the policies, which then had them, was switched off, and came back."""

    cluster: Cluster
    release: Object
    """A Deployment by tag, older than the policies."""
    loner: Object
    """A pod by tag without an owner, older than the policies, with a finalizer."""
    provider: KubernetesProvider
    first: Mapping[str, str]
    """Image → what the API server said to a pod in kube-system, as the first thing that it was
    asked after the cold start."""


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    folder = tmp_path_factory.mktemp("kubernetes")
    with api_server.running(folder) as kubeconfig:
        cluster = Cluster(kubeconfig)
        until(lambda: has_account(cluster, "default") and has_account(cluster, "kube-system"))
        release = cluster.create(deployment(f"{OWN}api:237c6b8"))
        loner = pod("alpine:latest")
        loner["metadata"]["finalizers"] = ["honeydue.com/test"]
        cluster.create(loner)
        until(lambda: cluster.pods(release))
        cluster.apply(ours())
        evil = (pod("evil"), deployment("evil"), cron_job("evil"))
        until(lambda: all(cluster.refuses(one) for one in evil))
    with api_server.running(folder) as kubeconfig:
        cluster = Cluster(kubeconfig)
        first = {image: answer(cluster, image) for image in (*K3S, "evil:1")}
        inputs = {"kubeconfig": kubeconfig, "upsertExistingObjects": "true"}
        yield Living(cluster, release, loner, KubernetesProvider(inputs), first)


@pytest.fixture
def cluster(living: Living) -> Cluster:
    return living.cluster


def answer(cluster: Cluster, image: str) -> str:
    try:
        cluster.create(pod(image, namespace="kube-system"))
    except ApiError as error:
        return str(error)
    return "created"


def has_account(cluster: Cluster, namespace: str) -> bool:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    try:
        return bool(cluster.client.request("GET", path))
    except ApiError:
        return False


def refusal(cluster: Cluster, thing: Object) -> str:
    with pytest.raises(ApiError) as caught:
        cluster.create(thing)
    assert (caught.value.code, caught.value.reason) == (403, "Forbidden")
    return str(caught.value)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "rule"),
    [
        (
            "docker.io/library/nginx:1.29",
            "only gitea.treytartt.com/admin/honeydue-<service>@sha256",
        ),
        (f"docker.io/library/nginx{DIGEST}", "add it with its digest to PINNED_IMAGES"),
        (REDIS_IMAGE.partition("@")[0], "pinned in honeydue/versions.py"),
        (REDIS_IMAGE[:-1] + ("0" if REDIS_IMAGE[-1] != "0" else "1"), "pinned in honeydue"),
        (f"{OWN}api:237c6b8", "named by digest and without a tag"),
        (f"{OWN}api:latest", "latest most of all"),
        (f"{OWN}api", "named by digest and without a tag"),
        (f"{OWN}api:latest{DIGEST}", "without a tag"),
        (f"{OWN}api@sha256:0123", "named by digest"),
        (f"{OWN}../../evil{DIGEST}", "named by digest"),
        (f"gitea.treytartt.com/other/honeydue-api{DIGEST}", "only gitea.treytartt.com/admin"),
        (f"gitea.treytartt.com.evil.net/admin/honeydue-api{DIGEST}", "Push it to that registry"),
        (f"evil.net/{OWN}api{DIGEST}", "Push it to that registry"),
        (f"gitea.treytartt.com/admin/other{DIGEST}", "only gitea.treytartt.com/admin/honeydue-"),
        ("rancher/mirrored-coredns-coredns:1.14.2", "K3s's own in kube-system"),
    ],
)
def test_a_pod_that_violates_is_told_the_image_the_rule_and_what_to_do(
    cluster: Cluster, image: str, rule: str
) -> None:
    said = refusal(cluster, pod(image))
    assert f"image {image} is refused: " in said
    assert rule in said


@pytest.mark.parametrize(
    "image",
    [
        "rancher/mirrored-library-traefik:latest",
        "docker.io/rancher/mirrored-library-traefik",
        f"rancher/mirrored-library-traefik:latest{DIGEST}",
    ],
)
def test_even_k3s_own_images_need_a_version(cluster: Cluster, image: str) -> None:
    assert "never latest" in refusal(cluster, pod(image, namespace="kube-system"))


@pytest.mark.parametrize(
    "image",
    ["rancher/kubectl:v1.34.6", "quay.io/rancher/klipper-helm:v1", "rancher/klipper-helm-evil:v1"],
)
def test_kube_system_is_no_door_for_others(cluster: Cluster, image: str) -> None:
    assert image in refusal(cluster, pod(image, namespace="kube-system"))


def test_every_place_of_a_pod_that_names_an_image_is_looked_at(cluster: Cluster) -> None:
    hidden = [{"name": "hidden", "image": "evil:1"}]
    assert "evil:1" in refusal(cluster, pod(API, initContainers=hidden))
    assert "evil:1 (and 1 more)" in refusal(cluster, pod("evil:1", API, "evil:2"))


def test_a_debugging_container_is_looked_at_too(cluster: Cluster) -> None:
    made = cluster.create(pod(API))

    def debug(image: str) -> None:
        added = {"name": "debug", "image": image}
        cluster.patch(made, {"spec": {"ephemeralContainers": [added]}}, "/ephemeralcontainers")

    with pytest.raises(ApiError, match=r"image busybox:1\.37 is refused"):
        debug("busybox:1.37")
    debug(f"{OWN}debug{DIGEST}")


@pytest.mark.parametrize("field", ["containers", "initContainers"])
def test_the_image_of_a_running_pod_cannot_be_changed_into_another(
    cluster: Cluster, field: str
) -> None:
    made = cluster.create(pod(API, initContainers=[{"name": "i0", "image": API}]))
    container = made["spec"][field][0]["name"]
    with pytest.raises(ApiError, match="image evil:1 is refused"):
        cluster.patch(made, {"spec": {field: [{"name": container, "image": "evil:1"}]}})


@pytest.mark.parametrize(
    "thing",
    [
        deployment("evil:1"),
        template("apps/v1", "StatefulSet", "evil:1", serviceName="evil"),
        template("apps/v1", "DaemonSet", "evil:1"),
        template("apps/v1", "ReplicaSet", "evil:1"),
        template("v1", "ReplicationController", "evil:1"),
        template("batch/v1", "Job", "evil:1"),
        cron_job("evil:1"),
    ],
    ids=lambda thing: thing["kind"],
)
def test_whatever_makes_pods_is_refused_at_once(cluster: Cluster, thing: Object) -> None:
    assert "image evil:1 is refused" in refusal(cluster, thing)


def set_image(image: str) -> Object:
    return {"spec": {"template": {"spec": {"containers": [{"name": "c0", "image": image}]}}}}


def test_kubectl_set_image_is_refused_at_once(cluster: Cluster) -> None:
    made = cluster.create(deployment(API, replicas=0))
    with pytest.raises(ApiError, match="honeydue-api:latest is refused"):
        cluster.patch(made, set_image(f"{OWN}api:latest"))
    cluster.patch(made, set_image(f"{OWN}api@sha256:{'a' * 64}"))


# --- what is admitted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image", [*(f"{OWN}{s}{DIGEST}" for s in ("api", "worker", "admin")), *PINNED_IMAGES]
)
@pytest.mark.parametrize("namespace", ["default", "kube-system"])
def test_our_services_and_what_is_pinned_are_admitted(
    cluster: Cluster, image: str, namespace: str
) -> None:
    cluster.create(pod(image, namespace=namespace))


def test_a_cold_start_with_the_policies_in_force_admits_what_k3s_brings_and_nothing_else(
    living: Living,
) -> None:
    said = dict(living.first)
    assert "image evil:1 is refused" in said.pop("evil:1")
    assert said == dict.fromkeys(K3S, "created")


def test_the_list_of_k3s_repositories_is_the_one_of_its_release() -> None:
    assert {image.partition("rancher/")[2].partition(":")[0] for image in K3S} == set(
        K3S_REPOSITORIES
    )


def test_k3s_own_workloads_run_with_their_controllers(cluster: Cluster) -> None:
    """CoreDNS and the like, the job that installs Traefik, and the DaemonSet that it makes."""
    there = "kube-system"
    traefik = "docker.io/rancher/mirrored-library-traefik:3.6.10"
    things = [
        deployment("rancher/mirrored-coredns-coredns:1.14.2", namespace=there),
        template("batch/v1", "Job", "rancher/klipper-helm:v0.9.14-build20260309", namespace=there),
        template("apps/v1", "DaemonSet", traefik, namespace=there),
    ]
    made = [cluster.create(thing) for thing in things]
    until(lambda: all(cluster.pods(one) for one in made))


def test_a_dry_run_is_not_judged_so_that_a_preview_can_show_what_comes_with_the_next_policy(
    cluster: Cluster,
) -> None:
    cluster.create(deployment("registry.new/admin/honeydue-api:1"), dry_run=True)


# --- what was there before -----------------------------------------------------------------------


def test_a_release_older_than_the_policy_survives_the_loss_of_its_node(living: Living) -> None:
    cluster, release = living.cluster, living.release
    (before,) = cluster.pods(release)
    cluster.delete(before)
    until(lambda: cluster.pods(release))
    (after,) = cluster.pods(release)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["spec"]["containers"][0]["image"] == f"{OWN}api:237c6b8"


def test_it_can_be_scaled_and_restarted_and_moves_on_by_digest_only(living: Living) -> None:
    cluster, release = living.cluster, living.release
    cluster.patch(release, {"spec": {"replicas": 2}})
    until(lambda: len(cluster.pods(release)) == 2)
    restarted = {"kubectl.kubernetes.io/restartedAt": "now"}
    anew = {"replicas": 1, "template": {"metadata": {"annotations": restarted}}}
    cluster.patch(release, {"spec": anew})
    until(lambda: [p["metadata"].get("annotations") for p in cluster.pods(release)] == [restarted])
    with pytest.raises(ApiError, match="honeydue-api:237c6b9 is refused"):
        cluster.patch(release, set_image(f"{OWN}api:237c6b9"))
    cluster.patch(release, set_image(API))
    until(lambda: [p["spec"]["containers"][0]["image"] for p in cluster.pods(release)] == [API])
    # And there is no way back to the tag, `kubectl rollout undo` included.
    with pytest.raises(ApiError, match="honeydue-api:237c6b8 is refused"):
        cluster.patch(release, set_image(f"{OWN}api:237c6b8"))


def test_a_pod_older_than_the_policy_can_be_labelled_evicted_and_rid_of_its_finalizer(
    living: Living,
) -> None:
    cluster, loner = living.cluster, living.loner
    cluster.patch(loner, {"metadata": {"labels": {"still": "editable"}}})
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {key: loner["metadata"][key] for key in ("name", "namespace")},
    }
    cluster.client.request("POST", cluster.path(loner) + "/eviction", body=eviction)
    cluster.patch(
        loner, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["honeydue.com/test"]}}
    )
    until(lambda: gone(cluster, loner))


def gone(cluster: Cluster, thing: Object) -> bool:
    try:
        cluster.read(thing)
    except ApiError as error:
        return error.code == 404
    return False


# --- the policies themselves ---------------------------------------------------------------------


def warnings(cluster: Cluster, policy: Policy) -> list[Object]:
    """What the API server's type checker has against a policy, once it has looked.

    It reports on validations only and lets a mistake in a variable pass in silence, so a copy is
    shown to it that has each variable as a validation too. Without a binding nothing enforces it.
    """
    body: Object = {"apiVersion": GROUP, "kind": "ValidatingAdmissionPolicy"} | policy.policy
    copied = copy.deepcopy(body)
    copied["metadata"]["name"] = name("checked")
    copied["spec"]["validations"] += [
        {"expression": f"dyn({variable['expression']}) != null"}
        for variable in copied["spec"]["variables"]
    ]
    made = cluster.create(copied)

    def checked() -> bool:
        return "typeChecking" in cluster.read(made).get("status", {})

    until(checked)
    found = cluster.read(made)["status"]["typeChecking"].get("expressionWarnings", [])
    return list(found)


@pytest.mark.parametrize("policy", ours(), ids=lambda policy: policy.name)
def test_the_type_checker_has_nothing_against_it(cluster: Cluster, policy: Policy) -> None:
    assert warnings(cluster, policy) == []
    in_force = cluster.policy(policy.name)
    assert in_force["status"]["observedGeneration"] == in_force["metadata"]["generation"]
    assert in_force["status"]["typeChecking"] == {}


def test_the_type_checker_would_find_a_field_that_is_not_there(cluster: Cluster) -> None:
    wrong = copy.deepcopy(ours()[0])
    variable = wrong.policy["spec"]["variables"][0]
    variable["expression"] = variable["expression"].replace("initContainers", "firstContainers")
    (warning,) = warnings(cluster, wrong)
    assert "undefined field 'firstContainers'" in warning["warning"]


def test_many_containers_with_long_names_stay_within_the_budget(cluster: Cluster) -> None:
    many = [f"{OWN}{'long-' * 40}{number}{DIGEST}" for number in range(200)]
    made = cluster.create(deployment(*many, replicas=0))
    # Every image is now compared with every image of before.
    with pytest.raises(ApiError, match="image evil:1 is refused"):
        cluster.patch(made, set_image("evil:1"))
    cluster.patch(made, set_image(API))


def test_a_name_too_long_for_the_message_is_refused_with_the_rule(cluster: Cluster) -> None:
    said = refusal(cluster, deployment("e" * 6000))
    assert f"neither {OWN}<service>@sha256:… nor pinned" in said


def inputs(one: Policy, kind: str) -> Object:
    body = one.binding if kind.endswith("Binding") else one.policy
    return {"apiVersion": GROUP, "kind": kind, **body}


@pytest.mark.parametrize("number", range(len(ours())), ids=[one.name for one in ours()])
@pytest.mark.parametrize("kind", ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"])
def test_a_second_up_changes_nothing_and_another_registry_changes_in_place(
    living: Living, number: int, kind: str
) -> None:
    """The API server fills in defaults; neither a diff nor a refresh may stumble over them."""
    provider, context = living.provider, Context(urn="urn:test")
    type_, wanted = f"kubernetes:{GROUP}:{kind}", inputs(ours()[number], kind)
    checked, failures = provider.check(type_, None, wanted)
    assert failures == []
    id_, outputs = provider.create(type_, checked, context)  # takes over what is there
    assert provider.diff(type_, id_, checked, outputs, checked) == Diff()
    seen = provider.read(type_, id_, checked, outputs, context)
    assert seen is not None
    assert provider.diff(type_, id_, *seen, checked) == Diff()
    moved = inputs(ours("registry.new")[number], kind)
    assert provider.diff(type_, id_, checked, outputs, moved).replaces == ()


def test_a_changed_policy_is_in_force_before_the_program_goes_on(cluster: Cluster) -> None:
    """A machine that stood still meanwhile says nothing about it: one time of ten is enough."""
    moved = pod(f"registry.new/admin/honeydue-api{DIGEST}")
    assert cluster.refuses(moved)
    took: list[float] = []
    while not took or (min(took) > SETTLE_SECONDS and len(took) < 10):
        try:
            cluster.apply(ours("registry.new"))
            began = time.monotonic()
            until(lambda: not cluster.refuses(moved))
            took.append(time.monotonic() - began)
        finally:
            cluster.apply(ours())
            until(lambda: cluster.refuses(moved))
    assert min(took) <= SETTLE_SECONDS


def test_the_emergency_exit_is_open_within_seconds(cluster: Cluster) -> None:
    """The command in docs/adr/0008."""
    selected = {"labelSelector": "app.kubernetes.io/name=admission"}
    try:
        cluster.client.request("DELETE", BINDINGS, query=selected)
        until(lambda: not cluster.refuses(pod("evil:1")))
    finally:
        cluster.apply(ours())
        until(lambda: cluster.refuses(pod("evil:1")))
