"""The example application's images: the same bytes each time, and what a node would run of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from honeydue.kubernetes.catalogue import Workload
from rehearsal.registry.service import Forge
from tests.examples.application import (
    CANARY,
    SERVICES,
    answer,
    copy,
    lines,
    logged,
    running,
    terminated,
)
from tests.registry.forge import ask, free_port

pytestmark = pytest.mark.images

EPOCH: Final = 1_750_000_000
# As if on another machine: no layer of an earlier build, and Go's cache is empty too.
AFRESH: Final = ("--no-cache", "--build-arg", "BUILDKIT_CACHE_MOUNT_NS=afresh")
ISOLATED: Final = ("pid", "mount", "ipc", "uts")


@dataclass(frozen=True)
class Image:
    """What a registry would be given: `digest` of the manifest, and what hangs on it."""

    digest: str
    config: dict[str, Any]
    layers: list[bytes]

    def files(self) -> list[tarfile.TarInfo]:
        return [member for archive in self._archives() for member in archive.getmembers()]

    def unpack(self, to: Path) -> Path:
        to.mkdir()
        for archive in self._archives():
            archive.extractall(to, filter="tar")
        return to

    def _archives(self) -> Iterator[tarfile.TarFile]:
        for layer in self.layers:
            with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
                yield archive


def build(
    forge: Forge, context: Path, service: str, *more: str, epoch: int = EPOCH, arch: str = "amd64"
) -> Image:
    """Exported as a file, since that holds exactly what would be pushed."""
    packed = context.with_name(f"{uuid.uuid4().hex}.tar")
    arguments = {**forge.build_args, "SOURCE_DATE_EPOCH": str(epoch)}
    forge.builder.build(
        [
            *("--provenance=false", "--platform", f"linux/{arch}", "--target", service),
            *(w for k, v in arguments.items() for w in ("--build-arg", f"{k}={v}")),
            *("--output", f"type=oci,dest={packed},rewrite-timestamp=true,compression=gzip"),
            *more,
            str(context),
        ],
        forge.server,
        forge.tokens,
    )
    with tarfile.open(packed) as archive:

        def read(name: str) -> bytes:
            member = archive.extractfile(name)
            assert member is not None, name
            return member.read()

        def blob(of: dict[str, Any]) -> bytes:
            content = read("blobs/" + of["digest"].replace(":", "/"))
            assert hashlib.sha256(content).hexdigest() == of["digest"].partition(":")[2]
            return content

        (top,) = json.loads(read("index.json"))["manifests"]
        manifest = json.loads(blob(top))
        return Image(
            digest=top["digest"],
            config=json.loads(blob(manifest["config"])),
            layers=[blob(layer) for layer in manifest["layers"]],
        )


def build_all(forge: Forge, context: Path, *more: str) -> dict[str, Image]:
    return {service: build(forge, context, service, *more) for service in SERVICES}


def digests(images: dict[str, Image]) -> dict[str, str]:
    return {service: image.digest for service, image in images.items()}


@pytest.fixture(scope="module")
def images(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    return build_all(forge, copy(tmp_path_factory.mktemp("first") / "app"))


# --- the same sources are the same digest ---


def test_a_build_from_nothing_elsewhere_gives_the_same_digests(
    forge: Forge, images: dict[str, Image], tmp_path: Path
) -> None:
    elsewhere = copy(tmp_path / "elsewhere" / "deep", umask=0o077)
    (elsewhere / "api" / ".env").write_text(f"PASSWORD={CANARY}")  # not tracked, in the way
    assert digests(build_all(forge, elsewhere, *AFRESH)) == digests(images)


def changed(file: Path) -> None:
    file.write_text(file.read_text().replace("honeyDue", "honeyDue again"))


@pytest.mark.parametrize(
    ("file", "services"),
    [
        ("admin/panel/index.html", {"admin"}),
        ("api/landing/index.html", {"api"}),
        ("README.md", set()),
    ],
)
def test_a_change_reaches_only_the_image_that_it_is_part_of(
    forge: Forge, images: dict[str, Image], tmp_path: Path, file: str, services: set[str]
) -> None:
    context = copy(tmp_path / "app")
    changed(context / file)
    after, before = digests(build_all(forge, context)), digests(images)
    assert {service for service in SERVICES if after[service] != before[service]} == services


def test_another_epoch_is_another_digest(
    forge: Forge, images: dict[str, Image], tmp_path: Path
) -> None:
    """So the epoch must not be every commit's time, or every commit would roll every service."""
    later = build(forge, copy(tmp_path / "app"), "worker", epoch=EPOCH + 1)
    assert later.digest != images["worker"].digest


