"""Every rule for a value of the env file, with what is told word for word."""

# ruff: noqa: E501 - what is told stands here as it is told, on one line

from __future__ import annotations

from typing import Any, Final

import pytest

from honeydue.problems import Problem

from .sample import GONE, env, problems

Refused = tuple[Any, ...]  # a name, what is made wrong, and each Problem that must be told

REFUSED: Final[tuple[Refused, ...]] = (
    (
        "DEBUG in production",
        env("DEBUG", "true"),
        Problem("deploy/prod.env: DEBUG", "must be false", "deploy/prod.env: DEBUG=false"),
    ),
    (
        "DEBUG in another spelling",
        env("DEBUG", "False"),
        Problem("deploy/prod.env: DEBUG", "must be false", "deploy/prod.env: DEBUG=false"),
    ),
    (
        "every host allowed",
        env("ALLOWED_HOSTS", "*"),
        Problem(
            "deploy/prod.env: ALLOWED_HOSTS",
            "must not be *: every Host header would be accepted",
            "deploy/prod.env: ALLOWED_HOSTS=api.myhoneydue.com,myhoneydue.com",
        ),
    ),
    (
        "a blank in the list of hosts",
        env("ALLOWED_HOSTS", "api.myhoneydue.com, myhoneydue.com"),
        Problem(
            "deploy/prod.env: ALLOWED_HOSTS",
            "begins or ends with a blank",
            "deploy/prod.env: ALLOWED_HOSTS=api.myhoneydue.com,myhoneydue.com",
        ),
    ),
    (
        "an origin without encryption",
        env("CORS_ALLOWED_ORIGINS", "http://admin.myhoneydue.com"),
        Problem(
            "deploy/prod.env: CORS_ALLOWED_ORIGINS",
            "must begin with https://",
            "deploy/prod.env: CORS_ALLOWED_ORIGINS=https://admin.myhoneydue.com,https://myhoneydue.com",
        ),
    ),
    (
        "an origin with a slash at its end",
        env("CORS_ALLOWED_ORIGINS", "https://admin.myhoneydue.com/"),
        Problem(
            "deploy/prod.env: CORS_ALLOWED_ORIGINS",
            "must be origins: https://<host>, without a slash or a path at the end",
            "deploy/prod.env: CORS_ALLOWED_ORIGINS=https://admin.myhoneydue.com,https://myhoneydue.com",
        ),
    ),
    (
        "a base URL without encryption",
        env("BASE_URL", "http://api.myhoneydue.com"),
        Problem(
            "deploy/prod.env: BASE_URL",
            "must begin with https://",
            "deploy/prod.env: BASE_URL=https://api.myhoneydue.com",
        ),
    ),
    (
        "a base URL that is no URL",
        env("BASE_URL", "api.myhoneydue.com"),
        Problem(
            "deploy/prod.env: BASE_URL",
            "is not a URL: <scheme>://<host> is missing",
            "deploy/prod.env: BASE_URL=https://api.myhoneydue.com",
        ),
    ),
    (
        "a base URL with a password",
        env("BASE_URL", "https://me:secret@api.myhoneydue.com"),
        Problem(
            "deploy/prod.env: BASE_URL",
            "holds a user name or password; a URL in the environment is no place for one",
            "deploy/prod.env: BASE_URL=https://api.myhoneydue.com",
        ),
    ),
    (
        "a base URL with a query",
        env("BASE_URL", "https://api.myhoneydue.com/?a=b"),
        Problem(
            "deploy/prod.env: BASE_URL",
            "must not have a query or a fragment",
            "deploy/prod.env: BASE_URL=https://api.myhoneydue.com",
        ),
    ),
    (
        "a base URL with a port that is none",
        env("BASE_URL", "https://api.myhoneydue.com:x"),
        Problem(
            "deploy/prod.env: BASE_URL",
            "is not a URL",
            "deploy/prod.env: BASE_URL=https://api.myhoneydue.com",
        ),
    ),
    (
        "a time zone that is none",
        env("TIMEZONE", "utc+2"),
        Problem(
            "deploy/prod.env: TIMEZONE",
            "must be an IANA time zone",
            "deploy/prod.env: TIMEZONE=UTC",
        ),
    ),
    (
        "a database host with a port",
        env("DB_HOST", "db.vendor.net:5432"),
        Problem(
            "deploy/prod.env: DB_HOST",
            "must be a host name alone, without a port",
            "deploy/prod.env: DB_HOST=<host>",
        ),
    ),
    (
        "a database port that is no number",
        env("DB_PORT", "postgres"),
        Problem(
            "deploy/prod.env: DB_PORT",
            "must be a whole number from 1 to 65535",
            "deploy/prod.env: DB_PORT=5432",
        ),
    ),
    (
        "a database port out of range",
        env("DB_PORT", "70000"),
        Problem(
            "deploy/prod.env: DB_PORT",
            "must be a whole number from 1 to 65535",
            "deploy/prod.env: DB_PORT=5432",
        ),
    ),
    (
        "a database name with a blank",
        env("POSTGRES_DB", "honey due"),
        Problem(
            "deploy/prod.env: POSTGRES_DB",
            "must be letters, digits, - and _, at most 63",
            "deploy/prod.env: POSTGRES_DB=honeydue",
        ),
    ),
    (
        "a database connection without encryption",
        env("DB_SSLMODE", "disable"),
        Problem(
            "deploy/prod.env: DB_SSLMODE",
            "must be one of require, verify-ca, verify-full",
            "deploy/prod.env: DB_SSLMODE=require",
        ),
    ),
    (
        "a lifetime without a unit",
        env("DB_MAX_LIFETIME", "600"),
        Problem(
            "deploy/prod.env: DB_MAX_LIFETIME",
            "must be a Go duration such as 600s",
            "deploy/prod.env: DB_MAX_LIFETIME=600s",
        ),
    ),
    (
        "mail without encryption",
        env("EMAIL_USE_TLS", "false"),
        Problem(
            "deploy/prod.env: EMAIL_USE_TLS", "must be true", "deploy/prod.env: EMAIL_USE_TLS=true"
        ),
    ),
    (
        "a database in a private network",
        env("DB_HOST", "10.10.1.20"),
        Problem(
            "deploy/prod.env: DB_HOST",
            "is not a public address, and pods may reach no others",
            "deploy/prod.env: DB_HOST=<host>",
        ),
    ),
    (
        "a mail port that is no number",
        env("EMAIL_PORT", "smtp"),
        Problem(
            "deploy/prod.env: EMAIL_PORT",
            "must be a whole number from 1 to 65535",
            "deploy/prod.env: EMAIL_PORT=587",
        ),
    ),
    (
        "a mail user of two words",
        env("EMAIL_HOST_USER", "no reply"),
        Problem(
            "deploy/prod.env: EMAIL_HOST_USER",
            "must be one word, as the mail service gave it",
            "deploy/prod.env: EMAIL_HOST_USER=<user>@<host>",
        ),
    ),
    (
        "a sender without its closing bracket",
        env("DEFAULT_FROM_EMAIL", "honeyDue <noreply@myhoneydue.com"),
        Problem(
            "deploy/prod.env: DEFAULT_FROM_EMAIL",
            "is not a mail address: name@host, or Name <name@host>",
            "deploy/prod.env: DEFAULT_FROM_EMAIL=honeyDue <noreply@myhoneydue.com>",
        ),
    ),
    (
        "an APNs key id that is too short",
        env("APNS_KEY_ID", "ABC123"),
        Problem(
            "deploy/prod.env: APNS_KEY_ID",
            "must be ten capital letters and digits",
            "deploy/prod.env: APNS_KEY_ID=<ten characters>",
        ),
    ),
    (
        "an APNs team id in small letters",
        env("APNS_TEAM_ID", "def123abcg"),
        Problem(
            "deploy/prod.env: APNS_TEAM_ID",
            "must be ten capital letters and digits",
            "deploy/prod.env: APNS_TEAM_ID=<ten characters>",
        ),
    ),
    (
        "an APNs topic that is no bundle identifier",
        env("APNS_TOPIC", "honeydue"),
        Problem(
            "deploy/prod.env: APNS_TOPIC",
            "must be a bundle identifier",
            "deploy/prod.env: APNS_TOPIC=<bundle identifier>",
        ),
    ),
    (
        "a project id that is a number",
        env("FCM_PROJECT_ID", "1234567"),
        Problem(
            "deploy/prod.env: FCM_PROJECT_ID",
            "must be a Google Cloud project id",
            "deploy/prod.env: FCM_PROJECT_ID=<project id>",
        ),
    ),
    (
        "a B2 endpoint with a scheme",
        env("B2_ENDPOINT", "https://s3.us-west-004.backblazeb2.com"),
        Problem(
            "deploy/prod.env: B2_ENDPOINT",
            "must be a host name alone, without scheme or path",
            "deploy/prod.env: B2_ENDPOINT=<s3 host of the bucket's region>",
        ),
    ),
    (
        "a B2 region of another vendor",
        env("B2_REGION", "eu-central-1"),
        Problem(
            "deploy/prod.env: B2_REGION",
            "must be a B2 region such as us-west-004",
            "deploy/prod.env: B2_REGION=<region in B2_ENDPOINT>",
        ),
    ),
    (
        "an hour that is none",
        env("TASK_REMINDER_HOUR", "24"),
        Problem(
            "deploy/prod.env: TASK_REMINDER_HOUR",
            "must be a whole number from 0 to 23",
            "deploy/prod.env: TASK_REMINDER_HOUR=14",
        ),
    ),
    (
        "a feature that is neither true nor false",
        env("FEATURE_PUSH_ENABLED", "yes"),
        Problem(
            "deploy/prod.env: FEATURE_PUSH_ENABLED",
            "must be one of true, false",
            "deploy/prod.env: FEATURE_PUSH_ENABLED=true",
        ),
    ),
    (
        "a value in quotes",
        env("POSTGRES_DB", "'honeydue'"),
        Problem(
            "deploy/prod.env: POSTGRES_DB",
            "begins or ends with a quote mark, which would become part of the value",
            "deploy/prod.env: POSTGRES_DB=honeydue",
        ),
    ),
    (
        "a value with a placeholder in it",
        env("POSTGRES_DB", "your_database"),
        Problem(
            "deploy/prod.env: POSTGRES_DB",
            "is still a placeholder",
            "deploy/prod.env: POSTGRES_DB=honeydue",
        ),
    ),
    (
        "a value with a blank in front",
        env("POSTGRES_DB", " honeydue"),
        Problem(
            "deploy/prod.env: POSTGRES_DB",
            "begins or ends with a blank",
            "deploy/prod.env: POSTGRES_DB=honeydue",
        ),
    ),
    (
        "an empty value",
        env("POSTGRES_DB", ""),
        Problem(
            "deploy/prod.env: POSTGRES_DB", "is empty", "deploy/prod.env: POSTGRES_DB=honeydue"
        ),
    ),
    (
        "a misspelt key",
        env("DB_HOSTNAME", "db.vendor.net"),
        Problem(
            "deploy/prod.env: DB_HOSTNAME",
            "is unknown; did you mean DB_HOST?",
            "deploy/prod.env: write DB_HOST instead of DB_HOSTNAME",
        ),
    ),
    (
        "a misspelt feature",
        env("FEATURE_PUSH_ENABELD", "true"),
        Problem(
            "deploy/prod.env: FEATURE_PUSH_ENABELD",
            "is unknown; did you mean FEATURE_PUSH_ENABLED?",
            "deploy/prod.env: write FEATURE_PUSH_ENABLED instead of FEATURE_PUSH_ENABELD",
        ),
    ),
    (
        "an unknown key",
        env("KAFKA", "true"),
        Problem("deploy/prod.env: KAFKA", "is unknown", "deploy/prod.env: take KAFKA out"),
    ),
    (
        "a missing key",
        env("DB_HOST", GONE),
        Problem("deploy/prod.env: DB_HOST", "is missing", "deploy/prod.env: DB_HOST=<host>"),
    ),
    (
        "a missing key without a usual value",
        env("APNS_KEY_ID", GONE),
        Problem(
            "deploy/prod.env: APNS_KEY_ID",
            "is missing",
            "deploy/prod.env: APNS_KEY_ID=<ten characters>",
        ),
    ),
    (
        "a secret",
        env("POSTGRES_PASSWORD", "abcdefghijkl"),
        Problem(
            "deploy/prod.env: POSTGRES_PASSWORD",
            "is a secret; everything in this file can be read in the cluster",
            "deploy/prod.env: take POSTGRES_PASSWORD out; pulumi config set -s prod --secret --path honeydue:secrets.POSTGRES_PASSWORD",
        ),
    ),
    (
        "a REDIS_URL",
        env("REDIS_URL", "redis://redis:6379"),
        Problem(
            "deploy/prod.env: REDIS_URL",
            "is made by the program; an external Redis is honeydue:redis.externalUrl",
            "deploy/prod.env: take REDIS_URL out",
        ),
    ),
    (
        "a DATABASE_URL",
        env("DATABASE_URL", "postgres://db.vendor.net"),
        Problem(
            "deploy/prod.env: DATABASE_URL",
            "is not read; the parts are DB_HOST, DB_PORT, POSTGRES_DB and POSTGRES_USER",
            "deploy/prod.env: take DATABASE_URL out",
        ),
    ),
)


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_a_wrong_variable_is_told_with_the_line_that_mends_it(case: Refused) -> None:
    _, change, *told = case
    assert problems(change) == told
