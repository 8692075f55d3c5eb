"""GET /user/tokens/verify: is this token any good?"""

from __future__ import annotations

import hashlib
from typing import Final

from rehearsal.clouds.cloudflare.dialect import success
from rehearsal.clouds.http import App, Call, Reply

ACCOUNT: Final = {"id": hashlib.md5(b"rehearsal").hexdigest(), "name": "Rehearsal"}


def declare(app: App) -> None:
    @app.route("GET", "/user/tokens/verify")
    def verify(call: Call) -> Reply:
        token_id = hashlib.md5(call.headers["Authorization"].encode()).hexdigest()
        valid = {"code": 10000, "message": "This API Token is valid and active", "type": None}
        return success({"id": token_id, "status": "active"}, [valid])
