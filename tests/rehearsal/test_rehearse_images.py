"""`make rehearse IMAGES=1`, end to end: a commit is built, proven, run, changed, rolled back.

One rehearsal serves all of these tests; each leaves it converged. They run in file order.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bench.hammer import Edge, Hammered, hammering
from rehearsal import serve
from rehearsal.cluster import binaries as cluster_binaries
from rehearsal.home import Home
from rehearsal.lose import call
from rehearsal.page import operators
from rehearsal.providers.kubernetes.client import ApiError, Client
from rehearsal.providers.kubernetes.kubeconfig import parse
from rehearsal.registry import binaries
from rehearsal.registry.buildkit import socket_of
from rehearsal.registry.service import environment, folder_of, why_not
from tests.registry.forge import WITHOUT
from tests.rehearsal.operator import Operator

pytestmark = [pytest.mark.cluster, pytest.mark.images]

SERVICES = ("admin", "api", "worker")
TAG = "honeydue.com/image-tag"
DIGEST = r"@sha256:[0-9a-f]{64}"
UP = ("up", "--yes", "--skip-preview")


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    if reason := why_not():
        pytest.fail(f"{reason}\n  or: {WITHOUT}=1, and nothing about images is tested")
    someone = Operator.in_folder(tmp_path_factory.mktemp("images"))
    yield someone
    someone.run("reset")


@pytest.fixture(scope="module")
def guided(operator: Operator) -> str:
    """What `make rehearse IMAGES=1` prints."""
    return operator.must("--images")


@pytest.fixture(scope="module")
def cluster(operator: Operator, guided: str) -> Client:
    assert guided
    return Client(parse({"kubeconfig": operator.output("kubeconfig")}))


@pytest.fixture(scope="module")
def first(operator: Operator, guided: str) -> str:
    """The tag of the first release."""
    assert guided
    return commit_of(operator)


# --- what is asked of the world ---


def commit_of(operator: Operator) -> str:
    return git(operator, "rev-parse", "--short", "HEAD")


def git(operator: Operator, *words: str) -> str:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@honeydue.test")
    return subprocess.run(
        ["git", *who, *words],
        cwd=operator.home / "app", capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def change(operator: Operator, file: str, old: str, new: str) -> str:
    """Commits one changed line of the application; returns the commit."""
    path = operator.home / "app" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    git(operator, "commit", "--all", "--quiet", "--message", f"{file}: another line")
    return commit_of(operator)


def listed(cluster: Client, kind: str) -> list[dict[str, Any]]:
    group = "/api/v1" if kind in ("pods", "secrets") else "/apis/apps/v1"
    items: list[dict[str, Any]] = cluster.request("GET", f"{group}/namespaces/honeydue/{kind}")[
        "items"
    ]
    return [item for item in items if "deletionTimestamp" not in item["metadata"]]


def service_of(thing: dict[str, Any]) -> str:
    spec = thing["spec"].get("template", thing)["spec"]
    found = re.search(r"/honeydue-(\w+)@", spec["containers"][0]["image"])
    return found[1] if found else ""


def ids(cluster: Client, kind: str) -> dict[str, set[str]]:
    """Service → the uids of its pods or ReplicaSets."""
    found: dict[str, set[str]] = {service: set() for service in SERVICES}
    for thing in listed(cluster, kind):
        if service_of(thing) in found:
            found[service_of(thing)].add(thing["metadata"]["uid"])
    return found


def images(cluster: Client) -> dict[str, str]:
    return {
        service_of(one): one["spec"]["template"]["spec"]["containers"][0]["image"]
        for one in listed(cluster, "deployments")
    }


def tags(cluster: Client) -> dict[str, str]:
    return {
        service_of(one): one["metadata"]["annotations"][TAG]
        for one in listed(cluster, "deployments")
    }


def in_registry(operator: Operator, service: str) -> httpx.Client:
    """Gitea's packages API, for one image's versions."""
    secrets = json.loads((operator.home / "registry/gitea/secrets.json").read_text())
    port = serve.place(Home(operator.home)).registry
    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}/api/v1/packages/admin/container/honeydue-{service}/",
        auth=("admin", secrets["tokens"]["write"]),
        trust_env=False,
    )


def is_there(operator: Operator, service: str, version: str) -> bool:
    with in_registry(operator, service) as packages:
        return packages.get(version).status_code == 200


def pulls(page: str) -> dict[str, str]:
    """Image → what the page says of its pull."""
    return dict(re.findall(r"^ +honeydue-(\w+) +(\w+ +sha256:.*)$", page, re.MULTILINE))


def settings(operator: Operator, **image: Any) -> dict[str, Any]:
    """The home's own settings; what is given becomes `honeydue:image`'s. Written as an editor
    would: `config set --path` makes a number of a commit that has no letter, as the CLI does."""
    file = operator.home / "images.yaml"
    own: dict[str, Any] = yaml.safe_load(file.read_text())
    own["config"]["honeydue:image"] |= image
    file.write_text(yaml.safe_dump(own))
    return own


def pin(operator: Operator, **tags: str) -> None:
    """These run; a service that is not among them is built."""
    own = settings(operator)
    own["config"]["honeydue:images"] = tags
    (operator.home / "images.yaml").write_text(yaml.safe_dump(own))


# --- the rehearsal ---


def test_the_newcomer_sees_the_three_images_pulled_back(guided: str, first: str) -> None:
    assert "Gitea answers at 127.0.0.1:" in guided.partition("1  Previewing")[0]
    second, _, page = guided.partition("3  Previewing again")[2].partition("What now runs")
    assert re.search(r"^no changes: \d+ unchanged", second, re.MULTILINE), second[-800:]
    assert sorted(pulls(page)) == [*SERVICES]
    for service, said in pulls(page).items():
        assert re.fullmatch(
            rf"{first} +sha256:[0-9a-f]{{12}} +[1-9]\d*\.\d MB +pulled with gitea-credentials, "
            r"every digest right, signed by key [0-9a-f]{12}",
            said,
        ), (service, said)
    assert "python -m ops images list" in page
    assert "git -C " in page


def test_no_output_or_progress_is_masked_for_nothing(guided: str) -> None:
    told = [line for line in guided.splitlines() if "[secret]" in line]
    assert {line.split()[0] for line in told} <= {"kubeconfig"}, told


def test_pods_run_digests_and_the_tag_stands_beside_them(
    operator: Operator, cluster: Client, first: str
) -> None:
    assert tags(cluster) == dict.fromkeys(SERVICES, first)
    server = yaml.safe_load((operator.home / "Pulumi.rehearsal.yaml").read_text())["config"][
        "honeydue:registry"
    ]["server"]
    for service, image in images(cluster).items():
        assert re.fullmatch(rf"{server}/admin/honeydue-{service}{DIGEST}", image)
    pods = [pod for pod in listed(cluster, "pods") if service_of(pod)]
    assert len(pods) == 6
    for pod in pods:
        assert pod["spec"]["containers"][0]["image"] == images(cluster)[service_of(pod)]
        assert TAG not in pod["metadata"].get("annotations", {})


def test_images_twice_in_a_row_changes_nothing(
    operator: Operator, cluster: Client, first: str
) -> None:
    own = (operator.home / "images.yaml").read_bytes()
    before = images(cluster), ids(cluster, "pods")
    again = operator.must("--images")
    assert len(re.findall(r"^no changes: \d+ unchanged", again, re.MULTILINE)) == 3, again
    assert sorted(pulls(again)) == [*SERVICES]
    assert (operator.home / "images.yaml").read_bytes() == own
    assert commit_of(operator) == first
    assert (images(cluster), ids(cluster, "pods")) == before


def test_a_line_changed_in_admin_rolls_admin_alone(operator: Operator, cluster: Client) -> None:
    sets, pods, ran = ids(cluster, "replicasets"), ids(cluster, "pods"), images(cluster)
    tag = change(operator, "admin/panel/index.html", "<title>", "<title>The new ")
    told = operator.must(*UP)
    assert re.search(r"images-admin +updated", told), told
    assert re.search(r"release-admin-vouched +signed: \S+/honeydue-admin@sha256:\w{64} as", told)
    after = ids(cluster, "replicasets")
    assert len(after["admin"] - sets["admin"]) == 1
    assert not ids(cluster, "pods")["admin"] & pods["admin"]
    for service in ("api", "worker"):
        assert after[service] == sets[service]
        assert ids(cluster, "pods")[service] == pods[service]
        assert images(cluster)[service] == ran[service]
    assert images(cluster)["admin"] != ran["admin"]
    assert tags(cluster) == dict.fromkeys(SERVICES, tag)


def test_a_commit_that_no_image_is_made_of_rolls_nothing_but_is_what_runs(
    operator: Operator, cluster: Client
) -> None:
    sets, pods, ran = ids(cluster, "replicasets"), ids(cluster, "pods"), images(cluster)
    tag = change(operator, "README.md", "# ", "# About ")
    operator.must(*UP)
    assert (ids(cluster, "replicasets"), ids(cluster, "pods"), images(cluster)) == (sets, pods, ran)
    assert tags(cluster) == dict.fromkeys(SERVICES, tag)
    assert operator.changes() == {}


def test_the_same_commit_built_from_an_empty_cache_rolls_nothing(
    operator: Operator, cluster: Client
) -> None:
    sets, pods, ran = ids(cluster, "replicasets"), ids(cluster, "pods"), images(cluster)
    tools = binaries.cached()
    assert tools
    # Every layer goes, here and in the registry. What stays is the Go compiler's own cache, which
    # is a mount and no layer: compiling the standard library again would take a minute.
    subprocess.run(
        [
            *(tools.buildx, "prune", "--builder", "honeydue-builder"),
            *("--all", "--force", "--filter", "type=regular"),
        ],
        env={**os.environ, **environment(Home(operator.home))},
        capture_output=True, check=True,
    )  # fmt: skip
    for each in SERVICES:
        with in_registry(operator, each) as packages:
            assert packages.delete("buildcache").status_code == 204
    # An argument that no stage declares: a reason to build that reaches no image.
    operator.must("config", "set", "--path", "honeydue:image.buildArgs.AGAIN", "yes")
    told = operator.must(*UP)
    for each in SERVICES:
        assert re.search(rf"images-{each} +\[build-{each} [^\n]*go\",? \"build", told), told
        assert re.search(rf"images-{each} +updated", told), told
    assert (ids(cluster, "replicasets"), ids(cluster, "pods"), images(cluster)) == (sets, pods, ran)


def test_an_older_release_comes_back_without_a_build_and_the_new_one_after_it(
    operator: Operator, cluster: Client, first: str, guided: str
) -> None:
    sets, pods, ran = ids(cluster, "replicasets"), ids(cluster, "pods"), images(cluster)
    newest = commit_of(operator)
    pin(operator, **dict.fromkeys(SERVICES, first))
    back = operator.must(*UP)
    assert not re.search(r"\[build-", back), back
    assert tags(cluster) == dict.fromkeys(SERVICES, first)
    shown = pulls(guided.partition("What now runs")[2])["admin"]
    assert re.search(r"sha256:(\w+)", shown)[1] in images(cluster)["admin"]  # type: ignore[index]
    for each in ("api", "worker"):
        assert images(cluster)[each] == ran[each]
        assert ids(cluster, "pods")[each] == pods[each]
    # Kubernetes has kept the older ReplicaSet; it is that one that has pods again.
    assert ids(cluster, "replicasets") == sets

    page = operator.must()  # without --images: this home keeps them
    assert "this home has images, and keeps them until `python -m rehearsal reset`" in page
    assert all(said.startswith(first) for said in pulls(page).values())
    assert len(pulls(page)) == 3

    pin(operator)
    operator.must(*UP)
    assert images(cluster) == ran
    assert tags(cluster) == dict.fromkeys(SERVICES, newest)


def test_a_tag_that_the_registry_does_not_have_is_refused_with_the_nearest(
    operator: Operator, cluster: Client, first: str
) -> None:
    before = images(cluster), ids(cluster, "pods")
    wrong = first[:-1] + ("a" if first[-1] != "a" else "b")
    pin(operator, api=wrong, worker=first, admin=first)
    answer = operator.run("preview")
    assert answer.code == 1
    said = " ".join(answer.text.split())  # it is wrapped
    assert f"names {wrong}, and 127.0.0.1:" in said
    assert f"/admin/honeydue-api has no such tag; nearest: {first}" in said
    assert f"--path honeydue:images.api {first}" in said
    pin(operator)
    assert operator.changes() == {}
    assert (images(cluster), ids(cluster, "pods")) == before


def test_an_image_set_by_hand_to_latest_is_refused_with_the_reason(
    operator: Operator, cluster: Client, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(operator.output("kubeconfig"))
    api = images(cluster)["api"].partition("@")[0]
    container = next(
        one["spec"]["template"]["spec"]["containers"][0]["name"]
        for one in listed(cluster, "deployments")
        if service_of(one) == "api"
    )
    tools = cluster_binaries.cached()
    assert tools
    refused = subprocess.run(
        [
            *(tools.kubernetes / "kubectl", "--kubeconfig", kubeconfig),
            *("--namespace", "honeydue", "set", "image", "deployment/api"),
            f"{container}={api}:latest",
        ],
        capture_output=True, text=True, check=False, env={"HOME": str(tmp_path)},
    )  # fmt: skip
    assert refused.returncode == 1
    assert f"image {api}:latest is refused: our own images are named by digest" in refused.stderr
    assert images(cluster)["api"].partition("@")[0] == api


def test_a_pull_secret_that_opens_nothing_fails_the_rehearsal(
    operator: Operator, cluster: Client
) -> None:
    path = "/api/v1/namespaces/honeydue/secrets/gitea-credentials"
    good = cluster.request("GET", path)["data"][".dockerconfigjson"]
    config = json.loads(base64.b64decode(good))
    for entry in config["auths"].values():
        entry["password"] = "revoked"
        entry["auth"] = base64.b64encode(b"admin:revoked").decode()

    def write(value: str) -> None:
        cluster.request(
            "PATCH", path, body={"data": {".dockerconfigjson": value}},
            content_type="application/merge-patch+json",
        )  # fmt: skip

    write(base64.b64encode(json.dumps(config).encode()).decode())
    answer = operator.run()
    write(good)
    assert answer.code == 1
    assert "error: what runs cannot be pulled: 127.0.0.1:" in answer.err
    assert "the pull secret's token of 'admin' is wrong, expired" in answer.err
    assert "mend: " in answer.err
    assert re.search(r"honeydue-api .*not pulled", answer.out), answer.out
    assert "revoked" not in answer.text


# --- what users notice of a rollout ---
#
# No request fails while api is rolled out and rolled back: measured. Real here: the api's own Go
# processes (their drain included), pulled and started by digest; the rollout (Deployment,
# ReplicaSet, EndpointSlice controllers and scheduler of a real Kubernetes); probes, preStop and
# grace period, as the rehearsal's kubelet keeps them; TLS and HTTP of every request. Played:
# Cloudflare's edge and Traefik (with its two seconds between configurations), and the way from a
# node to a pod: there is neither kube-proxy nor a pod network.

HOST = "api.honeydue.test"
RATE = 40.0  # requests a second
AROUND = 80  # answers before and after, all of one release
PATIENCE = 300.0  # seconds; only a machine that stands still needs more than a few
LONGEST_GAP = 15.0  # seconds; a request that waits for twice as long has failed


@pytest.fixture
def edge(operator: Operator, guided: str) -> Edge:
    assert guided
    return Edge.of(serve.environment(Home(operator.home)))


def api_pods(cluster: Client) -> set[str]:
    """Less those that end."""
    return {pod["metadata"]["name"] for pod in listed(cluster, "pods") if service_of(pod) == "api"}


def meanwhile(edge: Edge, work: Callable[[Hammered], object]) -> Hammered:
    with hammering(edge, HOST, rate=RATE) as found:
        calm(found)
        work(found)
        calm(found)
    return found


def calm(found: Hammered) -> None:
    goal = len(found.shots) + AROUND
    until(
        lambda: (
            len(found.shots) >= goal and len({shot.version for shot in found.shots[-AROUND:]}) == 1
        )
    )


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.05)


def nobody_noticed(found: Hammered) -> None:
    assert found.failed == []
    assert found.lost == 0
    assert found.by("status") == {200: found.sent}
    # Both kinds of users were there, and saw both releases.
    for kept in (True, False):
        assert {shot.version for shot in found.shots if shot.kept is kept} == {*found.by("version")}
    assert found.longest_gap() < LONGEST_GAP


def test_no_request_fails_while_a_new_api_is_rolled_out(
    operator: Operator, cluster: Client, edge: Edge, first: str
) -> None:
    old = api_pods(cluster)
    tag = change(
        operator, "api/main.go", 'service.Main("api", run)', 'service.Main("the api", run)'
    )
    found = meanwhile(edge, lambda _found: operator.must(*UP))
    nobody_noticed(found)
    new = api_pods(cluster)
    assert tag != first
    assert len(new) == 3
    assert not new & old
    assert set(found.by("pod")) == old | new  # each of the six had requests
    versions = [shot.version for shot in sorted(found.shots, key=lambda shot: shot.at)]
    assert all(version.startswith("sha256:") for version in versions)
    assert len({*versions}) == 2
    assert versions[0] != versions[-1]


def test_no_request_fails_while_it_is_rolled_back(
    operator: Operator, cluster: Client, edge: Edge, first: str
) -> None:
    old = api_pods(cluster)
    pin(operator, api=first)
    found = meanwhile(edge, lambda _found: operator.must(*UP))
    nobody_noticed(found)
    assert not api_pods(cluster) & old
    assert len(found.by("version")) == 2


def test_the_hammer_sees_a_request_that_fails(cluster: Client, edge: Edge) -> None:
    """Were it blind, the tests above would pass in vain."""

    def without_grace(found: Hammered) -> None:
        def seen() -> bool:
            for pod in api_pods(cluster):
                with contextlib.suppress(ApiError):  # gone by itself
                    cluster.request(
                        "DELETE",
                        f"/api/v1/namespaces/honeydue/pods/{pod}",
                        query={"gracePeriodSeconds": "0"},
                    )
            return bool(found.failed)

        until(seen)

    found = meanwhile(edge, without_grace)
    assert {shot.status for shot in found.failed} <= {502, 503}
    assert found.lost == 0


# --- its end ---


def test_destroy_keeps_the_images_and_reset_leaves_nothing(
    operator: Operator, cluster: Client, first: str
) -> None:
    newest = tags(cluster)
    operator.must("destroy", "--yes", "--skip-preview")
    for variable, kinds in (
        ("HCLOUD_ENDPOINT", ("servers", "networks", "firewalls", "primary_ips", "ssh_keys")),
        ("CLOUDFLARE_BASE_URL", ("records",)),
    ):
        endpoint = operators(serve.environment(Home(operator.home))[variable])
        state = call(endpoint, "GET", "/state")
        assert [kind for kind in kinds if state[kind]] == []
    for each in SERVICES:
        assert is_there(operator, each, first), each
        assert is_there(operator, each, newest[each]), each
    socket = socket_of(folder_of(Home(operator.home)))
    assert socket.parent.is_dir()

    operator.must("down")
    assert left_running(operator) == []
    assert str(operator.home) not in Path("/proc/self/mounts").read_text()
    assert (operator.home / "registry").is_dir()  # images stay until `reset`
    operator.must("reset")
    assert not operator.home.exists()
    assert not socket.parent.exists()


def left_running(operator: Operator) -> list[str]:
    mine = str(operator.home).encode()
    return [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if mine in read_or_nothing(path) or mine in read_or_nothing(path.parent / "environ")
    ]


def read_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
