"""A stand-in for the Cloudflare API: DNS records, zone settings, Origin CA certificates and the
published address ranges, for the official clients and Pulumi's plugin. It is not the cloud.

    cloud = Cloudflare(store=Path("cloudflare.json"), token=None, zones={"<32 hex>": "example.org"})
    listener = Listener(cloud.wsgi_app); listener.start()
    CLOUDFLARE_BASE_URL = listener.url + "/client/v4"

Where it differs from the vendor on purpose:
* an A record may point to a loopback address and be proxied (rehearsed servers have no others);
* nothing is resolved, proxied or encrypted: what is stored is all there is;
* Origin CA certificates are really signed, but by an authority of this stand-in's own;
* zones are seeded, on the Free plan; they cannot be made or deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rehearsal.clouds.cloudflare import (
    account,
    origin_ca,
    ranges,
    records,
    zone_settings,
)
from rehearsal.clouds.cloudflare import (
    zones as zones_api,
)
from rehearsal.clouds.cloudflare.dialect import CloudflareDialect
from rehearsal.clouds.http import App, Store

__all__ = ["Cloudflare"]


class Cloudflare:
    """One account. `zones` maps zone ids (32 hex digits) to names; a restart may add to them.

    `token` None accepts any well-formed token.
    """

    def __init__(
        self,
        store: Path,
        token: str | None,
        zones: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.app = App(
            "Cloudflare",
            store=Store(store, initial=_empty),
            dialect=CloudflareDialect(token),
            root="/client/v4",
            clock=clock,
            sleep=sleep,
        )
        self.wsgi_app = self.app.wsgi_app
        with self.app.store.transaction() as state:
            for zone_id, name in zones.items():
                zones_api.seed(state, zone_id, name, now=clock())
        for part in (account, ranges, zones_api, zone_settings, records, origin_ca):
            part.declare(self.app)


def _empty() -> dict[str, object]:
    return {
        "zones": {},
        "records": {},
        "settings": {},
        "certificates": {},
        "revoked": {},
        "authorities": {},
    }
