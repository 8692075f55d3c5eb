"""node.sh under bash, with stubs for the machine's commands and a prefix for its paths."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from honeydue.k3s import cloud_init

from .boots import boot

SCRIPT = Path(cloud_init.__file__).with_name("node.sh")
NIC = "3: enp7s0    inet 10.10.1.12/32 brd 10.10.1.12 scope global dynamic enp7s0\n"
BINARY = b"#!/bin/sh\necho k3s version v1.34.6+k3s1\n"
SHA256 = hashlib.sha256(BINARY).hexdigest()


@dataclass
class Machine:
    """A node's disk, and a `bin` whose commands answer from small files and write down their calls.

    curl: answers/<host><path with _>: the body; missing file: connection refused (exit code 7).
    """

    root: Path
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in ("etc/honeydue", "bin", "answers", "var/lib/rancher/k3s/server/tls"):
            (self.root / folder).mkdir(parents=True)
        self.stub("sleep", "exit 0")
        for tables in ("iptables", "ip6tables"):
            self.stub(tables, 'case "$*" in *" -C "*) exit "$(cat $ROOT/has_rule)";; esac')
        (self.root / "has_rule").write_text("1")
        self.stub("curl", CURL)

    def stub(self, name: str, body: str) -> None:
        path = self.root / "bin" / name
        path.write_text(
            f'#!/usr/bin/env bash\nROOT="{self.root}"\necho "{name} $*" >>"$ROOT/calls"\n{body}\n'
        )
        path.chmod(0o755)

    def answer(self, address: str, body: str | bytes, *, after: int = 0) -> None:
        """`after`: how many times it is refused first."""
        name = address.replace("/", "_")
        (self.root / "answers" / name).write_bytes(
            body if isinstance(body, bytes) else body.encode()
        )
        (self.root / "answers" / f"{name}.refuse").write_text(str(after))

    def run(self, step: str, number: int = 2, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = cloud_init.node_env(boot(number))
        environment += "".join(f"{key}={value!r}\n" for key, value in settings.items())
        (self.root / "etc/honeydue/node.env").write_text(environment)
        return subprocess.run(
            ["bash", str(SCRIPT), step],
            env={
                "PATH": f"{self.root}/bin:{os.environ['PATH']}",
                "HONEYDUE_ROOT": str(self.root),
                "HONEYDUE_PAUSE": "0",
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def calls(self, command: str) -> list[str]:
        log = self.root / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(f"{command} ")]

    def drop_in(self, name: str) -> str | None:
        path = self.root / "etc/rancher/k3s/config.yaml.d" / name
        return path.read_text() if path.exists() else None


CURL = r"""
for word in "$@"; do case "$word" in https://*) url="$word" ;; esac; done
name="$(printf '%s' "${url#https://}" | sed 's/:6443//' | tr / _)"
file="$ROOT/answers/$name"
code=200 output=""
case "$*" in *"--request DELETE"*) echo "$name" >>"$ROOT/deleted"; rm -f "$file"; exit 0 ;; esac
if [ ! -e "$file" ]; then
  if [ -e "$ROOT/answers/${name%%_*}_ping" ]; then code=404; else code=000; fi
  case "$*" in *http_code*) printf %s "$code"; exit 0 ;; esac
  [ "$code" = 404 ] && exit 22
  exit 7
fi
left="$(cat "$file.refuse" 2>/dev/null || echo 0)"
if [ "$left" -gt 0 ]; then echo $((left - 1)) >"$file.refuse"; exit 7; fi
case "$*" in *http_code*) printf 200 ;; *) cat "$file" ;; esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


@pytest.fixture
def with_ca(machine: Machine) -> Machine:
    tls = machine.root / "var/lib/rancher/k3s/server/tls"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-subj", "/CN=k3s-client-ca"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", str(tls / "client-ca.key"), "-out", str(tls / "client-ca.crt")),
        ],
        check=True,
        capture_output=True,
    )
    return machine


