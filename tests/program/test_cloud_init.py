"""What a node is told, word for word: golden files, and the properties that must never be lost.

After a wanted change: `UPDATE_GOLDEN=1 .venv/bin/pytest tests/program/test_cloud_init.py`, and read
the difference.
"""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from honeydue import versions
from honeydue.k3s import cloud_init
from honeydue.k3s.cloud_init import NodeBoot, UserDataTooLargeError, render

from .boots import SECRETS, SNAPSHOTS, boot, real_size

GOLDEN = Path(__file__).parent / "golden"
STEPS = ("metadata", "install", "network", "join")
NODES = {"founder": boot(1), "joiner-with-snapshots": boot(2, snapshots=SNAPSHOTS)}


def document(node: NodeBoot) -> dict[str, Any]:
    parsed = yaml.safe_load(render(node))
    assert isinstance(parsed, dict)
    return parsed


def files(node: NodeBoot) -> dict[str, dict[str, str]]:
    return {entry["path"]: entry for entry in document(node)["write_files"]}


def k3s(node: NodeBoot) -> dict[str, Any]:
    parsed = yaml.safe_load(files(node)["/etc/rancher/k3s/config.yaml"]["content"])
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.parametrize("name", NODES)
def test_a_nodes_user_data_is_the_recorded_one(name: str) -> None:
    golden = GOLDEN / f"user-data-{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(render(NODES[name]))
    assert render(NODES[name]) == golden.read_text()


@pytest.mark.parametrize("node", NODES.values(), ids=NODES.keys())
def test_it_is_a_cloud_config_that_cloud_init_reads(node: NodeBoot) -> None:
    assert render(node).startswith("#cloud-config\n")
    for entry in document(node)["write_files"]:
        assert set(entry) <= {"path", "content", "permissions", "encoding"}
        assert isinstance(entry["permissions"], str), "YAML would read 0600 as 384"


def test_only_the_founder_may_found_and_nobody_is_told_a_server() -> None:
    assert k3s(boot(1))["cluster-init"] is True
    assert "cluster-init" not in k3s(boot(2))
    for number in (1, 2, 3):
        assert "server" not in k3s(boot(number))


def test_what_must_be_equal_on_all_servers_is_equal() -> None:
    own = {"node-name", "node-ip", "advertise-address", "node-external-ip", "cluster-init"}
    own |= {"tls-san"}
    shared = [{k: v for k, v in k3s(boot(i)).items() if k not in own} for i in (1, 2, 3)]
    assert shared[0] == shared[1] == shared[2]


def test_nodes_talk_over_the_private_network() -> None:
    config = k3s(boot(2))
    assert config["node-ip"] == config["advertise-address"] == "10.10.1.12"
    assert config["node-external-ip"] == "203.0.113.2"


def test_the_cluster_is_hardened_from_its_first_start() -> None:
    config = k3s(boot(1))
    assert config["secrets-encryption"] is True
    assert config["protect-kernel-defaults"] is True
    assert config["write-kubeconfig-mode"] == "0600"
    assert config["disable"] == ["servicelb"]


def test_every_file_that_the_api_server_is_told_to_read_is_written() -> None:
    for argument in k3s(boot(1))["kube-apiserver-arg"]:
        flag, _, value = argument.partition("=")
        if flag.endswith("-file"):
            assert value in files(boot(1)), flag


def test_the_kernel_is_set_before_k3s_starts() -> None:
    commands = [" ".join(command) for command in document(boot(1))["runcmd"]]
    assert commands.index("sysctl --system") < next(
        i for i, command in enumerate(commands) if "k3s.service" in command
    )
    wanted = ["vm.panic_on_oom", "vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops"]
    wanted += ["kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes"]
    sysctls = files(boot(1))["/etc/sysctl.d/90-kubelet.conf"]["content"]
    assert [line.split(" = ")[0] for line in sysctls.splitlines()] == wanted


def test_the_pki_arrives_byte_for_byte() -> None:
    written = files(boot(1))
    for path, pem in boot(1).tls_files.items():
        entry = written[f"/var/lib/rancher/k3s/server/tls/{path}"]
        assert base64.b64decode(entry["content"]).decode() == pem


def test_no_secret_lies_in_a_file_that_others_may_read() -> None:
    for node in NODES.values():
        for path, entry in files(node).items():
            secret = any(s in entry["content"] for s in SECRETS) or entry.get("encoding") == "b64"
            assert not secret or entry["permissions"] == "0600", path


def test_only_the_script_may_be_run() -> None:
    modes = {p: e["permissions"] for p, e in files(boot(1)).items()}
    assert [p for p, mode in modes.items() if mode not in {"0600", "0644"}] == [cloud_init.SCRIPT]


def test_nobody_logs_in_with_a_password() -> None:
    assert document(boot(1))["ssh_pwauth"] is False
    sshd = files(boot(1))["/etc/ssh/sshd_config.d/10-honeydue.conf"]["content"]
    assert "PasswordAuthentication no\n" in sshd
    assert "PermitRootLogin prohibit-password\n" in sshd


