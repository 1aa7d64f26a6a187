"""Follow one job from outside: its status, its pods, and every step that any of its pods computed.

Reads only what a user can read (the API server, pod logs), so what it reports does not depend on
the operator telling the truth.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from internlm2_spec import contract

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class StepSeen:
    """One optimizer step as one pod computed it; `loss_hex` is exact."""

    step: int
    loss_hex: str
    time: float
    pod: str
    tokens_per_second: float | None

    @property
    def loss(self) -> float:
        return float.fromhex(self.loss_hex)


@dataclass(slots=True)
class Seen:
    """What was observed so far; replaced values, appended lists."""

    job: dict[str, Any] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: list[StepSeen] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)  # time, reason, message
    starts: dict[str, tuple[float, int]] = field(default_factory=dict)  # by pod: when it last started ranks, the first
    history: dict[str, dict[str, Any]] = field(default_factory=dict)  # faults by id; the status holds the last 20

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.job.get("status") or {})

    @property
    def last_step(self) -> int:
        """The highest step that any attempt computed; a fault may have lost it since."""
        return max((s.step for s in self.steps), default=0)

    @property
    def newest_step(self) -> int:
        """The step that was computed last: below `last_step` while lost steps are computed again."""
        return max(self.steps, key=lambda s: s.time).step if self.steps else 0

    def midway(self, every_steps: int = 5) -> bool:
        """Return whether the last step lies well between two checkpoints, so that a fault now costs steps."""
        return self.last_step > every_steps and 1 < self.last_step % every_steps < every_steps - 1

    @property
    def faults(self) -> list[dict[str, Any]]:
        return list(self.status.get("faults") or [])

    @property
    def closed(self) -> list[dict[str, Any]]:
        """Faults that ended with a first step."""
        return [fault for fault in self.faults if (fault.get("times") or {}).get("closed")]

    @property
    def cordoned(self) -> list[dict[str, Any]]:
        """Closed faults whose node is cordoned: torchrun may go on with a spare before Kubernetes calls a node dead."""
        return [fault for fault in self.closed if fault.get("cordoned")]

    @property
    def open(self) -> list[dict[str, Any]]:
        """Faults whose first step is still to come."""
        return [fault for fault in self.faults if fault not in self.closed]

    @property
    def checkpoint(self) -> int:
        """Newest verified step that the operator reports, 0 for none."""
        return int((self.status.get("checkpoint") or {}).get("step") or 0)

    def member(self, *, first: bool) -> tuple[str, str]:
        """Return pod and node of the member that runs rank 0 (`first`), or of the last member.

        Raises:
            RuntimeError: nobody runs those ranks now.
        """
        running = {name: pod for name, pod in self.pods.items() if pod["phase"] == "Running" and not pod["deleting"]}
        # A member that a spare overtook says nothing when it becomes the spare: the newest start counts.
        found = [name for _, name in sorted((when, name) for name, (when, rank) in self.starts.items()
                                            if name in running and (rank == 0) == first)]  # fmt: skip
        if not found:
            raise RuntimeError(f"no running pod holds {'rank 0' if first else 'the last ranks'}: {self.starts}")
        return found[-1], running[found[-1]]["node"]


class JobWatch:
    """Context manager that observes in the background threads until it is left."""

    def __init__(self, name: str, namespace: str = "default") -> None:
        self.name, self.namespace = name, namespace
        self.seen = Seen()
        self._stop = threading.Event()
        self._followers: dict[str, threading.Thread] = {}  # by uid of the pod
        self._told: set[StepSeen] = set()
        self._events: set[str] = set()
        config.load_kube_config()  # type: ignore[no-untyped-call]  # the client's own gap
        self._core: Any = client.CoreV1Api()  # its types do not know `_preload_content=False`
        self._custom: Any = client.CustomObjectsApi()
        self._poller = threading.Thread(target=self._poll, name="job-watch", daemon=True)

    def __enter__(self) -> "JobWatch":
        self._poller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._poller.join(timeout=10)

    def wait(self, until: Callable[[Seen], bool], *, seconds: float, what: str) -> None:
        """Block until `until(seen)` holds.

        Raises:
            TimeoutError: it did not within `seconds`; the message names `what`, the last status and the nodes' taints.
        """
        deadline = time.monotonic() + seconds
        while not until(self.seen):
            if time.monotonic() > deadline:
                status = self.seen.status
                brief = {k: status.get(k) for k in ("phase", "attempt", "step", "nodes", "conditions", "faults")}
                pods = {name: (p["phase"], p["node"]) for name, p in self.seen.pods.items()}
                raise TimeoutError(
                    f"{what} not seen within {seconds:.0f} s; pods {pods}; {self._nodes()}; status {json.dumps(brief)}"
                )
            time.sleep(POLL_SECONDS / 2)

    def _nodes(self) -> str:
        """Return in words what keeps pods off which node."""
        try:
            listed = json.loads(self._core.list_node(_preload_content=False, _request_timeout=5).data)["items"]
        except (ApiException, HTTPError, OSError) as error:
            return f"nodes unknown: {error}"
        taints = {n["metadata"]["name"]: [t["key"] for t in n["spec"].get("taints", ())] for n in listed}
        return f"taints {taints}"

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._look()
            except (ApiException, HTTPError, OSError):
                continue  # the API server may be the thing that was killed

    def _look(self) -> None:
        selector = f"{contract.LABEL_JOB}={self.name}"
        listed = json.loads(
            self._core.list_namespaced_pod(
                self.namespace, label_selector=selector, _preload_content=False, _request_timeout=5
            ).data
        )
        self.seen.pods = {p["metadata"]["name"]: _pod(p) for p in listed["items"]}
        try:
            self.seen.job = self._custom.get_namespaced_custom_object(
                contract.API_GROUP,
                contract.API_VERSION,
                self.namespace,
                contract.PLURAL,
                self.name,
                _request_timeout=5,
            )
        except ApiException as error:
            if error.status != 404:
                raise
            self.seen.job = {}
        self.seen.history |= {fault["id"]: fault for fault in self.seen.faults}
        if self.seen.job:
            self._read_events()
        for name, pod in self.seen.pods.items():
            self._follow_on(name, pod)

    def _follow_on(self, name: str, pod: dict[str, Any]) -> None:
        """Follow a pod that started, and again when the stream broke: a kubelet that comes up refuses logs at first."""
        follower = self._followers.get(pod["uid"])
        broke = follower is not None and not follower.is_alive() and pod["phase"] == "Running"
        if broke or (follower is None and pod["phase"] != "Pending"):
            self._followers[pod["uid"]] = threading.Thread(
                target=self._follow, args=(name,), name=f"logs-{name}", daemon=True
            )
            self._followers[pod["uid"]].start()

    def _read_events(self) -> None:
        listed = json.loads(
            self._core.list_namespaced_event(
                self.namespace,
                field_selector=f"involvedObject.uid={self.seen.job['metadata']['uid']}",
                _preload_content=False,
                _request_timeout=5,
            ).data
        )
        for event in listed["items"]:
            if event["metadata"]["uid"] not in self._events:
                self._events.add(event["metadata"]["uid"])
                when = event.get("eventTime") or event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]
                self.seen.events.append((when, event.get("reason", ""), event.get("message", "")))

    def _follow(self, pod: str) -> None:
        for line in self._lines(pod):
            if (step := parse_step(line, pod)) is not None:
                if step not in self._told:  # a log that is followed again begins at its beginning
                    self._told.add(step)
                    self.seen.steps.append(step)
            elif '"ranks-started"' in line:
                started = json.loads(line[line.index("{") :])
                self.seen.starts[pod] = started["time"], started["ranks"][0]

    def _lines(self, pod: str) -> Iterator[str]:
        try:
            response = self._core.read_namespaced_pod_log(pod, self.namespace, follow=True, _preload_content=False)
            rest = b""
            for chunk in response.stream(None):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        except (ApiException, HTTPError, OSError):
            return  # its node died, it was deleted, or its kubelet is not up yet


def parse_step(line: str, pod: str) -> StepSeen | None:
    """Parse a rank's step line; None for any other line."""
    if '"lossHex"' not in line:
        return None
    try:
        fields = json.loads(line[line.index("{") :])
        return StepSeen(
            step=int(fields["step"]),
            loss_hex=str(fields["lossHex"]),
            time=float(fields["time"]),
            pod=pod,
            tokens_per_second=fields.get("tokensPerSecond"),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _pod(pod: dict[str, Any]) -> dict[str, Any]:
    labels = pod["metadata"]["labels"]
    return {
        "uid": pod["metadata"]["uid"],
        "node": pod["spec"].get("nodeName"),
        "phase": pod["status"].get("phase", "Pending"),
        "deleting": "deletionTimestamp" in pod["metadata"],
        "attempt": int(labels.get(contract.LABEL_ATTEMPT, 0)),
        "slot": int(labels.get(contract.LABEL_SLOT, 0)),
        "replacement": int(labels.get(contract.LABEL_REPLACEMENT, 0)),
    }