def test_the_script_passes_shellcheck() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(
        [shellcheck, str(SCRIPT)], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.stdout == ""


# --- metadata ---


def test_pods_are_kept_from_the_metadata_service(machine: Machine) -> None:
    assert machine.run("metadata").returncode == 0
    assert added_rules(machine) == [
        "iptables -w -t raw -I PREROUTING -d 169.254.169.254 -j DROP",
        "iptables -w -t raw -I OUTPUT -d 169.254.169.254 -m owner ! --uid-owner 0 -j DROP",
        "ip6tables -w -t raw -I PREROUTING -d fe80::a9fe:a9fe -j DROP",
        "ip6tables -w -t raw -I OUTPUT -d fe80::a9fe:a9fe -m owner ! --uid-owner 0 -j DROP",
    ]


def added_rules(machine: Machine) -> list[str]:
    calls = machine.calls("iptables") + machine.calls("ip6tables")
    return [call for call in calls if " -I " in call]


def test_root_loses_the_metadata_service_too_once_the_private_nic_is_set_up(
    machine: Machine,
) -> None:
    # Traefik is root in the host's network; cloud-init has what it needs by then.
    nic(machine)
    assert machine.run("network").returncode == 0
    assert added_rules(machine) == [
        "iptables -w -t raw -I OUTPUT -d 169.254.169.254 -j DROP",
        "ip6tables -w -t raw -I OUTPUT -d fe80::a9fe:a9fe -j DROP",
    ]


def test_root_keeps_the_metadata_service_until_the_private_nic_is_set_up(
    machine: Machine,
) -> None:
    # cloud-init sets that NIC up with what it reads there.
    nic(machine, after=1000)
    assert machine.run("network", NETWORK_SECONDS="20").returncode == 1
    assert added_rules(machine) == []


def test_the_rule_is_not_added_twice(machine: Machine) -> None:
    (machine.root / "has_rule").write_text("0")
    assert machine.run("metadata").returncode == 0
    assert added_rules(machine) == []


# --- install ---


def release(machine: Machine, binary: bytes = BINARY) -> None:
    where = cloud_init.RELEASE.removeprefix("https://")
    machine.answer(f"{where}/k3s", binary)
    machine.answer(f"{where}/sha256sum-amd64.txt", f"{'0' * 64}  k3s-airgap\n{SHA256}  k3s\n")


def test_k3s_is_installed_when_its_pinned_checksum_fits(machine: Machine) -> None:
    release(machine)
    assert machine.run("install", K3S_SHA256=SHA256).returncode == 0
    installed = machine.root / "usr/local/bin/k3s"
    assert installed.read_bytes() == BINARY
    assert os.access(installed, os.X_OK)
    assert (machine.root / "usr/local/bin/kubectl").resolve() == installed
    assert not [call for call in machine.calls("curl") if "sha256sum" in call]


def test_a_binary_with_another_checksum_is_not_installed(machine: Machine) -> None:
    release(machine, b"evil")
    result = machine.run("install", K3S_SHA256=SHA256)
    assert result.returncode == 1
    assert f"K3s's binary has another sha256 than {SHA256}: not installed" in result.stderr
    assert list((machine.root / "usr/local/bin").iterdir()) == []


def test_an_installed_k3s_is_not_downloaded_again(machine: Machine) -> None:
    release(machine)
    machine.run("install", K3S_SHA256=SHA256)
    before = len(machine.calls("curl"))
    assert machine.run("install", K3S_SHA256=SHA256).returncode == 0
    assert len(machine.calls("curl")) == before


def test_without_a_pinned_checksum_the_releases_own_list_is_asked(machine: Machine) -> None:
    release(machine)
    result = machine.run("install", K3S_SHA256="")
    assert result.returncode == 0, result.stderr
    assert "K3s's checksum is not pinned" in result.stdout
    assert machine.run("install", K3S_SHA256="").returncode == 0
    assert len([c for c in machine.calls("curl") if c.endswith("/k3s")]) == 1


def test_without_a_pinned_checksum_a_broken_download_is_refused(machine: Machine) -> None:
    release(machine, b"half a bin")
    assert machine.run("install", K3S_SHA256="").returncode == 1
    assert not (machine.root / "usr/local/bin/k3s").exists()


# --- network ---


def nic(machine: Machine, *, after: int = 0, mtu: str = "1450") -> None:
    (machine.root / "nic").write_text(NIC)
    (machine.root / "nic.wait").write_text(str(after))
    mtu_file = machine.root / "sys/class/net/enp7s0/mtu"
    mtu_file.parent.mkdir(parents=True)
    mtu_file.write_text(mtu)
    machine.stub(
        "ip",
        'case "$*" in *addr*) n=$(cat "$ROOT/nic.wait"); '
        'if [ "$n" -gt 0 ]; then echo $((n - 1)) >"$ROOT/nic.wait"; else cat "$ROOT/nic"; fi;; '
        "esac",
    )


def test_the_script_waits_for_the_private_address_and_names_its_nic(machine: Machine) -> None:
    nic(machine, after=3)
    assert machine.run("network").returncode == 0
    assert machine.drop_in("10-network.yaml") == "flannel-iface: enp7s0\n"
    assert len([c for c in machine.calls("ip") if "addr" in c]) == 4
    assert "to 10.10.1.12/32" in machine.calls("ip")[0]


def test_an_mtu_above_hetzners_is_lowered(machine: Machine) -> None:
    nic(machine, mtu="1500")
    assert machine.run("network").returncode == 0
    assert "ip link set dev enp7s0 mtu 1450" in machine.calls("ip")


def test_an_mtu_that_fits_is_left_alone(machine: Machine) -> None:
    nic(machine)
    machine.run("network")
    assert not [c for c in machine.calls("ip") if "mtu" in c]


def test_a_private_address_that_never_comes_is_an_error_that_says_so(machine: Machine) -> None:
    nic(machine, after=1000)
    result = machine.run("network", NETWORK_SECONDS="20")
    assert result.returncode == 1
    assert "no interface has 10.10.1.12 after 20 s" in result.stderr


# --- join ---

JOINED = "server: https://10.10.1.11:6443\ncluster-init: false\n"


def test_a_node_joins_the_first_living_peer(with_ca: Machine) -> None:
    with_ca.answer("10.10.1.13/ping", "pong")
    assert with_ca.run("join").returncode == 0
    assert with_ca.drop_in("20-join.yaml") == JOINED.replace(".11:", ".13:")


def test_a_rebuilt_founder_joins_its_living_peers_and_founds_nothing(with_ca: Machine) -> None:
    with_ca.answer("10.10.1.12/ping", "pong", after=5)
    assert with_ca.run("join", number=1).returncode == 0
    assert with_ca.drop_in("20-join.yaml") == JOINED.replace(".11:", ".12:")


def test_the_founder_founds_after_a_minute_without_an_answer(machine: Machine) -> None:
    result = machine.run("join", number=1)
    assert result.returncode == 0
    assert machine.drop_in("20-join.yaml") is None
    assert len([c for c in machine.calls("curl") if "10.10.1.12" in c]) == 12
    assert "founding the cluster" in result.stdout


def test_a_node_that_is_not_the_founder_waits_for_a_peer(with_ca: Machine) -> None:
    with_ca.answer("10.10.1.11/ping", "pong", after=40)
    assert with_ca.run("join").returncode == 0
    assert with_ca.drop_in("20-join.yaml") == JOINED


def test_a_peer_must_show_a_certificate_of_this_clusters_ca(with_ca: Machine) -> None:
    with_ca.answer("10.10.1.11/ping", "pong")
    with_ca.run("join")
    for call in with_ca.calls("curl"):
        assert f"--cacert {with_ca.root}/var/lib/rancher/k3s/server/tls/server-ca.crt" in call
        assert "--insecure" not in call


def test_something_else_on_the_port_is_not_a_peer(with_ca: Machine) -> None:
    with_ca.answer("10.10.1.11/ping", "hello")
    with_ca.answer("10.10.1.13/ping", "pong")
    with_ca.run("join")
    assert with_ca.drop_in("20-join.yaml") == JOINED.replace(".11:", ".13:")


def test_a_node_with_etcd_data_goes_on_from_there(machine: Machine) -> None:
    (machine.root / "var/lib/rancher/k3s/server/db/etcd/member/wal").mkdir(parents=True)
    assert machine.run("join").returncode == 0
    assert machine.calls("curl") == []


def test_a_failed_first_join_through_a_dead_peer_is_forgotten(with_ca: Machine) -> None:
    stale = with_ca.root / "etc/rancher/k3s/config.yaml.d/20-join.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("server: https://10.10.1.13:6443\n")
    with_ca.answer("10.10.1.11/ping", "pong")
    with_ca.run("join")
    assert with_ca.drop_in("20-join.yaml") == JOINED


def volume(claim: str, node: str, path: str) -> dict[str, object]:
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "spec": {
            "local": {"path": path},
            "claimRef": {"namespace": "honeydue", "name": claim},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
        }
    }


