"""A stage for the real operator: its process, nodes without kubelets, and a job in a namespace of its own.

There is no kubelet and no controller here, so the test says what they would say: a node's condition,
a pod's phase.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import boto3
import yaml

from internlm2_spec import contract, manifest
from lab.settings import CHECKOUT
from tests.api.apiserver import ApiServer, free_ports, tools, wait_for
from tests.api.rest import JOBS, Object, Rest
from tests.servers import S3Server

GPU: Final = "nvidia.com/gpu"
SYSTEM: Final = "internlm2-under-test"
ACCOUNT: Final = "internlm2-operator"


def install_rights(api: ApiServer, folder: Path, *values: str, system: str = SYSTEM) -> Path:
    """Apply the chart's account and roles; returns a kubeconfig with a token of that account and nothing more."""
    chart = str(CHECKOUT / "charts/internlm2-operator")
    argv = [str(tools("helm")["helm"]), "template", "internlm2", chart, "--namespace", system, *values]
    env = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    rendered = subprocess.run(argv, capture_output=True, text=True, check=True, env=env, timeout=120).stdout
    wanted = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    bodies = [body for body in yaml.safe_load_all(rendered) if body and body["kind"] in wanted]
    space: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": system}}
    for body in (space, *bodies):
        api.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(body))
    token = api.kubectl("create", "token", ACCOUNT, "--namespace", system, "--duration", "2h").stdout.strip()
    return api.bearing(token, folder / "operator.kubeconfig")


