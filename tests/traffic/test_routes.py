"""What Traefik makes of Kubernetes' objects."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from honeydue.cloudflare.ranges import PINNED
from honeydue.kubernetes.ingress import TLS_SECRET, ingress
from honeydue.kubernetes.traefik_values import values_content
from rehearsal.traffic.routes import Configuration, Port, configuration

HOSTS = {"api": "api.example.org", "admin": "admin.example.org", "landing": "example.org"}


def objects(*, tls: bool = False, **changed: list[Any]) -> dict[str, list[Any]]:
    """The program's own objects, and what Kubernetes makes of its Services."""
    ours = ingress(namespace="honeydue", tls=tls, **HOSTS)
    return {
        "helmchartconfigs": [
            {
                "metadata": {"namespace": "kube-system", "name": "traefik"},
                "spec": {"valuesContent": values_content(trusted_ips=PINNED)},
            }
        ],
        "ingressclasses": [
            {
                "metadata": {"name": "traefik"},
                "spec": {"controller": "traefik.io/ingress-controller"},
            }
        ],
        "ingresses": [ours],
        "services": [service("api"), service("admin")],
        "endpointslices": [slice_of("api", ready("10.42.0.5")), slice_of("admin")],
        "secrets": [],
        **changed,
    }


def service(name: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "honeydue", "name": name},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }


def slice_of(name: str, *endpoints: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "honeydue",
            "name": f"{name}-x7k2p",
            "labels": {"kubernetes.io/service-name": name},
        },
        "ports": [{"name": "http", "port": 8000}],
        "endpoints": list(endpoints),
    }


def ready(address: str, **conditions: bool) -> dict[str, Any]:
    pod = f"pod-{address}"
    return {
        "addresses": [address],
        "conditions": {"ready": True, "serving": True, "terminating": False, **conditions},
        "nodeName": "honeydue-1",
        "targetRef": {"kind": "Pod", "name": pod, "uid": pod},
    }


def asked(found: Configuration, host: str, path: str = "/", *, tls: bool = False) -> list[str]:
    """Addresses of the servers; no router: KeyError."""
    router = found.route("websecure" if tls else "web", tls, host, path)
    if router is None:
        raise KeyError(host)
    return [server.address for server in router.servers]


def test_the_program_s_traefik_listens_on_80_and_443_and_believes_cloudflare() -> None:
    assert configuration(objects()).ports == {
        "web": Port(80, trusts=True),
        "websecure": Port(443, trusts=True),
    }


@pytest.mark.parametrize(
    "configs",
    [
        [],
        [{"metadata": {"namespace": "kube-system", "name": "traefik"}, "spec": {}}],
        [
            {
                "metadata": {"namespace": "default", "name": "traefik"},
                "spec": {"valuesContent": values_content(trusted_ips=PINNED)},
            }
        ],
    ],
)
def test_without_the_program_s_values_nothing_listens_on_a_node(configs: list[Any]) -> None:
    assert configuration(objects(helmchartconfigs=configs)).ports == {}


def test_each_host_leads_to_its_service_on_the_entry_point_of_its_mode() -> None:
    flexible, strict = configuration(objects()), configuration(objects(tls=True))
    assert asked(flexible, "api.example.org", "/api/health/") == ["10.42.0.5"]
    assert asked(flexible, "example.org") == ["10.42.0.5"]
    assert asked(strict, "api.example.org", tls=True) == ["10.42.0.5"]
    for found, host, tls in (
        (flexible, "api.example.org", True),
        (strict, "api.example.org", False),
        (flexible, "www.example.org", False),
    ):
        with pytest.raises(KeyError):
            asked(found, host, tls=tls)


def test_a_service_without_pods_has_a_router_and_a_missing_one_has_none() -> None:
    found = configuration(objects(services=[service("admin")]))
    assert asked(found, "admin.example.org") == []
    with pytest.raises(KeyError):
        asked(found, "api.example.org")


@pytest.mark.parametrize(
    ("conditions", "asks"),
    [
        ({"ready": True}, True),
        ({"ready": False, "serving": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": False, "serving": False, "terminating": True}, False),
        ({"ready": False, "serving": True, "terminating": False}, True),
    ],
)
def test_nothing_new_is_sent_to_a_pod_that_is_not_ready_or_goes(
    conditions: dict[str, bool], asks: bool
) -> None:
    slices = [slice_of("api", ready("10.42.0.5", **conditions))]
    found = asked(configuration(objects(endpointslices=slices)), "api.example.org")
    assert found == (["10.42.0.5"] if asks else [])


def test_an_exact_path_and_the_longer_prefix_come_first() -> None:
    ours = ingress(namespace="honeydue", tls=False, **HOSTS)
    paths = ours["spec"]["rules"][0]["http"]["paths"]
    other = {"service": {"name": "admin", "port": {"number": 80}}}
    paths += [
        {"path": "/api/health", "pathType": "Exact", "backend": other},
        {"path": "/panel", "pathType": "Prefix", "backend": other},
    ]
    slices = [slice_of("api", ready("10.42.0.5")), slice_of("admin", ready("10.42.0.9"))]
    found = configuration(objects(ingresses=[ours], endpointslices=slices))
    for path, address in (
        ("/api/health", "10.42.0.9"),
        ("/api/health/", "10.42.0.5"),
        ("/panel/of/glass", "10.42.0.9"),
        ("/panels", "10.42.0.9"),  # characters, not path elements: Traefik's default
        ("/", "10.42.0.5"),
    ):
        assert asked(found, "api.example.org", path) == [address], path


def test_an_ingress_of_another_class_is_somebody_else_s() -> None:
    ours = ingress(namespace="honeydue", tls=False, **HOSTS)
    ours["spec"]["ingressClassName"] = "nginx"
    with pytest.raises(KeyError):
        asked(configuration(objects(ingresses=[ours])), "api.example.org")


def test_certificates_are_those_that_the_ingress_names() -> None:
    def secret(name: str) -> dict[str, Any]:
        pair = {"tls.crt": b"chain of " + name.encode(), "tls.key": b"key"}
        return {
            "metadata": {"namespace": "honeydue", "name": name},
            "data": {key: base64.b64encode(value).decode() for key, value in pair.items()},
        }

    both = [secret(TLS_SECRET), secret("another")]
    found = configuration(objects(tls=True, secrets=both))
    assert found.certificates == ((b"chain of honeydue-origin-tls", b"key"),)
    assert configuration(objects(tls=True)).certificates == ()