def test_claims_of_volumes_that_were_on_the_old_disk_are_dropped_with_their_pods(
    with_ca: Machine,
) -> None:
    (with_ca.root / "storage/kept").mkdir(parents=True)
    volumes = [
        volume("data-redis-0", "honeydue-2", "/storage/lost"),
        volume("kept", "honeydue-2", "/storage/kept"),
        volume("elsewhere", "honeydue-1", "/storage/elsewhere"),
        {"spec": {"nfs": {"path": "/x"}, "claimRef": {"namespace": "a", "name": "b"}}},
    ]
    with_ca.answer("10.10.1.11/ping", "pong")
    with_ca.answer("10.10.1.11/api/v1/persistentvolumes", json.dumps({"items": volumes}))
    result = with_ca.run("join")
    assert result.returncode == 0, result.stderr
    here = "10.10.1.11_api_v1_namespaces_honeydue_"
    assert (with_ca.root / "deleted").read_text().splitlines() == [
        f"{here}persistentvolumeclaims_data-redis-0",
        f"{here}pods?fieldSelector=spec.nodeName%3Dhoneydue-2&gracePeriodSeconds=0",
    ]


def test_a_peer_that_lists_no_volumes_does_not_keep_a_node_from_joining(with_ca: Machine) -> None:
    with_ca.answer("10.10.1.11/ping", "pong")
    with_ca.answer("10.10.1.11/api/v1/persistentvolumes", "<html>")
    result = with_ca.run("join")
    assert result.returncode == 0, result.stderr
    assert "claims of lost ones, if any, stay" in result.stdout
    assert with_ca.drop_in("20-join.yaml") == JOINED


