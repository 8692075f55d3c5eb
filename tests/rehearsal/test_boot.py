"""What a machine's user_data means, before anything is started."""

from __future__ import annotations

import base64
import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rehearsal.cluster import boot, k3s_flags
from rehearsal.cluster.boot import BootError, Disk
from tests.rehearsal.production import TLS, Production, authority


@pytest.fixture(scope="module")
def production() -> Production:
    return Production()


def user_data(**keys: Any) -> str:
    return "#cloud-config\n" + yaml.safe_dump(keys)


def one_file(**entry: Any) -> boot.File:
    return boot.parse_user_data(user_data(write_files=[{"path": "/etc/x", **entry}])).files[0]


def on_disk(tmp_path: Path, production: Production, number: int = 1, **changed: Any) -> Disk:
    disk = Disk(tmp_path)
    boot.write_disk(disk, boot.parse_user_data(production.user_data(number, **changed)))
    return disk


def config_of(disk: Disk) -> boot.ServerConfig:
    return boot.server_config(boot.read_config(disk), disk, "honeydue-1")


# --- cloud-config ---


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("text/plain", "hello"),
        ("b64", base64.b64encode(b"hello").decode()),
        ("base64", base64.b64encode(b"hello").decode()),
        ("gzip", gzip.compress(b"hello", mtime=0)),
        ("gz+b64", base64.b64encode(gzip.compress(b"hello", mtime=0)).decode()),
        ("gzip+base64", base64.b64encode(gzip.compress(b"hello", mtime=0)).decode()),
    ],
)
def test_every_encoding_of_write_files_is_decoded(encoding: str, content: str | bytes) -> None:
    assert one_file(encoding=encoding, content=content).content == b"hello"


@pytest.mark.parametrize(("written", "mode"), [("0600", 0o600), ("755", 0o755), (0o640, 0o640)])
def test_permissions_are_octal_text_or_a_number_as_cloud_init_reads_them(
    written: object, mode: int
) -> None:
    assert one_file(permissions=written).mode == mode


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("#!/bin/sh\necho", "its first line is '#!/bin/sh', cloud-init wants '#cloud-config'"),
        ("#cloud-config\na: [1", "is not YAML: line 2"),
        (user_data(write_file=[]), "no key 'write_file'; did you mean 'write_files'?"),
        (user_data(write_files={}), "user_data is a cloud-config"),
        (user_data(write_files=[{"content": "x"}]), "write_files[0] needs a path"),
        (
            user_data(write_files=[{"path": "/a", "permission": "0600"}]),
            "write_files[0] (/a) has no key 'permission'; did you mean 'permissions'?",
        ),
        (user_data(write_files=[{"path": "/a/../b"}]), "the path must be absolute and plain"),
        (user_data(write_files=[{"path": "etc/b"}]), "the path must be absolute and plain"),
        (
            user_data(write_files=[{"path": "/a", "encoding": "b65", "content": "x"}]),
            "unknown encoding 'b65'",
        ),
        (
            user_data(write_files=[{"path": "/a", "encoding": "gz+b64", "content": "aGk="}]),
            "its content is not gz+b64",
        ),
        (
            user_data(write_files=[{"path": "/a", "permissions": "rw"}]),
            "permissions 'rw' are not an octal mode",
        ),
        (user_data(runcmd=[{"echo a": "b"}]), "runcmd[0] is neither text nor a list of words"),
    ],
)
def test_a_user_data_that_cloud_init_would_not_carry_out_is_refused_with_its_cause(
    text: str, cause: str
) -> None:
    if "is a cloud-config" in cause:
        cause = "write_files"
        text = user_data(write_files="x")
    with pytest.raises(BootError) as refusal:
        boot.parse_user_data(text)
    assert cause in str(refusal.value)


def test_a_broken_yaml_is_told_by_its_line_and_never_by_its_text() -> None:
    with pytest.raises(BootError) as refusal:
        boot.parse_user_data('#cloud-config\nok: 1\nbad: "secret-canary\n')
    assert "line" in str(refusal.value)
    assert "canary" not in str(refusal.value)


def test_files_are_written_below_the_nodes_folder_with_their_modes(
    tmp_path: Path, production: Production
) -> None:
    disk = on_disk(tmp_path, production)
    config = tmp_path / "etc/rancher/k3s/config.yaml"
    assert config.stat().st_mode & 0o777 == 0o600
    assert disk.read(f"{TLS}/server-ca.crt").decode() == production.pki["server-ca.crt"]


