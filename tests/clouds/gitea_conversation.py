"""One long conversation with a Gitea, to compare the stand-in's answers with the real one's.

    python -m tests.clouds.gitea_conversation 127.0.0.1:3000 WRITE READ NONE \\
        > tests/clouds/golden/gitea-1.26.json

records it: a real, empty Gitea with REQUIRE_SIGNIN_VIEW = true, a site administrator `admin` and
three of their tokens (write:package, read:package, read:repository).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from dataclasses import dataclass
from typing import Any, Final

import httpx

COMPARED: Final = (
    "Content-Type",
    "Docker-Content-Digest",
    "Docker-Distribution-Api-Version",
    "ETag",
    "Link",
    "Location",
    "Range",
    "X-Total-Count",
)
OCI: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
CONFIG: Final = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
LAYER: Final = b"\0layer" * 400


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def manifest(name: str, layer: bytes = LAYER, **more: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "config": blob("application/vnd.oci.image.config.v1+json", CONFIG),
        "layers": [blob("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        "annotations": {"name": name},
    }
    return json.dumps(document | more).encode()


def index(*children: bytes, media_type: str = OCI) -> bytes:
    found = [blob(media_type, child) for child in children]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": found}).encode()


@dataclass
class Conversation:
    """What was answered so far; `tokens`: write, read and none."""

    client: httpx.Client
    tokens: dict[str, str]
    heard: list[dict[str, Any]]
    bearers: dict[str, str]
    location: str = ""

    def ask(
        self,
        method: str,
        path: str,
        who: str = "write",
        *,
        content: bytes | None = None,
        **headers: str,
    ) -> httpx.Response:
        """`who`: one of `tokens` by Basic, "token:…" by the API's scheme, "bearer:…" by what
        /v2/token gave, "" nobody, or a literal `user:password`."""
        kind, _, name = who.rpartition(":")
        if who in self.tokens:
            headers["Authorization"] = _basic("admin", self.tokens[who])
        elif kind == "token":
            headers["Authorization"] = f"token {self.tokens.get(name, name)}"
        elif kind == "bearer":
            headers["Authorization"] = f"Bearer {self.bearers.get(name, name)}"
        elif who:
            headers["Authorization"] = _basic(kind, self.tokens.get(name, name))
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        answer = self.client.request(
            method, path.replace("LOCATION", self.location), headers=sent, content=content
        )
        if "/blobs/uploads/" in answer.headers.get("Location", ""):
            self.location = answer.headers["Location"]
        self.heard.append({"asked": f"{method} {path} ({who})"} | self._normal(answer))
        return answer

    def _normal(self, answer: httpx.Response) -> dict[str, Any]:
        headers = {name: answer.headers[name] for name in COMPARED if name in answer.headers}
        if wanted := answer.headers.get_list("WWW-Authenticate"):
            headers["WWW-Authenticate"] = ", ".join(wanted)
        if answer.request.method == "HEAD" and answer.is_success:
            headers["Content-Length"] = answer.headers.get("Content-Length")
        if "Content-Type" in headers:
            headers["Content-Type"] = re.sub(r";\s*charset", "; charset", headers["Content-Type"])
        body: Any = answer.content.decode(errors="replace")
        if headers.get("Content-Type", "").startswith("application/json"):
            headers["Content-Type"] = "application/json"  # with a charset or without
            body = _shown(json.loads(answer.text)) if answer.text else ""
        text = json.dumps({"status": answer.status_code, "headers": headers, "body": body})
        text = text.replace(str(self.client.base_url).rstrip("/"), "http://HOST")
        text = re.sub(r"(/blobs/uploads/)[A-Za-z0-9]+", r"\1UPLOAD", text)
        normal: dict[str, Any] = json.loads(text)
        return normal


def _shown(document: Any) -> Any:
    """Without numbers and times that differ from one Gitea to the next."""
    if isinstance(document, list):
        return [_shown(item) for item in document]
    if not isinstance(document, dict):
        return document
    shown = {k: v for k, v in document.items() if k not in ("id", "created_at", "url")}
    if "owner" in shown:
        shown |= {"owner": shown["owner"]["login"], "creator": shown["creator"]["login"]}
    return {k: "JWT" if k == "token" else _shown(v) for k, v in shown.items()}


def _basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def converse(client: httpx.Client, tokens: dict[str, str]) -> list[dict[str, Any]]:
    """Says everything; one answer after the other."""
    it = Conversation(client, tokens, [], {})
    _identify(it)
    _upload(it)
    _push(it)
    _list(it)
    _delete(it)
    return it.heard


V2: Final = "/v2/admin/honeydue-api"
API: Final = "/api/v1/packages/admin"


def _identify(it: Conversation) -> None:
    for who in ("", "admin:wrong", "bearer:wrong", "token:write", "write", "none", "anybody:read"):
        it.ask("GET", "/v2/", who)
    for who in ("", "admin:wrong", "none", "read", "write"):
        answer = it.ask("GET", "/v2/token?service=container_registry&scope=x", who)
        if answer.status_code == 200:
            it.bearers[who] = answer.json()["token"]
    it.ask("POST", "/v2/token", "")
    it.ask("GET", f"{V2}/tags/list", "")
    it.ask("GET", f"{V2}/tags/list", "none")
    for who in ("bearer:read", "bearer:write"):
        it.ask("GET", f"{V2}/tags/list", who)
        it.ask("POST", f"{V2}/blobs/uploads/", who)
        it.ask("PUT", f"{V2}/manifests/nothing", who, content=b"")
    it.ask("GET", "/v2/nobody/image/tags/list")
    it.ask("POST", "/v2/admin/Capital/blobs/uploads/")
    it.ask("GET", "/v2/admin/Capital/tags/list")


def _upload(it: Conversation) -> None:
    layer, one = digest_of(LAYER), b"in one piece"
    it.ask("HEAD", f"{V2}/blobs/{layer}")
    it.ask("GET", f"{V2}/blobs/{layer}")
    it.ask("GET", f"{V2}/blobs/nonsense")
    it.ask("POST", f"{V2}/blobs/uploads/")
    it.ask("GET", "LOCATION")
    it.ask("PATCH", "LOCATION", content=LAYER[:1000])
    it.ask("GET", "LOCATION")
    it.ask("PATCH", "LOCATION", content=LAYER[1000:])
    it.ask("PATCH", "LOCATION", content=LAYER[1000:], Content_Range="0-5")
    it.ask("PATCH", "LOCATION", content=LAYER[1000:], Content_Range="nonsense")
    it.ask("PATCH", "LOCATION", content=LAYER[1000:2000], Content_Range="1000-1999")
    it.ask("PUT", "LOCATION", content=LAYER[2000:])
    it.ask("PUT", f"LOCATION?digest={layer}", content=LAYER[2000:])
    it.ask("PUT", f"LOCATION?digest={layer}", content=LAYER[2000:])
    it.ask("PATCH", f"{V2}/blobs/uploads/unknown", content=b"x")
    it.ask("HEAD", f"{V2}/blobs/{layer}")
    it.ask("GET", f"{V2}/blobs/{layer}", "bearer:read")
    it.ask("POST", f"{V2}/blobs/uploads/?digest={digest_of(one)}", content=one)
    it.ask("POST", f"{V2}/blobs/uploads/?digest={layer}", content=one)
    it.ask("POST", f"{V2}/blobs/uploads")
    it.ask("PUT", f"LOCATION?digest={layer}", content=b"other bytes")
    it.ask("POST", f"{V2}/blobs/uploads/")
    it.ask("DELETE", "LOCATION")
    it.ask("GET", "LOCATION")
    other = "/v2/admin/honeydue-worker/blobs"
    it.ask("POST", f"{other}/uploads/?mount={layer}&from=admin/honeydue-api")
    it.ask("HEAD", f"{other}/{layer}")
    it.ask("POST", f"{other}/uploads/?mount={layer}&from=admin/honeydue-api&origin=HOST")
    it.ask("POST", f"{other}/uploads/?mount={digest_of(one)}&from=admin/honeydue-admin")
    it.ask("HEAD", f"{other}/{digest_of(one)}")


def _push(it: Conversation) -> None:
    put = f"{V2}/manifests"
    it.ask("PUT", f"{put}/first", content=manifest("first"), Content_Type=OCI)
    it.ask("POST", f"{V2}/blobs/uploads/?digest={digest_of(CONFIG)}", content=CONFIG)
    for tag in ("first", "Second", "third"):
        it.ask("PUT", f"{put}/{tag}", content=manifest(tag), Content_Type=OCI)
        it.ask("HEAD", f"{put}/{tag.lower()}")
    it.ask("GET", f"{put}/FIRST")
    it.ask("GET", f"{put}/{digest_of(manifest('first'))}", "bearer:read")
    it.ask("HEAD", f"{V2}/blobs/{digest_of(manifest('first'))}")
    it.ask("HEAD", f"{V2}/blobs/{digest_of(LAYER)}")
    it.ask("GET", f"{V2}/blobs/{digest_of(CONFIG)}")
    it.ask("GET", f"{put}/nothing")
    it.ask("GET", f"{put}/not+a+tag")
    wrong_size = manifest("x", config=blob("application/json", CONFIG) | {"size": 1})
    for content, media_type in (
        (b"nonsense", OCI),
        (b'{"schemaVersion":1}', OCI),
        (b'{"schemaVersion":2}', "application/json"),
        (b'{"schemaVersion":2}', OCI),
        (manifest("x", layer=b"missing"), OCI),
        (wrong_size, OCI),
        (manifest("x"), "application/vnd.oci.something+json"),
        (manifest("x"), f"{OCI}; charset=utf-8"),
        (index(manifest("missing")), INDEX),
        (index(manifest("first"), media_type=INDEX), INDEX),
    ):
        it.ask("PUT", f"{put}/wrong", content=content, Content_Type=media_type)
    it.ask("PUT", f"{put}/not+a+tag", content=manifest("x"), Content_Type=OCI)
    # By digest: a version of its own, with nobody looking whether the digest is right.
    child = manifest("child")
    it.ask("PUT", f"{put}/{digest_of(child)}", content=child, Content_Type=OCI)
    it.ask("PUT", f"{put}/{digest_of(b'other')}", content=manifest("x"), Content_Type=OCI)
    it.ask("HEAD", f"{put}/{digest_of(b'other')}")
    it.ask("HEAD", f"{put}/{digest_of(manifest('x'))}")
    it.ask("PUT", f"{put}/index", content=index(child), Content_Type=INDEX)
    it.ask("HEAD", f"{put}/index")
    # A signature's tag; its media types are nobody's business.
    signature = f"{put}/{digest_of(child).replace(':', '-')}.sig"
    it.ask("PUT", signature, content=manifest("signature"), Content_Type=OCI)
    it.ask("GET", f"{V2}/referrers/{digest_of(child)}")
    # The same tag again: with the same bytes, and with others, which end the first ones.
    it.ask("PUT", f"{put}/third", content=manifest("third"), Content_Type=OCI)
    it.ask("PUT", f"{put}/third", content=manifest("other"), Content_Type=OCI)
    it.ask("HEAD", f"{put}/third")
    it.ask("HEAD", f"{put}/{digest_of(manifest('third'))}")


def _list(it: Conversation) -> None:
    for query in ("", "?n=2", "?n=2&last=index", "?n=0", "?n=-1", "?last=zzz", "?last=THIRD"):
        it.ask("GET", f"{V2}/tags/list{query}", "bearer:read")
    it.ask("GET", "/v2/admin/nothing/tags/list")
    it.ask("GET", "/v2/_catalog")
    for who in ("", "token:wrong", "admin:wrong", "token:none", "token:read", "read", "write"):
        it.ask("GET", f"{API}?type=container&limit=1", who)
    for query in ("?type=npm", "?type=container&q=work", "?q=API&limit=2&page=2&type=container"):
        it.ask("GET", f"{API}{query}", "token:read")
    for query in ("", "?limit=3", "?limit=3&page=2", "?limit=3&page=3", "?limit=3&page=9"):
        it.ask("GET", f"{API}/container/honeydue-api{query}", "token:read")
    it.ask("GET", f"{API}/container/nothing", "token:read")
    it.ask("GET", "/api/v1/packages/nobody?type=container", "token:read")
    for version in ("first", "SECOND", digest_of(manifest("child")), "nothing", "_upload"):
        it.ask("GET", f"{API}/container/honeydue-api/{version}", "token:read")
    it.ask("GET", f"{API}/container/honeydue-api/{digest_of(manifest('first'))}", "token:read")
    it.ask("GET", f"{API}/container/honeydue-api/first/files", "token:read")
    it.ask("GET", f"{API}/container/honeydue-api/index/files", "token:read")
    it.ask("GET", f"{API}/container/honeydue-api/-/latest", "token:read")


def _delete(it: Conversation) -> None:
    child = digest_of(manifest("child"))
    version = f"{API}/container/honeydue-api"
    for who in ("", "token:read", "token:none"):
        it.ask("DELETE", f"{version}/first", who)
    it.ask("DELETE", f"{version}/nothing", "token:write")
    it.ask("DELETE", f"{version}/first", "token:write")
    it.ask("GET", f"{V2}/manifests/{digest_of(manifest('first'))}")
    it.ask("DELETE", f"{version}/first", "token:write")
    # Nobody keeps a child from being taken out of its index.
    it.ask("DELETE", f"{version}/{child}", "token:write")
    it.ask("HEAD", f"{V2}/manifests/{child}")
    it.ask("HEAD", f"{V2}/manifests/index")
    it.ask("DELETE", f"{V2}/manifests/third", "bearer:read")
    it.ask("DELETE", f"{V2}/manifests/nothing")
    it.ask("DELETE", f"{V2}/manifests/third")
    second = digest_of(manifest("Second"))
    it.ask("PUT", f"{V2}/manifests/twin", content=manifest("Second"), Content_Type=OCI)
    it.ask("DELETE", f"{V2}/manifests/{second}")
    for tag in ("second", "twin"):
        it.ask("HEAD", f"{V2}/manifests/{tag}")
    it.ask("GET", f"{V2}/tags/list")
    it.ask("DELETE", f"{V2}/blobs/{digest_of(b'in one piece')}")
    it.ask("HEAD", f"{V2}/blobs/{digest_of(b'in one piece')}")
    it.ask("DELETE", f"{API}/container/honeydue-api", "token:write")
    it.ask("GET", f"{V2}/tags/list")
    it.ask("HEAD", f"{V2}/blobs/{digest_of(LAYER)}")
    it.ask("GET", f"{API}?type=container", "token:write")
    it.ask("DELETE", f"{API}/container/honeydue-worker", "token:write")


if __name__ == "__main__":
    server, write, read, none = sys.argv[1:]
    with httpx.Client(base_url=f"http://{server}", trust_env=False, timeout=60) as real:
        heard = converse(real, {"write": write, "read": read, "none": none})
    print(json.dumps(heard, indent=1))
