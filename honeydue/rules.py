"""The rules for single values: each takes the text as written and returns, or raises `Wrong`.

Nothing here knows where a value came from or which stack it belongs to; rules between settings are
in `consistency.py`. Messages complete "<key> …" and do not repeat a value that could be a secret.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from honeydue.pkcs8 import apns_key as _apns_key
from honeydue.problems import Wrong

Rule = Callable[[str], None]

LONGEST_VALUE: Final = 4096  # bytes; the longest real value is a PEM of about 260
LONGEST_FILE: Final = (
    64 * 1024
)  # bytes of all values together; Kubernetes refuses objects over 1 MiB

_PLACEHOLDER = re.compile(
    # Runs of x and TODO only as words of their own: a random token may hold them by chance.
    r"change[_-]?me|replace[_-]?me|your[-_]|example\.(com|org|net)"
    r"|(?<![a-z0-9])(x{3,}|todo|tbd|fixme)(?![a-z0-9])"
    # <the token>, but not the <a@b.c> of a mail address
    r"|<[a-z0-9 _./…-]*>",
    re.IGNORECASE,
)
_QUOTES = "\"'`“”\u2018\u2019«»"


# Any text


def plain(value: str) -> None:
    """What holds for every value on one line: written as meant, and not a placeholder."""
    if "\n" in value or "\r" in value:
        raise Wrong("holds a line break (Windows line ends?); it must be one line")
    _clean(value)


def _clean(value: str) -> None:
    if not value.strip():
        raise Wrong("is empty")
    if "\0" in value:
        raise Wrong("holds a NUL character")
    control = next(
        (c for c in value if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"), None
    )
    if control is not None:
        raise Wrong(f"holds an invisible character (U+{ord(control):04X})")
    if value.strip(" \t\u00a0") != value:
        raise Wrong("begins or ends with a blank")
    if value[0] in _QUOTES or value[-1] in _QUOTES:
        raise Wrong("begins or ends with a quote mark, which would become part of the value")
    if len(value.encode()) > LONGEST_VALUE:
        raise Wrong(f"is longer than {LONGEST_VALUE} bytes")
    if _PLACEHOLDER.search(value):
        raise Wrong("is still a placeholder")


def matching(pattern: str, wanted: str) -> Rule:
    """A rule for what one regular expression describes in full; `wanted` says it in words."""
    compiled = re.compile(pattern)

    def rule(value: str) -> None:
        plain(value)
        if not compiled.fullmatch(value):
            raise Wrong(f"must be {wanted}")

    return rule


def number(low: int, high: int) -> Rule:
    """Decimal digits between two bounds (both included), without sign or leading zero."""

    def rule(value: str) -> None:
        plain(value)
        if not re.fullmatch(r"0|[1-9][0-9]{0,8}", value) or not low <= int(value) <= high:
            raise Wrong(f"must be a whole number from {low} to {high}")

    return rule


def one_of(*allowed: str) -> Rule:
    def rule(value: str) -> None:
        plain(value)
        if value not in allowed:
            words = "" if len(allowed) == 1 else "one of "
            raise Wrong(f"must be {words}{', '.join(allowed)}")

    return rule


boolean: Final = one_of("true", "false")


# Secrets and accounts


def hcloud_token(value: str) -> None:
    """Pulumi's hcloud plugin checks the length at preview; tokens are letters and digits."""
    plain(value)
    if len(value) != 64:
        raise Wrong(f"has {len(value)} characters; a Hetzner Cloud token has exactly 64")
    if not re.fullmatch(r"[A-Za-z0-9]+", value):
        raise Wrong("holds something else than letters and digits; a Hetzner Cloud token does not")


def cloudflare_token(value: str) -> None:
    """The shape that Pulumi's Cloudflare plugin demands."""
    plain(value)
    if not 40 <= len(value) <= 80:
        raise Wrong(f"has {len(value)} characters; a Cloudflare API token has 40 to 80")
    if not re.fullmatch(r"[0-9A-Za-z_-]+", value):
        raise Wrong("holds something else than letters, digits, - and _")