def test_updates_are_for_security_only_and_never_reboot_a_manager() -> None:
    upgrades = files(boot(1))["/etc/apt/apt.conf.d/52-honeydue"]["content"]
    assert '"${distro_id}:${distro_codename}-security";' in upgrades
    assert upgrades.index("#clear") < upgrades.index("-security")
    assert 'Automatic-Reboot "false"' in upgrades


def test_k3s_never_starts_while_pods_could_read_the_metadata() -> None:
    # As a step of K3s's own start it is tried again like the others, and no pod comes before it. A
    # unit that K3s requires would fail once at a boot, and systemd would not start K3s any more.
    unit = files(boot(1))["/etc/systemd/system/k3s.service"]["content"]
    lines = [line for line in unit.splitlines() if line.startswith("ExecStart")]
    assert [line for line in lines if "=-" not in line] == [
        *(f"ExecStartPre={cloud_init.SCRIPT} {step}" for step in STEPS),
        "ExecStart=/usr/local/bin/k3s server",
    ]
    assert "Restart=always\n" in unit
    assert "Requires=" not in unit


def test_snapshots_go_to_s3_only_when_a_bucket_is_configured() -> None:
    assert not [key for key in k3s(boot(1)) if key.startswith("etcd-s")]
    config = k3s(boot(2, snapshots=SNAPSHOTS))
    assert config["etcd-s3"] is True
    assert config["etcd-s3-bucket"] == "honeydue-etcd"
    assert config["etcd-snapshot-schedule-cron"] == "0 */6 * * *"
    # The bucket has a number of its own, which is five unless it is given.
    # The bucket counts the snapshots of all three, a disk its own.
    assert (config["etcd-snapshot-retention"], config["etcd-s3-retention"]) == (28, 84)


@pytest.mark.parametrize("key", ["004e12", "00489", "1e5", "004_1", "0o17", "12."])
def test_a_key_that_gos_yaml_would_read_as_a_number_stays_text(key: str) -> None:
    config = files(boot(2, snapshots=replace(SNAPSHOTS, access_key=key)))
    text = config["/etc/rancher/k3s/config.yaml"]["content"]
    assert f"etcd-s3-access-key: '{key}'\n" in text


def test_what_the_script_needs_is_installed_before_it_runs() -> None:
    assert set(document(boot(1))["packages"]) >= {"curl", "iptables", "openssl"}


def test_containerd_logs_in_to_the_registry() -> None:
    registries = yaml.safe_load(files(boot(1))["/etc/rancher/k3s/registries.yaml"]["content"])
    auth = registries["configs"]["gitea.treytartt.com"]["auth"]
    assert auth == {"username": "admin", "password": "canary-registry-token"}


def test_pods_outside_of_kube_system_are_held_to_baseline() -> None:
    admission = yaml.safe_load(files(boot(1))["/etc/rancher/k3s/admission.yaml"]["content"])
    configuration = admission["plugins"][0]["configuration"]
    assert configuration["defaults"]["enforce"] == "baseline"
    assert configuration["exemptions"]["namespaces"] == ["kube-system"]


def test_the_audit_log_never_holds_a_secrets_content() -> None:
    policy = yaml.safe_load(files(boot(1))["/etc/rancher/k3s/audit-policy.yaml"]["content"])
    rules = policy["rules"]
    about = [r for r in rules if "secrets" in str(r.get("resources"))]
    assert [r["level"] for r in about] == ["Metadata"]
    first_with_bodies = next(i for i, r in enumerate(rules) if r["level"].startswith("Request"))
    assert rules.index(about[0]) < first_with_bodies


def test_real_keys_fit_hetzners_limit_with_room() -> None:
    size = len(render(boot(2, snapshots=SNAPSHOTS, pem=real_size)).encode())
    assert size < cloud_init.LIMIT - 4096


def test_user_data_above_hetzners_limit_is_refused_with_its_size() -> None:
    with pytest.raises(UserDataTooLargeError) as refused:
        render(boot(1, pem=lambda _: "x" * 4000))
    assert str(refused.value).startswith("honeydue-1's user_data has ")
    assert "Hetzner takes 32768" in str(refused.value)


def test_a_node_shows_no_secret_when_it_is_printed() -> None:
    printed = repr(boot(2, snapshots=SNAPSHOTS))
    assert not [secret for secret in SECRETS if secret in printed]


def test_the_k3s_checksum_is_a_sha256_or_openly_absent() -> None:
    pinned = versions.K3S_SHA256_AMD64
    assert pinned is None or (len(pinned) == 64 and set(pinned) <= set("0123456789abcdef"))
    assert f"K3S_SHA256={pinned or chr(39) * 2}\n" in cloud_init.node_env(boot(1))
