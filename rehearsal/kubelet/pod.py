"""One pod of a node, in a thread of its own: its containers' steps, its status, its end."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol

from rehearsal.cluster.clients import Api, NoAnswer, Refused
from rehearsal.kubelet.addresses import Kubelets
from rehearsal.kubelet.behaviour import behaviour_of
from rehearsal.kubelet.container import Container, stamp
from rehearsal.kubelet.images import Images
from rehearsal.kubelet.runtime import PodRuntime

Json = dict[str, Any]
logger = logging.getLogger(__name__)

RETRY: Final = 1.0  # seconds until an API server that did not answer is asked again
MOUNT_RETRY: Final = 2.0
END_SECONDS: Final = 2.0  # for a thread to see that the node is off; what it ran is ended before
GONE: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)  # no such pod; another by its name


class NodeSide(Protocol):
    """What a pod finds on its node."""

    name: str
    host_ip: str
    kubelets: Kubelets
    images: Images
    api: Api

    def pod_ip(self, pod: Json) -> str:
        """An address of the node's podCIDR, the same for the pod's life. Raises NoAnswer."""

    def real(self, image: str) -> bool:
        """Whether the image is of this rehearsal's registry, and so is run."""

    def folder(self, pod: Json) -> Path:
        """For its logs."""

    def pid_file(self, name: str) -> Path: ...

    def left(self, pod: Json) -> None:
        """Its thread has ended."""


