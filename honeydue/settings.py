"""The settings of one stack: typed, frozen, made from `Pulumi.<stack>.yaml` and its env file.

`load()` is what the program calls; `parse()` is the same without Pulumi. Both tell every problem
at once. Single values are checked by the types below (rules: `rules.py`), how they fit together by
`consistency.py`. camelCase keys in the stack file, under `honeydue:`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
)
from pydantic.alias_generators import to_camel

from honeydue import consistency, cosign, naming, rules
from honeydue.problems import Looks, SettingsError, Wrong
from honeydue.reading import Draft, NotRead, Reading

# Domain types. `Looks` says what an operator is to write when the value is missing or wrong.


def _text(rule: rules.Rule) -> AfterValidator:
    def check(value: str) -> str:
        rule(value)
        return value

    return AfterValidator(check)


def _secret(rule: rules.Rule) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        rule(value.get_secret_value())
        return value

    return AfterValidator(check)


def _true_or_false(value: object) -> bool:
    """`true` and `false` alone; at the top level Pulumi hands both over as text."""
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    raise Wrong("must be true or false")


def _one_line_of(*words: str) -> BeforeValidator:
    """Literals, with our words: YAML reads `1.2` as a number, and pydantic would not say so."""

    def check(value: object) -> object:
        if not isinstance(value, str):
            raise Wrong("must be text; YAML reads it as a number, so write it in quotes")
        rules.one_of(*words)(value)
        return value

    return BeforeValidator(check)


def _sha(value: object) -> object:
    """`pulumi config set --path` makes a number of a SHA that has no letter, one in 27. With seven
    digits it had no leading zero, so nothing is lost."""
    if isinstance(value, int) and value >= 1_000_000:
        return str(value)
    return value


YesOrNo = Annotated[bool, BeforeValidator(_true_or_false)]
HcloudToken = Annotated[SecretStr, _secret(rules.hcloud_token), Looks("<64 letters and digits>")]
CloudflareToken = Annotated[
    SecretStr, _secret(rules.cloudflare_token), Looks("<40 to 80 characters>")
]
AnySecret = Annotated[SecretStr, _secret(rules.secret), Looks("<the secret>")]
RedisUrl = Annotated[SecretStr, _secret(rules.redis_url), Looks("rediss://:<password>@<host>:6379")]

OperatorCidr = Annotated[
    IPv4Network | IPv6Network, BeforeValidator(rules.operator_network), Looks("<your address>/32")
]
PrivateCidr = Annotated[IPv4Network, BeforeValidator(rules.private_network)]
SshPublicKey = Annotated[str, _text(rules.ssh_public_key), Looks('"$(cat ~/.ssh/id_ed25519.pub)"')]
Label = Annotated[str, _text(rules.label), Looks("honeydue")]
NodeName = Annotated[str, _text(rules.node_name), Looks("honeydue-1")]
ServerType = Annotated[str, _text(rules.server_type), Looks("cx33")]
Location = Annotated[str, _text(rules.one_of(*rules.ZONES)), Looks("nbg1")]
NetworkZone = Annotated[
    str, _text(rules.one_of(*sorted(set(rules.ZONES.values())))), Looks("eu-central")
]
Generation = Annotated[int, Field(strict=True, ge=1, le=10_000), Looks("<1 or more>")]
BootMinutes = Annotated[int, Field(strict=True, ge=5, le=240)]
ZoneId = Annotated[
    str,
    _text(rules.matching(r"[0-9a-f]{32}", "32 hexadecimal digits in lower case")),
    Looks("<32 hexadecimal digits>"),
]
Host = Annotated[str, _text(rules.host), Looks("<host>")]
Ssl = Annotated[Literal["flexible", "strict"], _one_line_of("flexible", "strict"), Looks("strict")]
MinTls = Annotated[
    Literal["1.0", "1.1", "1.2", "1.3"], _one_line_of("1.0", "1.1", "1.2", "1.3"), Looks('"1.2"')
]
RegistryHost = Annotated[str, _text(rules.registry), Looks("gitea.treytartt.com")]
S3Endpoint = Annotated[str, _text(rules.host_and_port), Looks("s3.us-west-004.backblazeb2.com")]
Namespace = Annotated[
    str,
    _text(rules.matching(r"[a-z0-9]+([._-][a-z0-9]+)*", "one path segment in lower case")),
    Looks("admin"),
]
UserName = Annotated[
    str,
    _text(rules.matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,38}", "a Gitea user name")),
    Looks("admin"),
]
ImageRef = Annotated[str, BeforeValidator(_sha), _text(rules.image), Looks("<git short SHA>")]
Folder = Annotated[str, _text(rules.folder), Looks("../honeyDueAPI-go")]
BuilderName = Annotated[
    str,
    _text(rules.matching(r"[A-Za-z][A-Za-z0-9._-]{0,62}", "a buildx builder's name")),
    Looks("honeydue-builder"),
]
Driver = Annotated[
    Literal["docker-container", "remote"], _one_line_of("docker-container", "remote")
]
Severity = Annotated[
    Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"],
    _one_line_of("LOW", "MEDIUM", "HIGH", "CRITICAL"),
    Looks("CRITICAL"),
]
BuildArgs = Annotated[dict[str, str], AfterValidator(rules.build_args)]
PublicKey = Annotated[
    str,
    _text(cosign.public_key),
    Looks('"$(cat cosign.pub)"'),
]
PrivateKey = Annotated[SecretStr, _secret(cosign.private_key), Looks("<the private key's PEM>")]
Bucket = Annotated[str, _text(rules.bucket), Looks("<bucket>")]
Prefix = Annotated[
    str,
    _text(rules.matching(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", "a path without / at either end")),
]
Region = Annotated[
    str,
    _text(rules.matching(r"[a-z]+[a-z0-9-]*", "an S3 region in lower case")),
    Looks("us-west-004"),
]
Schedule = Annotated[str, _text(rules.cron), Looks('"0 */6 * * *"')]
Retention = Annotated[int, Field(strict=True, ge=1, le=1000)]


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
    )


class Operator(_Model):
    """Who may reach the API server (6443) and ssh (22), and the key that every server gets."""

    api_cidrs: tuple[OperatorCidr, ...] = Field(min_length=1)
    ssh_cidrs: tuple[OperatorCidr, ...] = ()  # empty: port 22 is closed
    ssh_public_key: SshPublicKey


class Node(_Model):
    """One manager. Its number (`honeydue-2` → 2) gives its private address: host 10 + number."""

    name: NodeName
    generation: Generation = 1  # raising it is the one way to replace the server
    server_type: ServerType = "cx33"
    location: Location | None = None  # None: the cluster's

    @property
    def number(self) -> int:
        return rules.node_number(self.name)


class Cluster(_Model):
    name: Label = "honeydue"
    location: Location = "nbg1"
    network_zone: NetworkZone = "eu-central"
    network_cidr: PrivateCidr = IPv4Network("10.10.0.0/16")
    node_cidr: PrivateCidr = IPv4Network("10.10.1.0/24")
    pod_cidr: PrivateCidr = IPv4Network("10.42.0.0/16")
    service_cidr: PrivateCidr = IPv4Network("10.43.0.0/16")
    api_node: NodeName | None = None  # what the kubeconfig's context opens; None: the first
    boot_minutes: BootMinutes = 15  # how long the readiness gate waits for the nodes
    nodes: tuple[Node, ...] = (
        Node(name="honeydue-1"),
        Node(name="honeydue-2"),
        Node(name="honeydue-3"),
    )

    @property
    def founder(self) -> Node:
        """The one node that may found the cluster, when no peer answers it."""
        return self.nodes[0]

    @property
    def api_node_or_first(self) -> Node:
        return next((node for node in self.nodes if node.name == self.api_node), self.nodes[0])

    def private_ip(self, node: Node) -> IPv4Address:
        """Host 10 + number of the node subnet: `honeydue-1` in 10.10.1.0/24 is 10.10.1.11."""
        return self.node_cidr[10 + node.number]

    def location_of(self, node: Node) -> str:
        return node.location or self.location


class Dns(_Model):
    zone_id: ZoneId
    zone: Host  # myhoneydue.com
    api: Host  # api.myhoneydue.com
    admin: Host
    landing: Host
    ssl: Ssl = "flexible"
    min_tls: MinTls = "1.2"


class Registry(_Model):
    server: RegistryHost  # gitea.treytartt.com
    namespace: Namespace  # admin
    username: UserName
    token: AnySecret


class App(_Model):
    """The application's checkout: what is built is the commit that is checked out there."""

    path: Folder  # absolute, or relative to this repository