def test_the_predecessors_node_is_removed_with_a_certificate_of_one_day(with_ca: Machine) -> None:
    with_ca.answer("10.10.1.11/ping", "pong")
    with_ca.answer("10.10.1.11/api/v1/nodes/honeydue-2", "{}")
    with_ca.answer("10.10.1.11/db/info", '{"members":[{"name":"honeydue-1-0a1b2c3d"}]}')
    # Keeps what curl was given, to look at it after the script has removed it.
    with_ca.stub("rm", f'cp "$2/admin.crt" "$ROOT/seen.crt" 2>/dev/null; {shutil.which("rm")} "$@"')
    result = with_ca.run("join")
    assert result.returncode == 0, result.stderr
    assert (with_ca.root / "deleted").read_text() == "10.10.1.11_api_v1_nodes_honeydue-2\n"
    seen = subprocess.run(
        [
            *("openssl", "x509", "-in", str(with_ca.root / "seen.crt"), "-noout", "-subject"),
            *("-ext", "extendedKeyUsage", "-checkend", "90000"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "system:masters" in seen.stdout
    assert "honeydue-boot:honeydue-2" in seen.stdout
    assert "TLS Web Client Authentication" in seen.stdout
    assert "Certificate will expire" in seen.stdout  # within 25 hours
    assert list((with_ca.root / "run").iterdir()) == []


def test_a_node_waits_until_etcd_has_dropped_its_predecessor(with_ca: Machine) -> None:
    with_ca.answer("10.10.1.11/ping", "pong")
    with_ca.answer("10.10.1.11/db/info", '{"members":[{"name":"honeydue-2-0a1b2c3d"}]}')
    result = with_ca.run("join", MEMBER_SECONDS="20")
    assert result.returncode == 1
    assert "etcd still has a member honeydue-2-…" in result.stderr
    assert with_ca.drop_in("20-join.yaml") is None


def test_a_node_whose_name_only_begins_like_another_is_not_taken_for_it(with_ca: Machine) -> None:
    with_ca.answer("10.10.1.11/ping", "pong")
    with_ca.answer("10.10.1.11/db/info", '{"members":[{"name":"honeydue-21-0a1b2c3d"}]}')
    assert with_ca.run("join", MEMBER_SECONDS="20").returncode == 0


def test_no_secret_stands_on_a_command_line(with_ca: Machine) -> None:
    (with_ca.root / "etc/honeydue/supervisor.curl").write_text('user = "server:canary"\n')
    with_ca.answer("10.10.1.11/ping", "pong")
    with_ca.run("join")
    assert with_ca.calls("curl")
    assert "canary" not in (with_ca.root / "calls").read_text()


def test_an_unknown_step_is_refused(machine: Machine) -> None:
    result = machine.run("dance")
    assert result.returncode == 1
    assert "usage: node.sh metadata|install|network|join" in result.stderr
