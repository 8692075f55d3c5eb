"""The docker-build provider: what buildx is told, what becomes of its answer, who sees a secret.

`buildx` is a recording fake here; tests/registry/test_real_build.py has the real one.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rehearsal.engine.deployment import Deployment, Project, Result
from rehearsal.engine.events import Event
from rehearsal.engine.provider import UNKNOWN, Context, Properties, ProviderError
from rehearsal.engine.state import Backend
from rehearsal.providers import buildx, load
from rehearsal.providers.docker_build import COMPUTED, IMAGE, PROVIDER, DockerBuildProvider
from tests.providers.fake_buildx import DIGEST, FakeBuildx, fake
from tests.registry.gitea_with_image import SmallRegistry, serve

__all__ = ["fake"]

URN = "urn:pulumi:rehearsal::honeydue::honeydue:images:Builds$docker-build:index:Image::images-api"
SERVER = "gitea.treytartt.com"
TAG = f"{SERVER}/admin/honeydue-api:237c6b8"
TOKEN = "canary-registry-token-8c1f"
RAW = "type=registry,oci-mediatypes=true,rewrite-timestamp=true"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> DockerBuildProvider:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return DockerBuildProvider({"host": ""})


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch AS api\nCOPY main.go /\n")
    (folder / "main.go").write_text("package main\n")
    return folder


def given(app: Path, **other: Any) -> Properties:
    """As the program gives them."""
    cache = f"{SERVER}/admin/honeydue-api:buildcache"
    inputs: Properties = {
        "builder": {"name": "honeydue-builder"},
        "context": {"location": str(app)},
        "target": "api",
        "platforms": ["linux/amd64"],
        "buildArgs": {"TARGETARCH": "amd64", "SOURCE_DATE_EPOCH": "1700000000"},
        "tags": [TAG],
        "exports": [{"raw": RAW}],
        "push": False,
        "cacheFrom": [{"registry": {"ref": cache}}],
        "cacheTo": [
            {
                "registry": {
                    "ref": cache,
                    "mode": "max",
                    "imageManifest": True,
                    "ociMediaTypes": True,
                    "ignoreError": True,
                    "compression": "gzip",
                    "compressionLevel": 0,
                    "forceCompression": False,
                }
            }
        ],
        "registries": [{"address": SERVER, "username": "admin", "password": TOKEN}],
        "buildOnPreview": False,
    }
    return inputs | other


def checked(provider: DockerBuildProvider, inputs: Properties) -> Properties:
    made, failures = provider.check(IMAGE, None, inputs)
    assert failures == []
    return made


def context(**options: Any) -> Context:
    return Context(urn=URN, **options)


def failed(provider: DockerBuildProvider, inputs: Properties) -> str:
    with pytest.raises(ProviderError) as raised:
        provider.create(IMAGE, checked(provider, inputs), context())
    return str(raised.value)


# --- configuration and check ---


def test_the_package_is_known_by_its_name() -> None:
    assert isinstance(load("docker-build", {}), DockerBuildProvider)


def test_a_providers_registries_come_as_json_and_open_every_image(
    fake: FakeBuildx, app: Path
) -> None:
    registries = json.dumps([{"address": SERVER, "username": "admin", "password": TOKEN}])
    provider = DockerBuildProvider({"registries": registries})
    provider.create(IMAGE, checked(provider, given(app, registries=[])), context())
    auths = json.loads(fake.calls[0]["environment"]["DOCKER_AUTH_CONFIG"])["auths"]
    assert base64.b64decode(auths[SERVER]["auth"]).decode() == f"admin:{TOKEN}"


def test_a_wrong_configuration_is_refused_without_its_values() -> None:
    with pytest.raises(ProviderError, match=r"registries\[0\].address: is required") as raised:
        DockerBuildProvider({"registries": json.dumps([{"password": TOKEN}])})
    assert TOKEN not in str(raised.value)


def test_defaults_are_the_plugins(provider: DockerBuildProvider, app: Path) -> None:
    inputs = checked(provider, {"push": False, "context": {"location": f"{app}/../app/"}})
    assert inputs["buildOnPreview"] is True
    assert inputs["network"] == "default"
    assert inputs["dockerfile"] == {"location": f"{app}/Dockerfile"}


def test_without_a_context_it_is_the_current_folder(
    provider: DockerBuildProvider, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(app)
    inputs = checked(provider, {"push": False})
    assert inputs["context"] == {"location": "."}
    assert inputs["dockerfile"] == {"location": "Dockerfile"}


@pytest.mark.parametrize(
    ("wrong", "at", "why"),
    [
        ({"push": None}, "push", "is required"),
        ({"platforms": ["linux/vax"]}, "platforms[0]", "must be one of"),
        ({"context": {"location": "/nowhere"}}, "context.location", "not a valid directory"),
        ({"dockerfile": {"location": "/nowhere/Dockerfile"}}, "dockerfile.location", "open /now"),
        (
            {"dockerfile": {"inline": "FRM scratch"}},
            "dockerfile.inline",
            "unknown instruction: FRM",
        ),
        ({"dockerfile": {"inline": "FROM a", "location": "b"}}, "dockerfile", "not both"),
        ({"tags": ["Not A Tag"]}, "tags[0]", "invalid reference format"),
        ({"tags": None}, "exports[0]", "at least one tag or export name is needed"),
        ({"push": True}, "exports", "not both"),
        ({"exports": [{"raw": "push=true"}]}, "exports[0].raw", "needs a type"),
        ({"exports": [{"raw": RAW, "image": {}}]}, "exports[0]", "not several"),
        ({"exports": [{"tar": {"dest": "x"}}]}, "exports[0].tar", "is not rehearsed"),
        ({"cacheTo": [{"s3": {"bucket": "b", "region": "r"}}]}, "cacheTo[0].s3", "not rehearsed"),
        ({"ssh": [{"id": "default"}]}, "ssh", "is not rehearsed"),
    ],
)
def test_wrong_inputs_fail_in_the_preview(
    provider: DockerBuildProvider, app: Path, wrong: Properties, at: str, why: str
) -> None:
    _, failures = provider.check(IMAGE, None, given(app, **wrong))
    assert failures[0].property == at
    assert why in failures[0].reason


def test_a_faulty_dockerfile_fails_in_the_preview(provider: DockerBuildProvider, app: Path) -> None:
    (app / "Dockerfile").write_text("FROM scratch\nCOPI a b\n")
    _, (failure,) = provider.check(IMAGE, None, given(app))
    assert failure.reason == "dockerfile parse error on line 2: unknown instruction: COPI"


def test_what_is_not_known_yet_fails_nothing(provider: DockerBuildProvider, app: Path) -> None:
    checked(provider, given(app, context={"location": UNKNOWN}, tags=[UNKNOWN], exports=[UNKNOWN]))
    # Neither does anything in the diff and the preview after it.
    names = ("context", "dockerfile", "tags", "exports", "registries", "secrets", "builder")
    for unknown in names:
        inputs = checked(provider, given(app, **{unknown: UNKNOWN}))
        olds = checked(provider, given(app))
        assert provider.diff(IMAGE, "", olds, olds, inputs).changed
        outputs = provider.update(IMAGE, "", olds, olds, inputs, context(dry_run=True))
        assert outputs["digest"] is UNKNOWN


def test_a_context_somewhere_else_is_left_to_the_builder(provider: DockerBuildProvider) -> None:
    inputs = checked(provider, given(Path("x"), context={"location": "https://example.org/a.git"}))
    assert inputs["dockerfile"] == {}


# --- diff ---


@pytest.fixture
def made(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> tuple[Properties, Properties]:
    """(inputs, outputs) of an image that was built and pushed."""
    inputs = checked(provider, given(app))
    _, outputs = provider.create(IMAGE, inputs, context())
    (fake.folder / "calls.jsonl").unlink()
    return inputs, outputs


Made = tuple[Properties, Properties]


def changed(provider: DockerBuildProvider, made: Made, news: Properties) -> tuple[str, ...]:
    diff = provider.diff(IMAGE, DIGEST, *made, checked(provider, news))
    assert diff.replaces == ()
    return diff.changed


def test_the_same_is_the_same(provider: DockerBuildProvider, made: Made, app: Path) -> None:
    assert changed(provider, made, given(app)) == ()


def test_another_password_is_no_change_and_another_user_is(
    provider: DockerBuildProvider, made: Made, app: Path
) -> None:
    entry = made[0]["registries"][0]
    assert changed(provider, made, given(app, registries=[entry | {"password": "other"}])) == ()
    assert changed(provider, made, given(app, registries=[entry | {"username": "other"}])) == (
        "registries[0]",
    )
    assert changed(provider, made, given(app, registries=[])) == ("registries",)


def test_a_changed_file_is_seen_by_the_contexts_hash(
    provider: DockerBuildProvider, made: Made, app: Path
) -> None:
    (app / "main.go").write_text("package other\n")
    assert changed(provider, made, given(app)) == ("contextHash",)


def test_an_ignored_file_is_not_seen(provider: DockerBuildProvider, app: Path) -> None:
    (app / ".dockerignore").write_text("*.log\n")
    inputs = checked(provider, given(app))
    _, outputs = provider.create(IMAGE, inputs, context(dry_run=True))
    outputs["contextHash"] = provider.update(
        IMAGE, "", inputs, inputs, inputs, context(dry_run=True)
    )["contextHash"]
    (app / "a.log").write_text("noise")
    assert provider.diff(IMAGE, "", inputs, outputs, inputs).changed == ()


def test_every_change_is_an_update_in_place(
    provider: DockerBuildProvider, made: Made, app: Path
) -> None:
    news = given(app, tags=[f"{TAG}2"], target="base", buildArgs={"TARGETARCH": "arm64"})
    assert set(changed(provider, made, news)) == {
        "tags[0]",
        "target",
        "buildArgs.TARGETARCH",
        "buildArgs.SOURCE_DATE_EPOCH",
    }
    assert changed(provider, made, given(app, tags=UNKNOWN)) == ("tags",)


def test_pull_builds_each_time(provider: DockerBuildProvider, made: Made, app: Path) -> None:
    assert changed(provider, made, given(app, pull=True)) == ("pull", "contextHash")


def test_secrets_that_are_to_be_ignored_are(
    provider: DockerBuildProvider, made: Made, app: Path
) -> None:
    olds = (made[0], made[1] | {"secrets": {"npm": "1", "other": "1"}})
    listed = {"ignoreSecretsInDiffCalculation": ["npm"]}
    same = given(app, secrets={"npm": "2", "other": "1"}, **listed)
    assert changed(provider, olds, same) == ()
    other = given(app, secrets={"npm": "2", "other": "2"}, **listed)
    assert changed(provider, olds, other) == ("secrets.other",)


def test_a_changed_configuration_is_another_provider(provider: DockerBuildProvider) -> None:
    diff = provider.diff(PROVIDER, "", {"host": ""}, {}, {"host": "unix:///x"})
    assert (diff.changed, diff.replaces) == (("host",), ("host",))


# --- preview ---


def test_a_preview_of_a_new_image_builds_nothing_and_knows_nothing(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    inputs = checked(provider, given(app))
    id_, outputs = provider.create(IMAGE, inputs, context(dry_run=True))
    assert id_ == ""
    assert [outputs[name] for name in COMPUTED] == [UNKNOWN] * 3
    assert outputs["tags"] == [TAG]
    assert fake.calls == []


def test_a_preview_that_is_to_build_does_and_pushes_no_image(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    inputs = checked(provider, given(app, buildOnPreview=True))
    _, outputs = provider.create(IMAGE, inputs, context(dry_run=True))
    assert outputs["digest"] is UNKNOWN
    assert fake.values("--output") == [
        "type=image,push=false,oci-mediatypes=true,rewrite-timestamp=true"
    ]


def test_a_preview_with_unknown_inputs_does_not_build(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    told: list[str] = []
    inputs = checked(provider, given(app, buildOnPreview=True, buildArgs={"A": UNKNOWN}))
    provider.create(IMAGE, inputs, context(dry_run=True, progress=told.append))
    assert fake.calls == []
    assert told == ["not built in this preview: some inputs are unknown"]


def test_a_preview_of_a_changed_input_makes_the_digest_unknown(
    provider: DockerBuildProvider, made: Made, app: Path
) -> None:
    news = checked(provider, given(app, tags=[f"{TAG}2"]))
    outputs = provider.update(IMAGE, DIGEST, *made, news, context(dry_run=True))
    assert [outputs[name] for name in COMPUTED] == [UNKNOWN] * 3


def test_where_only_files_changed_the_preview_has_the_plugins_empty_digest(
    provider: DockerBuildProvider, fake: FakeBuildx, made: Made, app: Path
) -> None:
    (app / "main.go").write_text("package other\n")
    news = checked(provider, given(app))
    outputs = provider.update(IMAGE, DIGEST, *made, news, context(dry_run=True))
    assert (outputs["digest"], outputs["ref"]) == ("", TAG)
    assert outputs["contextHash"] != made[1]["contextHash"]
    assert fake.calls == []


# --- create and update ---


@pytest.mark.usefixtures("fake")
def test_create_returns_the_digest_as_id_and_the_first_tag_with_it(
    provider: DockerBuildProvider, app: Path
) -> None:
    id_, outputs = provider.create(IMAGE, checked(provider, given(app)), context())
    assert id_ == outputs["digest"] == DIGEST
    assert outputs["ref"] == f"{TAG}@{DIGEST}"
    assert len(outputs["contextHash"]) == 64


def test_buildx_is_told_all_that_the_program_says(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    provider.create(IMAGE, checked(provider, given(app)), context())
    cache = f"ref={SERVER}/admin/honeydue-api:buildcache"
    assert fake.flags[0] == "build"
    assert fake.flags[-1] == str(app)
    assert "--provenance=false" in fake.flags
    assert "--push" not in fake.flags
    expected = {
        "--builder": ["honeydue-builder"],
        "--target": ["api"],
        "--platform": ["linux/amd64"],
        "--network": ["default"],
        "--file": [f"{app}/Dockerfile"],
        "--tag": [TAG],
        "--build-arg": ["SOURCE_DATE_EPOCH=1700000000", "TARGETARCH=amd64"],
        "--output": ["type=image,push=true,oci-mediatypes=true,rewrite-timestamp=true"],
        "--cache-from": [f"type=registry,{cache}"],
        "--cache-to": [
            "type=registry,ignore-error=true,image-manifest=true,mode=max,oci-mediatypes=true,"
            f"{cache}"
        ],
    }
    assert {flag: fake.values(flag) for flag in expected} == expected


def test_rarer_inputs_have_their_flags(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    inputs = given(
        app,
        addHosts=["db:10.0.0.1"],
        labels={"b": "2", "a": "1"},
        noCache=True,
        pull=True,
        context={"location": str(app), "named": {"lib": {"location": str(app)}}},
        dockerfile={"inline": "FROM scratch\n"},
        exports=[
            {"image": {"push": True, "pushByDigest": True, "names": ["a/b", "c/d"]}},
            {"registry": {"store": False, "annotations": {"k": "v"}}},
            {"raw": "type=local,dest=out", "disabled": True},
            {"cacheonly": {}},
        ],
    )
    provider.create(IMAGE, checked(provider, inputs), context())
    assert {"--no-cache", "--pull"} <= set(fake.flags)
    assert fake.values("--add-host") == ["db:10.0.0.1"]
    assert fake.values("--label") == ["a=1", "b=2"]
    assert fake.values("--build-context") == [f"lib={app}"]
    assert fake.values("--file") == ["-"]
    assert fake.calls[0]["stdin"] == "FROM scratch\n"
    assert fake.values("--output") == [
        'type=image,push=true,push-by-digest=true,"name=a/b,c/d"',
        "type=image,push=true,store=false,annotation.k=v",
        "type=cacheonly",
    ]


def test_push_and_load_are_their_exports(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    provider.create(IMAGE, checked(provider, given(app, exports=[], push=True)), context())
    assert fake.values("--output") == ["type=image,push=true"]


def test_what_is_not_exported_has_no_digest_and_its_name_as_id(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    fake.will(digest="")
    inputs = checked(provider, given(app, exports=[{"cacheonly": {}}], tags=["short:1"]))
    id_, outputs = provider.create(IMAGE, inputs, context())
    assert (id_, outputs["digest"], outputs["ref"]) == ("images-api", "", "short:1")


def test_update_builds_again_with_the_new_inputs(
    provider: DockerBuildProvider, fake: FakeBuildx, made: Made, app: Path
) -> None:
    other = "sha256:" + "cd" * 32
    fake.will(digest=other)
    news = checked(provider, given(app, tags=[f"{TAG}2"]))
    outputs = provider.update(IMAGE, DIGEST, *made, news, context())
    assert (outputs["digest"], outputs["ref"]) == (other, f"{TAG}2@{other}")
    assert fake.values("--tag") == [f"{TAG}2"]


def test_each_step_is_told_once_and_in_short(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    fake.will(
        '#0 building with "honeydue-builder" instance using remote driver',
        "",
        "#1 [internal] load build definition from Dockerfile",
        "#1 DONE 0.0s",
        "#5 [api 3/5] RUN go build",
        "#5 0.412 go: downloading example.org/x",
        "#6 [auth] admin/honeydue-api:pull,push token for gitea.treytartt.com",
        "#5 [api 3/5] RUN go build",
        "#5 DONE 2.1s",
        "#7 [api 4/5] RUN " + "x" * 200,
        "#8 exporting to image",
        "#8 exporting layers done",
        "#8 pushing layers",
        "#8 pushing layers 0.3s done",
        f"#8 pushing manifest for {TAG}@{DIGEST}",
        "#9 exporting cache to registry",
    )
    told: list[str] = []
    provider.create(IMAGE, checked(provider, given(app)), context(progress=told.append))
    assert told[:1] + told[2:] == [
        "[api 3/5] RUN go build",
        "exporting to image",
        "pushing layers",
        "pushing manifest",
        "exporting cache to registry",
    ]
    assert len(told[1]) == buildx.PROGRESS_WIDTH


# --- secrets ---


def test_credentials_reach_buildx_in_its_environment_alone(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", "of the operator's")
    inputs = given(app, secrets={"npm": "canary-npm-token"})
    provider.create(IMAGE, checked(provider, inputs), context())
    (call,) = fake.calls
    auths = json.loads(call["environment"]["DOCKER_AUTH_CONFIG"])
    pair = base64.b64encode(f"admin:{TOKEN}".encode()).decode()
    assert auths == {"auths": {SERVER: {"auth": pair}}}
    (secret,) = fake.values("--secret")
    identity, _, variable = secret.partition(",env=")
    assert (identity, call["environment"][variable]) == ("id=npm", "canary-npm-token")
    assert not [flag for flag in fake.flags if TOKEN in flag or pair in flag or "canary" in flag]
    assert call["docker_config"] == []


def test_docker_hub_goes_by_its_other_name() -> None:
    login = buildx.Login("docker.io", "me", "secret")
    assert list(json.loads(buildx.auth_config([login]))["auths"]) == ["https://index.docker.io/v1/"]
    assert "secret" not in repr(login)


def test_builders_are_those_of_the_environment_and_contexts_stay_reachable(
    provider: DockerBuildProvider,
    fake: FakeBuildx,
    app: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operators = tmp_path / "docker"
    (operators / "contexts").mkdir(parents=True)
    (operators / "config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONFIG", str(operators))
    monkeypatch.delenv("BUILDX_CONFIG", raising=False)
    provider.create(IMAGE, checked(provider, given(app)), context())
    monkeypatch.setenv("BUILDX_CONFIG", "/elsewhere")
    provider.create(IMAGE, checked(provider, given(app)), context())
    first, second = fake.calls
    assert first["environment"]["BUILDX_CONFIG"] == str(operators / "buildx")
    assert second["environment"]["BUILDX_CONFIG"] == "/elsewhere"
    assert first["docker_config"] == ["contexts"]
    assert not Path(first["environment"]["DOCKER_CONFIG"]).exists()


@pytest.mark.parametrize("shown", ["{DOCKER_AUTH_CONFIG}", f"password={TOKEN}", "npm canary-npm-1"])
def test_no_secret_is_in_progress_or_errors(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path, shown: str
) -> None:
    fake.will(f"#5 [api 1/1] RUN echo {shown}", f"ERROR: failed to build: {shown}", code=1)
    told: list[str] = []
    inputs = checked(provider, given(app, secrets={"npm": "canary-npm-1"}))
    with pytest.raises(ProviderError) as raised:
        provider.create(IMAGE, inputs, context(progress=told.append))
    for text in (*told, str(raised.value)):
        assert "[secret]" in text
        assert "canary" not in text
        assert base64.b64encode(f"admin:{TOKEN}".encode()).decode() not in text


# --- errors ---

PUSH = "ERROR: failed to build: failed to solve: failed to push gitea.treytartt.com/admin/x:1: "


@pytest.mark.parametrize(
    ("says", "cause", "mend"),
    [
        # As buildx 0.29.1 and BuildKit 0.25.2 said them.
        (
            'ERROR: no builder "honeydue-builder" found',
            "there is no builder 'honeydue-builder' in ",
            "docker buildx create --name honeydue-builder",
        ),
        (
            "ERROR: failed to initialize builder honeydue-builder (honeydue-builder0): Cannot "
            "connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?",
            "no Docker daemon answers at unix:///var/run/docker.sock\n",
            "honeydue:image.driver remote",
        ),
        (
            "#1 [internal] waiting for connection\n"
            "ERROR: failed to build: context deadline exceeded",
            "the builder 'honeydue-builder' does not answer",
            "docker buildx inspect --bootstrap honeydue-builder",
        ),
        (
            'ERROR: failed to build: failed to solve: target stage "api" could not be found',
            "Dockerfile has no stage 'api'",
            "FROM … AS api",
        ),
        (
            "ERROR: failed to build: failed to solve: failed to copy: write /var/x: no space left "
            "on device",
            "the disk is full",
            "docker buildx prune --builder honeydue-builder",
        ),
        (
            " > [internal] load metadata for docker.io/library/alpine:3.20:\n"
            "ERROR: failed to build: failed to solve: docker.io/library/alpine:3.20: failed to "
            "resolve source metadata for docker.io/library/alpine:3.20: failed to do request: Head "
            '"https://registry-1.docker.io/v2/library/alpine/manifests/3.20": dial tcp: lookup '
            "registry-1.docker.io on 10.0.0.1:53: no such host",
            "the base image docker.io/library/alpine:3.20 is not there: its registry cannot be rea",
            "honeydue:image.buildArgs",
        ),
        (
            " > [internal] load metadata for x.org/a:1:\n"
            "ERROR: failed to build: failed to solve: x.org/a:1: failed to resolve source metadata "
            "for x.org/a:1: x.org/a:1: not found",
            "its registry does not have it",
            "honeydue:image.buildArgs",
        ),
        (
            " > [internal] load metadata for x.org/a:1:\n"
            "ERROR: failed to build: failed to solve: failed to fetch anonymous token: unexpected "
            "status from GET request to https://x.org/v2/token: 401 Unauthorized",
            "the base image x.org/a:1 is not there: its registry hands it to nobody, or not to",
            "honeydue:image.buildArgs",
        ),
        (
            "#7 ERROR: failed to push gitea.treytartt.com/admin/x:1: failed to authorize: failed "
            "to fetch oauth token: unauthorized\n"
            "ERROR: failed to build: failed to solve: failed to fetch oauth token: unauthorized",
            "the registry gitea.treytartt.com refuses the registry's user or token",
            "--path honeydue:registry.token",
        ),
        (
            f"{PUSH}unexpected status from POST request to http://gitea.treytartt.com/v2/admin/x/"
            "blobs/uploads/: 401 Unauthorized: reqPackageAccess",
            "lets this token read, but not push",
            "make a token with write:package",
        ),
        (
            f"{PUSH}unexpected status from PUT request to https://gitea.treytartt.com/v2/admin/x/"
            "blobs/uploads/1?digest=2: 500 Internal Server Error",
            "the registry gitea.treytartt.com answers 500 Internal Server Error",
            "see its log and its disk",
        ),
        (
            f"{PUSH}unexpected status from POST request to https://gitea.treytartt.com/v2/admin/x/"
            "blobs/uploads/: 507 Insufficient Storage",
            "the registry gitea.treytartt.com has no room left: it answers 507",
            "python -m ops images prune",
        ),
        (
            f"{PUSH}unexpected status from PUT request to https://gitea.treytartt.com/v2/admin/x/"
            "blobs/uploads/1?digest=2: 413 Request Entity Too Large",
            "the registry gitea.treytartt.com, or a proxy before it, takes no layer of this size",
            "client_max_body_size",
        ),
        (
            "0.2 error: unexpected status from PUT request: 500 Internal Server Error\n"
            "0.2 retrying in 1s\n"
            f"{PUSH}unexpected status from PUT request to https://gitea.treytartt.com/v2/admin/x/"
            "manifests/1: 500 Internal Server Error",
            "the registry gitea.treytartt.com answers 500 Internal Server Error",
            "see its log and its disk",
        ),
        (
            f'{PUSH}failed to do request: Head "https://gitea.treytartt.com/v2/": dial tcp '
            "127.0.0.1:1: connect: connection refused",
            "the registry gitea.treytartt.com does not answer",
            "see that it runs",
        ),
    ],
)
def test_a_known_failure_is_told_with_its_cause_and_what_mends_it(  # noqa: PLR0917 - a table's row
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path, says: str, cause: str, mend: str
) -> None:
    # A cache that is not there yet is an error of every first build, and never the reason.
    cache = "#4 ERROR: failed to configure registry cache importer: 401 Unauthorized"
    fake.will(cache, *says.splitlines(), code=1)
    said = failed(provider, given(app))
    first, second, *_ = said.splitlines()
    assert cause.rstrip("\n") in first
    assert second.startswith("  mend: ")
    assert mend in second
    assert says.splitlines()[-1] in said
    assert "retrying" not in said


def test_another_failure_is_told_by_the_failed_steps_own_words(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    fake.will(
        "#5 [api 2/2] RUN go build",
        *[f"#5 0.1 noise {n}" for n in range(50)],
        "------",
        " > [api 2/2] RUN go build:",
        "0.4 ./main.go:3:1: syntax error",
        "------",
        "Dockerfile:2",
        "   2 | >>> RUN go build",
        'ERROR: failed to build: failed to solve: process "/bin/sh -c go build" did not complete '
        "successfully: exit code: 1",
        code=1,
    )
    assert failed(provider, given(app)).splitlines() == [
        'the build failed: process "/bin/sh -c go build" did not complete successfully: exit code: '
        "1",
        "buildx's last lines:",
        "   > [api 2/2] RUN go build:",
        "  0.4 ./main.go:3:1: syntax error",
        "  Dockerfile:2",
        "     2 | >>> RUN go build",
        '  ERROR: failed to build: failed to solve: process "/bin/sh -c go build" did not complete '
        "successfully: exit code: 1",
    ]


def test_a_buildx_that_says_nothing_is_told_by_its_exit_code(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    fake.will(code=7)
    assert failed(provider, given(app)) == "buildx failed (exit code 7)"


def test_without_buildx_the_error_says_where_it_comes_from(
    provider: DockerBuildProvider, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HONEYDUE_REHEARSAL_CACHE", str(tmp_path))
    monkeypatch.setattr(buildx, "_PLUGINS", ())
    said = failed(provider, given(app))
    assert "there is no buildx on this machine" in said
    assert "mend: python -m rehearsal.registry.binaries" in said


@pytest.mark.parametrize(
    ("version", "taken"), [("v0.26.1", True), ("0.30.0", True), ("v0.13.1", False)]
)
def test_dockers_own_buildx_is_taken_when_it_takes_credentials_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    plugin = tmp_path / "cli-plugins/docker-buildx"
    plugin.parent.mkdir()
    plugin.write_text(f"#!/bin/sh\necho github.com/docker/buildx {version} abc\n")
    plugin.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HONEYDUE_REHEARSAL_CACHE", str(tmp_path))
    monkeypatch.setattr(buildx, "_PLUGINS", ())
    if taken:
        assert buildx.program() == str(plugin)
    else:
        with pytest.raises(ProviderError, match=r"v0\.13\.1 abc, which takes no credentials from"):
            buildx.program()


def test_a_context_that_cannot_be_read_is_named(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    (app / ".dockerignore").write_text("[z-a]\n")
    assert "the build context cannot be read: .dockerignore" in failed(provider, given(app))
    assert fake.calls == []


def test_ctrl_c_ends_the_build(provider: DockerBuildProvider, fake: FakeBuildx, app: Path) -> None:
    fake.will("#5 [api 1/1] RUN sleep", takes=600)
    pressed = threading.Event()
    begun = time.monotonic()
    with pytest.raises(ProviderError, match="stopped because the update was cancelled"):
        provider.create(
            IMAGE,
            checked(provider, given(app)),
            context(progress=lambda _line: pressed.set(), cancelled=pressed.is_set),
        )
    assert time.monotonic() - begun < 300


def test_a_build_has_its_timeout(
    provider: DockerBuildProvider, fake: FakeBuildx, app: Path
) -> None:
    fake.will(takes=600)
    with pytest.raises(ProviderError, match=r"after 0\.2 s, its timeout\n  mend: raise custom_tim"):
        provider.create(IMAGE, checked(provider, given(app)), context(timeout=0.2))


# --- read and delete, by a registry with tokens ---


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallRegistry]:
    with serve(tmp_path_factory.mktemp("gitea")) as running:
        yield running


def pushed(registry: SmallRegistry, tag: str, token: str = "") -> tuple[Properties, Properties]:
    inputs: Properties = {
        "push": False,
        "exports": [{"raw": RAW}],
        "tags": [f"{registry.server}/admin/honeydue-api:{tag}"],
        "registries": [
            {"address": registry.server, "username": "admin", "password": token or registry.write}
        ],
    }
    return inputs, inputs | {"digest": registry.push(tag)}


def test_what_the_registry_has_stays_in_the_state(
    provider: DockerBuildProvider, registry: SmallRegistry
) -> None:
    inputs, outputs = pushed(registry, "stays")
    assert provider.read(IMAGE, "", inputs, outputs, context()) == (inputs, outputs)


def test_a_refresh_drops_what_the_registry_has_not(
    provider: DockerBuildProvider, registry: SmallRegistry
) -> None:
    inputs, outputs = pushed(registry, "goes")
    told: list[str] = []
    outputs["digest"] = DIGEST
    assert provider.read(IMAGE, "", inputs, outputs, context(progress=told.append)) is None
    assert "404 (Not Found)" in told[0]


def test_a_refresh_keeps_what_the_registry_does_not_tell_of(
    provider: DockerBuildProvider, registry: SmallRegistry
) -> None:
    inputs, outputs = pushed(registry, "refused", token="wrong-token")
    told: list[str] = []
    refused = provider.read(IMAGE, "", inputs, outputs, context(progress=told.append))
    assert refused == (inputs, outputs)
    assert "401 (Unauthorized)" in told[0]
    assert "wrong-token" not in told[0]
    silent = {"tags": ["127.0.0.1:1/admin/honeydue-api:refused"]}
    inputs, outputs = inputs | silent, outputs | silent
    assert provider.read(IMAGE, "", inputs, outputs, context()) == (inputs, outputs)


def test_what_was_never_pushed_is_not_asked_for(provider: DockerBuildProvider) -> None:
    state = {"push": False, "tags": ["127.0.0.1:1/a/b:c"], "digest": ""}
    assert provider.read(IMAGE, "", state, state, context()) == (state, state)


def test_delete_takes_the_digest_out_of_the_registry(
    provider: DockerBuildProvider, registry: SmallRegistry
) -> None:
    inputs, outputs = pushed(registry, "deleted")
    provider.delete(IMAGE, "", inputs, outputs, context())
    assert provider.read(IMAGE, "", inputs, outputs, context()) is None


def test_a_delete_that_the_registry_refuses_is_no_error(
    provider: DockerBuildProvider, registry: SmallRegistry
) -> None:
    inputs, outputs = pushed(registry, "kept", token=registry.read)
    provider.delete(IMAGE, "", inputs, outputs, context())
    assert provider.read(IMAGE, "", inputs, outputs, context()) == (inputs, outputs)
    gone = outputs | {"tags": ["127.0.0.1:1/admin/x:1"]}
    provider.delete(IMAGE, "", inputs, gone, context())


# --- a whole run ---

PROGRAM = """
import json, os
import pulumi, pulumi_docker_build as docker_build