class Scan(_Model):
    severity: Severity = "CRITICAL"  # a vulnerability of this severity or above stops the release


class Image(_Model):
    """How images are built. `build: false` (CI): nothing is, and `images` names all of them."""

    build: YesOrNo | None = None  # None: whether `app` is given
    builder: BuilderName = "honeydue-builder"
    # docker-container: the stack makes it, Docker runs it. remote: it is there already
    # (`docker buildx create --driver remote`), and no Docker is needed.
    driver: Driver = "docker-container"
    allow_dirty: YesOrNo = False  # build what is not committed, tagged <sha>-dirty-<content>
    build_args: BuildArgs = {}  # such as other base images
    scan: Scan = Scan()


class Images(_Model):
    """Services that are not built but run this tag (git short SHA), digest (`sha256:…`) or both
    (`237c6b8@sha256:…`): after a rollback all of them."""

    api: ImageRef | None = None
    worker: ImageRef | None = None
    admin: ImageRef | None = None


class Signing(_Model):
    """cosign's key pair. Who builds needs all of it; who only verifies, the public key."""

    public_key: PublicKey
    private_key: PrivateKey | None = None
    password: AnySecret | None = None  # of an encrypted private key, as cosign makes them


class Redis(_Model):
    """None of it: Redis runs in the cluster. `external_url` (rediss://…): it does not."""

    external_url: RedisUrl | None = None


