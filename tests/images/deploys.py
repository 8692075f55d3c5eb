"""The program's own release, deployed by the rehearsal's engine: a production without a cluster.

The project is real (settings, `plan`, `Release`, gates, providers); of a cluster there is only what
a release is for: in the place of each Deployment stands a RandomId that has the image as its keeper
and waits for what a Deployment waits for. So what "rolled" is what the state says.

    python -m tests.images.deploys PROJECT STATE    one `up` in a process of its own
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from honeydue.images import keys
from honeydue.images.references import SERVICES, path_of
from honeydue.images.registry import Login, Registry
from rehearsal.display import Tree, closing
from rehearsal.engine.deployment import Backend, Deployment, EngineError, Project, Result
from rehearsal.engine.events import Event, ResourceDone, ResourceProgress
from rehearsal.engine.secrets import open_crypter
from rehearsal.engine.values import plain
from rehearsal.home import REPOSITORY
from tests.images.test_checkout import Repository

STACK: Final = "rehearsal"
STACK_FILE: Final = f"Pulumi.{STACK}.yaml"
PROGRAM: Final = """\
import pulumi
import pulumi_random as random
from honeydue import providers, settings
from honeydue.images.release import Release, ReleaseArgs, plan

s = settings.load()
planned = plan(s)
vendors = providers.connect(hcloud_token=s.hcloud_token, cloudflare_token=s.cloudflare_token)
made = pulumi.ResourceOptions(providers=vendors.all)
release = Release("release", ReleaseArgs(settings=s, plan=planned), made)
for service, running in release.images.items():
    random.RandomId(
        f"deployment-{service}",
        byte_length=4,
        keepers={"image": running.reference},
        opts=pulumi.ResourceOptions(provider=vendors.random, depends_on=release.proven),
    )
