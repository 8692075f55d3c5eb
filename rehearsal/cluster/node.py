"""One server's life: boot, find or join the cluster, run, end. What K3s and its boot script do.

    user_data → disk → private address → configuration checked → binaries
      etcd data on disk?   resume: neither found nor join (as K3s)
      a living peer?       join it
      the founder?         found, when nobody with etcd data is on its way up
      else                 wait
    → etcd → API server → Node object → controllers, kwok, kubelet

Each step is a line on the node's console, and its `status()`.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import yaml

from rehearsal.clouds.machines import Machine
from rehearsal.cluster import boot, commands, objects
from rehearsal.cluster.binaries import KUBERNETES_VERSION, Binaries, BinariesError
from rehearsal.cluster.boot import BootError, Disk, ServerConfig
from rehearsal.cluster.certificates import Pair, issue
from rehearsal.cluster.clients import Api, Etcd, Member, NoAnswer, Refused, tls_context
from rehearsal.cluster.commands import API_PORT, CRED, ETCD_DATA, ETCD_PORT, Layout
from rehearsal.cluster.processes import Supervised
from rehearsal.kubelet.addresses import Kubelets
from rehearsal.kubelet.agent import Kubelet

POLL: Final = 0.25  # seconds between two looks at something that will soon be there
HOUSEKEEPING: Final = 1.0
MEMBER_NAME: Final = "/var/lib/rancher/k3s/server/db/etcd-member-name"


@dataclass(frozen=True)
class Status:
    """`phase`: off, booting, waiting-for-network, waiting-for-binaries, waiting-for-founder,
    joining, starting, running or failed; `line`: what is going on, for a person."""

    phase: str
    line: str


class PoweredOff(Exception):  # noqa: N818 - the way out of the boot, not an error
    pass


class Surroundings(Protocol):
    """What a node finds around it."""

    kubelets: Kubelets

    def images_server(self) -> str:
        """The registry whose images are run; "" where every container is pretended."""

    def binaries(self) -> Binaries | None:
        """None while they are being made. Raises BinariesError."""

    def binaries_line(self) -> str:
        """How far they are."""

    def neighbours(self, node: Node) -> list[Node]:
        """The other powered-on nodes of the same private network."""

    def all_gone(self) -> bool:
        """False while a server that was switched off or deleted is still ending."""


class Node:
    """One server that is powered on. `start` once; then `update`, and `stop` for good."""

    def __init__(self, machine: Machine, folder: Path, logs: Path, around: Surroundings) -> None:
        self.machine = machine
        self.folder = folder
        self.disk = Disk(folder / "disk")
        self.config: ServerConfig | None = None
        self.layout: Layout | None = None
        self._logs = logs
        self._around = around
        self._status = Status("", "")
        self._noted = ""
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._processes: list[Supervised] = []
        self._kubelet: Kubelet | None = None
        self._tls: dict[str, ssl.SSLContext] = {}
        self._thread = threading.Thread(target=self._live, name=f"node {machine.name}", daemon=True)

    # --- from outside ---

    def start(self) -> Node:
        self._thread.start()
        return self

    def update(self, machine: Machine) -> None:
        self.machine = machine
        self._changed.set()

    def stop(self) -> None:
        """Ends every process of the node and waits for that; the disk stays."""
        self._stopping.set()
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def ask_to_stop(self) -> None:
        self._stopping.set()
        self._changed.set()

    def status(self) -> Status:
        return self._status

    @property
    def address(self) -> str:
        """Where everything of this node listens; empty without a public address."""
        return self.machine.public_ipv4 or ""

    def has_etcd_data(self) -> bool:
        return self.disk.path(f"{ETCD_DATA}/member").is_dir()

    def api(self) -> Api | None:
        """Its API server as system:masters, once the node has certificates."""
        context = self._tls.get("api")
        return Api(self.address, API_PORT, context) if context else None

    def answers(self) -> bool:
        api = self.api()
        return api is not None and api.ready()

    def etcd(self, address: str | None = None) -> Etcd:
        return Etcd(address or self.address, ETCD_PORT, self._tls["etcd"])

    # --- console ---

    def say(self, line: str, phase: str | None = None) -> None:
        """A line on the console (and the status); the same line twice in a row is said once."""
        if phase is None:
            phase = self._status.phase
        elif Status(phase, line) == self._status:
            return
        self._status = Status(phase, line)
        stamp = time.strftime("%H:%M:%S")
        with contextlib.suppress(OSError), (self.folder / "console.log").open("a") as out:
            out.write(f"{stamp} {phase}: {line}\n")

    def _note(self, line: str) -> None:
        """On the console only: the status stays."""
        if line != self._noted:
            kept, self._noted = self._status, line
            self.say(line)
            self._status = kept

    # --- life ---

    def _live(self) -> None:
        try:
            self._boot()
        except PoweredOff:
            pass
        except BootError as error:
            self._fail(str(error))
        except Exception as error:  # a boot that breaks is a node that is down, not a dead server
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._end_processes()
            if self._status.phase != "failed":
                self.say("powered off", "off")

    def _fail(self, reason: str) -> None:
        self.say(reason, "failed")
        self._end_processes()
        self._stopping.wait()

    def _pause(self, seconds: float = POLL) -> None:
        if self._stopping.wait(seconds):
            raise PoweredOff

    def _boot(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # its disk holds the cluster's keys
        self.say("powered on", "booting")
        self._first_boot()
        if not self.disk.exists(boot.CONFIG):
            self.say("up; nothing in its user_data asks for K3s", "running")
            self._stopping.wait()
            raise PoweredOff
        merged = boot.read_config(self.disk)  # what is wrong on paper is said before any wait
        private = self._wait_for_network()
        config = boot.server_config(merged, self.disk, self.machine.name)
        boot.check_addresses(config, private, self.machine.public_ipv4)
        boot.check_pki(self.disk, config.token)
        boot.check_argument_files(config, self.disk)
        boot.check_kernel(config, self.disk)
        if not self.address:
            raise BootError("the server has no public IPv4 address: there is nothing to listen on")
        self.config = config
        self.layout = Layout(self.address, self.disk, config, self._wait_for_binaries())
        # A server without power is silent at once; here its processes take a moment to end. One of
        # them may hold this address, and an etcd of a cluster that is lost would talk to the new
        # one: with the same addresses it has the same id.
        while not self._around.all_gone():
            self.say("waiting for the servers that were switched off to be silent", "booting")
            self._pause()
        self._make_certificates()
        founded = self._enter_cluster()
        self._run_api_server()
        self._register(founded)
        self._run_controllers()
        self.say(f"K3s is up on {self.address}:{API_PORT}", "running")
        self._keep_house()

    def _first_boot(self) -> None:
        """cloud-init writes files once per instance: a reboot finds the disk as it was."""
        done = self.folder / "booted"
        if done.exists():
            return
        config = boot.parse_user_data(self.machine.user_data)
        boot.write_disk(self.disk, config)
        if self.disk.exists(boot.CONFIG) and not boot.starts_k3s(config):
            raise BootError("user_data writes K3s's configuration, but nothing in it starts K3s")
        version = re.search(r"v\d+\.\d+\.\d+(?:\+|%2B)k3s\d+", self.machine.user_data)
        done.write_text(version[0].replace("%2B", "+") if version else "")
        self.say(f"cloud-init: {len(config.files)} files written", "booting")

    def _k3s_version(self) -> str:
        """What user_data installs; the gate and the people look for it on the Node."""
        said = (self.folder / "booted").read_text().strip()
        return said or f"{KUBERNETES_VERSION}+k3s1"

    def _wait_for_network(self) -> str:
        while self.machine.private_ipv4 is None:
            self.say("waiting for a private address", "waiting-for-network")
            self._changed.wait(5.0)
            self._changed.clear()
            self._pause(0)
        return self.machine.private_ipv4

    def _wait_for_binaries(self) -> Binaries:
        """After a failed build it waits on: what was missing may be mended, and tried again."""
        while True:
            try:
                binaries = self._around.binaries()
            except BinariesError as error:
                self.say(f"no Kubernetes to run: {error}", "failed")
            else:
                if binaries is not None:
                    return binaries
                self.say(self._around.binaries_line(), "waiting-for-binaries")
            self._pause(1.0)

    # --- certificates and files ---

    def _make_certificates(self) -> None:
        config = self._k3s

        def pair(name: str) -> Pair:
            path = f"{boot.TLS}/{name}"
            return Pair(self.disk.path(f"{path}.crt"), self.disk.path(f"{path}.key"))

        local = ["localhost", "127.0.0.1", "::1", config.node_name, self.address, config.node_ip]
        serving = [
            *("kubernetes", "kubernetes.default", "kubernetes.default.svc"),
            f"kubernetes.default.svc.{config.cluster_domain}",
            *(*local, config.service_ip(), *config.tls_sans),
        ]
        server_ca, client_ca = pair("server-ca"), pair("client-ca")
        etcd_ca, peer_ca = pair("etcd/server-ca"), pair("etcd/peer-ca")
        issue(
            server_ca,
            pair("serving-kube-apiserver"),
            name="kube-apiserver",
            hosts=serving,
            client=False,
            server=True,
        )
        issue(
            server_ca,
            pair("serving-kubelet"),
            name=config.node_name,
            hosts=local,
            client=False,
            server=True,
        )
        issue(pair("request-header-ca"), pair("client-auth-proxy"), name="system:auth-proxy")
        # etcd's JSON gateway is a client of etcd itself with this certificate: both uses.
        etcd_server = pair("etcd/server-client")
        issue(etcd_ca, etcd_server, name="etcd-server", hosts=local, server=True)
        issue(peer_ca, pair("etcd/peer-server-client"), name="etcd-peer", hosts=local, server=True)
        issue(etcd_ca, pair("etcd/client"), name="etcd-client")
        for name, user, groups in (
            ("client-admin", "system:admin", ["system:masters"]),
            ("client-kube-apiserver", "system:apiserver", ["system:masters"]),
            ("client-controller", "system:kube-controller-manager", []),
            ("client-scheduler", "system:kube-scheduler", []),
            ("client-kubelet", f"system:node:{config.node_name}", ["system:nodes"]),
            # A kubelet's rights are not enough for kwok, which watches all nodes.
            ("client-kwok", "rehearsal:kwok", ["system:masters"]),
        ):
            issue(client_ca, pair(name), name=user, groups=groups)
        for program in ("controller", "scheduler", "kwok"):
            text = commands.kubeconfig(self._layout, f"client-{program}")
            self.disk.write(f"{CRED}/{program}.kubeconfig", text, 0o600)
        if config.secrets_encryption:
            encryption = commands.encryption_config(config)
            self.disk.write(f"{CRED}/encryption-config.json", encryption, 0o600)
        self._prepare_arguments()
        self._tls = {
            "api": tls_context(server_ca, pair("client-admin")),
            "etcd": tls_context(etcd_ca, pair("etcd/client")),
            "kubelet": tls_context(server_ca, pair("client-kubelet")),
        }

    def _prepare_arguments(self) -> None:
        for argument in self._k3s.arguments["kube-apiserver"]:
            flag, _, value = argument.partition("=")
            if flag == "admission-control-config-file":
                try:
                    document = yaml.safe_load(self.disk.read(value))
                except yaml.YAMLError:
                    raise BootError(f"{value} is not YAML") from None
                text = commands.admission_config(document, self.disk)
                self.disk.write(f"{CRED}/admission-config.json", text)
            if flag == "audit-log-path" and value.startswith("/"):
                self.disk.path(value).parent.mkdir(parents=True, exist_ok=True)
        for program, extra in self._k3s.arguments.items():
            for argument in extra:
                if argument.partition("=")[0] in commands.LISTENING:
                    self._note(f"{program}-arg {argument} is not passed on: loopback only")

    # --- the cluster ---

    def _enter_cluster(self) -> bool:
        """Resumes, joins or founds; etcd runs and votes afterwards. True when it founded."""
        if self.has_etcd_data():
            self.say("etcd data on disk: resuming", "starting")
            member = self.disk.read(MEMBER_NAME).decode()
            self._run_etcd(member, {member: self._layout.peer_url()}, joining=True)
            self._wait_for_etcd()
            return False
        peer = self._find_peer()
        if peer is None:
            self.say("no peer answers and this is the founder: founding", "starting")
            member = self._new_member_name()
            self._run_etcd(member, {member: self._layout.peer_url()}, joining=False)
            self._wait_for_etcd()
            return True
        self._join(peer)
        return False

    @property
    def _layout(self) -> Layout:
        assert self.layout  # made when the configuration was read
        return self.layout

    @property
    def _k3s(self) -> ServerConfig:
        assert self.config  # as above
        return self.config

    def _find_peer(self) -> Node | None:
        """A neighbour whose API server answers with this cluster's CA; None: found a cluster."""
        while True:
            neighbours = self._around.neighbours(self)
            for neighbour in neighbours:
                # Without a configuration it has not come that far: who answers on its address is
                # a predecessor that is still ending.
                api = Api(neighbour.address, API_PORT, self._tls["api"], seconds=2)
                if neighbour.config is not None and api.ready():
                    return neighbour
            # A member on its way up (the whole cluster was off) is waited for: founding now would
            # make a second cluster beside the first.
            resuming = [n.machine.name for n in neighbours if n.has_etcd_data()]
            if self._k3s.cluster_init and not resuming:
                return None
            whom = ", ".join(resuming) or "the founder or another server"
            self.say(f"waiting for {whom} to answer", "waiting-for-founder")
            self._pause(POLL)

    def _join(self, peer: Node) -> None:
        self.say(f"{peer.machine.name} answers: joining", "joining")
        self.disk.write(
            boot.JOIN_DROP_IN,
            f"server: https://{peer.machine.private_ipv4}:6443\ncluster-init: false\n".encode(),
            0o600,
        )
        self._check_with(peer)
        while True:
            try:
                self._leave_no_predecessor(peer)
                self._check_node_password(peer)
                members = self._add_to_etcd(peer)
                break
            except (NoAnswer, Refused) as error:
                if not peer.answers():
                    self.say(f"{peer.machine.name} stopped answering", "waiting-for-founder")
                    peer = self._find_peer() or peer
                self._note(f"not yet: {error}")
                self._pause()
        member = self._new_member_name()
        others = {one.name: one.peer_urls[0] for one in members if one.name}
        self._run_etcd(member, {**others, member: self._layout.peer_url()}, joining=True)
        self._become_voter(peer.address)

    def _check_with(self, peer: Node) -> None:
        """What K3s's supervisor on the peer would refuse."""
        assert peer.config  # a peer that answers has one
        if peer.config.token.password != self._k3s.token.password:
            raise BootError(
                f"{peer.machine.name} refuses this node: 401 Unauthorized, the token is another"
                " (K3s: failed to validate token)"
            )
        mine, theirs = self._k3s.critical, peer.config.critical
        for key in sorted(mine):
            if mine[key] != theirs[key]:
                raise BootError(
                    f"{peer.machine.name} refuses this node: {key} is {theirs[key]!r} there and"
                    f" {mine[key]!r} here (K3s: critical configuration value mismatch between"
                    " servers)"
                )

    def _leave_no_predecessor(self, peer: Node) -> None:
        """The boot script's part: a replaced server removes what the one before it left."""
        name = self._k3s.node_name
        for neighbour in self._around.neighbours(self):
            if neighbour.config and neighbour.config.node_name == name and neighbour.answers():
                raise BootError(
                    f"a living server is called {name} too (K3s: duplicate node name found,"
                    " please use a unique name for this node)"
                )
        api = Api(peer.address, API_PORT, self._tls["api"])
        if api.get(f"/api/v1/nodes/{name}") is not None:
            self._note(f"removing the Node object that the previous {name} left")
            api.delete(f"/api/v1/nodes/{name}")
            # K3s's node controller removes the password together with its Node.
            secret = objects.password_secret_name(name)
            api.delete(f"/api/v1/namespaces/kube-system/secrets/{secret}")
        etcd = self.etcd(peer.address)
        for member in etcd.members():
            own_url = self._layout.peer_url() in member.peer_urls
            if member.is_of_node(name) or own_url:
                self._note(f"removing the etcd member {member.name or 'that never started'}")
                etcd.remove(member.id)

    def _check_node_password(self, peer: Node) -> None:
        name = self._k3s.node_name
        stored = Api(peer.address, API_PORT, self._tls["api"]).get(
            f"/api/v1/namespaces/kube-system/secrets/{objects.password_secret_name(name)}"
        )
        if stored is None:
            return
        if not objects.password_fits(self._node_password(), objects.stored_hash(stored)):
            raise BootError(
                f"{peer.machine.name} refuses this node: hash does not match"
                f" (K3s: unable to verify password for node {name}); the Secret"
                f" kube-system/{objects.password_secret_name(name)} is of another server"
            )

    def _node_password(self) -> str:
        if not self.disk.exists(boot.NODE_PASSWORD):  # K3s makes one where there is none
            made = secrets.token_hex(16)
            self.disk.write(boot.NODE_PASSWORD, made.encode(), 0o600)
        return self.disk.read(boot.NODE_PASSWORD).decode().strip()

    # --- etcd ---

    def _new_member_name(self) -> str:
        name = f"{self._k3s.node_name}-{secrets.token_hex(4)}"
        self.disk.write(MEMBER_NAME, name.encode(), 0o600)
        return name

    def _add_to_etcd(self, peer: Node) -> list[Member]:
        """Adds this node as a learner and returns the members with it. etcd takes one learner at
        a time: two joining nodes take turns, as with K3s."""
        etcd = self.etcd(peer.address)
        etcd.add_learner(self._layout.peer_url())
        return etcd.members()

    def _run_etcd(self, member: str, cluster: dict[str, str], *, joining: bool) -> None:
        data = self.disk.path(ETCD_DATA)
        data.mkdir(parents=True, exist_ok=True)
        data.chmod(0o700)
        self._run("etcd", commands.etcd(self._layout, member, cluster, joining))

    def _wait_for_etcd(self) -> None:
        process = self._processes[-1]
        while not self.etcd().healthy():
            learner = self._own_member()
            if learner and learner.learner:
                self._become_voter(None)
                return
            why = process.reason() if process.restarts > 2 else "waiting for etcd to have a quorum"
            if "permanently removed" in why:
                raise BootError("etcd: this member was removed from the cluster while it was off")
            self.say(why, "starting")
            self._pause()

    def _own_member(self) -> Member | None:
        try:
            members = self.etcd().members()
        except (NoAnswer, Refused):
            return None
        return next((m for m in members if self._layout.peer_url() in m.peer_urls), None)

    def _become_voter(self, through: str | None) -> None:
        """Promotes this learner as soon as it is in sync; any voter's word is passed to the
        leader.

        A new member gets its cluster's data as a snapshot, and then opens its connections anew.
        The word by which it introduces itself is under way just then, is lost with the old ones,
        and comes again after 5 s + 2 election time-outs: 9 s here, 15 s with K3s's. One that was
        started again has the snapshot, and introduces itself at once."""
        etcd_here, started_again = self._processes[-1], False
        while True:
            self.say("etcd: learning before it may vote", "joining")
            for address in [through] if through else self._voters():
                try:
                    etcd = self.etcd(address)
                    mine = next(
                        (m for m in etcd.members() if self._layout.peer_url() in m.peer_urls), None
                    )
                    # Promoted before it has published itself, a member waits for 15 s more.
                    serves = self.etcd().serves()
                    if mine is not None and mine.learner and serves:
                        etcd.promote(mine.id)
                    elif mine is not None and not mine.learner and self.etcd().healthy():
                        return
                    elif not (serves or started_again) and self._has_snapshot():
                        etcd_here.start_again()
                        started_again = True
                except (NoAnswer, Refused):
                    continue
            if through and not any(n.address == through for n in self._around.neighbours(self)):
                through = None
            self._pause()

    def _has_snapshot(self) -> bool:
        return any(self.disk.path(f"{ETCD_DATA}/member/snap").glob("*.snap"))

    def _voters(self) -> Iterable[str]:
        return [n.address for n in self._around.neighbours(self) if n.has_etcd_data()]

    # --- the rest of K3s ---

    def _run_api_server(self) -> None:
        process = self._run("kube-apiserver", commands.api_server(self._layout))
        while not self.answers():
            why = process.reason() if process.restarts > 1 else "waiting for the API server"
            self.say(why, "starting")
            self._pause()

    def _register(self, founded: bool) -> None:
        """The Node object and the packaged components: there before K3s calls itself up."""
        api = self.api()
        assert api  # the certificates are there
        name, config = self._k3s.node_name, self._k3s
        self.say("registering the node", "starting")
        while True:
            try:
                if founded or api.get(objects.packaged_path(config.disable)) is None:
                    definitions = self._layout.binaries.custom_resources
                    objects.install_packaged(api, definitions, config.disable)
                node = objects.node(self.machine, config)
                if not api.create("/api/v1/nodes", node):
                    api.patch(
                        f"/api/v1/nodes/{name}",
                        {"metadata": node["metadata"]},
                    )
                status = objects.node_status(self.machine, config, self._k3s_version())
                status["conditions"] = [objects.voter_condition()]
                api.patch(f"/api/v1/nodes/{name}/status", {"status": status})
                api.create(
                    "/api/v1/namespaces/kube-system/secrets",
                    objects.password_secret(name, self._node_password()),
                )
                return
            except (NoAnswer, Refused) as error:
                self._note(f"not yet: {error}")
                self._pause(0.5)

    def _run_controllers(self) -> None:
        self._run("kwok", commands.kwok(self._layout))
        self._run("kube-controller-manager", commands.controller_manager(self._layout))
        self._run("kube-scheduler", commands.scheduler(self._layout))
        self._run_kubelet()

    def _run_kubelet(self) -> None:
        tls = self._layout.tls
        self._kubelet = Kubelet(
            name=self._k3s.node_name,
            address=self.address,
            host_ip=self._k3s.node_ip,
            api=Api(self.address, API_PORT, self._tls["kubelet"], seconds=10),
            folder=self.folder,
            kubelets=self._around.kubelets,
            registry=self._around.images_server,
        ).start(
            Pair(Path(tls("serving-kubelet.crt")), Path(tls("serving-kubelet.key"))),
            Path(tls("client-ca.crt")),
        )

    def _keep_house(self) -> None:
        """Plays what K3s runs once per cluster: its etcd controller and local-path-provisioner.
        Here on the first of the running nodes."""
        known: dict[str, set[int]] = {}
        while True:
            self._pause(HOUSEKEEPING)
            running = [n for n in self._around.neighbours(self) if n.status().phase == "running"]
            if any(n.machine.id < self.machine.id for n in running):
                continue
            with contextlib.suppress(NoAnswer, Refused):
                self._drop_departed_members(known)
                if "local-storage" not in self._k3s.disable:
                    self._provision_volumes()

    def _drop_departed_members(self, known: dict[str, set[int]]) -> None:
        """A deleted Node takes its etcd member along, exactly the one that it had: its successor
        may be joining under the same name. `known`: what was seen before, by Node."""
        api = self.api()
        assert api  # the node is up
        nodes = {n["metadata"]["name"] for n in (api.get("/api/v1/nodes") or {}).get("items") or []}
        etcd = self.etcd()
        members = etcd.members()
        for gone in known.keys() - nodes:
            for member in members:
                if member.id in known[gone]:
                    self._note(f"the Node {gone} is gone: removing its etcd member {member.name}")
                    etcd.remove(member.id)
            del known[gone]
        known.update({n: {m.id for m in members if m.is_of_node(n)} for n in nodes})

    def _provision_volumes(self) -> None:
        api = self.api()
        assert api  # the node is up
        claims = (api.get("/api/v1/persistentvolumeclaims") or {}).get("items") or []
        for claim in claims:
            volume = objects.provisioned_volume(claim)
            if volume is not None:
                api.create("/api/v1/persistentvolumes", volume)
        volumes = (api.get("/api/v1/persistentvolumes") or {}).get("items") or []
        for volume in volumes:
            mine = volume["spec"].get("storageClassName") == objects.LOCAL_PATH
            if mine and (volume.get("status") or {}).get("phase") == "Released":
                api.delete(f"/api/v1/persistentvolumes/{volume['metadata']['name']}")

    # --- processes ---

    def _run(self, name: str, command: list[str]) -> Supervised:
        self._pause(0)
        process = Supervised(
            f"{self.machine.name} {name}",
            command,
            log=self._logs / f"{self.machine.name}-{self.machine.id}.{name}.log",
            pid_file=self.folder / "run" / f"{name}.pid",
            on_restart=self._note,
        )
        self._processes.append(process)
        return process.start()

    def _end_processes(self) -> None:
        """All at once but etcd, which the others still write to while they end. Pods first: a node
        without power has none."""
        if self._kubelet:
            self._kubelet.stop()
            self._kubelet = None
        for group in (self._processes[1:], self._processes[:1]):
            for process in group:
                process.ask_to_stop()
            for process in group:
                process.stop()
        self._processes.clear()
