"""Pod Security `restricted`, and the few steps beyond it, for every container of every workload."""

from __future__ import annotations

import pytest

from .cluster_program import containers, pod, workloads
from .recording import Recorded

every_workload = pytest.mark.parametrize("workload", workloads().values(), ids=workloads())


@every_workload
def test_no_container_is_root_or_can_become_it(workload: Recorded) -> None:
    security = pod(workload)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["runAsGroup"] > 0
    for container in containers(workload):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert "privileged" not in container["securityContext"]
        assert not {"runAsUser", "runAsNonRoot"} & set(container["securityContext"])


@every_workload
def test_every_capability_is_dropped_and_seccomp_is_on(workload: Recorded) -> None:
    assert pod(workload)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(workload):
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@every_workload
def test_the_root_filesystem_is_read_only_and_what_is_written_is_a_volume(
    workload: Recorded,
) -> None:
    volumes = {v["name"] for v in pod(workload)["volumes"]}
    volumes |= {
        claim["metadata"]["name"]
        for claim in workload.inputs["spec"].get("volumeClaimTemplates", [])
    }
    for container in containers(workload):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {m["name"] for m in container["volumeMounts"]} <= volumes


@every_workload
def test_nothing_of_the_host_is_shared_and_volumes_are_of_the_allowed_kinds(
    workload: Recorded,
) -> None:
    spec = pod(workload)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for volume in spec["volumes"]:
        assert set(volume) - {"name"} <= {"emptyDir", "configMap", "secret"}
    for container in containers(workload):
        assert all("hostPort" not in port for port in container.get("ports", []))


@every_workload
def test_no_pod_gets_a_token_for_the_api_server(workload: Recorded) -> None:
    assert pod(workload)["automountServiceAccountToken"] is False
    assert pod(workload)["enableServiceLinks"] is False
