"""What a kubelet does with images, settings, probes, logs and orders to misbehave. No cluster."""

from __future__ import annotations

import gzip
import io
import json
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from rehearsal.cli import main
from rehearsal.cluster.processes import Identity, end_strays
from rehearsal.home import Home
from rehearsal.kubelet.addresses import Kubelets
from rehearsal.kubelet.behaviour import KINDS, Behaviour, behave, behaviour_file, behaviour_of
from rehearsal.kubelet.container import ConfigMissing, PullFailed, StartFailed
from rehearsal.kubelet.environment import environment
from rehearsal.kubelet.images import Images, unpack
from rehearsal.kubelet.logs import Log, NoLog, Wanted, read
from rehearsal.kubelet.probes import ask
from rehearsal.kubelet.runtime import Process, write_line
from tests.images.small_registry import TOKEN, USERNAME, digest_of, serve

Json = dict[str, Any]
POD: Json = {
    "metadata": {"name": "api-1", "namespace": "honeydue", "uid": "u-1"},
    "spec": {"nodeName": "honeydue-1"},
}

# --- behaviours ---------------------------------------------------------------------------------


def pod_of(service: str, digest: str) -> Json:
    return {
        "metadata": {"labels": {"app.kubernetes.io/name": service}},
        "spec": {"containers": [{"image": f"r.test/a/{service}@{digest}"}]},
    }


def test_a_digest_wins_over_its_service_and_ok_takes_an_order_back(tmp_path: Path) -> None:
    file, digest = behaviour_file(Home(tmp_path)), "sha256:" + "a" * 64
    behave(file, "api", Behaviour("crashes"))
    behave(file, digest, Behaviour.parse(["slow", "2.5"]))
    assert behaviour_of(file, pod_of("api", digest)) == Behaviour("slow", 2.5)
    assert behaviour_of(file, pod_of("api", "sha256:" + "b" * 64)) == Behaviour("crashes")
    assert behaviour_of(file, pod_of("worker", "sha256:" + "b" * 64)) == Behaviour()
    behave(file, "api", Behaviour("ok"))
    assert list(json.loads(file.read_text())) == [digest]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["never"], "there are: ok, pull-fails, crashes"),
        (["slow"], "as in: slow 240"),
        (["slow", "-1"], "as in: slow 240"),
        (["ok", "3"], "ok takes no number"),
        ([], "there are: "),
    ],
)
def test_an_order_that_nobody_understands_is_refused_with_what_would_do(
    words: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Behaviour.parse(words)


def test_the_operator_gives_and_takes_back_an_order_by_a_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HONEYDUE_REHEARSAL_HOME", str(tmp_path))
    assert main(["behave", "api", "slow", "240"]) == 0
    said = capsys.readouterr().out
    assert "api: for pods that start from now on, its startup probe fails for SECONDS" in said
    assert "to undo: python -m rehearsal behave api ok" in said
    digest = "sha256:" + "a" * 64
    assert behaviour_of(tmp_path / "behaviour.json", pod_of("api", digest)).seconds == 240
    assert main(["behave", "api", "ok"]) == 0
    assert behaviour_of(tmp_path / "behaviour.json", pod_of("api", digest)) == Behaviour()
    assert main(["behave", "Api", "ok"]) == 2
    assert "neither a service (api) nor a digest" in capsys.readouterr().err


def test_a_damaged_file_of_orders_is_no_order(tmp_path: Path) -> None:
    file = tmp_path / "behaviour.json"
    for text in ("", "[]", '{"api": 3}', '{"api": {"sort": "ok"}}'):
        file.write_text(text)
        assert behaviour_of(file, pod_of("api", "sha256:" + "a" * 64)) == Behaviour()
    assert set(KINDS) > {"ok", "slow"}


def test_addresses_come_and_go_with_what_listens(tmp_path: Path) -> None:
    kubelets = Kubelets(Home(tmp_path))
    assert kubelets.address("10.42.0.2", 8000) is None
    kubelets.appear("10.42.0.2", Behaviour("answers-500"))
    kubelets.listen("10.42.0.2", 8000, ("127.0.0.1", 4000))
    assert kubelets.address("10.42.0.2", 8000) == ("127.0.0.1", 4000)
    assert kubelets.address("10.42.0.2", 8001) is None
    assert kubelets.behaviour("10.42.0.2").kind == "answers-500"
    kubelets.listen("10.42.0.2", 8000, None)
    assert kubelets.address("10.42.0.2", 8000) is None
    kubelets.listen("10.42.0.2", 8000, ("127.0.0.1", 4001))
    kubelets.vanish("10.42.0.2")
    assert kubelets.address("10.42.0.2", 8000) is None
    assert kubelets.behaviour("10.42.0.2") == Behaviour()


# --- the environment ----------------------------------------------------------------------------

THERE = {
    ("ConfigMap", "config"): {"A": "from config", "B": "b", "PORT": "1"},
    ("Secret", "secrets"): {"S": "a secret", "A": "from secrets"},
}


def made(**spec: Any) -> dict[str, str]:
    return environment(spec, POD, "10.42.0.2", lambda *key: THERE.get(key))


def test_later_sources_win_and_env_wins_over_all() -> None:
    assert made(
        envFrom=[{"configMapRef": {"name": "config"}}, {"secretRef": {"name": "secrets"}}],
        env=[{"name": "PORT", "value": "8000"}, {"name": "URL", "value": "http://$(A):$(NO)$$(A)"}],
    ) == {
        **{"A": "from secrets", "B": "b", "S": "a secret", "PORT": "8000"},
        "URL": "http://from secrets:$(NO)$(A)",
    }


def test_single_keys_and_the_pods_own_fields_are_found() -> None:
    def of(name: str, **source: Any) -> Json:
        return {"name": name, "valueFrom": source}

    assert made(
        env=[
            of("ONE", secretKeyRef={"name": "secrets", "key": "S"}),
            of("TWO", configMapKeyRef={"name": "none", "key": "x", "optional": True}),
            of("IP", fieldRef={"fieldPath": "status.podIP"}),
        ]
    ) == {"ONE": "a secret", "IP": "10.42.0.2"}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"envFrom": [{"configMapRef": {"name": "x"}}]}, 'configmap "x" not found'),
        ({"envFrom": [{"secretRef": {"name": "x"}}]}, 'secret "x" not found'),
        (
            {
                "env": [
                    {"name": "N", "valueFrom": {"secretKeyRef": {"name": "secrets", "key": "K"}}}
                ]
            },
            "couldn't find key K in Secret honeydue/secrets",
        ),
        (
            {"env": [{"name": "N", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "K"}}}]},
            'configmap "x" not found',
        ),
    ],
)
def test_what_is_missing_is_said_as_a_kubelet_says_it(spec: Json, said: str) -> None:
    with pytest.raises(ConfigMissing) as missing:
        made(**spec)
    assert str(missing.value) == said


