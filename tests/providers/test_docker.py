"""The docker provider: without a daemon it fails when it is configured, and says what mends it."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.engine.provider import UNKNOWN, Context, ProviderError
from rehearsal.providers import load
from rehearsal.providers.docker import BUILDER, DockerProvider

REMOTE = "pulumi config set --path honeydue:image.driver remote"


class _Daemon(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of something that answers a ping as Docker does."""
    monkeypatch.setattr("rehearsal.providers.docker.TIMEOUT", 60.0)
    server = socketserver.UnixStreamServer(str(tmp_path / "docker.sock"), _Daemon)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"unix://{tmp_path}/docker.sock"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1", "npipe://x"])
def test_without_a_daemon_the_configuration_fails_and_names_the_other_driver(host: str) -> None:
    with pytest.raises(ProviderError, match="failed to connect to any docker daemon") as raised:
        load("docker", {"host": host})
    assert host in str(raised.value)
    assert REMOTE in str(raised.value)


def test_the_environment_says_where_the_daemon_is(
    daemon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", daemon)
    DockerProvider({})
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    with pytest.raises(ProviderError, match=r"unix:///nowhere\.sock"):
        DockerProvider({})


def test_a_daemon_that_is_not_known_yet_is_not_asked() -> None:
    DockerProvider({"host": UNKNOWN})


def test_with_a_daemon_the_builder_is_refused_all_the_same(daemon: str) -> None:
    provider = DockerProvider({"host": daemon})
    inputs = {"name": "honeydue-builder", "driver": "docker-container", "bootstrap": True}
    assert provider.check(BUILDER, None, inputs) == (inputs, [])
    with pytest.raises(ProviderError, match="makes no builder 'honeydue-builder'") as raised:
        provider.create(BUILDER, inputs, Context(urn="urn"))
    assert REMOTE in str(raised.value)


def test_other_resources_and_inputs_are_refused(daemon: str) -> None:
    provider = DockerProvider({"host": daemon})
    _, (failure,) = provider.check("docker:index/image:Image", None, {})
    assert BUILDER in failure.reason
    _, (failure,) = provider.check(BUILDER, None, {"nam": "x"})
    assert (failure.property, failure.reason) == (
        "nam",
        "unknown property; did you mean 'name'?",
    )
