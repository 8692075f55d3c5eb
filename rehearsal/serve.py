"""The serving process: both clouds' stand-ins and the servers' nodes, in one process on loopback.

    serve(home)            in the foreground, until SIGTERM or Ctrl-C          (`make serve`)
    ensure_serving(home)   in the background: returns when it answers
    down(home)             ends it and every process of every node; the state stays
    reset(home)            forgets the state too
    environment(home)      what `pulumi up -s rehearsal` needs to find it

Ports and the block of loopback addresses are chosen once per home and kept in serve.json: they
stand in the stack's state (kubeconfig, DNS records), so they must be the same next week.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from rehearsal.cluster.binaries import Progress
from rehearsal.cluster.processes import Identity, end, end_strays, last_words
from rehearsal.home import REPOSITORY, Home

if TYPE_CHECKING:
    from rehearsal.clouds.cloudflare import Cloudflare
    from rehearsal.clouds.hetzner import Hetzner
    from rehearsal.clouds.http import Call, Listener
    from rehearsal.cluster.datacenter import Cluster
    from rehearsal.registry.service import Forge
    from rehearsal.traffic.way import Way

# The stand-ins and the cluster are imported where they are served: every other verb only asks
# where they are, and would pay 0.3 s of each preview for them.

REHEARSAL_ZONES: Final = {"0123456789abcdef0123456789abcdef": "honeydue.test"}
"""Zone id → domain: the account that a rehearsal's Cloudflare token opens."""
PASSPHRASE: Final = "rehearsal"
"""Protects nothing: a rehearsal's secrets are made up. `pulumi` wants one all the same."""
FIRST_BLOCK: Final = 64
LAST_BLOCK: Final = 250
START_SECONDS: Final = 120.0
END_SECONDS: Final = 60.0
"""Nodes end their API servers one after the other's patience; then they are killed."""


class ServeError(Exception):
    """Why the stand-ins cannot be served, and the line that mends it."""


@dataclass(frozen=True)
class Place:
    """Where a home's stand-ins listen: ports on 127.0.0.1, and the servers' 127.<block>.0.0/16."""

    hcloud: int
    cloudflare: int
    edge: int
    block: int
    registry: int | None = None  # None: this home was never asked for images


@dataclass(frozen=True)
class Serving:
    """A serving process that answers."""

    pid: int
    hcloud_url: str
    cloudflare_url: str


# --- where -----------------------------------------------------------------------------------


def place(home: Home) -> Place:
    """The home's place: what serve.json says, else chosen free now and written there."""
    saved = _read(home).get("place")
    if saved and "edge" in saved:
        return Place(**saved)
    hcloud, cloudflare, edge = _free_ports(3)
    if saved:  # by an earlier rehearsal, which had no edge
        chosen = Place(edge=edge, **saved)
    else:
        chosen = Place(hcloud, cloudflare, edge, _free_block(home, _listening_blocks()))
    _write(home, {"place": asdict(chosen)})
    return chosen


def environment(home: Home) -> dict[str, str]:
    """For `pulumi up -s rehearsal`, and for anything else that speaks to the stand-ins."""
    at = place(home)
    home.state.mkdir(parents=True, exist_ok=True)  # the CLI refuses a backend that is not there
    return {
        "HCLOUD_ENDPOINT": f"http://127.0.0.1:{at.hcloud}/v1",
        "CLOUDFLARE_BASE_URL": f"http://127.0.0.1:{at.cloudflare}/client/v4",
        "PULUMI_BACKEND_URL": f"file://{home.state}",
        "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
        "HONEYDUE_EDGE": f"127.0.0.1:{at.edge},{home.edge_ca}",
    }


def ensure_registry(home: Home) -> None:
    """A serving process with registry and builder; their address stays the home's. ServeError."""
    at = place(home)
    if at.registry is None:
        (port,) = _free_ports(1)
        _write(home, {"place": asdict(replace(at, registry=port))})
    ensure_serving(home)
    _ask(home, "POST", "/_rehearsal/registry")