def test_a_configuration_that_nothing_starts_is_noticed(production: Production) -> None:
    with_start = production.cloud_config(1)
    without = {**with_start, "runcmd": ["apt-get update"]}
    assert boot.starts_k3s(boot.parse_user_data(user_data(**with_start)))
    assert not boot.starts_k3s(boot.parse_user_data(user_data(**without)))


# --- K3s's configuration ---


def test_a_later_file_replaces_a_value_and_a_plus_appends_to_it() -> None:
    merged = boot.merge_config(
        [
            ("config.yaml", {"token": "a", "tls-san": ["x"], "node-label": ["a=1"]}),
            ("10.yaml", {"token": "b", "tls-san+": ["y"], "node-label": ["b=2"]}),
            ("20.yaml", None),
        ]
    )
    assert merged == {"token": "b", "tls-san": ["x", "y"], "node-label": ["b=2"]}


def test_a_string_becomes_a_list_when_something_is_appended_to_it() -> None:
    merged = boot.merge_config([("a", {"tls-san": "x"}), ("b", {"tls-san+": "y"})])
    assert merged == {"tls-san": ["x", "y"]}


def test_drop_ins_are_read_in_alphabetical_order(tmp_path: Path, production: Production) -> None:
    disk = on_disk(tmp_path, production)
    disk.write(f"{boot.DROP_INS}/20-join.yaml", b"cluster-init: false\nserver: https://x:6443\n")
    disk.write(f"{boot.DROP_INS}/10-network.yaml", b"cluster-init: true\nflannel-iface: enp7s0\n")
    merged = boot.read_config(disk)
    assert merged["cluster-init"] is False
    assert merged["flannel-iface"] == "enp7s0"


def test_short_names_of_flags_are_known() -> None:
    assert boot.merge_config([("config.yaml", {"t": "a"})]) == {"token": "a"}


@pytest.mark.parametrize(
    ("written", "cause"),
    [
        ({"tls-sans": []}, "K3s v1.34 has no flag 'tls-sans'; did you mean 'tls-san'?"),
        ({"secrets-encryption": "yes please"}, "secrets-encryption is true or false"),
        ({"token": ["a"]}, "token takes one value"),
        ({"node-label": {"a": "b"}}, "node-label is not a mapping"),
        (["a"], "K3s wants a mapping of its flags"),
    ],
)
def test_what_k3s_does_not_know_is_refused(written: object, cause: str) -> None:
    with pytest.raises(BootError) as refusal:
        boot.merge_config([("config.yaml", written)])
    assert cause in str(refusal.value)


def test_no_flag_is_of_two_kinds() -> None:
    kinds = (k3s_flags.LISTS, k3s_flags.SWITCHES, k3s_flags.VALUES)
    assert sum(map(len, kinds)) == len(k3s_flags.KNOWN)


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"token": None}, "no token"),
        ({"token": ""}, "token is empty"),
        ({"token": "K10abc::server:x"}, "token is not of the form K10<64 hex digits>"),
        ({"token": f"K10{'0' * 64}::node:x"}, "token is for 'node'"),
        ({"node_ip": None}, "no node-ip"),
        ({"node_ip": "10.10.1"}, "node-ip: '10.10.1' does not appear to be"),
        ({"cluster_cidr": "10.42.0.0"}, None),
        ({"service_cidr": "10.43.0.1/16"}, "service-cidr: 10.43.0.1/16 has host bits set"),
        ({"disable": ["treafik"]}, "no component 'treafik'; did you mean 'traefik'?"),
        ({"datastore_endpoint": "postgres://x"}, "embedded etcd only"),
    ],
)
def test_a_value_that_k3s_cannot_use_is_refused(
    tmp_path: Path, production: Production, changed: dict[str, Any], cause: str | None
) -> None:
    disk = on_disk(tmp_path, production, **changed)
    if cause is None:  # a bare address is a network of one: K3s takes it
        assert config_of(disk).cluster_cidr == "10.42.0.0/32"
        return
    with pytest.raises(BootError) as refusal:
        config_of(disk)
    assert cause in str(refusal.value)


def test_no_refusal_shows_a_token(tmp_path: Path, production: Production) -> None:
    disk = on_disk(tmp_path, production, token="K10-canary")
    with pytest.raises(BootError) as refusal:
        config_of(disk)
    assert "canary" not in str(refusal.value)
    assert "a-very-long-password" not in repr(boot.parse_token(production.token))