pulumi.export("images", release.references)
pulumi.export("release", release.names)
"""
DOCKERFILE: Final = "".join(f"FROM scratch AS {s}\nCOPY {s}/ /\n" for s in SERVICES)
BIG: Final = 1 << 20  # characters; a layer that a fault can break off in the middle of


@dataclass(frozen=True)
class Told:
    """How a run ended. `said`: what stands on the screen when it is over; `meanwhile`: what went
    by while it ran."""

    ok: bool
    said: str
    meanwhile: str


@dataclass(frozen=True)
class Stack:
    """A project with its checkout of the application, and a state; all in one folder."""

    folder: Path

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def copied(self, folder: Path) -> Stack:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Stack(folder)

    # --- the operator's files ---

    @property
    def application(self) -> Repository:
        return Repository(self.project / "app")

    @property
    def head(self) -> str:
        """The tag of the commit that is checked out."""
        return self.application.git("rev-parse", "--short", "HEAD")

    def write(self, server: str, token: str) -> None:
        """The project as `make rehearse IMAGES=1` has it, with an empty checkout of its own."""
        self.project.mkdir(parents=True)
        for name in ("Pulumi.yaml", "deploy/rehearsal.env", "deploy/trivyignore.yaml"):
            (self.project / name).parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / name, self.project / name)
        loaded = yaml.safe_load((REPOSITORY / STACK_FILE).read_text())
        loaded["config"].pop("honeydue:images")
        (self.project / STACK_FILE).write_text(yaml.safe_dump(loaded))
        key = keys.generate()
        self.set("registry", to={"server": server, "namespace": "admin", "username": "admin"})
        self.set("registry", "token", to=token, secret=True)
        self.set("app", "path", to="app")
        self.set("image", to={"build": True, "builder": "honeydue-builder", "driver": "remote"})
        self.set("signing", "publicKey", to=keys.public_pem(key))
        self.set("signing", "privateKey", to=keys.private_pem(key), secret=True)
        (self.project / "__main__.py").write_text(PROGRAM)
        assert self.application

    def set(self, key: str, *path: str, to: Any, secret: bool = False) -> None:
        """`set("registry", "token", to=…, secret=True)`, as `pulumi config set` does."""
        file = self.project / STACK_FILE
        loaded = yaml.safe_load(file.read_text())
        if secret:
            to = {"secure": open_crypter(loaded["encryptionsalt"]).encrypt(to)}
        at, words = loaded["config"], (f"honeydue:{key}", *path)
        for word in words[:-1]:
            at = at.setdefault(word, {})
        at[words[-1]] = to
        file.write_text(yaml.safe_dump(loaded))

    def run_prebuilt(self, **images_: str) -> None:
        """`image.build: false`, with a tag or a digest for each service."""
        self.set("image", "build", to=False)
        self.set("images", to=images_)

    def commit(self, **files: str) -> str:
        """A commit of the application (`api__main="…"`); its tag."""
        self.application.commit(1_790_000_000, Dockerfile=DOCKERFILE, **files)
        return self.head

    def commit_all(self, words: str) -> str:
        """A commit that changes all three services."""
        return self.commit(**{f"{service}__main": f"{service} {words}" for service in SERVICES})

    # --- runs ---

    @property
    def engine(self) -> Deployment:
        return Deployment(Project.load(self.project), STACK, Backend(self.state))

    def up(
        self,
        cancelled: threading.Event | None = None,
        on_done: Callable[[str], None] = lambda _name: None,
    ) -> Told:
        """`on_done` is called with the name of each resource whose step ended well."""
        return self._watched("up", cancelled, on_done)

    def preview(self) -> Told:
        return self._watched("preview")

    def _watched(
        self,
        verb: str,
        cancelled: threading.Event | None = None,
        on_done: Callable[[str], None] = lambda _name: None,
    ) -> Told:
        tree, lines = Tree(), list[str]()

        def take(event: Event) -> None:
            tree.take(event)
            if isinstance(event, ResourceProgress):
                lines.append(event.line)
            elif isinstance(event, ResourceDone):
                on_done(event.urn.rsplit("::", 1)[-1])

        result: Result = getattr(self.engine, verb)(take, cancelled=cancelled)
        said = "\n".join(line.plain for line in closing(tree))
        return Told(result.ok, said, "\n".join(lines))

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """An `up` in a process of its own; prints what stands on the screen in the end."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.images.deploys", str(self.folder)],
            cwd=REPOSITORY, env=os.environ | environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    # --- what there is ---

    def running(self) -> dict[str, str]:
        """Service → the reference that its stand-in Deployment has; {} before the first."""
        try:
            resources = self.engine.resources()
        except EngineError:
            return {}
        prefix = "deployment-"
        return {
            name.removeprefix(prefix): plain(resource.inputs)["keepers"]["image"]
            for resource in resources
            if (name := resource.urn.rsplit("::", 1)[-1]).startswith(prefix)
            and not resource.delete  # what a replacement left for later is not what runs
        }

    def digests(self) -> dict[str, str]:
        return {s: reference.partition("@")[2] for s, reference in self.running().items()}


def in_registry(server: str, login: Login, tag: str) -> dict[str, str]:
    """Service → the digest that a tag has there; without those that have no such tag."""
    with Registry(server, login) as registry:
        found = {s: registry.digest(path_of("admin", s), tag) for s in SERVICES}
    return {service: digest for service, digest in found.items() if digest}


def signed(server: str, login: Login, digests: Mapping[str, str]) -> set[str]:
    """The services of which the registry has a signature of that digest."""
    with Registry(server, login) as registry:
        return {
            service
            for service, digest in digests.items()
            if registry.digest(path_of("admin", service), f"{digest.replace(':', '-')}.sig")
        }


if __name__ == "__main__":
    told = Stack(Path(sys.argv[1])).up()
    print(told.meanwhile, told.said, sep="\n")
    sys.exit(0 if told.ok else 1)