class OperatorProcess:
    """`python -m internlm2_operator run`, which can be killed and started again."""

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        *flags: str,
        namespace: str = SYSTEM,
        identity: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`identity` is the pod it claims to be: the next process of the same pod need not wait for the lease."""
        self.environment = dict(environment or {})
        self._kubeconfig = kubeconfig
        self._flags = flags
        self._who = {"POD_NAMESPACE": namespace} | ({"POD_NAME": identity} if identity else {})
        self._port = free_ports(1)[0]
        self.log = folder / "operator.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and return once it serves its pages."""
        argv = [sys.executable, "-m", "internlm2_operator", "run", f"--metrics-port={self._port}", *self._flags]
        env = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        env |= {"KUBECONFIG": str(self._kubeconfig)} | self._who | self.environment
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
        wait_for(lambda: self.healthy(), what="operator's /healthz")

    def kill(self) -> None:
        """SIGKILL, as a node's end would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=60)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def healthy(self) -> bool:
        assert self.alive(), self.log.read_text()[-4000:]
        with contextlib.suppress(OSError):
            return self._get("/healthz") == "ok"
        return False

    def metric(self, sample: str) -> float:
        """Return the value of one sample, such as `internlm2_operator_leader`; 0 when there is none yet."""
        lines = self._get("/metrics").splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample), 0.0)

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return str(answer.read().decode())


@contextlib.contextmanager
def operating(kubeconfig: Path, folder: Path, *flags: str, **more: Any) -> Iterator[OperatorProcess]:
    """Run an operator, `more` as OperatorProcess takes it, and leave none behind."""
    operator = OperatorProcess(kubeconfig, folder, *flags, **more)
    operator.start()
    try:
        yield operator
    finally:
        if operator.alive():
            operator.kill()


class Stage:
    """One namespace with a Secret, a bucket with data, and nodes that only this test's job selects."""

    def __init__(self, rest: Rest, store: S3Server, name: str) -> None:
        self.rest = rest
        self.store = store
        self.name = name
        self.rest("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    # What exists before

    def make_nodes(self, *names: str) -> list[str]:
        """Make ready nodes with two GPUs each; returns their full names."""
        full = [f"{self.name}-{name}" for name in names]
        for name in full:
            self.rest("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": {"stage": self.name}}})
            self.set_ready(name, ready=True)
        return full

    def set_ready(self, node: str, *, ready: bool) -> None:
        """Say what the kubelet, or the node controller in its place, would say."""
        condition = {"type": "Ready", "status": "True" if ready else "Unknown", "lastTransitionTime": _now()}
        status = {"capacity": {GPU: "2"}, "allocatable": {GPU: "2"}, "conditions": [condition]}
        self.rest.merge(f"/api/v1/nodes/{node}/status", {"status": status})
        # Without a node controller nobody takes away the taint that admission puts on a new node.
        if ready:
            self.rest.merge(f"/api/v1/nodes/{node}", {"spec": {"taints": None}})

    def make_secret(self) -> None:
        body = {"metadata": {"name": "s3"}, "stringData": self.store.environment}
        self.rest("POST", f"/api/v1/namespaces/{self.name}/secrets", body)

    def put(self, key: str, body: bytes = b"{}") -> None:
        """Put an object below the folder of this test."""
        env = self.store.environment
        client = boto3.client(
            "s3",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            region_name=env["AWS_REGION"],
        )
        with contextlib.closing(client):
            client.put_object(Bucket=self.store.bucket, Key=f"{self.name}/{key}", Body=body)

    def put_checkpoint(self, step: int, *, size: int = 4, stage: str = "pretrain") -> None:
        """Publish a checkpoint of one object that the manifest says has 4 bytes."""
        folder = f"run/{contract.step_prefix(stage, step)}"
        stored = manifest.StoredObject(name="1-0.safetensors", size=4, sha256="")
        told = manifest.Manifest(stage, step, 1, 4, time.time(), (stored,), {}, {})
        self.put(f"{folder}/{stored.name}", b"x" * size)
        self.put(f"{folder}/{contract.MANIFEST_NAME}", manifest.to_json(told).encode())

    def make_job(
        self, *, name: str = "job", spares: int = 0, stages: Sequence[str] = ("pretrain",), **spec: Any
    ) -> None:
        """Make a job, with parts of its spec added or replaced."""
        stage = {
            "data": {"url": self.store.url(f"{self.name}/corpus")},
            "sequenceLength": 256,
            "globalBatchTokens": 16384,
            "steps": 10,
            "parallel": {"tensor": 2},
        }
        whole = {
            "model": {"preset": "internlm2-tiny"},
            "checkpoint": {"url": self.store.url(f"{self.name}/run"), "secretName": "s3", "everySteps": 5},
            "nodes": {"min": 2, "max": 2, "gpusPerNode": 2, "spares": spares},
            "stages": [{"name": stage_name} | stage for stage_name in stages],
            "template": {"nodeSelector": {"stage": self.name}},
        } | spec
        body = {"apiVersion": "training.internlm.io/v1alpha1", "kind": "InternLM2Job"}
        self.rest("POST", self.path, body | {"metadata": {"name": name}, "spec": whole})

    # What is seen

    @property
    def path(self) -> str:
        return f"{JOBS}/namespaces/{self.name}/internlm2jobs"

    def job(self, name: str = "job") -> Object:
        return self.rest("GET", f"{self.path}/{name}")

    def status(self, name: str = "job") -> Object:
        found: Object = self.job(name).get("status", {})
        return found

    def condition(self, kind: str, name: str = "job") -> Object:
        return next((c for c in self.status(name).get("conditions", ()) if c["type"] == kind), {})

    def edit(self, **spec: Any) -> None:
        """Change parts of the spec, as `kubectl patch` does."""
        self.rest.merge(f"{self.path}/job", {"spec": spec})

    def wait_for_reason(self, reason: str) -> None:
        """Wait until a condition or an event of the job has this reason."""
        wait_for(lambda: reason in self.reasons(), what=f"reason {reason} of {self.name}; seen: {self.reasons()}")

    def reasons(self) -> set[str]:
        """Return the reasons of the conditions that stand and of the events that were sent."""
        events = self.rest.items(f"/apis/events.k8s.io/v1/namespaces/{self.name}/events")
        conditions = self.status().get("conditions", ())
        return {event["reason"] for event in events} | {condition["reason"] for condition in conditions}

    def pods(self) -> dict[str, Object]:
        """Pods that are not being deleted, by name."""
        pods = self.rest.items(f"/api/v1/namespaces/{self.name}/pods")
        return {pod["metadata"]["name"]: pod for pod in pods if "deletionTimestamp" not in pod["metadata"]}

    def wait_for_pods(self, count: int) -> dict[str, Object]:
        found: dict[str, Object] = wait_for(
            lambda: pods if len(pods := self.pods()) == count else None, what=f"{count} pods of {self.name}"
        )
        return found

    # What kubelets and trainers would do

    def run_pods(self) -> None:
        """Bind every waiting pod to the node it is pinned to, and let it run."""
        for name, pod in self.pods().items():
            if pod["status"]["phase"] != "Pending":
                continue
            path = f"/api/v1/namespaces/{self.name}/pods/{name}"
            if "nodeName" not in pod["spec"]:
                target = {"apiVersion": "v1", "kind": "Node", "name": node_of(pod)}
                self.rest("POST", f"{path}/binding", {"metadata": {"name": name}, "target": target})
            self.rest.merge(
                f"{path}/status", {"status": {"phase": "Running", "containerStatuses": [_state({"running": {}})]}}
            )

    def train(self) -> dict[str, Object]:
        """Let the two pods of the job run, until the operator knows; returns them by name."""
        pods = self.wait_for_pods(2)
        self.run_pods()
        wait_for(lambda: self.status().get("nodes", {}).get("ready") == 2, what="two ready pods")
        return pods

    def end_pod(self, name: str, *, code: int, message: str = "") -> None:
        """Let a pod's container end."""
        ended = {"terminated": {"exitCode": code, "reason": "Error", "message": message, "finishedAt": _now()}}
        status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [_state(ended)]}
        self.rest.merge(f"/api/v1/namespaces/{self.name}/pods/{name}/status", {"status": status})

    def say_goodbye(self) -> None:
        """Remove the pods that are being deleted, as their kubelets would once they have ended."""
        for pod in self.rest.items(f"/api/v1/namespaces/{self.name}/pods"):
            if "deletionTimestamp" in pod["metadata"]:
                path = f"/api/v1/namespaces/{self.name}/pods/{pod['metadata']['name']}"
                self.rest.maybe(path, "DELETE", {"gracePeriodSeconds": 0})  # the operator may have forced it

    def clean(self) -> None:
        """Take everything away; no garbage collector runs here."""
        self.rest("DELETE", self.path)
        # As one collection: the operator may take some of them away meanwhile.
        self.rest("DELETE", f"/api/v1/namespaces/{self.name}/pods", {"gracePeriodSeconds": 0})
        self.rest("DELETE", f"/api/v1/nodes?labelSelector=stage%3D{self.name}")


