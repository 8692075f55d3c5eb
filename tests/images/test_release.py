"""The release as it is declared: what is built and how, what proves it, and who waits for whom."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import pulumi
import pytest

from honeydue import providers
from honeydue.images.plan import Build, Pinned, Plan
from honeydue.images.references import SERVICES
from honeydue.images.release import Release, ReleaseArgs
from tests.program.recording import Properties, Recorded, Recording, record
from tests.settings import sample

DIGESTS: Final = dict(zip(SERVICES, ("sha256:" + d * 64 for d in "abc"), strict=True))
TOKEN: Final = "sample-registry-token"
PUBLIC: Final = sample.PUBLIC_KEY
SIGNING: Final = {"publicKey": PUBLIC, "privateKey": sample.APNS_KEY, "password": "canary-password"}
BUILD: Final = Build(
    context=Path(".build/237c6b8"),
    tag="237c6b8",
    epochs={"api": 1000, "worker": 2000, "admin": 3000},
)


def pinned(**tags: str) -> dict[str, Pinned]:
    return {service: Pinned(digest=DIGESTS[service], tag=tag) for service, tag in tags.items()}


BUILT: Final = Plan(build=BUILD, pinned={})
PREBUILT: Final = Plan(build=None, pinned=pinned(api="237c6b8", worker="", admin=""))
HOTFIX: Final = Plan(
    build=Build(context=BUILD.context, tag=BUILD.tag, epochs={"api": 1000}),
    pinned=pinned(worker="1a2b3c4", admin="1a2b3c4"),
)
PLANS: Final = {"build": BUILT, "prebuilt": PREBUILT, "hotfix": HOTFIX}
BUILDING: Final = (
    sample.config("app.path", "../app"),
    sample.config("signing", SIGNING),
    sample.config("images", sample.GONE),
)


def made(resource: Recorded) -> Properties:
    if resource.type == "docker-build:index:Image":
        return {"digest": DIGESTS[resource.name.removeprefix("images-")]}
    if resource.type == "command:local:Command" and resource.name.startswith("release-"):
        return {"stdout": asked(resource)["HONEYDUE_DIGEST"]}
    return {}


def asked(gate: Recorded) -> dict[str, str]:
    """What the gate is told."""
    environment: dict[str, str] = gate.inputs["environment"]
    return environment


@cache
def declared(
    plan: str = "build", changes: tuple[sample.Change, ...] = BUILDING, preview: bool = False
) -> Recording:
    settings = sample.settings(*changes)

    def program() -> None:
        vendors = providers.connect(
            hcloud_token=settings.hcloud_token, cloudflare_token=settings.cloudflare_token
        )
        release = Release(
            "release",
            ReleaseArgs(settings=settings, plan=PLANS[plan]),
            pulumi.ResourceOptions(providers=vendors.all),
        )
        pulumi.export("images", release.references)
        pulumi.export("release", release.names)

    return record(program, outputs=made, preview=preview)


def image(service: str, recording: Recording | None = None) -> Recorded:
    return (recording or declared()).named(f"images-{service}")


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_a_target_of_one_context_for_the_nodes_platform(service: str) -> None:
    inputs = image(service).inputs
    assert inputs["target"] == service
    assert inputs["context"] == {"location": ".build/237c6b8"}
    assert inputs["platforms"] == ["linux/amd64"]
    assert inputs["tags"] == [f"gitea.treytartt.com/admin/honeydue-{service}:237c6b8"]
    assert inputs["builder"] == {"name": "honeydue-builder"}
    assert inputs["buildOnPreview"] is False


@pytest.mark.parametrize("service", SERVICES)
def test_a_build_is_dated_by_the_files_that_it_is_made_from(service: str) -> None:
    arguments = image(service).inputs["buildArgs"]
    assert arguments["SOURCE_DATE_EPOCH"] == str(BUILD.epochs[service])
    assert arguments["TARGETARCH"] == "amd64"


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_built_is_pushed_reproducibly_and_once(service: str) -> None:
    inputs = image(service).inputs
    (export,) = inputs["exports"]
    assert export["raw"].split(",")[0] == "type=registry"
    assert "rewrite-timestamp=true" in export["raw"].split(",")
    assert inputs["push"] is False
    assert image(service).retain_on_delete


@pytest.mark.parametrize("service", SERVICES)
def test_layers_are_cached_beside_the_image(service: str) -> None:
    inputs = image(service).inputs
    ref = f"gitea.treytartt.com/admin/honeydue-{service}:buildcache"
    assert [cache["registry"]["ref"] for cache in inputs["cacheFrom"]] == [ref]
    (to,) = (cache["registry"] for cache in inputs["cacheTo"])
    assert (to["ref"], to["mode"], to["ignoreError"]) == (ref, "max", True)


def test_no_image_is_ever_called_latest() -> None:
    for resource in declared():
        assert "latest" not in repr(resource.inputs), resource.urn


def test_the_registrys_credentials_are_secrets_wherever_they_stand() -> None:
    for resource in declared():
        for path, value in leaves(resource.inputs):
            if value in (TOKEN, SIGNING["privateKey"], SIGNING["password"]):
                assert any(path.startswith(secret) for secret in resource.secrets), (
                    f"{resource.urn}: {path}"
                )


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in leaves(v, f"{path}.{k}" if path else k)]
    if isinstance(value, list):
        return [x for i, v in enumerate(value) for x in leaves(v, f"{path}[{i}]")]
    return [(path, value)]


def test_dockers_own_provider_is_declared_only_where_docker_runs_the_builder() -> None:
    remote = declared("build", (*BUILDING, sample.config("image.driver", "remote")))
    assert [
        r.type for r in remote if r.type.startswith(("docker:", "pulumi:providers:docker"))
    ] == ["pulumi:providers:docker-build"]
    assert not [r for r in declared("prebuilt", ()) if "docker" in r.type]
    builder = declared().one("docker:index/buildxBuilder:BuildxBuilder")
    assert builder.inputs["name"] == "honeydue-builder"
    assert builder.inputs["driver"] == "docker-container"
    assert builder.inputs["node"] == "honeydue-builder0"
    for service in SERVICES:
        assert builder.urn in image(service).depends_on


def test_where_docker_is_on_this_machine_makes_no_image_anew() -> None:
    assert declared().one("pulumi:providers:docker-build").ignore_changes == ("host",)


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_built_is_vouched_for_then_verified_then_run(service: str) -> None:
    recording = declared()
    vouched = recording.named(f"release-{service}-vouched")
    verified = recording.named(f"release-{service}-verified")
    assert image(service).urn in vouched.depends_on
    assert vouched.urn in verified.depends_on
    assert asked(verified)["HONEYDUE_DIGEST"] == DIGESTS[service]
    assert asked(verified)["HONEYDUE_TAG"] == "237c6b8"
    assert asked(verified)["COSIGN_PUBLIC_KEY"] == PUBLIC
    assert recording.exports["images"][service] == (
        f"gitea.treytartt.com/admin/honeydue-{service}@{DIGESTS[service]}"
    )
    assert recording.exports["release"][service] == f"237c6b8@{DIGESTS[service]}"


@pytest.mark.parametrize("service", SERVICES)
def test_only_who_signs_is_given_the_private_key(service: str) -> None:
    environment = declared().named(f"release-{service}-verified").inputs["environment"]
    assert not {"COSIGN_PRIVATE_KEY", "COSIGN_PASSWORD"} & environment.keys()


def test_a_rotated_token_asks_for_nothing_anew() -> None:
    for gate in declared().all("command:local:Command"):
        secret = {path for path in gate.secrets if path.startswith("environment.")}
        assert "environment.REGISTRY_TOKEN" in secret
        assert set(gate.ignore_changes) == secret, (
            "what is ignored is secret, what is secret ignored"
        )
        assert TOKEN not in repr(gate.inputs["triggers"])


def test_every_other_change_of_a_gate_is_a_replacement() -> None:
    """An update would run with the ignored, old token, and send it to a new registry."""
    for gate in declared().all("command:local:Command"):
        assert {"create", "environment"} <= {*gate.replace_on_changes}


def test_no_gate_has_a_secret_on_its_command_line() -> None:
    for gate in declared().all("command:local:Command"):
        for secret in (TOKEN, SIGNING["privateKey"], SIGNING["password"]):
            assert secret not in gate.inputs["create"]


def test_in_a_preview_of_a_build_the_digests_are_unknown_and_never_empty() -> None:
    """An image `…@` would be refused by the API server's dry run."""
    images = declared(preview=True).exports["images"]
    assert not [v for v in images.values() if isinstance(v, str) and v.endswith("@")]