class Pod:
    """`found`: an earlier kubelet ran it already."""

    def __init__(self, pod: Json, node: NodeSide, *, found: bool) -> None:
        self.pod = pod
        self.uid = str(pod["metadata"]["uid"])
        self._path = path_of(pod)
        self._node = node
        self._off = threading.Event()
        self._changed = threading.Event()
        self._gone = False
        self._mounted = False
        self._reported: Json = {}
        self._conditions: dict[str, Json] = {}
        self._events: deque[tuple[str | None, str, str, str]] = deque(maxlen=200)
        self._told: dict[tuple[str | None, str, str, str], tuple[str, int]] = {}
        self._found = found
        self._ip = ""
        self._inits: list[Container] = []
        self._containers: list[Container] = []
        name = f"pod {pod['metadata']['name']}"
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)

    # --- from outside ---

    def start(self) -> Pod:
        self._thread.start()
        return self

    def update(self, pod: Json) -> None:
        self.pod = pod
        self._changed.set()

    def remove(self) -> None:
        """It is not in the API any more: nobody waits for it."""
        self._gone = True
        self._changed.set()

    def power_off(self) -> None:
        """At once, also while its thread waits for an API server that loses its power too."""
        self._off.set()
        self._changed.set()
        self._abandon()

    def join(self) -> None:
        self._thread.join(END_SECONDS)

    def container(self, name: str) -> Container | None:
        return next((c for c in (*self._containers, *self._inits) if c.name == name), None)

    def log(self, container: str, attempt: int) -> Path:
        return self._node.folder(self.pod) / container / f"{attempt}.log"

    # --- life ---

    def _live(self) -> None:
        try:
            self._until_ended()
        finally:
            self._abandon()
            if self._ip:
                self._node.kubelets.vanish(self._ip)
            if not self._off.is_set():
                shutil.rmtree(self._node.folder(self.pod), ignore_errors=True)
            self._node.left(self.pod)

    def _abandon(self) -> None:
        for each in (*self._inits, *self._containers):
            each.abandon()

    def _until_ended(self) -> None:
        while not self._off.is_set():
            self._changed.clear()
            if self._gone:
                return
            now = time.time()
            try:
                if not self._containers:
                    self._prepare(now)
                at = self._step(now)
                self._report(self.status(now))
                self._tell_all()
            except Refused as refusal:
                # The Node authorizer hears of a pod a moment after us: until then what the pod
                # names is forbidden.
                at = now + (RETRY / 4 if refusal.status == HTTPStatus.FORBIDDEN else RETRY)
                logger.info("%s: %s", self._path, refusal)
            except NoAnswer:
                at = now + RETRY
            except Exception:  # one pod that we cannot play must not silence the others
                logger.exception("%s", self._path)
                at = now + RETRY
            if not self._gone:
                self._changed.wait(None if at == math.inf else max(0.0, at - time.time()))

    def _prepare(self, now: float) -> None:
        spec, metadata = self.pod["spec"], self.pod["metadata"]
        self._ip = self._node.pod_ip(self.pod)
        behaviour = behaviour_of(self._node.kubelets.behaviour_file, self.pod)
        self._node.kubelets.appear(self._ip, behaviour)
        runtime = PodRuntime(
            pod=self.pod,
            ip=self._ip,
            behaviour=behaviour,
            kubelets=self._node.kubelets,
            images=self._node.images,
            real=self._node.real,
            secrets=self._pull_secrets,
            lookup=self._data_of,
            log=self.log,
            pid_file=lambda name: self._node.pid_file(f"{metadata['name']}.{self.uid}.{name}"),
            wake=self._changed.set,
        )

        def made(kind: str, each: Json, restarts: str) -> Container:
            place = f"spec.{kind}{{{each['name']}}}"
            return Container(
                each,
                whose=f"{metadata['name']}_{metadata['namespace']}({self.uid})",
                restarts=restarts,
                grace=float(spec.get("terminationGracePeriodSeconds", 30)),
                runtime=runtime,
                tell=lambda *words: self._events.append((place, *words)),
            )

        policy = spec.get("restartPolicy", "Always")
        once = "Never" if policy == "Never" else "OnFailure"
        self._inits = [
            made("initContainers", each, each.get("restartPolicy", once))
            for each in spec.get("initContainers") or ()
        ]
        self._containers = [made("containers", each, policy) for each in spec["containers"]]
        known = self.pod.get("status") or {}
        self._conditions = {one["type"]: one for one in known.get("conditions") or ()}
        if self._found:
            for kind in ("initContainerStatuses", "containerStatuses"):
                for status in known.get(kind) or ():
                    if (container := self.container(status["name"])) is not None:
                        container.resume(status, now)

    def _step(self, now: float) -> float:
        """Everything that is due; returns when to come again."""
        if "deletionTimestamp" in self.pod["metadata"]:
            return self._end(now)
        if not self._mounted:
            if missing := self._missing_volume():
                self._events.append((None, "Warning", "FailedMount", missing))
                return now + MOUNT_RETRY * Container.pace
            self._mounted = True
        at = math.inf
        for each in self._inits:
            at = min(at, each.step(now))
            if each.exit_code != 0 and not each.started:
                return at
        return min(at, *(each.step(now) for each in self._containers))

    def _end(self, now: float) -> float:
        grace = float(self.pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        everyone = (*self._containers, *self._inits)
        for each in everyone:
            each.stop(now, grace)
        at = min(each.step(now) for each in everyone)
        if not all(each.done for each in everyone):
            return at
        self._report(self.status(now))
        self._tell_all()
        wanted = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        try:
            self._node.api.call("DELETE", self._path, wanted)
        except Refused as refusal:
            if refusal.status not in GONE:
                raise
        self._gone = True
        return now

    # --- what it is made of ---

    def _data_of(self, kind: str, name: str) -> dict[str, str] | None:
        namespace = self.pod["metadata"]["namespace"]
        found = self._node.api.get(f"/api/v1/namespaces/{namespace}/{kind.lower()}s/{name}")
        if found is None:
            return None
        data = found.get("data") or {}
        if kind == "Secret":
            return {key: base64.b64decode(v).decode(errors="replace") for key, v in data.items()}
        return dict(data)

    def _pull_secrets(self) -> Json:
        """All of the pod's, merged. One that is missing is left out, as by a kubelet."""
        auths: Json = {}
        for named in self.pod["spec"].get("imagePullSecrets") or ():
            data = self._data_of("Secret", named["name"])
            with contextlib.suppress(ValueError, AttributeError):
                auths |= json.loads((data or {}).get(".dockerconfigjson", "{}")).get("auths") or {}
            if data is None:
                said = (
                    f"Unable to retrieve some image pull secrets ({named['name']}); attempting to "
                    "pull the image may not succeed."
                )
                self._events.append((None, "Warning", "FailedToRetrieveImagePullSecret", said))
        return {"auths": auths}

    def _missing_volume(self) -> str:
        """Volumes are not mounted (there is no mount namespace), but what they name must be there,
        as for a kubelet. Empty: all is there."""
        for volume in self.pod["spec"].get("volumes") or ():
            for field, key, kind in (
                ("configMap", "name", "ConfigMap"),
                ("secret", "secretName", "Secret"),
            ):
                source = volume.get(field)
                if source is None or source.get("optional"):
                    continue
                data = self._data_of(kind, source[key])
                setup = f'MountVolume.SetUp failed for volume "{volume["name"]}" : '
                if data is None:
                    return f'{setup}{kind.lower()} "{source[key]}" not found'
                for item in source.get("items") or ():
                    if item["key"] not in data:
                        short = "config" if kind == "ConfigMap" else "secret"
                        return f"{setup}references non-existent {short} key: {item['key']}"
        return ""

    # --- what is told of it ---

    def status(self, now: float) -> Json:
        """Its PodStatus, as far as it is a kubelet's to say."""
        known = self.pod.get("status") or {}
        phase = self._phase()
        unready = [each.name for each in self._containers if not each.ready]
        why = "PodCompleted" if phase == "Succeeded" else "ContainersNotReady"
        ready = (not unready, why, _with("containers with unready status", unready))
        waiting = [each.name for each in self._inits if each.exit_code != 0 and not each.started]
        told = _with("containers with incomplete status", waiting)
        conditions = {
            "PodReadyToStartContainers": (self._mounted, "", ""),
            "Initialized": (not waiting, "ContainersNotInitialized", told),
            "ContainersReady": ready,
            "Ready": ready,
        }
        return {
            "phase": phase,
            "conditions": [self._condition(now, kind, *of) for kind, of in conditions.items()],
            "hostIP": self._node.host_ip,
            "hostIPs": [{"ip": self._node.host_ip}],
            "podIP": self._ip,
            "podIPs": [{"ip": self._ip}],
            "startTime": known.get("startTime") or stamp(now),
            "containerStatuses": [each.status() for each in self._containers],
            "observedGeneration": self.pod["metadata"].get("generation", 1),
            **({"initContainerStatuses": [e.status() for e in self._inits]} if self._inits else {}),
        }

    def _phase(self) -> str:
        """kubelet's getPhase, without the cases that no pod here can be in."""
        if any(each.done and each.exit_code for each in self._inits):
            return "Failed"
        if all(each.done for each in self._containers):
            if any(each.exit_code is None for each in self._containers):
                return "Pending"  # it was told to go before it came
            failed = any(each.exit_code for each in self._containers)
            return "Failed" if failed else "Succeeded"
        new = any(each.waits_for_its_first_start for each in self._containers)
        return "Pending" if new else "Running"

    def _condition(self, now: float, kind: str, true: bool, reason: str, message: str) -> Json:
        before = self._conditions.get(kind, {})
        status = "True" if true else "False"
        since = before.get("lastTransitionTime") if before.get("status") == status else None
        made = {"type": kind, "status": status, "lastTransitionTime": since or stamp(now)}
        # Said to be null where there is none: a patch would keep what was there.
        made |= {"reason": None, "message": None} if true else {
            "reason": reason or None, "message": message or None,
        }  # fmt: skip
        self._conditions[kind] = made
        return made

    def _report(self, status: Json) -> None:
        """Writes it, unless the API has it so already. Another may have written since: the node
        controller calls the pods of a silent node unready."""
        seen = self.pod.get("status") or {}
        conditions = {one["type"]: one["status"] for one in seen.get("conditions") or ()}
        ours = all(
            conditions.get(one["type"]) == one["status"]
            for one in self._reported.get("conditions", ())
        )
        if status == self._reported and ours:
            return
        body = {"metadata": {"uid": self.uid}, "status": status}
        strategic = "application/strategic-merge-patch+json"
        try:
            self.pod = self._node.api.call("PATCH", f"{self._path}/status", body, strategic)
        except Refused as refusal:
            if refusal.status in GONE:
                self._gone = True
                return
            raise
        self._reported = status

    def _tell_all(self) -> None:
        """Writes the events, those of the same words counted in one."""
        while self._events:
            event = self._events[0]
            name, count = self._told.get(event, (f"{self._name}.{time.time_ns():x}", 0))
            events = f"/api/v1/namespaces/{self.pod['metadata']['namespace']}/events"
            stamped = stamp(time.time())
            with contextlib.suppress(Refused):  # expired, or the namespace ends: told enough
                if count:
                    again = {"count": count + 1, "lastTimestamp": stamped}
                    self._node.api.patch(f"{events}/{name}", again)
                else:
                    self._node.api.create(events, self._event(name, event, stamped))
            self._told[event] = (name, count + 1)
            self._events.popleft()

    def _event(self, name: str, event: tuple[str | None, str, str, str], at: str) -> Json:
        place, kind, reason, message = event
        about = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": self._name,
            "namespace": self.pod["metadata"]["namespace"],
            "uid": self.uid,
            **({"fieldPath": place} if place else {}),
        }
        return {
            "metadata": {"name": name, "namespace": about["namespace"]},
            "involvedObject": about,
            "type": kind,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "source": {"component": "kubelet", "host": self._node.name},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node.name,
        }

    @property
    def _name(self) -> str:
        return str(self.pod["metadata"]["name"])


def path_of(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _with(words: str, names: Sequence[str] | Iterable[str]) -> str:
    return f"{words}: [{' '.join(names)}]"