def make_pod(rest: Rest, namespace: str, name: str, node: str, phase: str, **numbers: int) -> None:
    """Make a pod of `job` that a kubelet has started; `numbers` are its labels: attempt, slot, replacement."""
    labels = {contract.LABEL_JOB: "job", contract.LABEL_STAGE: "0"}
    labels |= {f"{contract.API_GROUP}/{key}": str(value) for key, value in numbers.items()}
    body = {
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "trainer", "image": "i"}]},
    }
    path = f"/api/v1/namespaces/{namespace}/pods"
    rest("POST", path, body)
    rest.merge(f"{path}/{name}/status", {"status": {"phase": phase}})


def node_of(pod: Object) -> str:
    """Return the node that a pod is pinned to."""
    affinity = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (field,) = affinity["nodeSelectorTerms"][0]["matchFields"]
    return str(field["values"][0])


def _state(state: Object) -> Object:
    return {"name": "trainer", "image": "i", "imageID": "", "ready": True, "restartCount": 0, "state": state}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def on_stage(rest: Rest, store: S3Server, name: str, **ready: Any) -> Iterator[Stage]:
    """Set a stage; without `secret=False` or `data=False` the job finds everything it needs."""
    stage = Stage(rest, store, name)
    if ready.get("secret", True):
        stage.make_secret()
    if ready.get("data", True):
        stage.put("corpus/index.json")
    try:
        yield stage
    finally:
        stage.clean()