# --- images -------------------------------------------------------------------------------------


def layer(
    folder: Path,
    files: dict[str, bytes],
    links: dict[str, str] | None = None,
    *,
    zipped: bool = True,
) -> Path:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(body), 0o555
            archive.addfile(member, io.BytesIO(body))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    made = folder / f"{len(list(folder.iterdir()))}.layer"
    made.write_bytes(gzip.compress(data.getvalue()) if zipped else data.getvalue())
    return made


def test_layers_lie_one_above_the_other_and_whiteouts_take_away(tmp_path: Path) -> None:
    layers = [
        layer(tmp_path, {"bin/a": b"1", "bin/b": b"1", "etc/x/1": b"1", "keep": b"1"}),
        layer(tmp_path, {"bin/.wh.a": b"", "etc/x/.wh..wh..opq": b"", "keep": b"2"}, zipped=False),
        layer(tmp_path, {"etc/x/2": b"3"}),
    ]
    unpack(layers, root := tmp_path / "out" / "root")
    found = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert found == {"bin/b": b"1", "keep": b"2", "etc/x/2": b"3"}


def test_the_images_root_is_where_absolute_links_begin(tmp_path: Path) -> None:
    unpack(
        [layer(tmp_path, {"bin/busybox": b"here"}, {"usr/sh": "/bin/busybox"})],
        root := tmp_path / "out" / "root",
    )
    assert (root / "usr/sh").read_bytes() == b"here"


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "up/outside"])
def test_no_layer_writes_outside_of_its_root(tmp_path: Path, name: str) -> None:
    first = layer(tmp_path, {"a/file": b""}, {"up": "../.."})
    with pytest.raises(PullFailed, match="failed to extract layer"):
        unpack([first, layer(tmp_path, {name: b"x"})], tmp_path / "deep" / "out" / "root")
    assert not list(tmp_path.rglob("outside"))
    assert not list((tmp_path / "deep" / "out").iterdir()), "whole or not at all"


def test_an_image_is_pulled_with_its_secret_verified_and_unpacked_once(tmp_path: Path) -> None:
    with serve() as registry:
        file = layer(tmp_path, {"api": b"program"}).read_bytes()
        digest = registry.push("admin/honeydue-api", "t", [file])
        image = f"{registry.server}/admin/honeydue-api@{digest}"
        login: Json = {"auths": {registry.server: {"username": USERNAME, "password": TOKEN}}}
        one, two = (Images(tmp_path / n, tmp_path / "unpacked") for n in ("one", "two"))
        assert not one.present(image)
        said = one.pull(image, login)
        assert said.startswith(f'Successfully pulled image "{image}" in ')
        assert said.endswith(f"Image size: {len(file)} bytes.")
        assert one.present(image)
        assert (one.root(image) / "api").read_bytes() == b"program"
        assert [file.suffix for file in tmp_path.glob("one/*")] == [".json"], "no packed layer"
        assert not two.present(image), "each node pulls for itself"
        with pytest.raises(PullFailed, match="failed to fetch anonymous token"):
            two.pull(image, {})
        wrong: Json = {"auths": {registry.server: {"username": USERNAME, "password": "x"}}}
        with pytest.raises(PullFailed, match=r"fetch oauth token.*401 Unauthorized") as refused:
            two.pull(image, wrong)
        assert "password" not in str(refused.value)
        registry.blobs[digest_of(file)] = b"damaged"
        with pytest.raises(PullFailed, match="unexpected commit digest"):
            two.pull(image, login)
        del registry.blobs[digest_of(file)]
        with pytest.raises(PullFailed, match=r"code = NotFound.*failed to copy: httpReadSeeker"):
            two.pull(image, login)
        server = registry.server
    with pytest.raises(PullFailed, match=f"dial tcp {server}: connect: connection refused"):
        two.pull(image, login)


