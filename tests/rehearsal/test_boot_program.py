"""The program's own user_data, read as a node reads it: nothing in it is unknown or missing."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from honeydue.k3s.cloud_init import S3, NodeBoot, Registry, render
from rehearsal.cluster import boot
from rehearsal.cluster.boot import Disk
from tests.rehearsal.production import Production

SNAPSHOTS = S3(
    endpoint="s3.honeydue.test",
    bucket="etcd",
    folder="honeydue",
    region="eu",
    access_key="access",
    secret_key="secret",
    schedule="0 */6 * * *",
    retention=28,
)


@pytest.mark.parametrize("snapshots", [None, SNAPSHOTS])
@pytest.mark.parametrize("number", [1, 2])
def test_the_programs_user_data_boots(tmp_path: Path, number: int, snapshots: S3 | None) -> None:
    production = Production()
    addresses = [a for n in (1, 2, 3) for a in (f"10.10.1.{10 + n}", production.public(n))]
    text = render(
        NodeBoot(
            name=f"honeydue-{number}",
            founder=number == 1,
            private_ip=IPv4Address(f"10.10.1.{10 + number}"),
            public_ipv4=production.public(number),
            peers=tuple(IPv4Address(f"10.10.1.{10 + n}") for n in (1, 2, 3) if n != number),
            tls_sans=tuple(addresses),
            pod_cidr=IPv4Network("10.42.0.0/16"),
            service_cidr=IPv4Network("10.43.0.0/16"),
            tls_files=production.pki,
            token=production.token,
            supervisor_password=production.password,
            node_password="0" * 32,
            registry=Registry(server="gitea.honeydue.test", username="x", token="y"),
            snapshots=snapshots,
        )
    )
    cloud = boot.parse_user_data(text)
    disk = Disk(tmp_path)
    boot.write_disk(disk, cloud)
    config = boot.server_config(boot.read_config(disk), disk, f"honeydue-{number}")
    boot.check_pki(disk, config.token)
    boot.check_addresses(config, f"10.10.1.{10 + number}", production.public(number))
    boot.check_argument_files(config, disk)
    boot.check_kernel(config, disk)
    assert boot.starts_k3s(cloud)
    assert config.cluster_init == (number == 1)
    assert disk.exists(boot.NODE_PASSWORD)
    assert re.search(r"v1\.34\.\d+(\+|%2B)k3s\d+", text)
