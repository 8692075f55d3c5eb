"""What runs in this release, found out before anything is declared.

Each service is either built from the application's checkout (`Build`), or pinned to an image that
is there already (`Pinned`): tags are resolved to digests now, by asking the registry, so that the
preview shows what will run.
Everything that is missing is told at once, in the settings' own form.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pulumi

from honeydue.images import checkout, dockerfile, ignores
from honeydue.images.references import SERVICES, path_of, tag_and_digest
from honeydue.problems import Problem, SettingsError
from honeydue.settings import Settings

STAGED: Final = Path(".build")
"""Relative to the program, so that the state says the same on every machine."""
_DOCKER_SECONDS: Final = 10.0
_SOCKET: Final = Path("/var/run/docker.sock")


@dataclass(frozen=True, kw_only=True)
class Build:
    """`context`: the clean copy of the commit. `epochs`: SOURCE_DATE_EPOCH of each service that is
    built, and of no other."""

    context: Path
    tag: str
    epochs: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """`tag`: the one it was asked for under, empty when by digest alone."""

    digest: str
    tag: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Each of SERVICES is in one of the two."""

    build: Build | None
    pinned: Mapping[str, Pinned]


def plan(s: Settings) -> Plan:
    """Raises pulumi.RunError with everything that is missing."""
    build: Build | None = None
    pinned, problems = _pinned(s)
    if s.built:
        try:
            build = _build(s)
            problems += _missing_targets(s, build)
        except checkout.CheckoutError as error:
            problems.append(Problem("honeydue:app.path", error.wrong, error.mend))
        problems += wrong_here(s, os.environ)
    if problems:
        raise pulumi.RunError(str(SettingsError(s.stack, problems)))
    return Plan(build=build, pinned=pinned)


# Built


def _build(s: Settings) -> Build:
    assert s.app is not None  # the settings see to it
    path = Path(s.app.path)
    found = checkout.read(path, allow_dirty=s.image.allow_dirty)
    if "Dockerfile" not in found.times:
        raise checkout.CheckoutError(
            f"{path} has no Dockerfile at its root", f"git -C {path} add Dockerfile, and commit it"
        )
    context = checkout.stage(found, STAGED)
    text = (context / "Dockerfile").read_text()
    ignore = context / ".dockerignore"
    files = [*dockerfile.not_ignored(ignore.read_text() if ignore.is_file() else "", found.times)]
    epochs = {
        service: found.time([*dockerfile.matching(dockerfile.sources(text, service), files)])
        for service in s.built
    }
    return Build(context=context, tag=found.tag, epochs=epochs)


def _missing_targets(s: Settings, build: Build) -> Iterator[Problem]:
    assert s.app is not None
    there = dockerfile.targets((build.context / "Dockerfile").read_text())
    for service in s.built:
        if service not in there:
            wrong = f"has a Dockerfile without the target {service} (it has {', '.join(there)})"
            yield Problem(
                "honeydue:app.path", wrong, f"{s.app.path}/Dockerfile: FROM … AS {service}"
            )


def wrong_here(s: Settings, environment: Mapping[str, str]) -> Iterator[Problem]:
    """What would stop the release on this machine, minutes later."""
    path = environment.get("PATH")
    if s.image.driver == "remote" and not builder_file(s.image.builder, environment).is_file():
        yield Problem(
            "honeydue:image.builder",
            f"names {s.image.builder}, and buildx knows no such builder on this machine",
            f"docker buildx create --name {s.image.builder} --driver remote <tcp://… or unix://…>",
        )
    if s.image.driver == "docker-container":
        if silent := _docker_is_silent(environment):
            yield Problem(
                "honeydue:image.driver",
                f"is docker-container, and Docker does not answer on this machine: {silent}",
                "start Docker; or build elsewhere: honeydue:image.driver remote; or not at all: "
                "python -m ops deploy --sha <git short SHA>, or honeydue:image.build false",
            )
        elif not _plugin_finds_docker(environment):
            yield Problem(
                "honeydue:image.driver",
                "is docker-container, and Docker answers here through a context of its own CLI, "
                "which Pulumi's plugin does not look at",
                "export DOCKER_HOST=$(docker context inspect --format "
                "'{{.Endpoints.docker.Host}}')",
            )
    if shutil.which("trivy", path=path) is None:
        yield Problem(
            "honeydue:image.scan",
            "needs trivy, which is not on the PATH: nothing runs that was not scanned",
            "brew install trivy (https://trivy.dev/docs/latest/getting-started/installation/)",
        )

    try:
        ignores.load_ignores(ignores.FILE, datetime.now(UTC).date())
    except ignores.IgnoresError as error:
        yield from (Problem(*problem) for problem in error.problems)


