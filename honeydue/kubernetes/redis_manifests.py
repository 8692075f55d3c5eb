"""The in-cluster Redis as plain data, in Kubernetes' own spelling (see catalogue)."""

from __future__ import annotations

from honeydue.kubernetes.catalogue import (
    CONTAINER_SECURITY,
    NAME,
    REDIS,
    SERVING,
    Manifest,
    Text,
    labels,
    pod_security,
    resources,
)
from honeydue.versions import REDIS_IMAGE


def redis_conf() -> str:
    """Server configuration; the password comes by `include` from a Secret, never by an argument."""
    return (
        f"port {REDIS.port}\n"
        "dir /data\n"
        "appendonly yes\n"
        "appendfsync everysec\n"
        f"maxmemory {REDIS.data_mib}mb\n"
        # A queue must refuse new tasks rather than forget old ones.
        "maxmemory-policy noeviction\n"
        "include /etc/redis/secret/auth.conf\n"
    )


def redis_service(*, namespace: Text) -> Manifest:
    """The headless Service that names the pod (`redis`, `redis-0.redis`)."""
    return {
        "metadata": {
            "name": REDIS.name,
            "namespace": namespace,
            "labels": labels(REDIS.name),
            # The StatefulSet needs the Service, so the Service cannot wait for its endpoints; the
            # StatefulSet itself is waited for.
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        "spec": {
            "clusterIP": "None",
            "selector": {NAME: REDIS.name},
            "ports": [
                {"name": "redis", "port": REDIS.port, "targetPort": "redis", "protocol": "TCP"}
            ],
        },
    }


def redis_stateful_set(*, namespace: Text, config: Text, secret: Text) -> Manifest:
    """One replica: a StatefulSet never runs two pods of one name, so the file has one writer."""
    # `-e`: an error reply ("LOADING", "NOAUTH") is a failure, not output. The password is read from
    # REDISCLI_AUTH, so no process list shows it.
    ping = {"exec": {"command": ["redis-cli", "-e", "ping"]}, "timeoutSeconds": 3}
    container: Manifest = {
        "name": REDIS.name,
        "image": REDIS_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["redis-server", "/etc/redis/config/redis.conf"],
        "ports": [{"name": "redis", "containerPort": REDIS.port, "protocol": "TCP"}],
        "env": [
            {
                "name": "REDISCLI_AUTH",
                "valueFrom": {"secretKeyRef": {"name": secret, "key": "password"}},
            }
        ],
        "resources": resources(cpu_millis=REDIS.cpu_millis, memory_mib=REDIS.memory_mib),
        "securityContext": CONTAINER_SECURITY,
        # Reading a long append-only file takes a while: up to 5 minutes.
        "startupProbe": {**ping, "periodSeconds": 5, "failureThreshold": 60},
        "readinessProbe": {**ping, "periodSeconds": 5, "failureThreshold": 3},
        # TCP only: a Redis busy with a slow command must not be killed for it.
        "livenessProbe": {
            "tcpSocket": {"port": "redis"},
            "timeoutSeconds": 3,
            "periodSeconds": 10,
            "failureThreshold": 6,
        },
        # As api and worker reconnect by themselves, it only gives their last commands time.
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": "/etc/redis/config", "readOnly": True},
            {"name": "secret", "mountPath": "/etc/redis/secret", "readOnly": True},
        ],
    }
    return {
        "metadata": {"name": REDIS.name, "namespace": namespace, "labels": labels(REDIS.name)},
        "spec": {
            "serviceName": REDIS.name,
            "replicas": 1,
            "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {NAME: REDIS.name}},
            "template": {
                "metadata": {"labels": labels(REDIS.name)},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "priorityClassName": SERVING,
                    "terminationGracePeriodSeconds": REDIS.grace_seconds,
                    "securityContext": pod_security(user=REDIS.user, group=REDIS.group),
                    "containers": [container],
                    "volumes": [
                        {"name": "config", "configMap": {"name": config}},
                        {
                            "name": "secret",
                            "secret": {
                                "secretName": secret,
                                "items": [{"key": "auth.conf", "path": "auth.conf"}],
                            },
                        },
                    ],
                },
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "storageClassName": "local-path",
                        "resources": {"requests": {"storage": REDIS.disk}},
                    },
                }
            ],
        },
    }
