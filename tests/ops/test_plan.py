"""What an operator reads of a preview: which service rolls and why, and what is dangerous."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ops import plan
from ops.plan import UNKNOWN, Image, changed_files, changes, read
from rehearsal.display import state_view
from rehearsal.engine.events import ResourceView
from rehearsal.engine.provider import UNKNOWN as NOT_YET
from rehearsal.engine.values import Secret
from tests.ops.kubernetes_json import DIGEST, OTHER
from tests.ops.previews import (
    SECRET,
    config_map,
    deployment,
    document,
    reads,
    released,
    runs,
    step,
)

GOLDEN = Path(__file__).parent / "golden"
CANARY = "hunter2-canary-value"


def shown(
    told: Any, changed: Mapping[str, Sequence[str]] | None = None, width: int = 80
) -> list[str]:
    screen = io.StringIO()
    plan.show(read(told, changed=changed), Console(file=screen, width=width, highlight=False))
    assert CANARY not in screen.getvalue()
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_a_release_says_of_each_service_whether_it_rolls_from_what_to_what_and_why() -> None:
    told = document(
        released("api"),
        deployment("update", "worker", runs("worker"), runs("worker", tag="237c6b8")),
    )
    files = {"api": ["api/routes.go", "api/tasks.go", "internal/web/serve.go", "go.mod"]}
    assert shown(told, files) == [
        "api     rolls  1a2b3c4 aaaaaaaaaaaa → 237c6b8 bbbbbbbbbbbb",
        "        image: 4 files changed since 1a2b3c4 (api/routes.go, api/tasks.go,",
        "        internal/web/serve.go, …)",
        "worker  does not roll  1a2b3c4 aaaaaaaaaaaa → 237c6b8 aaaaaaaaaaaa",
        "        annotations only: nothing rolls",
        "admin   does not roll",
    ]
    assert read(told, changed=files).rolling == ("api",)


def test_an_image_that_is_not_built_yet_may_roll_and_the_checkout_says_how_likely() -> None:
    told = document(*(released(service, UNKNOWN) for service in ("api", "worker", "admin")))
    files = {"api": ["api/routes.go"], "worker": []}
    assert shown(told, files) == [
        "api     rolls if its image differs  1a2b3c4 aaaaaaaaaaaa → 237c6b8 (built by up)",
        "        image: 1 file changed since 1a2b3c4 (api/routes.go)",
        "worker  rolls if its image differs  1a2b3c4 aaaaaaaaaaaa → 237c6b8 (built by up)",
        "        image: no file of it changed since 1a2b3c4; the build should give the",
        "        same",
        "admin   rolls if its image differs  1a2b3c4 aaaaaaaaaaaa → 237c6b8 (built by up)",
        "        image: built anew",
    ]
    assert read(told, changed=None).rolling == ("api", "worker", "admin")


def test_a_pinned_image_is_known_although_the_plan_has_yet_to_verify_it() -> None:
    told = document(*(released(service, UNKNOWN) for service in ("api", "worker", "admin")))
    pins = {"api": Image("237c6b8", OTHER), "worker": Image("237c6b8", DIGEST)}
    api, worker, admin = read(told, changed=None, pins=pins).services
    assert (api.rolls, api.then) == ("yes", Image("237c6b8", OTHER))
    assert api.why == ("image: another one",)
    assert (worker.rolls, worker.why) == ("no", ("annotations only: nothing rolls",))
    assert admin.rolls == "if its image differs"


def test_an_image_not_known_yet_is_no_reason_where_the_settings_name_what_runs() -> None:
    """The real plugin's diff lists it all the same, since its new value is not known."""
    step = released("worker", UNKNOWN)
    path = "spec.template.spec.containers[0].image"
    step["detailedDiff"] = {path: {"kind": "update", "inputDiff": True}}
    pins = {"worker": Image("237c6b8", DIGEST)}
    _, worker, _ = read(document(step), changed=None, pins=pins).services
    assert (worker.rolls, worker.why) == ("no", ("annotations only: nothing rolls",))
    _, worker, _ = read(document(step), changed=None, pins={}).services
    assert worker.rolls == "if its image differs"


