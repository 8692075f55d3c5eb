"""The serving process: its address stays, there is one of it, and `down` ends it. No Kubernetes."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from rehearsal import serve
from rehearsal.cluster.processes import Identity
from rehearsal.home import Home
from rehearsal.serve import Place, ServeError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home whose serving process finds no Go, so that no build begins."""
    monkeypatch.setenv("HONEYDUE_REHEARSAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    home = Home(tmp_path / "home")
    yield home
    serve.down(home)


def test_the_place_is_chosen_once_and_kept(home: Home) -> None:
    first = serve.place(home)
    assert serve.place(home) == first
    assert first.hcloud != first.cloudflare
    assert serve.FIRST_BLOCK <= first.block <= serve.LAST_BLOCK
    assert json.loads(home.serve_file.read_text())["place"] == asdict(first)


def test_a_home_from_before_there_was_an_edge_keeps_its_place_and_gets_one(home: Home) -> None:
    serve._write(home, {"place": {"hcloud": 1234, "cloudflare": 1235, "block": 77}})
    at = serve.place(home)
    assert (at.hcloud, at.cloudflare, at.block, at.registry) == (1234, 1235, 77, None)
    assert serve.place(home) == at


def test_a_block_with_a_listener_of_another_rehearsal_is_not_taken(home: Home) -> None:
    wanted = serve._free_block(home, set())
    with socket.socket() as listener:
        listener.bind((f"127.{wanted}.0.1", 0))
        listener.listen()
        assert wanted in serve._listening_blocks()
        assert serve.place(home).block != wanted


def test_a_machine_full_of_rehearsals_says_what_to_end(home: Home) -> None:
    with pytest.raises(ServeError, match="every block"):
        serve._free_block(home, set(range(256)))


def test_the_environment_is_what_the_cli_needs(home: Home) -> None:
    at = serve.place(home)
    assert serve.environment(home) == {
        "HCLOUD_ENDPOINT": f"http://127.0.0.1:{at.hcloud}/v1",
        "CLOUDFLARE_BASE_URL": f"http://127.0.0.1:{at.cloudflare}/client/v4",
        "PULUMI_BACKEND_URL": f"file://{home.root}/state",
        "PULUMI_CONFIG_PASSPHRASE": "rehearsal",
        "HONEYDUE_EDGE": f"127.0.0.1:{at.edge},{home.root}/edge/ca.pem",
    }
    assert home.state.is_dir()


def test_serving_begins_once_and_down_ends_it(home: Home) -> None:
    assert serve.serving(home) is None
    first = serve.ensure_serving(home)
    assert serve.ensure_serving(home) == first
    assert serve.nodes(home)["nodes"] == {}
    with pytest.raises(ServeError, match=rf"served already, by process {first.pid}\n  mend: "):
        serve.serve(home)
    assert serve.down(home) == ["serve"]
    assert serve.serving(home) is None
    assert serve.down(home) == []
    assert not Path(f"/proc/{first.pid}/exe").exists()
    with pytest.raises(ServeError, match="do not answer"):
        serve.nodes(home)


def test_a_killed_serving_process_is_followed_by_another_at_the_same_place(home: Home) -> None:
    first = serve.ensure_serving(home)
    identity = Identity.of(first.pid, "serve")
    assert identity is not None
    os.kill(first.pid, signal.SIGKILL)
    while identity.lives():
        time.sleep(0.01)
    second = serve.ensure_serving(home)
    assert second.pid != first.pid
    assert second.hcloud_url == first.hcloud_url


def test_a_taken_port_is_told_with_what_mends_it(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cloudflare, edge = serve._free_ports(2)
        place = Place(hcloud=port, cloudflare=cloudflare, edge=edge, block=77)
        serve._write(home, {"place": asdict(place)})
        with pytest.raises(ServeError, match=rf"^port {port} on 127.0.0.1 is taken.*\n  mend: end"):
            serve.ensure_serving(home)


def test_reset_forgets_everything_of_the_rehearsal_and_nothing_else(home: Home) -> None:
    serve.ensure_serving(home)
    (home.root / "mine").write_text("kept")
    serve.reset(home)
    assert [file.name for file in home.root.iterdir()] == ["mine"]
    (home.root / "mine").unlink()
    serve.reset(home)
    assert not home.root.exists()


def test_a_wish_to_end_that_comes_before_the_wait_is_not_slept_through() -> None:
    with serve._asked_to_end() as wait:
        os.kill(os.getpid(), signal.SIGTERM)
        wait()
