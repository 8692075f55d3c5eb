"""What is missing is told before anything is declared, all of it, each with the line that mends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest

from honeydue.images import plan as planning
from honeydue.images import registry
from honeydue.images.plan import Pinned, plan
from tests.images.test_checkout import Repository
from tests.images.test_release import BUILDING, PUBLIC
from tests.settings import sample

DOCKERFILE = """\
FROM scratch AS api
COPY api/ /
FROM scratch AS worker
COPY worker/ /
FROM scratch AS admin
COPY admin/ /
"""
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A checkout beside the program, and a machine on which everything is installed."""
    (tmp_path / "program").mkdir()
    monkeypatch.chdir(tmp_path / "program")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("trivy", "docker"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("BUILDX_CONFIG", str(tmp_path / "buildx"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    repository = Repository(tmp_path / "app")
    repository.commit(1000, Dockerfile=DOCKERFILE, api__x="1", worker__x="1", admin__x="1")
    return repository


def refused(*changes: sample.Change) -> str:
    with pytest.raises(pulumi.RunError) as caught:
        plan(sample.settings(*BUILDING, *changes))
    return str(caught.value)


def test_a_commit_is_staged_and_each_service_dated_by_its_own_files(
    application: Repository,
) -> None:
    application.commit(2000, admin__x="2")
    found = plan(sample.settings(*BUILDING)).build
    assert found is not None
    assert found.tag == application.git("rev-parse", "--short", "HEAD")
    assert found.epochs == {"api": 1000, "worker": 1000, "admin": 2000}
    assert found.context == Path(".build") / found.tag
    assert (found.context / "Dockerfile").read_text() == DOCKERFILE


@pytest.mark.usefixtures("application")
def test_a_missing_checkout_is_told() -> None:
    told = refused(sample.config("app.path", "../elsewhere"))
    assert "honeydue:app.path" in told
    assert "there is no folder ../elsewhere" in told
    assert "git clone" in told


def test_a_missing_dockerfile_is_told(application: Repository) -> None:
    application.git("rm", "--quiet", "Dockerfile")
    application.git("commit", "--quiet", "--no-gpg-sign", "--message", "x")
    assert "../app has no Dockerfile at its root" in refused()


def test_missing_targets_are_told_with_those_that_there_are(application: Repository) -> None:
    application.commit(2000, Dockerfile="FROM scratch AS api\nFROM scratch AS web\n")
    told = refused()
    assert "without the target worker (it has api, web)" in told
    assert "without the target admin (it has api, web)" in told
    assert "../app/Dockerfile: FROM … AS worker" in told


@pytest.mark.usefixtures("application")
def test_a_remote_builder_that_buildx_does_not_know_is_told() -> None:
    told = refused(sample.config("image.driver", "remote"))
    assert "buildx knows no such builder on this machine" in told
    assert "docker buildx create --name honeydue-builder --driver remote" in told


@pytest.mark.usefixtures("application")
@pytest.mark.parametrize("called", ["honeydue-builder", "HoneyDue-Builder"])
def test_a_remote_builder_that_buildx_knows_is_used(called: str, tmp_path: Path) -> None:
    (tmp_path / "buildx/instances").mkdir(parents=True)
    (tmp_path / "buildx/instances/honeydue-builder").write_text("{}")
    named = sample.config("image.builder", called)
    plan(sample.settings(*BUILDING, sample.config("image.driver", "remote"), named))


def test_a_missing_scanner_is_told_beside_everything_else(
    application: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.write(api__x="dirty")
    git = Path(next(p for p in os.environ["PATH"].split(os.pathsep) if (Path(p) / "git").exists()))
    monkeypatch.setenv("PATH", str(git))
    told = refused(sample.config("image.driver", "remote"))
    assert "3 settings of stack prod are wrong" in told
    assert "../app holds what is not committed (api/x)" in told
    assert "needs trivy, which is not on the PATH" in told


@pytest.mark.usefixtures("application")
def test_a_docker_that_does_not_answer_is_told_with_the_ways_around_it(tmp_path: Path) -> None:
    script = "#!/bin/sh\necho 'Cannot connect to the Docker daemon. Is it running?' >&2\nexit 1\n"
    (tmp_path / "bin/docker").write_text(script)
    told = refused()
    assert "Docker does not answer on this machine: Cannot connect to the Docker daemon" in told
    assert "honeydue:image.driver remote" in told
    assert "python -m ops deploy --sha" in told


@pytest.mark.usefixtures("application")
def test_a_docker_that_only_its_own_cli_finds_is_told_with_what_shows_it_to_the_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("honeydue.images.plan._SOCKET", tmp_path / "docker.sock")
    assert "export DOCKER_HOST=$(docker context inspect" in refused()
    (tmp_path / ".docker/run").mkdir(parents=True)
    (tmp_path / ".docker/run/docker.sock").touch()
    plan(sample.settings(*BUILDING))


@pytest.mark.usefixtures("application")
def test_a_wrong_list_of_ignored_vulnerabilities_is_told_before_the_build() -> None:
    Path("deploy").mkdir()
    Path("deploy/trivyignore.yaml").write_text("vulnerabilities: [{id: CVE-2026-1}]\n")
    told = refused()
    assert "deploy/trivyignore.yaml: vulnerabilities[1]" in told
    assert "expired_at" in told


def test_nothing_of_the_staged_copy_is_left_in_the_checkout(application: Repository) -> None:
    plan(sample.settings(*BUILDING))
    assert application.git("status", "--porcelain") == ""


def test_a_service_that_is_pinned_is_not_built_and_its_files_do_not_matter(
    application: Repository,
) -> None:
    application.commit(2000, Dockerfile="FROM scratch AS api\nCOPY api/ /\n", api__x="2")
    pins = [sample.config(f"images.{name}", f"1a2b3c4@{DIGEST}") for name in ("worker", "admin")]
    found = plan(sample.settings(*BUILDING, *pins))
    assert found.build is not None
    assert found.build.epochs == {"api": 2000}
    assert found.pinned == dict.fromkeys(("worker", "admin"), Pinned(digest=DIGEST, tag="1a2b3c4"))


def test_where_all_are_pinned_the_checkout_is_not_looked_at() -> None:
    pins = [sample.config(f"images.{name}", DIGEST) for name in ("api", "worker", "admin")]
    found = plan(sample.settings(*BUILDING, sample.config("app.path", "../gone"), *pins))
    assert found.build is None


# Pinned


class Answers:
    """A registry with the tags that it is given."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        self.known = tags
        self.asked: list[str] = []

    def __call__(self, _server: str, _login: Any) -> Answers:
        return self

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def digest(self, repository: str, reference: str) -> str | None:
        self.asked.append(f"{repository}:{reference}")
        return self.known.get(reference)

    def tags(self, _repository: str) -> list[str]:
        return [*self.known]


def pinned(monkeypatch: pytest.MonkeyPatch, answers: Any, **images: str) -> Mapping[str, Pinned]:
    monkeypatch.setattr(registry, "Registry", answers)
    changes = [sample.config(f"images.{service}", value) for service, value in images.items()]
    return plan(sample.settings(*changes)).pinned


def test_digests_are_taken_as_they_are_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers({})
    found = pinned(monkeypatch, answers)
    assert found["admin"].digest == "sha256:" + "6f" * 32
    assert {image.tag for image in found.values()} == {""}
    assert answers.asked == []


def test_a_tag_with_its_digest_is_taken_as_it_is_too(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers({})
    found = pinned(monkeypatch, answers, api=f"237c6b8@{DIGEST}")
    assert found["api"] == Pinned(digest=DIGEST, tag="237c6b8")
    assert answers.asked == []


def test_a_tag_becomes_the_digest_that_the_registry_says(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers({"237c6b8": DIGEST})
    found = pinned(monkeypatch, answers, api="237c6b8")
    assert found["api"].digest == DIGEST
    assert [found[service].tag for service in ("api", "worker", "admin")] == ["237c6b8", "", ""]
    assert answers.asked == ["admin/honeydue-api:237c6b8"]


def test_tags_that_are_not_there_are_told_at_once_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = Answers({"237c6b9": DIGEST, "6f303db": DIGEST, "buildcache": DIGEST})
    with pytest.raises(pulumi.RunError) as caught:
        pinned(monkeypatch, answers, api="237c6b8", worker="1111111")
    told = str(caught.value)
    assert "2 settings of stack prod are wrong. Nothing was declared." in told
    assert "names 237c6b8, and gitea.treytartt.com/admin/honeydue-api has no such tag" in told
    assert "pulumi config set -s prod --path honeydue:images.api 237c6b9" in told
    assert "buildcache" not in told


def test_a_registry_that_is_down_is_told_with_the_way_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def down(*_: Any) -> Any:
        raise registry.RegistryError("unreachable", "gitea: connection refused", "try again")

    with pytest.raises(pulumi.RunError) as caught:
        pinned(monkeypatch, down, api="237c6b8")
    told = str(caught.value)
    assert "connection refused" in told
    assert "pulumi stack output release -s prod" in told
    assert "sample-registry-token" not in told


def test_a_public_key_alone_is_enough_to_run_what_is_there() -> None:
    settings = sample.settings(sample.config("signing", {"publicKey": PUBLIC}))
    assert plan(settings).build is None


def test_where_copies_are_staged_is_said_relative_to_the_program() -> None:
    """It stands in the state, and must be equal on every machine."""
    assert not planning.STAGED.is_absolute()