def test_changed_configuration_names_its_keys_and_never_a_value() -> None:
    old = {"LOG_LEVEL": "info", "SMTP_HOST": CANARY, "GONE": "1", "SAME": "1"}
    new = {"LOG_LEVEL": "debug", "SMTP_HOST": f"{CANARY}2", "ADDED": CANARY, "SAME": "1"}
    told = document(
        deployment(
            "update", "api", runs("api"), reads(runs("api"), config="honeydue-config-api-2")
        ),
        config_map("api", old, new),
    )
    assert shown(told) == [
        "api     rolls  1a2b3c4 aaaaaaaaaaaa",
        "        configuration: ADDED (new), GONE (removed), LOG_LEVEL, SMTP_HOST",
        "worker  does not roll",
        "admin   does not roll",
    ]


def test_changed_secrets_are_told_without_a_word_of_what_is_in_them() -> None:
    secret = {"metadata": {"name": "honeydue-secrets-2"}, "data": "[secret]"}
    told = document(
        *(
            deployment("update", name, runs(name), reads(runs(name), secrets="honeydue-secrets-2"))
            for name in ("api", "worker")
        ),
        step("create-replacement", SECRET, "honeydue-secrets", secret, secret),
        step("replace", SECRET, "honeydue-secrets", secret, secret),
        step("delete-replaced", SECRET, "honeydue-secrets", secret, secret),
    )
    assert shown(told) == [
        "api     rolls  1a2b3c4 aaaaaaaaaaaa",
        "        secrets changed",
        "worker  rolls  1a2b3c4 aaaaaaaaaaaa",
        "        secrets changed",
        "admin   does not roll",
    ]


def test_a_configuration_that_changes_beside_an_image_to_be_built_rolls_for_certain() -> None:
    new = reads(runs("api", digest=UNKNOWN, tag="237c6b8"), config="honeydue-config-api-2")
    told = document(
        deployment("update", "api", runs("api"), new),
        config_map("api", {"LOG_LEVEL": "info"}, {"LOG_LEVEL": "debug"}),
    )
    (api, *_) = read(told, changed=None).services
    assert (api.rolls, api.why) == ("yes", ("image: built anew", "configuration: LOG_LEVEL"))


def test_another_change_of_the_pod_template_is_told_by_its_path() -> None:
    new = runs("admin")
    pod = new["spec"]["template"]["spec"]
    pod["containers"][0]["resources"]["limits"]["memory"] = "512Mi"
    pod["terminationGracePeriodSeconds"] = 60
    told = document(deployment("update", "admin", runs("admin"), new))
    assert shown(told)[-2:] == [
        "admin   rolls  1a2b3c4 aaaaaaaaaaaa",
        "        template: resources.limits.memory, terminationGracePeriodSeconds",
    ]


def test_a_difference_that_only_the_provider_can_see_is_told_by_its_path() -> None:
    hidden = deployment("update", "api", runs("api"), runs("api"))
    hidden["detailedDiff"] = {
        "spec.template.spec.containers[0].env[0].value": {"kind": "update", "inputDiff": True},
        "metadata.labels.x": {"kind": "add", "inputDiff": True},
    }
    (api, *_) = read(document(hidden), changed=None).services
    assert (api.rolls, api.why) == ("yes", ("template: env[0].value",))


def test_one_that_did_not_become_ready_in_an_earlier_run_is_waited_for_again() -> None:
    again = deployment("update", "api", runs("api"), runs("api"))
    again["oldState"]["initErrors"] = ["4 of 3 updated replicas are available"]
    assert shown(document(again))[:2] == [
        "api     rolls  1a2b3c4 aaaaaaaaaaaa",
        "        did not become ready before: waited for again",
    ]
    assert read(document(again), changed=None).rolling == ("api",)


def test_more_or_fewer_pods_are_no_roll() -> None:
    new = runs("api")
    new["spec"]["replicas"] = 2
    told = document(deployment("update", "api", runs("api"), new))
    assert shown(told)[:2] == [
        "api     does not roll  1a2b3c4 aaaaaaaaaaaa",
        "        replicas 3 → 2: the pods that stay do not roll",
    ]
    assert read(told, changed=None).rolling == ()


def test_the_first_deploy_makes_everything_anew() -> None:
    told = document(
        *(deployment("create", name, None, runs(name)) for name in ("api", "worker", "admin")),
        *(step("create", "cloudflare:index/dnsRecord:DnsRecord", f"api-{n}") for n in range(2)),
        step("create", "hcloud:index/server:Server", "honeydue-1"),
    )
    assert shown(told) == [
        "api     rolls  1a2b3c4 aaaaaaaaaaaa",
        "        it is new",
        "worker  rolls  1a2b3c4 aaaaaaaaaaaa",
        "        it is new",
        "admin   rolls  1a2b3c4 aaaaaaaaaaaa",
        "        it is new",
        "and 3 others: 2 create DNS record, 1 create server",
    ]