def test_what_is_pushed_is_what_was_exported(
    forge: Forge, images: dict[str, Image], tmp_path: Path
) -> None:
    """By the very export that the program asks for (honeydue/images/build.py)."""
    name = f"{forge.server}/admin/example-worker:1"
    build(
        forge,
        copy(tmp_path / "app"),
        "worker",
        *("--output", f"type=registry,name={name},oci-mediatypes=true,rewrite-timestamp=true"),
    )
    path = "/v2/admin/example-worker/manifests/1"
    pushed = ask(forge.server, "HEAD", path, forge.tokens.read)
    assert pushed.headers["Docker-Content-Digest"] == images["worker"].digest


# --- what is in them ---


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_one_file_that_nobody_can_change(
    images: dict[str, Image], service: str
) -> None:
    (file,) = images[service].files()
    assert (file.name, file.mode, file.uid, file.gid) == (service, 0o555, 0, 0)
    assert file.mtime <= EPOCH


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_as_the_user_that_the_deployment_names(
    images: dict[str, Image], service: str
) -> None:
    config, workload = images[service].config, SERVICES[service]
    said = config["config"]
    assert said["User"] == f"{workload.user}:{workload.user}"
    assert said["Entrypoint"] == [f"/{service}"]
    ports = {f"{workload.port}/tcp"} if workload.port else set()
    assert set(said.get("ExposedPorts", {})) == ports
    assert (config["os"], config["architecture"]) == ("linux", "amd64")


def test_another_architecture_is_compiled_without_being_run(forge: Forge, tmp_path: Path) -> None:
    image = build(forge, copy(tmp_path / "app"), "worker", arch="arm64")
    assert image.config["architecture"] == "arm64"
    program = (image.unpack(tmp_path / "root") / "worker").read_bytes()
    assert int.from_bytes(program[18:20], "little") == 0xB7  # e_machine: EM_AARCH64


# --- what a node would run ---


@contextmanager
def container(
    image: Image, workload: Workload, folder: Path, environment: Sequence[str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The image under runc as the Deployment runs it: its user, no capability, nothing to write to
    but /tmp. It has the machine's network, which is the one thing that a pod has not."""
    root = image.unpack(folder / "root")
    folder.joinpath("config.json").write_text(
        json.dumps(
            {
                "ociVersion": "1.0.2",
                "root": {"path": str(root), "readonly": True},
                "mounts": [
                    {"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                    *(
                        {"destination": path, "type": "tmpfs", "source": "tmpfs"}
                        for path in workload.writable.values()
                    ),
                ],
                "process": {
                    "user": {"uid": workload.user, "gid": workload.user},
                    "args": image.config["config"]["Entrypoint"],
                    "env": list(environment),
                    "cwd": "/",
                    "noNewPrivileges": True,
                    "capabilities": {},
                },
                "linux": {
                    "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
                },
            }
        )
    )
    runc = shutil.which("runc", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert runc, "BuildKit needs it too"
    name, log = f"honeydue-test-{uuid.uuid4().hex[:12]}", folder / "log"
    command = [runc, "--root", str(folder / "runc"), "run", "--bundle", str(folder), name]
    try:
        with running(command, log, {"PATH": os.environ["PATH"]}) as process:
            yield process, log
    finally:
        # When a test fails runc is killed, and what it started would go on.
        subprocess.run(
            [runc, "--root", str(folder / "runc"), "delete", "--force", name],
            capture_output=True,
            check=False,
        )


@pytest.mark.parametrize("service", [w.name for w in SERVICES.values() if w.health])
def test_a_service_is_healthy_and_stops_when_it_is_told(
    images: dict[str, Image], tmp_path: Path, service: str
) -> None:
    workload, port = SERVICES[service], free_port()
    assert workload.health is not None
    with container(images[service], workload, tmp_path, [f"PORT={port}"]) as (process, log):
        logged(process, log, "listening")
        assert answer(port, "GET", workload.health.path)[0] == 200
        if service == "api":
            told = json.loads(answer(port, "GET", "/api/version")[2])
            program = (tmp_path / "root" / "api").read_bytes()
            assert told["binary"] == "sha256:" + hashlib.sha256(program).hexdigest()
        assert terminated(process) == 0
    assert [line["msg"] for line in lines(log)][-1] == "stopped"


def test_the_worker_beats_and_stops_when_it_is_told(
    images: dict[str, Image], tmp_path: Path
) -> None:
    environment = [f"REDIS_URL=redis://:{CANARY}@redis:6379/0"]
    with container(images["worker"], SERVICES["worker"], tmp_path, environment) as (process, log):
        logged(process, log, "heartbeat")
        assert terminated(process) == 0
    assert "REDIS_URL" in log.read_text()
    assert CANARY not in log.read_text()
