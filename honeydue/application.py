"""What honeyDue itself is told: every key of the env file (ConfigMaps) and of the secrets (Secret).

One table each. They drive the validation and `deploy/prod.env.example`, which a test holds equal to
`example_file()`; after a change here: `python -m honeydue.application > deploy/prod.env.example`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from honeydue import rules
from honeydue.rules import Rule

Service = Literal["api", "worker", "admin"]
_GO: Final[tuple[Service, ...]] = ("api", "worker")


@dataclass(frozen=True, kw_only=True)
class Key:
    """One variable of the application."""

    name: str
    meaning: str
    rule: Rule
    example: str  # the book's value, or a placeholder that `rules.plain` refuses
    like: str = ""  # what to write, where the example is a placeholder
    services: tuple[Service, ...] = _GO
    required: bool = True
    heading: str = ""  # begins a new part of the example file


@dataclass(frozen=True, kw_only=True)
class SecretKey:
    """One secret of the application, and where its value comes from if nobody chooses it."""

    name: str
    meaning: str
    rule: Rule
    services: tuple[Service, ...] = _GO
    required: bool = True
    pipe: str = ""  # a command whose output becomes the value
    file: str = ""  # a file whose content becomes the value


_id10 = rules.matching(r"[A-Z0-9]{10}", "ten capital letters and digits")
_name = rules.matching(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", "letters, digits, - and _, at most 63")
_hour = rules.number(0, 23)

ENVIRONMENT: Final = (
    Key(
        heading="Web",
        name="DEBUG",
        meaning="debug pages show settings to visitors: never true where people come",
        rule=rules.one_of("false"),
        example="false",
    ),
    Key(
        name="ALLOWED_HOSTS",
        meaning="hosts that the API answers for, with commas; must hold the api host",
        rule=rules.hosts,
        example="api.myhoneydue.com,myhoneydue.com",
        services=("api",),
    ),
    Key(
        name="CORS_ALLOWED_ORIGINS",
        meaning="origins whose scripts may call the API; must hold the admin panel's",
        rule=rules.https_origins,
        example="https://admin.myhoneydue.com,https://myhoneydue.com",
        services=("api",),
    ),
    Key(
        name="BASE_URL",
        meaning="links in mails begin with it",
        rule=rules.https_url,
        example="https://api.myhoneydue.com",
    ),
    Key(
        name="NEXT_PUBLIC_API_URL",
        meaning="where the admin panel finds the API",
        rule=rules.https_url,
        example="https://api.myhoneydue.com",
        services=("admin",),
    ),
    Key(
        name="TIMEZONE",
        meaning="IANA name; reminders are sent by it (default UTC)",
        rule=rules.matching(r"UTC|[A-Z][A-Za-z]+(/[A-Z][A-Za-z_-]+){1,2}", "an IANA time zone"),
        example="UTC",
        required=False,
    ),
    Key(
        heading="PostgreSQL (external)",
        name="DB_HOST",
        meaning="the database server",
        rule=rules.host_or_address,
        example="CHANGE_ME",
        like="<host>",
    ),
    Key(name="DB_PORT", meaning="", rule=rules.number(1, 65535), example="5432"),
    Key(name="POSTGRES_DB", meaning="", rule=_name, example="honeydue"),
    Key(name="POSTGRES_USER", meaning="", rule=_name, example="CHANGE_ME", like="<user>"),
    Key(
        name="DB_SSLMODE",
        meaning="libpq's word; the connection leaves the data centre, so it is encrypted",
        rule=rules.one_of("require", "verify-ca", "verify-full"),
        example="require",
    ),
    Key(
        name="DB_MAX_OPEN_CONNS",
        meaning="per pod: three api pods and the worker share the server's limit",
        rule=rules.number(1, 1000),
        example="25",
        required=False,
    ),
    Key(
        name="DB_MAX_IDLE_CONNS",
        meaning="per pod, at most DB_MAX_OPEN_CONNS",
        rule=rules.number(0, 1000),
        example="10",
        required=False,
    ),
    Key(
        name="DB_MAX_LIFETIME",
        meaning="a Go duration",
        rule=rules.matching(r"[1-9][0-9]{0,5}(s|m|h)", "a Go duration such as 600s"),
        example="600s",
        required=False,
    ),
    Key(
        heading="Mail",
        name="EMAIL_HOST",
        meaning="",
        rule=rules.host,
        example="CHANGE_ME",
        like="<host>",
    ),
    Key(name="EMAIL_PORT", meaning="", rule=rules.number(1, 65535), example="587"),
    Key(name="EMAIL_USE_TLS", meaning="", rule=rules.one_of("true"), example="true"),
    Key(
        name="EMAIL_HOST_USER",
        meaning="",
        # Often an address, but some services call it `apikey` or give it a name.
        rule=rules.matching(r"[^\s<>]+", "one word, as the mail service gave it"),
        example="CHANGE_ME",
        like="<user>@<host>",
    ),
    Key(
        name="DEFAULT_FROM_EMAIL",
        meaning="",
        rule=rules.mail_address,
        example="honeyDue <noreply@myhoneydue.com>",
    ),
    Key(
        heading="Push: Apple (the .p8 file is the secret APNS_AUTH_KEY)",
        name="APNS_KEY_ID",
        meaning="ten characters, also in the .p8 file's name",
        rule=_id10,
        example="CHANGE_ME",
        like="<ten characters>",
    ),
    Key(
        name="APNS_TEAM_ID",
        meaning="ten characters",
        rule=_id10,
        example="CHANGE_ME",
        like="<ten characters>",
    ),
    Key(
        name="APNS_TOPIC",
        meaning="the app's bundle identifier",
        rule=rules.matching(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", "a bundle identifier"),
        example="CHANGE_ME",
        like="<bundle identifier>",
    ),
    Key(name="APNS_USE_SANDBOX", meaning="", rule=rules.boolean, example="false"),
    Key(
        heading="Push: Google (with the secret FCM_SERVER_KEY: both or neither)",
        name="FCM_PROJECT_ID",
        meaning="",
        rule=rules.matching(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", "a Google Cloud project id"),
        example="CHANGE_ME",
        like="<project id>",
        required=False,
    ),
    Key(
        heading="Uploads: Backblaze B2 (with the secrets B2_KEY_ID and B2_APP_KEY: all or none)",
        name="B2_BUCKET_NAME",
        meaning="",
        rule=rules.bucket,
        example="CHANGE_ME",
        like="<bucket>",
        required=False,
    ),
    Key(
        name="B2_ENDPOINT",
        meaning="host without scheme",
        rule=rules.host,
        example="CHANGE_ME",
        like="<s3 host of the bucket's region>",
        required=False,
    ),
    Key(
        name="B2_REGION",
        meaning="",
        rule=rules.matching(r"[a-z]+-[a-z]+-[0-9]{3}", "a B2 region such as us-west-004"),
        example="CHANGE_ME",
        like="<region in B2_ENDPOINT>",
        required=False,
    ),
    Key(
        heading="Worker: hours of the day in UTC",
        name="TASK_REMINDER_HOUR",
        meaning="",
        rule=_hour,
        example="14",
        services=("worker",),
        required=False,
    ),
    Key(
        name="OVERDUE_REMINDER_HOUR",
        meaning="",
        rule=_hour,
        example="15",
        services=("worker",),
        required=False,
    ),
    Key(
        name="DAILY_DIGEST_HOUR",
        meaning="",
        rule=_hour,
        example="3",
        services=("worker",),
        required=False,
    ),
    *(
        Key(
            heading=heading,
            name=f"FEATURE_{name}_ENABLED",
            meaning="",
            rule=rules.boolean,
            example="true",
            required=False,
        )
        for heading, name in (
            ("Features", "PUSH"),
            ("", "EMAIL"),
            ("", "WEBHOOKS"),
            ("", "ONBOARDING_EMAILS"),
            ("", "PDF_REPORTS"),
            ("", "WORKER"),
        )
    ),
)

SECRETS: Final = (
    SecretKey(
        name="SECRET_KEY",
        meaning="signs sessions and tokens",
        rule=rules.secret_key,
        pipe="openssl rand -base64 48",
    ),
    SecretKey(name="POSTGRES_PASSWORD", meaning="of POSTGRES_USER", rule=rules.password),
    SecretKey(name="EMAIL_HOST_PASSWORD", meaning="of EMAIL_HOST_USER", rule=rules.secret),
    SecretKey(
        name="APNS_AUTH_KEY",
        meaning="the .p8 file from Apple",
        rule=rules.apns_key,
        file="AuthKey_<key id>.p8",
    ),
    SecretKey(name="FCM_SERVER_KEY", meaning="", rule=rules.secret, required=False),
    SecretKey(name="B2_KEY_ID", meaning="", rule=rules.secret, required=False),
    SecretKey(name="B2_APP_KEY", meaning="", rule=rules.secret, required=False),
)

# Keys that an operator may expect here, and why they are not.
MADE_ELSEWHERE: Final = {
    "REDIS_URL": "is made by the program; an external Redis is honeydue:redis.externalUrl",
    "REDIS_PASSWORD": "is made by the program, one per stack",
    "DATABASE_URL": "is not read; the parts are DB_HOST, DB_PORT, POSTGRES_DB and POSTGRES_USER",
    "PORT": "is set by the program for each service",
    "APNS_AUTH_KEY_PATH": "is not read; the key itself is the secret APNS_AUTH_KEY",
}


def environment_of(service: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What `service` reads of the env file's values: the content of its ConfigMap."""
    readers = {key.name: key.services for key in ENVIRONMENT}
    return {key: value for key, value in environment.items() if service in readers[key]}


def example_file() -> str:
    """The text of `deploy/prod.env.example`."""
    lines = [
        "# cp deploy/prod.env.example deploy/prod.env, then replace every CHANGE_ME.",
        "# Nothing here is secret: each service gets what it reads of this as a ConfigMap.",
        "# Secrets are set by `python -m ops secret set <KEY>`.",
        "# KEY=value as it stands: no quotes, no blanks around =, no $ references, no comments",
        "# behind a value. Written from the table in honeydue/application.py.",
    ]
    for key in ENVIRONMENT:
        if key.heading:
            lines += ["", f"# {key.heading}"]
        notes = [*([key.meaning] if key.meaning else []), *([] if key.required else ["optional"])]
        if notes:
            lines.append(f"#   {key.name}: {'; '.join(notes)}")
        lines.append(f"{key.name}={key.example}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(example_file(), end="")