def test_a_plan_that_changes_nothing_is_one_line() -> None:
    unchanged = step("same", "hcloud:index/server:Server", "honeydue-1")
    assert read(document(unchanged), changed=None).empty
    assert shown(document(unchanged)) == ["Nothing to do: what runs is what the settings say."]


def test_what_only_makes_an_address_anew_is_not_nothing() -> None:
    told = document(step("update", "cloudflare:index/dnsRecord:DnsRecord", "api-1"))
    assert not read(told, changed=None).empty
    assert shown(told)[-1] == "and 1 other: 1 update DNS record"


DANGEROUS = {
    "hcloud:index/server:Server": "the server",
    "hcloud:index/volume:Volume": "the volume",
    "hcloud:index/primaryIp:PrimaryIp": "the address",
    "hcloud:index/network:Network": "the private network",
    "hcloud:index/networkSubnet:NetworkSubnet": "the private network",
    "hcloud:index/loadBalancer:LoadBalancer": "the load balancer",
    "hcloud:index/firewall:Firewall": "the firewall",
    "hcloud:index/placementGroup:PlacementGroup": "the placement group",
    "honeydue:k3s:Pki$tls:index/privateKey:PrivateKey": "PKI",
    "honeydue:k3s:Pki$tls:index/selfSignedCert:SelfSignedCert": "PKI",
    "honeydue:k3s:Pki$random:index/randomPassword:RandomPassword": "opens its snapshots",
    "pulumi:providers:kubernetes": "the provider",
    "kubernetes:apps/v1:StatefulSet": "its data may be lost",
    "kubernetes:core/v1:PersistentVolumeClaim": "its data may be lost",
    "kubernetes:core/v1:Namespace": "the namespace",
    "cloudflare:index/dnsRecord:DnsRecord": "production is off the net",
    "kubernetes:helm.cattle.io/v1:HelmChartConfig": "nobody gets in",
    "kubernetes:networking.k8s.io/v1:NetworkPolicy": "pods reach what they must not",
    "kubernetes:apps/v1:Deployment": "users see errors",
    "kubernetes:core/v1:Service": "users see errors",
    "kubernetes:networking.k8s.io/v1:Ingress": "users see errors",
}


@pytest.mark.parametrize("op", ["replace", "delete"])
@pytest.mark.parametrize("kind", DANGEROUS)
def test_what_must_not_be_lost_is_a_danger_when_it_would_be(kind: str, op: str) -> None:
    (danger,) = read(document(step(op, kind, "honeydue-1")), changed=None).dangers
    assert danger.what.startswith(f"{op}s ")
    assert DANGEROUS[kind] in danger.what
    assert "honeydue-1" in danger.what
    assert danger.mend.startswith("answer no")


def test_an_image_that_is_not_built_any_more_does_not_read_as_if_it_was_lost() -> None:
    told = document(step("delete", "docker-build:index:Image", "images-worker"))
    assert shown(told)[-1] == "and 1 other: 1 delete image build"


def test_a_rollback_builds_nothing_and_that_is_no_danger() -> None:
    told = document(step("delete", "pulumi:providers:docker-build", "docker-build"))
    assert read(told, changed=None).dangers == ()


@pytest.mark.parametrize(
    "kind",
    [
        "kubernetes:core/v1:ConfigMap",
        "kubernetes:networking.k8s.io/v1:IngressClass",
        "kubernetes:core/v1:ServiceAccount",
        "command:local:Command",
        "cloudflare:index/zoneSetting:ZoneSetting",
        "kubernetes:core/v1:Secret",
        "kubernetes:policy/v1:PodDisruptionBudget",
        "honeydue:k3s:Pki$tls:index/locallySignedCert:LocallySignedCert",
        "honeydue:cloudflare:Zone$tls:index/privateKey:PrivateKey",
        "honeydue:kubernetes:Redis$random:index/randomPassword:RandomPassword",
    ],
)
def test_what_is_made_anew_as_a_matter_of_course_is_none(kind: str) -> None:
    assert read(document(step("replace", kind, "x")), changed=None).dangers == ()


