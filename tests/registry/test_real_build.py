"""The docker-build provider by the real buildx, BuildKit and Gitea: same bytes, no token left."""

from __future__ import annotations

import base64
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from rehearsal.engine.provider import Context, Properties, ProviderError
from rehearsal.home import Home, cache_folder
from rehearsal.providers.docker_build import IMAGE, DockerBuildProvider
from rehearsal.registry.pull import PullError, pull
from rehearsal.registry.service import Forge, folder_of
from tests.registry.forge import holding
from tests.registry.gitea_with_image import serve

pytestmark = pytest.mark.images

URN = "urn:pulumi:rehearsal::honeydue::docker-build:index:Image::images-api"
# What RUN makes has the time of the build, unless it is rewritten.
DOCKERFILE = """\
ARG GO_IMAGE
FROM ${GO_IMAGE} AS build
COPY greeting /greeting
RUN mkdir -p /out/nested && cat /greeting > /out/nested/greeting
FROM scratch AS api
COPY --from=build /out /
"""


@dataclass(frozen=True)
class Bench:
    """One provider and a small application; `home` and `temporary` are all that it may write to."""

    provider: DockerBuildProvider
    forge: Forge
    app: Path
    home: Path
    temporary: Path

    def inputs(self, tag: str, token: str, **other: object) -> Properties:
        image = f"{self.forge.server}/admin/honeydue-built"
        given: Properties = {
            "builder": {"name": "honeydue-builder"},
            "context": {"location": str(self.app)},
            "target": "api",
            "platforms": ["linux/amd64"],
            "buildArgs": {
                "GO_IMAGE": self.forge.build_args["GO_IMAGE"],
                "SOURCE_DATE_EPOCH": "1700000000",
            },
            "tags": [f"{image}:{tag}"],
            "exports": [{"raw": "type=registry,oci-mediatypes=true,rewrite-timestamp=true"}],
            "push": False,
            "cacheFrom": [{"raw": f"type=registry,ref={image}:buildcache"}],
            "cacheTo": [{"raw": f"type=registry,ref={image}:buildcache,mode=max"}],
            "registries": [
                {"address": self.forge.server, "username": "admin", "password": token},
            ],
            "buildOnPreview": False,
        }
        inputs, failures = self.provider.check(IMAGE, None, given | other)
        assert failures == []
        return inputs


