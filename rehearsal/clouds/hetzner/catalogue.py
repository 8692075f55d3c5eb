"""What Hetzner Cloud sells, as the API lists it: data, and functions that give it its JSON shape.

Sizes, ids, regions and architectures are the vendor's. Prices are those of the end of 2025 for the
EU (net, EUR, a month) and only plausible elsewhere: nothing in a rehearsal may depend on them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

EU: Final = ("fsn1", "nbg1", "hel1")
US: Final = ("ash", "hil")
WORLD: Final = (*EU, *US, "sin")


@dataclass(frozen=True)
class Location:
    id: int
    name: str
    description: str
    country: str
    city: str
    latitude: float
    longitude: float
    network_zone: str

    def json(self) -> dict[str, Any]:
        return dict(vars(self))


_EU, _EAST, _WEST, _ASIA = "eu-central", "us-east", "us-west", "ap-southeast"

LOCATIONS: Final = {
    location.name: location
    for location in (
        Location(1, "fsn1", "Falkenstein DC Park 1", "DE", "Falkenstein", 50.47612, 12.370071, _EU),
        Location(2, "nbg1", "Nuremberg DC Park 1", "DE", "Nuremberg", 49.452102, 11.076665, _EU),
        Location(3, "hel1", "Helsinki DC Park 1", "FI", "Helsinki", 60.169855, 24.938379, _EU),
        Location(4, "ash", "Ashburn, VA", "US", "Ashburn, VA", 39.045821, -77.487073, _EAST),
        Location(5, "hil", "Hillsboro, OR", "US", "Hillsboro, OR", 45.54222, -122.951924, _WEST),
        Location(6, "sin", "Singapore", "SG", "Singapore", 1.283333, 103.833333, _ASIA),
    )
}

NETWORK_ZONES: Final = frozenset(location.network_zone for location in LOCATIONS.values())

# Since October 2026 the API has no datacenters any more; it answers 410 with this.
DATACENTERS_GONE: Final = "https://docs.hetzner.cloud/changelog#2026-06-02-datacenters-deprecated"


@dataclass(frozen=True)
class ServerType:
    id: int
    name: str
    cores: int
    memory: float  # GB
    disk: int  # GB
    price: float  # EUR net a month
    locations: tuple[str, ...] = EU
    architecture: str = "x86"
    cpu_type: str = "shared"
    retired: tuple[str, str] | None = None  # (announced, unavailable after), ISO 8601

    def json(self, sold_out: Collection[str] = ()) -> dict[str, Any]:
        """`sold_out`: the locations that have none left."""
        deprecation = (
            {"announced": self.retired[0], "unavailable_after": self.retired[1]}
            if self.retired
            else None
        )
        return {
            "id": self.id,
            "name": self.name,
            "description": self.name.upper(),
            "category": "Dedicated" if self.cpu_type == "dedicated" else "Shared vCPU",
            "cores": self.cores,
            "memory": self.memory,
            "disk": self.disk,
            "storage_type": "local",
            "cpu_type": self.cpu_type,
            "architecture": self.architecture,
            "included_traffic": 0,
            "prices": [self.price_json(name) for name in self.locations],
            "deprecated": self.retired is not None,
            "deprecation": deprecation,
            "locations": [
                {
                    "id": LOCATIONS[name].id,
                    "name": name,
                    "available": name not in sold_out and self.retired is None,
                    "recommended": name not in sold_out and self.retired is None,
                    "deprecation": deprecation,
                }
                for name in self.locations
            ],
        }

    def price_json(self, location: str) -> dict[str, Any]:
        factor = 1.0 if location in EU else 1.2
        return {
            "location": location,
            "price_hourly": price(self.price * factor / 624, digits=4),
            "price_monthly": price(self.price * factor),
            "included_traffic": (20 if location in EU else 1) * 2**40,
            "price_per_tb_traffic": price(1.0),
        }


def price(net: float, *, digits: int = 2, vat: float = 0.19) -> dict[str, str]:
    """Money as the API writes it: strings, net and gross."""
    return {"net": f"{net:.{digits}f}", "gross": f"{net * (1 + vat):.{digits + 2}f}"}


_OLD_AMD: Final = ("2025-10-16T06:00:00+00:00", "2026-01-01T00:00:00+00:00")

SERVER_TYPES: Final = {
    server_type.name: server_type
    for server_type in (
        ServerType(114, "cx23", 2, 4.0, 40, 3.49),
        ServerType(115, "cx33", 4, 8.0, 80, 5.49),
        ServerType(116, "cx43", 8, 16.0, 160, 9.49),
        ServerType(117, "cx53", 16, 32.0, 320, 17.49),
        ServerType(22, "cpx11", 2, 2.0, 40, 4.35, (*US, "sin")),
        ServerType(23, "cpx21", 3, 4.0, 80, 7.55, EU, retired=_OLD_AMD),
        ServerType(24, "cpx31", 4, 8.0, 160, 13.60, (*US, "sin")),
        ServerType(109, "cpx22", 2, 4.0, 80, 6.49, (*EU, "sin")),
        ServerType(110, "cpx32", 4, 8.0, 160, 10.99, (*EU, "sin")),
        ServerType(111, "cpx42", 8, 16.0, 320, 19.99, (*EU, "sin")),
        ServerType(112, "cpx52", 12, 24.0, 480, 28.49, (*EU, "sin")),
        ServerType(113, "cpx62", 16, 32.0, 640, 38.99, (*EU, "sin")),
        ServerType(45, "cax11", 2, 4.0, 40, 3.79, EU, "arm"),
        ServerType(93, "cax21", 4, 8.0, 80, 6.49, EU, "arm"),
        ServerType(94, "cax31", 8, 16.0, 160, 12.49, EU, "arm"),
        ServerType(95, "cax41", 16, 32.0, 320, 24.49, EU, "arm"),
        ServerType(96, "ccx13", 2, 8.0, 80, 12.49, WORLD, cpu_type="dedicated"),
        ServerType(97, "ccx23", 4, 16.0, 160, 24.49, WORLD, cpu_type="dedicated"),
        ServerType(98, "ccx33", 8, 32.0, 240, 48.49, WORLD, cpu_type="dedicated"),
        ServerType(99, "ccx43", 16, 64.0, 360, 96.49, WORLD, cpu_type="dedicated"),
        ServerType(100, "ccx53", 32, 128.0, 600, 192.49, WORLD, cpu_type="dedicated"),
        ServerType(101, "ccx63", 48, 192.0, 960, 288.49, WORLD, cpu_type="dedicated"),
    )
}


@dataclass(frozen=True)
class Image:
    id: int
    name: str
    description: str
    os_flavor: str
    os_version: str
    architecture: str

    def json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "status": "available",
            "type": "system",
            "image_size": None,
            "disk_size": 5,
            "created": "2025-01-15T06:00:00+00:00",
            "created_from": None,
            "bound_to": None,
            "rapid_deploy": self.architecture == "x86",
            "protection": {"delete": False},
            "deleted": None,
            "deprecated": None,
            "deprecation": None,
            "labels": {},
        }


IMAGES: Final = {
    image.id: image
    for image in (
        Image(67794396, "ubuntu-22.04", "Ubuntu 22.04", "ubuntu", "22.04", "x86"),
        Image(161547269, "ubuntu-24.04", "Ubuntu 24.04", "ubuntu", "24.04", "x86"),
        Image(114690387, "debian-12", "Debian 12", "debian", "12", "x86"),
        Image(310557660, "debian-13", "Debian 13", "debian", "13", "x86"),
        Image(103907373, "rocky-9", "Rocky Linux 9", "rocky", "9", "x86"),
        Image(308416604, "fedora-42", "Fedora 42", "fedora", "42", "x86"),
        Image(103908130, "ubuntu-22.04", "Ubuntu 22.04", "ubuntu", "22.04", "arm"),
        Image(161547270, "ubuntu-24.04", "Ubuntu 24.04", "ubuntu", "24.04", "arm"),
        Image(114690389, "debian-12", "Debian 12", "debian", "12", "arm"),
        Image(310557661, "debian-13", "Debian 13", "debian", "13", "arm"),
    )
}


def pricing_json() -> dict[str, Any]:
    """GET /pricing."""
    return {
        "currency": "EUR",
        "vat_rate": "19.000000",
        "image": {"price_per_gb_month": price(0.011, digits=4)},
        "floating_ip": {"price_monthly": price(3.0)},
        "floating_ips": [
            {
                "type": kind,
                "prices": [{"location": name, "price_monthly": price(cost)} for name in WORLD],
            }
            for kind, cost in (("ipv4", 3.0), ("ipv6", 1.0))
        ],
        "primary_ips": [
            {
                "type": kind,
                "prices": [
                    {
                        "location": name,
                        "price_hourly": price(cost / 624, digits=4),
                        "price_monthly": price(cost),
                    }
                    for name in WORLD
                ],
            }
            for kind, cost in (("ipv4", 0.5), ("ipv6", 0.0))
        ],
        "traffic": {"price_per_tb": price(0.0)},
        "server_backup": {"percentage": "20.000000"},
        "server_types": [
            {
                "id": server_type.id,
                "name": server_type.name,
                "prices": [server_type.price_json(name) for name in server_type.locations],
            }
            for server_type in SERVER_TYPES.values()
        ],
        "load_balancer_types": [],
        "volume": {"price_per_gb_month": price(0.044, digits=4)},
    }