@pytest.mark.parametrize("op", ["create", "update"])
@pytest.mark.parametrize("kind", [*DANGEROUS, "kubernetes:core/v1:Secret"])
def test_what_is_only_made_or_changed_in_its_place_is_none(kind: str, op: str) -> None:
    pull: Any = {"metadata": {"name": "gitea-credentials"}}
    assert read(document(step(op, kind, "x", pull, pull)), changed=None).dangers == ()


@pytest.mark.parametrize("op", ["replace", "delete"])
def test_of_the_secrets_only_the_registrys_login_is_one(op: str) -> None:
    pull, old = ({"metadata": {"name": n}} for n in ("gitea-credentials", "honeydue-secrets-1"))
    told = document(
        step(op, SECRET, "honeydue-pull", pull, pull),
        step(op, SECRET, "honeydue-secrets", old, old),
    )
    assert shown(told, width=120)[:2] == [
        f"DANGER {op}s gitea-credentials, the registry's login: until there is another, no node "
        "can pull an image",
        "       answer no: a new token comes by python -m ops secret rotate REGISTRY_TOKEN",
    ]
    assert len(read(told, changed=None).dangers) == 1


def test_a_danger_comes_first_with_its_reason_and_what_to_do() -> None:
    told = document(
        released("api"),
        step(
            "replace",
            "hcloud:index/server:Server",
            "honeydue-2",
            {"name": "honeydue-2"},
            {"name": "honeydue-2", "userData": CANARY},
            replaceReasons=["userData"],
        ),
    )
    assert shown(told, width=100)[:5] == [
        "DANGER replaces the server honeydue-2: its disk, its etcd member and every pod on it are "
        "lost",
        "       (because of userData)",
        "       answer no, unless you replace this node on purpose, and only one at a time: "
        "docs/rebuild.md,",
        "       One node",
        "",
    ]


def test_a_server_that_is_resized_is_switched_off_and_that_is_said() -> None:
    resized = step("update", "hcloud:index/server:Server", "honeydue-1", diffReasons=["serverType"])
    (danger,) = read(document(resized), changed=None).dangers
    assert danger.what == "switches the server honeydue-1 off for minutes, to change serverType"
    labelled = step("update", "hcloud:index/server:Server", "honeydue-1", diffReasons=["labels"])
    assert read(document(labelled), changed=None).dangers == ()


def test_a_replacement_that_is_told_in_three_steps_counts_once() -> None:
    kind = "command:local:Command"
    told = document(
        *(step(op, kind, "x") for op in ("create-replacement", "replace", "delete-replaced"))
    )
    assert dict(read(told, changed=None).others) == {("replace", "command"): 1}


@pytest.mark.parametrize("op", ["read", "refresh", "discard", "remove-pending-replace", "same"])
def test_what_only_changes_the_state_is_nothing_to_do(op: str) -> None:
    assert read(document(step(op, "hcloud:index/server:Server", "x")), changed=None).empty


def test_warnings_of_the_engine_are_repeated() -> None:
    said = {"severity": "warning", "message": "images run unverified: no key\nmore"}
    info = {"severity": "info", "message": "a word"}
    assert shown(document(diagnostics=(said, said, info)))[-1] == (
        "warning: images run unverified: no key"
    )


def test_the_rehearsal_says_what_is_not_known_yet_as_the_cli_does() -> None:
    view = ResourceView(
        urn="urn:x",
        type="x",
        custom=True,
        id="",
        parent="",
        provider="",
        protect=False,
        inputs={"image": NOT_YET, "key": Secret("x")},
        outputs={},
        init_errors=("not ready",),
    )
    assert state_view(view)["inputs"] == {"image": UNKNOWN, "key": "[secret]"}
    assert state_view(view)["initErrors"] == ["not ready"]


@pytest.mark.parametrize(
    "nonsense", [None, [], {}, {"steps": [None, {"op": "update"}, {"urn": 3}]}]
)
def test_a_document_of_another_shape_is_an_empty_plan(nonsense: Any) -> None:
    assert read(nonsense, changed=None).empty


@pytest.mark.parametrize("width", [80, 120])
def test_a_mixed_plan_reads_as_the_golden_text(width: int) -> None:
    worker = reads(runs("worker"), config="honeydue-config-worker-2")
    told = document(
        released("api", UNKNOWN),
        deployment("update", "worker", runs("worker"), worker),
        config_map("worker", {"LOG_LEVEL": "info"}, {"LOG_LEVEL": "debug"}),
        step("replace", "hcloud:index/primaryIp:PrimaryIp", "honeydue-1-v4"),
        step("update", "cloudflare:index/dnsRecord:DnsRecord", "api-1"),
        *(step("update", "docker-build:index:Image", name) for name in ("api", "worker")),
        diagnostics=({"severity": "warning", "message": "images run unverified"},),
    )
    files = {"api": ["api/routes.go", "api/tasks.go"]}
    read_ = "\n".join(shown(told, files, width)) + "\n"
    assert read_ == (GOLDEN / f"plan-{width}.txt").read_text()