@pytest.fixture
def bench(forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("HONEYDUE_REHEARSAL_CACHE", str(cache_folder()))
    for name in ("HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", None)  # asks TMPDIR again
    for name in ("DOCKER_CONFIG", "DOCKER_HOST", "DOCKER_AUTH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in forge.environment().items():
        monkeypatch.setenv(name, value)
    app = tmp_path / "app"
    app.mkdir()
    (app / "Dockerfile").write_text(DOCKERFILE)
    (app / "greeting").write_text("hello\n")
    return Bench(
        DockerBuildProvider({}), forge, app, home=tmp_path / "HOME", temporary=tmp_path / "TMPDIR"
    )


def quiet() -> Context:
    return Context(urn=URN)


def test_the_same_files_give_the_same_digest_without_any_cache(bench: Bench) -> None:
    token = bench.forge.tokens.write
    first, outputs = bench.provider.create(IMAGE, bench.inputs("first", token), quiet())
    again = bench.inputs("again", token, noCache=True)
    for file in bench.app.iterdir():
        os.utime(file, (1_800_000_000, 1_800_000_000))
    second, _ = bench.provider.create(IMAGE, again, quiet())
    assert first == second == outputs["digest"]
    (bench.app / "greeting").write_text("hello, world\n")
    third, _ = bench.provider.create(IMAGE, bench.inputs("third", token), quiet())
    assert third != first


def test_what_was_pushed_can_be_pulled_with_the_reading_token_alone(bench: Bench) -> None:
    tokens = bench.forge.tokens
    inputs = bench.inputs("pulled", tokens.write)
    _, outputs = bench.provider.create(IMAGE, inputs, quiet())
    image = outputs["ref"].replace(":pulled@", "@")
    assert image.endswith(outputs["digest"])
    secret = {"username": "admin", "password": tokens.read}
    assert pull({"auths": {bench.forge.server: secret}}, image).layers
    with pytest.raises(PullError, match="401"):
        pull({"auths": {bench.forge.server: secret | {"password": "wrong"}}}, image)
    assert bench.provider.read(IMAGE, "", inputs, outputs, quiet()) is not None


def command_lines() -> bytes:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return b"\n".join(lines)


def test_the_token_is_nowhere_on_disk_nor_in_a_command_line(bench: Bench, forge_home: Home) -> None:
    token = bench.forge.tokens.write
    needles = (token.encode(), base64.b64encode(f"admin:{token}".encode()))
    (bench.temporary / "planted").write_bytes(needles[0])
    assert holding(needles, bench.temporary) == [bench.temporary / "planted"]  # it would be seen
    (bench.temporary / "planted").unlink()
    looked: list[str] = []
    seen: list[Path | str] = []

    def look(line: str) -> None:
        looked.append(line)
        seen.extend(holding(needles, bench.home, bench.temporary))
        seen.extend("a command line" for needle in needles if needle in command_lines())

    inputs = bench.inputs("swept", token, noCache=True)
    bench.provider.create(IMAGE, inputs, Context(urn=URN, progress=look))
    assert "exporting to image" in looked
    assert seen == []
    gitea = folder_of(forge_home) / "gitea"  # the registry itself has to know its tokens
    left = holding(needles, bench.home, bench.temporary, bench.app, forge_home.root)
    assert [path for path in left if not path.is_relative_to(gitea)] == []


@pytest.mark.parametrize(
    ("token", "cause"),
    [("wrong", "refuses the registry's user or token"), ("", "lacks write:package")],
)
def test_a_token_that_cannot_push_is_told_apart(bench: Bench, token: str, cause: str) -> None:
    (bench.app / "greeting").write_text(f"never pushed: {cause}")  # else there is nothing to send
    inputs = bench.inputs("refused", token or bench.forge.tokens.read)
    with pytest.raises(ProviderError, match=cause) as raised:
        bench.provider.create(IMAGE, inputs, quiet())
    assert bench.forge.server in str(raised.value)
    assert bench.forge.tokens.read not in str(raised.value)


@pytest.mark.parametrize(
    ("other", "cause"),
    [
        ({"target": "nope"}, "has no stage 'nope'"),
        ({"builder": {"name": "nobody"}}, "there is no builder 'nobody' in "),
        ({"buildArgs": {"GO_IMAGE": "127.0.0.1:1/no/where:1"}}, "registry cannot be reached"),
    ],
)
def test_what_is_missing_is_named(bench: Bench, other: Properties, cause: str) -> None:
    inputs = bench.inputs("missing", bench.forge.tokens.write, **other)
    with pytest.raises(ProviderError, match=cause):
        bench.provider.create(IMAGE, inputs, quiet())


def test_a_registry_without_room_is_told_apart_from_one_that_is_down(
    bench: Bench, tmp_path: Path
) -> None:
    with serve(tmp_path / "gitea") as small:
        elsewhere = {
            "tags": [f"{small.server}/admin/honeydue-built:full"],
            "registries": [
                {"address": server, "username": "admin", "password": token}
                for server, token in (
                    (bench.forge.server, bench.forge.tokens.read),  # the base image
                    (small.server, small.write),
                )
            ],
            "cacheFrom": [],
            "cacheTo": [],
        }
        inputs = bench.inputs("full", "", **elsewhere)
        small.gitea.blobs.room = 0
        with pytest.raises(ProviderError, match=f"{small.server} answers 500 "):
            bench.provider.create(IMAGE, inputs, quiet())
    with pytest.raises(ProviderError, match=f"{small.server} does not answer"):
        bench.provider.create(IMAGE, inputs, quiet())


def test_ctrl_c_ends_the_build_at_the_builder_too(bench: Bench) -> None:
    (bench.app / "Dockerfile").write_text(
        "ARG GO_IMAGE\nFROM ${GO_IMAGE} AS api\nRUN sleep 54321\n"
    )

    def runs() -> bool:
        return b"54321" in command_lines()

    with pytest.raises(ProviderError, match="stopped because the update was cancelled"):
        bench.provider.create(
            IMAGE,
            bench.inputs("cancelled", bench.forge.tokens.write),
            Context(urn=URN, cancelled=runs),  # pressed when the step is under way
        )
    limit = time.monotonic() + 120
    while runs():
        assert time.monotonic() < limit, "the step still runs"
        time.sleep(0.1)