def test_a_token_file_is_read_from_the_nodes_disk(tmp_path: Path, production: Production) -> None:
    disk = on_disk(tmp_path, production, token=None, token_file="/etc/rancher/k3s/token")
    disk.write("/etc/rancher/k3s/token", f"{production.token}\n".encode())
    assert config_of(disk).token.password == production.password


# --- checks ---


def test_a_whole_production_passes_every_check(tmp_path: Path, production: Production) -> None:
    disk = on_disk(tmp_path, production)
    config = config_of(disk)
    boot.check_pki(disk, config.token)
    boot.check_addresses(config, "10.10.1.11", production.public(1))
    boot.check_argument_files(config, disk)
    boot.check_kernel(config, disk)
    assert config.cluster_init
    assert config.service_ip() == "10.43.0.1"


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("client-ca.crt", None, "client-ca.crt: No such file"),
        ("client-ca.crt", "junk", "client-ca.crt holds no certificate"),
        ("etcd/peer-ca.key", "junk", "etcd/peer-ca.key holds no private key"),
        ("client-ca.crt", "another CA", "client-ca.key is not the key of client-ca.crt"),
        ("server-ca.crt", "another CA and key", "the token's CA hash is not the sha256 of"),
        ("service.key", None, "service.key: No such file"),
    ],
)
def test_an_incomplete_pki_is_named_by_its_file(
    tmp_path: Path, production: Production, name: str, content: str | None, cause: str
) -> None:
    disk = on_disk(tmp_path, production)
    if content is None:
        disk.path(f"{TLS}/{name}").unlink()
    elif content.startswith("another CA"):
        crt, key = authority("another")
        disk.write(f"{TLS}/{name}", crt.encode())
        if content.endswith("key"):
            disk.write(f"{TLS}/{name}".replace(".crt", ".key"), key.encode())
    else:
        disk.write(f"{TLS}/{name}", content.encode())
    with pytest.raises(BootError) as refusal:
        boot.check_pki(disk, config_of(disk).token)
    assert cause in str(refusal.value)


def test_the_tokens_hash_is_of_the_literal_bytes_of_the_file(
    tmp_path: Path, production: Production
) -> None:
    disk = on_disk(tmp_path, production)
    token = boot.parse_token(production.token)
    assert token.ca_hash == hashlib.sha256(disk.read(f"{TLS}/server-ca.crt")).hexdigest()
    disk.write(f"{TLS}/server-ca.crt", production.pki["server-ca.crt"].encode() + b"\n")
    with pytest.raises(BootError, match="CA hash"):
        boot.check_pki(disk, token)


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"node_ip": "10.10.1.99"}, "node-ip is 10.10.1.99, this machine's private address is"),
        ({"node_external_ip": "1.2.3.4"}, "node-external-ip is 1.2.3.4"),
        ({"tls_san": ["10.10.1.11"]}, "tls-san lacks 127.99.1.1"),
        ({"tls_san": ["127.99.1.1"]}, "tls-san lacks 10.10.1.11"),
    ],
)
def test_addresses_that_do_not_fit_the_machine_are_refused(
    tmp_path: Path, production: Production, changed: dict[str, Any], cause: str
) -> None:
    config = config_of(on_disk(tmp_path, production, **changed))
    with pytest.raises(BootError) as refusal:
        boot.check_addresses(config, "10.10.1.11", "127.99.1.1")
    assert cause in str(refusal.value)


def test_a_file_that_an_api_server_argument_names_must_be_there(
    tmp_path: Path, production: Production
) -> None:
    argument = ["audit-policy-file=/etc/rancher/k3s/missing.yaml"]
    disk = on_disk(tmp_path, production, kube_apiserver_arg=argument)
    with pytest.raises(BootError, match=r"missing\.yaml: no such file"):
        boot.check_argument_files(config_of(disk), disk)


def test_protected_kernel_defaults_need_their_sysctls_on_disk(
    tmp_path: Path, production: Production
) -> None:
    disk = on_disk(tmp_path, production)
    disk.write("/etc/sysctl.d/90-kubelet.conf", b"# kernel.panic = 10\nvm.overcommit_memory=1\n")
    with pytest.raises(BootError, match=r"kernel\.panic, expected value: 10"):
        boot.check_kernel(config_of(disk), disk)
