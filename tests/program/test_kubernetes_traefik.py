"""The chart drops what it does not know; so every value is held against what it does know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from honeydue.kubernetes.traefik_values import traefik_values, values_content
from honeydue.versions import TRAEFIK_CHART

from .cluster_program import agrees_with_golden, declared

RANGES = ["173.245.48.0/20", "103.21.244.0/22", "2400:cb00::/32"]
CHART = yaml.safe_load((Path(__file__).parent / "golden/traefik-chart-values.yaml").read_text())


def leaves(value: dict[str, Any], path: str = "") -> Iterator[str]:
    """Dotted paths of everything that is set."""
    for key, item in value.items():
        here = f"{path}.{key}" if path else key
        if isinstance(item, dict):
            yield from leaves(item, here)
        else:
            yield here


def known(path: str) -> bool:
    return path in CHART["paths"] or any(
        path.startswith(p.removesuffix("*")) for p in CHART["paths"] if p.endswith(".*")
    )


def test_the_recorded_list_is_of_the_chart_that_k3s_carries() -> None:
    assert CHART["chart"] == TRAEFIK_CHART


def test_every_value_is_one_the_chart_reads() -> None:
    unknown = [p for p in leaves(traefik_values(trusted_ips=RANGES)) if not known(p)]
    assert unknown == []


def test_a_wrongly_nested_value_would_be_found() -> None:
    assert known("ports.web.forwardedHeaders.trustedIPs")
    assert not known("forwardedHeaders.trustedIPs")
    assert not known("ports.web.redirections.entryPoint")
    assert not known("additionalArguments.accesslog")


def test_the_values_are_as_recorded() -> None:
    agrees_with_golden("traefik-values.yaml", values_content(trusted_ips=RANGES))


def test_ports_80_and_443_of_every_node_are_traefiks_own() -> None:
    values = traefik_values(trusted_ips=RANGES)
    assert values["deployment"]["kind"] == "DaemonSet"
    assert values["hostNetwork"] is True
    assert values["ports"]["web"]["port"] == 80
    assert values["ports"]["websecure"]["port"] == 443
    assert values["service"]["enabled"] is False


def test_an_update_frees_the_port_before_it_takes_it() -> None:
    rolling = traefik_values(trusted_ips=RANGES)["updateStrategy"]["rollingUpdate"]
    assert rolling == {"maxUnavailable": 1, "maxSurge": 0}


def test_both_ports_believe_cloudflare_and_nobody_else() -> None:
    for port in ("web", "websecure"):
        entry = traefik_values(trusted_ips=RANGES)["ports"][port]
        assert entry["forwardedHeaders"] == {"trustedIPs": sorted(RANGES)}
        assert "proxyProtocol" not in entry


def test_the_order_in_which_cloudflare_lists_its_ranges_changes_nothing() -> None:
    assert values_content(trusted_ips=RANGES) == values_content(trusted_ips=RANGES[::-1])


def test_the_origin_never_redirects_to_https() -> None:
    assert "redirect" not in values_content(trusted_ips=RANGES)


def test_root_keeps_one_power_only() -> None:
    values = traefik_values(trusted_ips=RANGES)
    assert values["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["NET_BIND_SERVICE"],
    }
    assert values["securityContext"]["allowPrivilegeEscalation"] is False
    assert values["securityContext"]["readOnlyRootFilesystem"] is True


def test_k3s_finds_the_values_under_its_own_names() -> None:
    config = declared().one("kubernetes:helm.cattle.io/v1:HelmChartConfig")
    metadata = config.inputs["metadata"]
    assert (metadata["namespace"], metadata["name"]) == ("kube-system", "traefik")
    values = yaml.safe_load(config.inputs["spec"]["valuesContent"])
    assert values == traefik_values(trusted_ips=["103.21.244.0/22", "173.245.48.0/20"])
