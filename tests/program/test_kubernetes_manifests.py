"""What is sent to the cluster, as a whole: one golden file per workload, reviewed like code."""

from __future__ import annotations

import pytest

from .cluster_program import agrees_with_golden, declared, workloads
from .recording import Recorded


@pytest.mark.parametrize("workload", workloads().values(), ids=workloads())
def test_a_workload_is_what_its_golden_file_says(workload: Recorded) -> None:
    kind = workload.type.rpartition(":")[2].lower()
    name = workload.inputs["metadata"]["name"]
    agrees_with_golden(f"{kind}-{name}.yaml", _sorted(workload.inputs))


def test_the_namespace_enforces_restricted_pods_of_one_version() -> None:
    namespace = declared().one("kubernetes:core/v1:Namespace")
    labels = namespace.inputs["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
        assert labels[f"pod-security.kubernetes.io/{mode}-version"] == "v1.34"


def test_the_flexible_ingress_is_plain() -> None:
    ingress = declared().one("kubernetes:networking.k8s.io/v1:Ingress")
    agrees_with_golden("ingress-flexible.yaml", _sorted(ingress.inputs))
    assert "tls" not in ingress.inputs["spec"]
    assert not any("middleware" in key for key in ingress.inputs["metadata"]["annotations"])


def test_the_strict_ingress_serves_the_origin_certificate_on_443_alone() -> None:
    recording = declared(strict=True)
    ingress = recording.one("kubernetes:networking.k8s.io/v1:Ingress")
    agrees_with_golden("ingress-strict.yaml", _sorted(ingress.inputs))
    (tls,) = ingress.inputs["spec"]["tls"]
    secret = recording.named("ingress-tls")
    assert tls["secretName"] == secret.inputs["metadata"]["name"]
    assert secret.inputs["type"] == "kubernetes.io/tls"
    assert set(secret.inputs["data"]) == {"tls.crt", "tls.key"}


def test_pulumi_does_not_wait_for_a_load_balancer_that_will_never_come() -> None:
    ingress = declared().one("kubernetes:networking.k8s.io/v1:Ingress")
    assert ingress.inputs["metadata"]["annotations"]["pulumi.com/skipAwait"] == "true"


def test_every_backend_of_the_ingress_is_a_service_with_that_port() -> None:
    recording = declared()
    services = {
        s.inputs["metadata"]["name"]: {p["name"] for p in s.inputs["spec"]["ports"]}
        for s in recording.all("kubernetes:core/v1:Service")
    }
    ingress = recording.one("kubernetes:networking.k8s.io/v1:Ingress")
    backends = {
        rule["host"]: rule["http"]["paths"][0]["backend"]["service"]
        for rule in ingress.inputs["spec"]["rules"]
    }
    assert {host: b["name"] for host, b in backends.items()} == {
        "api.myhoneydue.com": "api",
        "admin.myhoneydue.com": "admin",
        "myhoneydue.com": "api",
    }
    for backend in backends.values():
        assert backend["port"]["name"] in services[backend["name"]]


def test_every_service_selects_a_workload_and_aims_at_a_port_it_has() -> None:
    for service in declared().all("kubernetes:core/v1:Service"):
        name = service.inputs["spec"]["selector"]["app.kubernetes.io/name"]
        (container,) = workloads()[name].inputs["spec"]["template"]["spec"]["containers"]
        for port in service.inputs["spec"]["ports"]:
            assert port["targetPort"] in {p["name"] for p in container["ports"]}


def _sorted(value: object) -> object:
    """Maps come over the wire in any order."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