def wait_for_registry(home: Home, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """`{"server": …, "build_args": …}` when it works; `say` is told what it waits for."""
    limit = time.monotonic() + seconds
    while True:
        said = _ask(home, "GET", "/_rehearsal/registry")
        if said["phase"] == "ready":
            return said
        if said["phase"] in ("failed", "off"):
            raise ServeError(said["line"] or "the registry was ended")
        if time.monotonic() > limit:
            raise ServeError(f"{said['line']}: not ready within {seconds:.0f} s")
        say(said["line"])
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:  # held together, or the same one might come twice
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _free_block(home: Home, taken: set[int]) -> int:
    """Begins at a number made from the home's path: two homes that are both off rarely meet."""
    size = LAST_BLOCK - FIRST_BLOCK + 1
    offset = int.from_bytes(hashlib.sha256(str(home.root).encode()).digest()[:4], "big") % size
    for step in range(size):
        block = FIRST_BLOCK + (offset + step) % size
        if block not in taken:
            return block
    raise ServeError(
        f"every block from 127.{FIRST_BLOCK}.0.0 to 127.{LAST_BLOCK}.0.0 has a listener\n"
        "  mend: end a rehearsal that is not needed: python -m rehearsal down"
    )


def _listening_blocks() -> set[int]:
    """The second numbers of the 127.x.0.0 addresses on which something listens."""
    blocks = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        address = bytes.fromhex(fields[1].partition(":")[0])[::-1]  # little-endian there
        if fields[3] == "0A" and address[0] == 127:  # 0A: LISTEN
            blocks.add(address[1])
    return blocks


def _read(home: Home) -> dict[str, Any]:
    try:
        said = json.loads(home.serve_file.read_text())
        return said if isinstance(said, dict) else {}
    except (OSError, ValueError):
        return {}


def _write(home: Home, changed: dict[str, Any]) -> None:
    home.root.mkdir(parents=True, exist_ok=True)
    fresh = home.serve_file.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(json.dumps(_read(home) | changed, indent=2) + "\n")
    fresh.replace(home.serve_file)


# --- who -------------------------------------------------------------------------------------


def _process(home: Home) -> Identity | None:
    """The serving process, if it lives."""
    saved = _read(home).get("process")
    identity = Identity(**saved) if saved else None
    return identity if identity and identity.lives() else None


def serving(home: Home) -> Serving | None:
    """The serving process of this home, if there is one and it answers."""
    process = _process(home)
    if process is None or not _read(home).get("listens") or not _answers(place(home).hcloud):
        return None
    said = environment(home)
    return Serving(process.pid, said["HCLOUD_ENDPOINT"], said["CLOUDFLARE_BASE_URL"])


def nodes(home: Home) -> dict[str, Any]:
    """`{"binaries": {phase, program, done, total, line…}, "nodes": {name: {id, phase, line,
    address}}}` as the serving process says it. Raises ServeError when none answers."""
    return _ask(home, "GET", "/_rehearsal/nodes")


def _ask(home: Home, method: str, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", place(home).hcloud, timeout=30)
    try:
        connection.request(method, path)
        said: dict[str, Any] = json.loads(connection.getresponse().read())
        return said
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ServeError(
            f"the stand-ins do not answer ({error})\n  mend: python -m rehearsal serve"
        ) from None
    finally:
        connection.close()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        return True
    except OSError:
        return False


# --- serve -----------------------------------------------------------------------------------


def serve(home: Home, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serves until SIGTERM or Ctrl-C, then ends every node in order. Main thread only.

    Raises ServeError when another process serves this home or one of its ports is taken.
    """
    from rehearsal.clouds.cloudflare import Cloudflare  # noqa: PLC0415 - see above
    from rehearsal.clouds.hetzner import Hetzner  # noqa: PLC0415
    from rehearsal.cluster.datacenter import Cluster  # noqa: PLC0415

    home.root.mkdir(parents=True, exist_ok=True)
    with (home.root / "serve.lock").open("a") as lock, _held(lock, home):
        ended = end_strays(home.nodes)
        if ended:
            print(f"ended {len(ended)} processes that an earlier run left: {', '.join(ended)}")
        at = place(home)
        cluster = Cluster(home)
        cluster.prepare()
        hetzner = Hetzner(home.clouds / "hetzner.json", None, cluster, at.block)
        cloudflare = Cloudflare(home.clouds / "cloudflare.json", None, REHEARSAL_ZONES)
        _declare_nodes(hetzner, cluster)
        forge = _declare_registry(hetzner, home)
        listeners: list[Listener | Way] = []
        with _asked_to_end() as wait:
            try:
                me = Identity.of(os.getpid(), "serve")
                process = asdict(me) if me else None
                # Known to `down` from here on, but not yet to `serving`: until both ports are
                # ours, whoever answers on them may be somebody else.
                _write(home, {"process": process, "listens": False})
                listeners.append(_listen(hetzner.wsgi_app, at.hcloud))
                listeners.append(_listen(cloudflare.wsgi_app, at.cloudflare))
                listeners.append(_listen_as_edge(home, cloudflare, cluster))
                hetzner.resume()
                if at.registry is not None:
                    forge().start()
                _write(home, {"listens": True})
                on_ready()
                wait()
            finally:
                for listener in listeners:
                    listener.stop()
                cluster.close()
                if place(home).registry is not None:
                    forge().stop()
                _write(home, {"process": None, "listens": False})


@contextlib.contextmanager
def _asked_to_end() -> Iterator[Callable[[], None]]:
    """Yields what blocks until SIGTERM or Ctrl-C, also when that came before the call.

    A wake-up descriptor and not a threading.Event: Python runs handlers between two instructions,
    so a signal that comes just before `wait` blocks would interrupt nothing and be slept through.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno())
        handlers = {number: signal.signal(number, lambda *_: None) for number in _ENDING}
        try:
            yield lambda: _read_one(reader)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)


def _read_one(reader: socket.socket) -> None:
    reader.recv(1)


_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def _held(lock: IO[str], home: Home) -> Iterator[None]:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        process = _process(home)
        who = f"process {process.pid}" if process else "another process"
        raise ServeError(
            f"{home.root} is served already, by {who}\n  mend: python -m rehearsal down"
        ) from None
    yield


def _listen(app: Any, port: int) -> Listener:
    from rehearsal.clouds.http import Listener  # noqa: PLC0415 - see above

    with _port_is_free(port):
        return Listener(app, port=port).start()


def _listen_as_edge(home: Home, cloudflare: Cloudflare, cluster: Cluster) -> Way:
    from rehearsal.traffic.way import Way  # noqa: PLC0415 - see above

    at = place(home)

    def built(image: str) -> bool:
        server = cluster.images_server()  # a home may be asked for images later
        return bool(server) and (not image or image.startswith(f"{server}/"))

    with _port_is_free(at.edge):
        return Way(
            home,
            port=at.edge,
            block=at.block,
            store=cloudflare.app.store,
            nodes=cluster,
            pods=cluster.kubelets,
            built=built,
        )


@contextlib.contextmanager
def _port_is_free(port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, SystemExit):  # werkzeug leaves by SystemExit when a port is taken
        raise ServeError(
            f"port {port} on 127.0.0.1 is taken; this rehearsal's state names it\n"
            f"  mend: end what listens there (`ss -ltnp 'sport = :{port}'` names it), or give up"
            " the state: python -m rehearsal reset"
        ) from None


def _declare_nodes(hetzner: Hetzner, cluster: Cluster) -> None:
    from rehearsal.clouds.http import Reply  # noqa: PLC0415 - see above

    @hetzner.app.operator("GET", "/nodes")
    def _nodes(_call: Call) -> Reply:
        return Reply({"binaries": asdict(Progress.read()), "nodes": cluster.statuses()})

    @hetzner.app.operator("POST", "/binaries")
    def _try_again(_call: Call) -> Reply:
        cluster.prepare()
        return Reply({})


def _declare_registry(hetzner: Hetzner, home: Home) -> Callable[[], Forge]:
    """The home's one registry; its operator's side stands beside Hetzner's, like the nodes'."""
    from rehearsal.clouds.http import Reply  # noqa: PLC0415 - see above
    from rehearsal.registry.service import READY, Forge  # noqa: PLC0415

    @cache
    def forge() -> Forge:
        port = place(home).registry
        assert port is not None  # whoever asks has chosen it
        return Forge(home, port)

    @hetzner.app.operator("POST", "/registry")
    def _start(_call: Call) -> Reply:
        forge().start()
        return Reply({})

    @hetzner.app.operator("GET", "/registry")
    def _status(_call: Call) -> Reply:
        status = forge().status()
        ready = {"build_args": forge().build_args} if status.phase == READY else {}
        return Reply({"server": forge().server, **asdict(status), **ready})

    return forge


# --- in the background -----------------------------------------------------------------------


def ensure_serving(home: Home) -> Serving:
    """Starts the serving process unless it is there, and waits until it answers. ServeError."""
    found = serving(home)
    if found:
        if nodes(home)["binaries"]["phase"] == "failed":  # whoever asks again has mended it
            _ask(home, "POST", "/_rehearsal/binaries")
        return found
    home.logs.mkdir(parents=True, exist_ok=True)
    log = home.logs / "serve.log"
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "rehearsal.serve"],
            cwd=REPOSITORY,
            env=os.environ | {"HONEYDUE_REHEARSAL_HOME": str(home.root)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives us, and a Ctrl-C here is not for it
        )
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        found = serving(home)
        if found:
            # Detached on purpose: Popen must not warn that it still runs.
            child.returncode = 0
            return found
        if child.poll() is not None:
            raise ServeError(_last_error(log))
        time.sleep(0.05)
    child.terminate()
    child.wait()
    raise ServeError(f"the stand-ins did not answer within {START_SECONDS:.0f} s; see {log}")