given = json.loads(os.environ["IMAGE_INPUTS"])
registries = [
    docker_build.RegistryArgs(
        address=r["address"], username=r["username"], password=pulumi.Output.secret(r["password"])
    )
    for r in given.pop("registries")
]
names = {"buildArgs": "build_args", "buildOnPreview": "build_on_preview"}
image = docker_build.Image(
    "api",
    docker_build.ImageArgs(
        registries=registries,
        cache_to=[
            docker_build.CacheToArgs(
                registry=docker_build.CacheToRegistryArgs(ref="x.org/a:cache", image_manifest=True)
            )
        ],
        **{names.get(name, name): value for name, value in given.items()},
    ),
    pulumi.ResourceOptions(
        provider=docker_build.Provider(
            "docker-build", opts=pulumi.ResourceOptions(ignore_changes=["host"])
        ),
        retain_on_delete=True,
    ),
)
pulumi.export("digest", image.digest)
"""


def test_a_whole_run_keeps_the_token_encrypted_and_the_next_one_changes_nothing(
    fake: FakeBuildx, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = given(app)
    del inputs["cacheFrom"], inputs["cacheTo"]
    monkeypatch.setenv("IMAGE_INPUTS", json.dumps(inputs))
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "shop")
    project_folder = tmp_path / "project"
    project_folder.mkdir()
    (project_folder / "Pulumi.yaml").write_text("name: shop\nruntime:\n  name: python\n")
    (project_folder / "Pulumi.dev.yaml").write_text("config: {}\n")
    (project_folder / "__main__.py").write_text(PROGRAM)

    def run(verb: str) -> Result:
        project = Project.load(project_folder)
        deployment = Deployment(project, "dev", Backend(tmp_path / "state"))
        result: Result = getattr(deployment, verb)(events.append)
        assert result.ok, result.errors
        return result

    events: list[Event] = []
    run("preview")
    assert fake.calls == []
    run("up")
    assert fake.values("--cache-to") == [
        "type=registry,ignore-error=false,image-manifest=true,mode=min,oci-mediatypes=true,"
        "ref=x.org/a:cache"
    ]
    assert fake.values("--tag") == [TAG]
    assert (
        TOKEN
        in base64.b64decode(
            json.loads(fake.calls[0]["environment"]["DOCKER_AUTH_CONFIG"])["auths"][SERVER]["auth"]
        ).decode()
    )
    run("up")
    assert len(fake.calls) == 1  # nothing had changed
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/another.sock")  # another shell, another laptop
    run("up")
    assert len(fake.calls) == 1
    written = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert any(DIGEST.encode() in path.read_bytes() for path in written)
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in repr(events)


# --- what it is not ---


def test_other_types_and_functions_are_refused_by_name(provider: DockerBuildProvider) -> None:
    with pytest.raises(ProviderError, match="'docker-build:index:Index'; it has"):
        provider.check("docker-build:index:Index", None, {})
    with pytest.raises(ProviderError, match="no function 'docker-build:index:x'"):
        provider.invoke("docker-build:index:x", {})


def test_a_build_that_was_cut_off_is_not_looked_for(provider: DockerBuildProvider) -> None:
    assert provider.find(IMAGE, {}, context()) is None  # type: ignore[func-returns-value] # says so