class Snapshots(_Model):
    """etcd snapshots to S3. Absent: to the node's own disk only.

    Every manager takes one whenever the schedule says so. `retention` is per manager, on its disk
    as in the bucket: three that keep 28, one each six hours, fill the bucket with 84, a week's.
    """

    endpoint: S3Endpoint  # host without scheme
    bucket: Bucket
    folder: Prefix = "honeydue"
    region: Region
    access_key: AnySecret
    secret_key: AnySecret
    schedule: Schedule = "0 */6 * * *"
    retention: Retention = 28  # snapshots kept of each manager


class Settings(_Model):
    stack: str
    hcloud_token: HcloudToken
    cloudflare_token: CloudflareToken
    protect: YesOrNo = True  # False, then `up`, is the documented first half of `destroy`
    operator: Operator
    cluster: Cluster = Cluster()
    dns: Dns
    registry: Registry
    app: App | None = None
    image: Image = Image()
    images: Images = Images()
    signing: Signing | None = None
    redis: Redis = Redis()
    snapshots: Snapshots | None = None
    environment: dict[str, str]  # the env file, validated: becomes the ConfigMaps
    secrets: dict[str, SecretStr]  # SECRET_KEY, POSTGRES_PASSWORD, …: becomes the Secret

    @property
    def labels(self) -> dict[str, str]:
        return naming.labels(cluster=self.cluster.name, stack=self.stack)

    @property
    def cluster_identifier(self) -> str:
        return naming.cluster_identifier(cluster=self.cluster.name, stack=self.stack)

    @property
    def snapshots_location(self) -> str:
        """Where a rebuild finds etcd's snapshots."""
        if self.snapshots is None:
            return "/var/lib/rancher/k3s/server/db/snapshots on each node"
        return f"s3://{self.snapshots.bucket}/{self.snapshots.folder} at {self.snapshots.endpoint}"

    @property
    def built(self) -> tuple[str, ...]:
        return consistency.built(self)

    @property
    def hosts(self) -> tuple[str, str, str]:
        """The names that point at the nodes: api, admin panel, landing page."""
        return self.dns.api, self.dns.admin, self.dns.landing


# Reading


def load() -> Settings:
    """Reads the running stack's configuration; raises pulumi.RunError with every error at once."""
    # Here, since `parse` is also for those who are no program: half of their start would be this.
    import pulumi  # noqa: PLC0415
    from pulumi.runtime import config as pulumi_config  # noqa: PLC0415

    stack = pulumi.get_stack()
    # get_config would do for known keys; a misspelt one is found only in the whole map.
    everything = {**pulumi_config.get_config_env(), **pulumi_config.CONFIG.get()}
    secret_keys = set(pulumi_config.get_config_secret_keys_env())
    secret_keys |= {key for key in everything if pulumi_config.is_config_secret(key)}
    config = {_short(key): value for key, value in everything.items()}
    name = config.pop("envFile", None) or f"deploy/{stack}.env"
    path = Path(str(name))
    content = path.read_bytes() if path.is_file() else None
    problem: str | None = None
    try:
        return parse(stack, config, content, str(name), secret_keys=set(map(_short, secret_keys)))
    except SettingsError as error:
        problem = str(error)
    # Outside the except block: no chain of causes that could be printed with its values.
    raise pulumi.RunError(problem)


def _short(key: str) -> str:
    return key.removeprefix("honeydue:")


def parse(
    stack: str,
    config: Mapping[str, object],
    env_file_text: str | bytes | None,
    env_file_name: str,
    *,
    secret_keys: Collection[str] | None = None,
) -> Settings:
    """The settings, or a `SettingsError` with every problem.

    `config` maps keys without `honeydue:` to text as Pulumi hands it over (objects as JSON) or to
    plain objects. `env_file_text` is None when there is no such file. `secret_keys` are the keys
    that the stack file holds encrypted; None: not known, not checked.
    """
    reading = Reading(stack, env_file_name)
    parts = reading.configuration(config, Settings)
    parts["stack"] = stack
    if secret_keys is not None:
        reading.find_clear_secrets(config, secret_keys)
    for name, read in (
        ("secrets", reading.secrets(config.get("secrets"))),
        ("environment", reading.environment(env_file_text)),
    ):
        if read is not None:
            parts[name] = read

    for rule in consistency.RULES:
        try:
            found = [*rule(cast(Settings, Draft(parts)))]
        except NotRead:  # one of the values it compares is wrong by itself: that is told already
            continue
        for path, wrong in found:
            reading.refuse(path, wrong)
    if reading.problems:
        raise SettingsError(stack, reading.problems)
    return Settings.model_validate(parts)