def test_prebuilt_images_without_a_key_are_known_in_the_preview() -> None:
    assert declared("prebuilt", (), preview=True).exports["images"] == {
        service: f"gitea.treytartt.com/admin/honeydue-{service}@{DIGESTS[service]}"
        for service in SERVICES
    }


def test_nothing_runs_but_what_a_verification_printed() -> None:
    """`--target` leaves out what a resource depends on; it cannot leave out a value."""
    for recording in (
        declared(),
        declared("prebuilt", (sample.config("signing", {"publicKey": PUBLIC}),)),
    ):
        for service in SERVICES:
            verified = recording.named(f"release-{service}-verified")
            printed = verified.outputs["stdout"]
            assert recording.exports["images"][service].endswith(f"@{printed}")


def test_what_is_named_with_its_digest_asks_the_same_question_as_what_was_built() -> None:
    """So going on without a build, while the registry is down, asks nobody."""
    built = declared()
    PLANS["as built"] = Plan(build=None, pinned=pinned(**dict.fromkeys(SERVICES, "237c6b8")))
    prebuilt = declared("as built", (sample.config("signing", {"publicKey": PUBLIC}),))
    for service in SERVICES:
        name = f"release-{service}-verified"
        assert prebuilt.named(name).inputs == built.named(name).inputs