# --- probes -------------------------------------------------------------------------------------


@contextmanager
def answering(status: int) -> Iterator[tuple[str, int]]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield "127.0.0.1", server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


HTTP: Json = {"httpGet": {"path": "/health/", "port": 8000}}
SAID = "10.42.0.2:8000"


@pytest.mark.parametrize(("status", "words"), [(200, ""), (302, ""), (404, "404"), (503, "503")])
def test_an_http_probe_passes_from_200_to_399(status: int, words: str) -> None:
    with answering(status) as at:
        found = ask(HTTP, at, SAID)
    assert found == (f"HTTP probe failed with statuscode: {words}" if words else "")


def test_a_probe_tells_the_pods_address_and_not_ours() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, but nobody listens
        at = held.getsockname()
        dial = f"dial tcp {SAID}: connect: connection refused"
        assert ask(HTTP, at, SAID) == f'Get "http://{SAID}/health/": {dial}'
        assert ask({"tcpSocket": {"port": 8000}}, at, SAID) == dial
        assert ask(HTTP, None, SAID) == f'Get "http://{SAID}/health/": {dial}'


def test_who_accepts_and_says_nothing_times_out_over_http_and_passes_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        at = held.getsockname()
        assert ask({"tcpSocket": {"port": 8000}}, at, SAID) == ""
        assert ask({**HTTP, "timeoutSeconds": 0.1}, at, SAID) == (
            f'Get "http://{SAID}/health/": context deadline exceeded '
            "(Client.Timeout exceeded while awaiting headers)"
        )


# --- logs ---------------------------------------------------------------------------------------


def written(path: Path, *lines: str) -> Log:
    with path.open("ab", buffering=0) as out:
        for line in lines:
            write_line(out, line.encode() + b"\n")
    return Log(path, lambda: False)


def test_a_log_is_read_with_and_without_its_times(tmp_path: Path) -> None:
    log = written(tmp_path / "0.log", "one", "two with words", "")
    assert b"".join(read(log, Wanted(), lambda: True)) == b"one\ntwo with words\n\n"
    (line,) = read(log, Wanted.parse("tailLines=1&timestamps=true"), lambda: True)
    at, _, said = line.partition(b" ")
    assert said == b"\n"
    assert len(at) == len("2026-11-22T16:00:00.000000000Z")
    assert list(read(log, Wanted(since="2999-01-01T00:00:00Z"), lambda: True)) == []
    assert b"".join(read(log, Wanted(limit=5), lambda: True)) == b"one\nt"


def test_a_followed_log_ends_with_its_container_and_misses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    written(path, "before")
    rounds: list[int] = []

    def grows() -> bool:
        """The container writes its last words and ends, just before it is asked about."""
        rounds.append(1)
        if len(rounds) == 3:
            written(path, "last words")
        return len(rounds) < 3

    log = Log(path, grows)
    assert list(read(log, Wanted(follow=True), lambda: False)) == [b"before\n", b"last words\n"]


def test_a_query_that_makes_no_sense_is_answered_and_no_crash() -> None:
    with pytest.raises(NoLog, match="tailLines is no number") as answer:
        Wanted.parse("tailLines=many")
    assert answer.value.status == 400


# --- processes ----------------------------------------------------------------------------------


def test_a_process_has_only_its_own_environment_and_is_found_by_its_pid_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "not for pods")
    log, pid_file = tmp_path / "0.log", tmp_path / "1" / "run" / "api.pid"
    ended = threading.Event()
    code = "import os, sys, time; print(sorted(os.environ)); sys.stdout.flush(); time.sleep(60)"
    process = Process([sys.executable, "-c", code], {"PORT": "1"}, tmp_path, log, pid_file)
    process.on_end = ended.set
    limit = time.monotonic() + 120
    while not log.read_bytes() and time.monotonic() < limit:
        time.sleep(0.01)
    assert "PORT" in log.read_text()
    assert "OURS" not in log.read_text()
    assert Identity.read(pid_file)
    assert end_strays(tmp_path) == ["container api"]
    assert ended.wait(120)
    assert process.code == 143
    assert not pid_file.exists()


def test_what_cannot_be_started_says_so_as_runc_does(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="unable to start container process"):
        Process(["/x"], {}, tmp_path / "no such folder", tmp_path / "0.log", tmp_path / "a.pid")