def _last_error(log: Path) -> str:
    """The child's ServeError as it printed it, else its last words."""
    text = log.read_text(errors="replace")
    _, found, said = text.rpartition("serve: ")
    return said.strip() if found else f"the stand-ins did not start: {last_words(log)}; see {log}"


def down(home: Home) -> list[str]:
    """Ends the serving process and every process of every node, also those that a killed serving
    process left. The state stays. Returns what was ended; nothing to end is fine."""
    ended: list[str] = []
    process = _process(home)
    if process:
        ended += [one.name for one in end([process], END_SECONDS)]
        _write(home, {"process": None, "listens": False})
    from rehearsal.registry import service  # noqa: PLC0415 - see above

    return ended + end_strays(home.nodes) + service.end_strays(home)


def reset(home: Home) -> None:
    """`down`, and every trace of the rehearsal goes; the cache of binaries stays."""
    down(home)
    from rehearsal.registry import service  # noqa: PLC0415 - see above

    service.forget(home)
    edge, app, unpacked = home.edge_ca.parent, home.root / "app", home.root / "unpacked"
    for folder in (home.state, home.clouds, home.nodes, home.logs, edge, app, unpacked):
        shutil.rmtree(folder, ignore_errors=True)
    made = ("serve.lock", "images.yaml", "Pulumi.rehearsal.yaml", "behaviour.json")
    for file in (home.serve_file, *(home.root / name for name in made)):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not ours alone, or already gone: then it stays
        home.root.rmdir()


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        serve(Home.current())
    except ServeError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