def test_the_document_for_programs_has_the_same() -> None:
    told = plan.document(read(document(released("api", OTHER)), changed={"api": ["api/x.go"]}))
    assert told["services"][0] == {
        "name": "api",
        "rolls": "yes",
        "now": {"tag": "1a2b3c4", "digest": "sha256:" + "a" * 64},
        "then": {"tag": "237c6b8", "digest": OTHER},
        "why": ["image: 1 file changed since 1a2b3c4 (api/x.go)"],
    }
    assert (told["dangers"], told["others"], told["warnings"]) == ([], [], [])


# --- the checkout -------------------------------------------------------------------------------

DOCKERFILE = """\
FROM golang AS go
COPY go.mod ./
FROM go AS api
COPY internal/ api/ ./
FROM go AS worker
COPY worker/ ./
FROM go AS admin
COPY admin/ ./
"""


class App:
    """A checkout whose application is in a folder of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app"
        self.path.mkdir()
        self.git("init", "-q", "-b", "main")
        self.write(Dockerfile=DOCKERFILE, **{".dockerignore": "**/*.md\n", "api/main.go": "1"})

    def git(self, *words: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        command = ["git", "-C", str(self.path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def write(self, **files: str) -> None:
        for name, content in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    def commit(self, **files: str) -> str:
        self.write(**files)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "a change")
        return self.git("rev-parse", "--short", "HEAD")


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path)


def test_the_files_of_a_service_are_those_that_its_image_is_made_from(app: App) -> None:
    old = app.commit(**{"worker/main.go": "1"})
    (app.path / "api/main.go").unlink()
    new = app.commit(**{"internal/web.go": "2", "api/new.go": "2", "api/x.md": "", "README.md": ""})
    assert changed_files(app.path, old, new) == {
        "api": ["api/main.go", "api/new.go", "internal/web.go"],
        "worker": [],
        "admin": [],
    }


def test_a_changed_dockerfile_or_a_shared_file_counts_for_all(app: App) -> None:
    old = app.commit()
    new = app.commit(**{"Dockerfile": DOCKERFILE + "\n", "go.mod": "module x"})
    found = changed_files(app.path, old, new)
    assert found == {name: ["Dockerfile", "go.mod"] for name in ("api", "worker", "admin")}


def test_what_is_not_committed_counts_when_that_is_what_is_built(app: App) -> None:
    old = app.commit(**{"worker/main.go": "1"})
    app.write(**{"worker/main.go": "2", "admin/new.go": "1"})
    assert changed_files(app.path, old, f"{old}-dirty-0123456789ab") == {
        "api": [],
        "worker": ["worker/main.go"],
        "admin": ["admin/new.go"],
    }


@pytest.mark.parametrize(
    "old", ["0123abc", "1a2b3c4-dirty-0123456789ab", "", "--output=/tmp/x", "v1.0"]
)
def test_without_the_old_commit_nothing_is_said_of_files(app: App, old: str) -> None:
    assert changed_files(app.path, old, app.commit()) is None


def test_without_a_checkout_nothing_is_said_of_files(tmp_path: Path) -> None:
    assert changed_files(tmp_path / "none", "1a2b3c4", "237c6b8") is None


def test_each_service_is_compared_with_the_commit_that_it_runs(app: App) -> None:
    first = app.commit(**{"worker/main.go": "1"})
    second = app.commit(**{"worker/main.go": "2", "api/main.go": "2"})
    third = app.commit(**{"api/main.go": "3"})
    told = document(
        deployment(
            "update", "api", runs("api", tag=second), runs("api", digest=UNKNOWN, tag=third)
        ),
        deployment(
            "update", "worker", runs("worker", tag=first), runs("worker", digest=UNKNOWN, tag=third)
        ),
        deployment(
            "update", "admin", runs("admin", tag="0123abc"), runs("admin", digest=OTHER, tag=third)
        ),
    )
    assert changes(told, app.path) == {"api": ["api/main.go"], "worker": ["worker/main.go"]}