def _docker_is_silent(environment: Mapping[str, str]) -> str:
    """Why not; empty: it answers. Its provider would only say that its configuration failed."""
    docker = shutil.which("docker", path=environment.get("PATH"))
    if docker is None:
        return "there is no docker on the PATH"
    try:
        done = subprocess.run(
            [docker, "version", "--format", "{{.Server.Version}}"],
            capture_output=True, text=True, timeout=_DOCKER_SECONDS, check=False,
            env=dict(environment),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__} after at most {_DOCKER_SECONDS:.0f} s"
    said = done.stderr.strip().splitlines()
    return (said[-1] if said else f"exit code {done.returncode}") if done.returncode else ""


def _plugin_finds_docker(environment: Mapping[str, str]) -> bool:
    """Whether there is anything where pulumi-docker looks (its configureDockerClient)."""
    home = Path(environment.get("HOME") or Path.home())
    desktop = [home / ".docker" / folder / "docker.sock" for folder in ("run", "desktop")]
    return bool(environment.get("DOCKER_HOST")) or any(x.exists() for x in (_SOCKET, *desktop))


def builder_file(name: str, environment: Mapping[str, str]) -> Path:
    """Where buildx keeps a builder: its own folder, else the one below Docker's."""
    docker = Path(environment.get("DOCKER_CONFIG") or Path.home() / ".docker")
    folder = Path(environment.get("BUILDX_CONFIG") or docker / "buildx") / "instances"
    return folder / name.lower()  # buildx' store/util.go: ValidateName


# There already


def _pinned(s: Settings) -> tuple[dict[str, Pinned], list[Problem]]:
    named = {
        service: tag_and_digest(reference)
        for service in SERVICES
        if (reference := getattr(s.images, service)) is not None
    }
    tags = {service: tag for service, (tag, _) in named.items()}
    digests = {service: digest for service, (_, digest) in named.items() if digest}
    problems: list[Problem] = []
    if len(digests) < len(named):  # else nobody is asked: a registry that is down does not matter
        problems = _look_up(s, tags, digests)
    pinned = {
        service: Pinned(digest=digests[service], tag=tag)
        for service, tag in tags.items()
        if service in digests
    }
    return pinned, problems


def _look_up(s: Settings, tags: Mapping[str, str], digests: dict[str, str]) -> list[Problem]:
    """Fills in `digests` of the services that have only a tag."""
    # Not before it is needed: the client costs a preview 0.1 s.
    from honeydue.images.registry import Login, Registry, RegistryError, nearest  # noqa: PLC0415

    problems: list[Problem] = []
    login = Login(s.registry.username, s.registry.token.get_secret_value())
    try:
        with Registry(s.registry.server, login) as registry:
            for service, tag in tags.items():
                if service in digests:
                    continue
                repository = path_of(s.registry.namespace, service)
                digest = registry.digest(repository, tag)
                if digest is not None:
                    digests[service] = digest
                    continue
                near = nearest(tag, registry.tags(repository))
                wrong = f"names {tag}, and {s.registry.server}/{repository} has no such tag"
                problems.append(
                    Problem(
                        f"honeydue:images.{service}",
                        f"{wrong}; nearest: {', '.join(near)}"
                        if near
                        else f"{wrong}, nor any other",
                        f"pulumi config set -s {s.stack} --path honeydue:images.{service} "
                        + (near[0] if near else "<git short SHA>"),
                    )
                )
    except RegistryError as error:
        problems.append(
            Problem(
                "honeydue:registry",
                f"{error.why}; the images' digests cannot be looked up",
                f"{error.mend}; or name what runs with its digest, for which nobody is asked: "
                f"pulumi stack output release -s {s.stack}",
            )
        )
    return problems
