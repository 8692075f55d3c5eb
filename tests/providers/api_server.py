"""One small real Kubernetes for tests: etcd, API server, controllers, scheduler, one kwok node."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from rehearsal.cluster.binaries import Binaries, ensure
from rehearsal.providers.kubernetes import kubeconfig
from rehearsal.providers.kubernetes.client import ApiError, Client, UnreachableError

START_SECONDS = 300


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """Starts it and yields its kubeconfig (a text with the keys in it); ends every process.

    What etcd holds stays in `folder`: running it there again is a cold start.
    """
    binaries = ensure()
    # An address of this process' own: on it no connection of anybody else takes a port between our
    # choosing it and its being bound.
    host = f"127.34.{os.getpid() // 254 % 256}.{1 + os.getpid() % 254}"
    etcd_port, peer_port, api_port, manager_port, scheduler_port = _free_ports(host, 5)
    text = credentials(folder, api_port, host)
    config_file = folder / "kubeconfig"
    config_file.write_text(text)
    etcd_url, peer_url = (f"http://{host}:{port}" for port in (etcd_port, peer_port))
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            _process(
                folder,
                "etcd",
                str(binaries.etcd),
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={etcd_url}",
                f"--advertise-client-urls={etcd_url}",
                f"--listen-peer-urls={peer_url}",
                f"--initial-advertise-peer-urls={peer_url}",
                f"--initial-cluster=default={peer_url}",
                "--unsafe-no-fsync",
            )
        )
        stack.enter_context(
            _process(
                folder,
                "kube-apiserver",
                str(binaries.kube("kube-apiserver")),
                f"--bind-address={host}",
                f"--secure-port={api_port}",
                "--advertise-address=10.0.0.1",
                "--endpoint-reconciler-type=none",
                "--authorization-mode=Node,RBAC",
                "--anonymous-auth=false",
                f"--etcd-servers={etcd_url}",
                "--service-cluster-ip-range=10.43.0.0/16",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder / 'ca.key'}",
                f"--service-account-signing-key-file={folder / 'ca.key'}",
                f"--client-ca-file={folder / 'ca.crt'}",
                f"--tls-cert-file={folder / 'server.crt'}",
                f"--tls-private-key-file={folder / 'server.key'}",
            )
        )
        client = Client(kubeconfig.parse({"kubeconfig": text}))
        _until_ready(client, folder)
        for name, extra in (
            (
                "kube-controller-manager",
                (
                    f"--secure-port={manager_port}",
                    f"--service-account-private-key-file={folder / 'ca.key'}",
                    f"--root-ca-file={folder / 'ca.crt'}",
                    "--use-service-account-credentials",
                ),
            ),
            ("kube-scheduler", (f"--secure-port={scheduler_port}",)),
        ):
            binary = str(binaries.kube(name))
            flags = (f"--kubeconfig={config_file}", f"--bind-address={host}", "--leader-elect=0")
            stack.enter_context(_process(folder, name, binary, *flags, *extra))
        stack.enter_context(_kwok(folder, config_file, binaries))
        labels = {"kubernetes.io/hostname": "node-1"}  # as a kubelet sets it
        metadata = {"name": "node-1", "labels": labels}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        _make(client, "/api/v1/nodes", node)
        definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for file in binaries.custom_resources:
            if "helmchartconfigs" in file.name:
                for document in yaml.safe_load_all(file.read_text()):
                    _make(client, definitions, document)
        yield text


def _make(client: Client, path: str, body: dict[str, Any]) -> None:
    """It is there already when the folder is one of before: then this is a cold start."""
    try:
        client.request("POST", path, body=body)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


def _kwok(
    folder: Path, config_file: Path, binaries: Binaries
) -> contextlib.AbstractContextManager[None]:
    stages = [word for stage in binaries.stages for word in ("--config", str(stage))]
    return _process(
        folder,
        "kwok",
        str(binaries.kwok),
        f"--kubeconfig={config_file}",
        "--manage-all-nodes=true",
        "--node-port=0",
        *stages,
    )


@contextlib.contextmanager
def _process(folder: Path, name: str, *command: str) -> Iterator[None]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_ready(client: Client, folder: Path) -> None:
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        try:
            if client.text("/readyz") == "ok":
                return
        except (ApiError, UnreachableError):
            pass
        time.sleep(0.2)
    log = (folder / "kube-apiserver.log").read_text()[-2000:]
    raise AssertionError(f"the API server was not ready after {START_SECONDS} s: {log}")


def _free_ports(host: str, count: int) -> Sequence[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [one.getsockname()[1] for one in sockets]


def credentials(folder: Path, port: int, host: str = "127.0.0.1") -> str:
    """Writes ca, server (.crt, .key) and returns the administrator's kubeconfig."""
    now = datetime.now(UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey, ca: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            address = x509.IPAddress(IPv4Address(host))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def private(key: ec.EllipticCurvePrivateKey) -> bytes:
        # SEC 1, as the service account signer wants it ("EC PRIVATE KEY").
        return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    def named(common: str, organization: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    ca = certificate(ca_name, ca_key, ca=True)
    server_key, admin_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (folder / "ca.crt").write_bytes(ca)
    (folder / "ca.key").write_bytes(private(ca_key))
    (folder / "server.crt").write_bytes(certificate(named("api", "test"), server_key, ca=False))
    (folder / "server.key").write_bytes(private(server_key))
    admin = certificate(named("admin", "system:masters"), admin_key, ca=False)
    return kubeconfig_text(f"https://{host}:{port}", ca, admin, private(admin_key))


def kubeconfig_text(server: str, ca: bytes, certificate: bytes, key: bytes) -> str:
    def encoded(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "test",
                "cluster": {"server": server, "certificate-authority-data": encoded(ca)},
            }
        ],
        "users": [
            {
                "name": "admin",
                "user": {
                    "client-certificate-data": encoded(certificate),
                    "client-key-data": encoded(key),
                },
            }
        ],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    return json.dumps(document)