def secret_key(value: str) -> None:
    """Signs sessions and tokens: long, and hard to guess."""
    plain(value)
    if len(value) < 50:
        raise Wrong(f"has {len(value)} characters; at least 50 are needed")
    steps = [ord(b) - ord(a) for a, b in itertools.pairwise(value)]
    if len(set(value)) < 12 or _entropy(value) < 128:
        raise Wrong("is too easy to guess: it has too few different characters")
    if any(value[period:] == value[:-period] for period in range(1, len(value) // 2 + 1)):
        raise Wrong("is too easy to guess: it repeats itself")
    if max(Counter(steps).values()) > len(steps) // 2:
        raise Wrong("is too easy to guess: it is a sequence")


def _entropy(value: str) -> float:
    """Bits by the frequency of characters: an upper bound, enough to refuse what a hand typed."""
    return -sum(n * math.log2(n / len(value)) for n in Counter(value).values())


def password(value: str) -> None:
    plain(value)
    if len(value) < 12:
        raise Wrong(f"has {len(value)} characters; at least 12 are needed")
    if len(set(value)) < 6:
        raise Wrong("is too easy to guess: it has too few different characters")


def secret(value: str) -> None:
    """A password or key that a vendor chose: nothing is known but that it is not short."""
    plain(value)
    if len(value) < 8:
        raise Wrong(f"has {len(value)} characters; at least 8 are expected")


def apns_key(value: str) -> None:
    if "\r" in value:
        raise Wrong("holds Windows line ends (CRLF)")
    _clean(value.rstrip("\n"))
    _apns_key(value)


def ssh_public_key(value: str) -> None:
    """`<type> <base64> [comment]`, as in ~/.ssh/id_ed25519.pub; the body must be of that type."""
    if "PRIVATE KEY" in value:
        raise Wrong("is a private key. Give the .pub file, and make a new key pair")
    plain(value)
    kind, _, rest = value.partition(" ")
    if kind not in _SSH_KEYS:
        raise Wrong("must begin with its type, such as ssh-ed25519")
    body = rest.split(" ")[0]
    try:
        blob = base64.b64decode(body, validate=True)
    except binascii.Error:
        raise Wrong("is not whole: its second word is not base64") from None
    fields = _ssh_fields(blob)
    if fields is None or len(fields) != _SSH_KEYS[kind] or fields[0] != kind.encode():
        raise Wrong(f"is not whole: its second word is not a key of type {kind}")
    if kind == "ssh-ed25519" and len(fields[1]) != 32:
        raise Wrong(f"is not whole: its second word is not a key of type {kind}")
    if kind == "ssh-rsa" and (bits := int.from_bytes(fields[2], "big").bit_length()) < 3072:
        raise Wrong(f"is an RSA key of {bits} bits; at least 3072 are needed, or use ssh-ed25519")


# Type: number of fields in its body (RFC 4253 6.6, RFC 5656 3.1, RFC 8709 4; OpenSSH's PROTOCOL.u2f
# for the two whose private half stays in a security key).
_SSH_KEYS: Final = {
    "ssh-ed25519": 2,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "ssh-rsa": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}


def _ssh_fields(blob: bytes) -> list[bytes] | None:
    """Splits a key's body into its length-prefixed fields; None when it does not come out even."""
    fields, at = [], 0
    while at < len(blob):
        end = at + 4 + int.from_bytes(blob[at : at + 4], "big")
        if end > len(blob):
            return None
        fields.append(blob[at + 4 : end])
        at = end
    return fields


# Networks


def network(value: object) -> IPv4Network | IPv6Network:
    """A CIDR whose host bits are clear."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise Wrong("must be a network in CIDR form, in quotes")
    plain(value)
    if "/" not in value:
        raise Wrong("has no prefix length; a single IPv4 address is written with /32, IPv6 /128")
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        meant = ip_network(value, strict=False)
    except ValueError:
        raise Wrong("is not a network in CIDR form (address/prefix length)") from None
    raise Wrong(f"names a host inside a network; the network is {meant}", to=str(meant))


def operator_network(value: object) -> IPv4Network | IPv6Network:
    """Who may reach 6443 or 22: public addresses (the firewall sees no others), and not many.

    The bounds are those of one provider's pool: /16 (65,536 addresses) and /32 (one allocation).
    """
    try:
        found = network(value)
    except Wrong as wrong:
        if wrong.to is not None:  # host bits: the operator meant the host
            address = str(value).partition("/")[0]
            wrong.to = f"{address}/{128 if ':' in address else 32}"
        raise
    if found.prefixlen == 0:
        raise Wrong("opens the port to the whole internet; name your own addresses")
    widest = 16 if isinstance(found, IPv4Network) else 32
    if found.prefixlen < widest:
        raise Wrong(f"is wider than /{widest}; name your own addresses")
    if any(found.version == net.version and found.overlaps(net) for net in _UNROUTED):
        raise Wrong("is not a public network; the firewall only ever sees public addresses")
    return found


_RFC1918 = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_UNROUTED = (
    *_RFC1918,
    *map(ip_network, ("127.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16")),
    *map(ip_network, ("::1/128", "fc00::/7", "fe80::/10")),
)


def private_network(value: object) -> IPv4Network:
    found = network(value)
    if not isinstance(found, IPv4Network):
        raise Wrong("must be IPv4: Hetzner's private networks know nothing else")
    if not any(found.subnet_of(net) for net in _RFC1918):
        raise Wrong("must lie in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16 (RFC 1918)")
    return found


# Names and addresses

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def host(value: str) -> None:
    """A fully qualified DNS name in lower case, without a trailing dot."""
    plain(value)
    _ascii(value)
    if "://" in value or "/" in value:
        raise Wrong("must be a host name alone, without scheme or path")
    if ":" in value:
        raise Wrong("must be a host name alone, without a port")
    if value.lower() != value:
        raise Wrong("must be in lower case")
    if not re.fullmatch(rf"({_LABEL}\.)+[a-z]([a-z0-9-]*[a-z0-9])?", value) or len(value) > 253:
        raise Wrong("is not a valid DNS name")


def host_or_address(value: str) -> None:
    """A DNS name, or an IPv4 address that pods reach: they have no IPv6 and no private networks."""
    plain(value)
    try:
        address = IPv4Address(value)
    except ValueError:
        host(value)
        return
    if not address.is_global:
        raise Wrong("is not a public address, and pods may reach no others")


def _ascii(value: str) -> None:
    odd = next((c for c in value if not c.isascii()), None)
    if odd is not None:
        name = unicodedata.name(odd, "unnamed").lower()
        raise Wrong(f"holds U+{ord(odd):04X} ({name}), which only looks like a plain letter")


def host_and_port(value: str) -> None:
    """A host name, and a port where it is not the default one."""
    name, colon, port = value.partition(":")
    if "://" in value or "/" in value:
        raise Wrong("must be a host name alone, without scheme or path")
    host(name)
    if colon:
        number(1, 65535)(port)


def registry(value: str) -> None:
    """A host and port; also 127.x.y.z with a port: a registry on this machine, for rehearsals."""
    address, colon, port = value.partition(":")
    if colon and re.fullmatch(r"127(\.[0-9]{1,3}){3}", address):
        number(1, 65535)(port)
    else:
        host_and_port(value)


def label(value: str) -> None:
    """An RFC 1123 label that leaves room for suffixes within the 63 characters of a name."""
    plain(value)
    if not re.fullmatch(_LABEL, value) or len(value) > 40:
        raise Wrong("must be lower-case letters, digits and -, at most 40 characters")


def node_name(value: str) -> None:
    plain(value)
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?-(0|[1-9][0-9]*)", value) or len(value) > 63:
        raise Wrong("must be <name>-<number> in lower case, as in honeydue-1")
    if not 1 <= node_number(value) <= 200:
        raise Wrong("must end in a number from 1 to 200: it becomes the node's private address")


def node_number(name: str) -> int:
    """`honeydue-2` → 2. The name must have passed `node_name`."""
    return int(name.rpartition("-")[2])


def https_url(value: str) -> None:
    parts = _url(value)
    if parts.scheme != "https":
        raise Wrong("must begin with https://")
    if parts.query or parts.fragment:
        raise Wrong("must not have a query or a fragment")


def https_origins(value: str) -> None:
    """Origins as browsers send them, separated by commas: scheme and host, and nothing after."""
    plain(value)
    for origin in value.split(","):
        https_url(origin)
        if urlsplit(origin).path:
            raise Wrong("must be origins: https://<host>, without a slash or a path at the end")


def hosts(value: str) -> None:
    plain(value)
    for name in value.split(","):
        if name == "*":
            raise Wrong("must not be *: every Host header would be accepted")
        host(name)


def redis_url(value: str) -> None:
    parts = _url(value, credentials=True)
    if parts.scheme not in ("redis", "rediss"):
        raise Wrong("must begin with rediss:// (or redis://)")


def _url(value: str, *, credentials: bool = False) -> SplitResult:
    plain(value)
    if " " in value:
        raise Wrong("must not hold a blank")
    try:
        parts = urlsplit(value)
        _ = parts.port  # parsed on access
    except ValueError:
        raise Wrong("is not a URL") from None
    if not parts.scheme or not parts.hostname:
        raise Wrong("is not a URL: <scheme>://<host> is missing")
    if not credentials and "@" in parts.netloc:
        raise Wrong("holds a user name or password; a URL in the environment is no place for one")
    host(parts.hostname) if not credentials else _ascii(parts.hostname)
    return parts


def mail_address(value: str) -> None:
    """`a@b.c` or `Name <a@b.c>`."""
    plain(value)
    found = re.fullmatch(r"(?:[^<>@]+ <)?([A-Za-z0-9._%+-]+)@([^<>@ ]+?)>?", value)
    if not found or ("<" in value) != value.endswith(">"):
        raise Wrong("is not a mail address: name@host, or Name <name@host>")
    host(found.group(2))


# Kubernetes, images, machines


COMMIT: Final = r"[0-9a-f]{7,40}(-dirty(-[a-z0-9]+)*)?"
"""A git short SHA, as `git describe --always --dirty` may extend it."""


def image(value: str) -> None:
    """A COMMIT, a digest, or `<tag>@<digest>`, as the stack's output `release` has it."""
    if value == "latest" or value.endswith(":latest"):
        raise Wrong("must not be latest: a rollback could not name what ran before")
    plain(value)
    if "/" in value:
        raise Wrong("must be the tag or digest alone; the registry is another setting")
    tag, at, digest = value.partition("@")
    if at and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise Wrong("has no digest behind @: sha256: and 64 hexadecimal digits")
    value = tag if at else value
    if at and not tag:
        raise Wrong("has no tag before @: write the digest alone")
    if value.startswith("sha256:"):
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
            raise Wrong("is a digest of the wrong length: sha256: and 64 hexadecimal digits")
    elif not re.fullmatch(COMMIT, value):
        raise Wrong("must be a git short SHA (7 to 40 hexadecimal digits) or a sha256: digest")


def folder(value: str) -> None:
    """A path as the operator writes it; whether it is there is seen when it is read."""
    plain(value)
    if value.startswith("~"):
        raise Wrong("begins with ~, which only a shell knows: write the whole path")


def build_args(values: dict[str, str]) -> dict[str, str]:
    for name in values:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise Wrong("holds a name that is no build argument: letters, digits and _")
        if name in _OUR_BUILD_ARGS:
            raise Wrong(f"sets {name}, which the program sets from the commit and the platform")
        if re.search("TOKEN|PASSWORD|SECRET|KEY", name, re.IGNORECASE):
            raise Wrong(f"sets {name}; build arguments stay readable in the image for ever")
    return values


_OUR_BUILD_ARGS = ("SOURCE_DATE_EPOCH", "TARGETARCH", "TARGETOS", "TARGETPLATFORM")


# Where a type is sold (docs.hetzner.com, 2026-11): CX and CAX in Europe only.
ZONES: Final = {
    "fsn1": "eu-central",
    "nbg1": "eu-central",
    "hel1": "eu-central",
    "ash": "us-east",
    "hil": "us-west",
    "sin": "ap-southeast",
}
_TWO_GIGABYTES = {"cx11", "cpx11", "cpx12"}


def server_type(value: str) -> None:
    plain(value)
    if re.fullmatch(r"cax[0-9]{2}", value):
        raise Wrong("is an Arm server; the images are built for amd64", to="cx33")
    if not re.fullmatch(r"(cx|cpx|ccx)[0-9]{2}", value):
        raise Wrong("is not a Hetzner server type, such as cx33", to="cx33")
    if value in _TWO_GIGABYTES:
        raise Wrong("has 2 GB; a manager with workloads needs at least 4 GB", to="cx33")


def bucket(value: str) -> None:
    """S3's rules for bucket names, without dots: TLS certificates do not cover them."""
    plain(value)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", value):
        raise Wrong("must be 3 to 63 lower-case letters, digits and -")


def cron(value: str) -> None:
    """Five fields (minute, hour, day, month, weekday) of numbers, ranges, lists and steps."""
    plain(value)
    fields = value.split(" ")
    if len(fields) != len(_CRON):
        raise Wrong(f"has {len(fields)} fields; a schedule has 5: minute hour day month weekday")
    for text, (name, low, high) in zip(fields, _CRON, strict=True):
        for part in text.split(","):
            found = re.fullmatch(r"(?:\*|([0-9]+)(?:-([0-9]+))?)(?:/([1-9][0-9]*))?", part)
            if not found:
                raise Wrong(f"is no number, range, list or step in the field {name}")
            first, last = int(found[1] or low), int(found[2] or found[1] or high)
            if not low <= first <= last <= high:
                raise Wrong(f"is outside {low} to {high} in the field {name}")


_CRON = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