def test_a_gates_secrets_are_marked_one_by_one_so_that_no_plan_asks_it_again() -> None:
    # Were the whole `environment` secret as an output, a plugin that compares the old outputs with
    # the new inputs would find a change in every plan, and here a change is a replacement.
    for gate in declared().all("command:local:Command"):
        assert gate.additional_secret_outputs == ("stderr",)
        assert "environment.REGISTRY_TOKEN" in gate.secrets
        assert "environment" not in gate.secrets


def test_prebuilt_images_are_verified_where_there_is_a_key_and_scanned_never() -> None:
    keyed = declared("prebuilt", (sample.config("signing", {"publicKey": PUBLIC}),))
    assert [r.name for r in keyed.all("command:local:Command")] == [
        f"release-{service}-verified" for service in SERVICES
    ]
    assert not declared("prebuilt", ()).all("command:local:Command")


def test_a_hotfix_builds_one_service_and_leaves_the_others_on_what_they_are_pinned_to() -> None:
    recording = declared("hotfix")
    assert [image.name for image in recording.all("docker-build:index:Image")] == ["images-api"]
    assert {gate.name for gate in recording.all("command:local:Command")} == {
        "release-api-vouched",
        "release-api-verified",
        "release-worker-verified",
        "release-admin-verified",
    }
    assert list(recording.exports["images"]) == list(SERVICES)
    tags = {service: asked(recording.named(f"release-{service}-verified")) for service in SERVICES}
    assert [tags[service]["HONEYDUE_TAG"] for service in SERVICES] == [
        "237c6b8",
        "1a2b3c4",
        "1a2b3c4",
    ]
