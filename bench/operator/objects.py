"""The cluster that is played: nodes, the Secret of the store, and jobs."""

from typing import Any, Final

from bench.operator.client import Object

GPU: Final = "nvidia.com/gpu"
NAMESPACE: Final = "bench"
JOBS: Final = f"/apis/training.internlm.io/v1alpha1/namespaces/{NAMESPACE}/internlm2jobs"
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
GPUS_OF_NODE, GPUS_OF_POD = 8, 2
RACK: Final = 40
SEQUENCE: Final = 256
AGES_AGO: Final = "2026-01-01T00:00:00Z"


def node_name(number: int) -> str:
    return f"node-{number:05}"


def node(number: int) -> Object:
    """Return a node as a kubelet registers it, ready."""
    name = node_name(number)
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "gpu-8",
        "topology.kubernetes.io/zone": f"zone-{number // (25 * RACK)}",
        "topology.kubernetes.io/rack": f"rack-{number // RACK:04}",
    }
    room = {"cpu": "96", "memory": "1Ti", "pods": "110", GPU: str(GPUS_OF_NODE)}
    status = {
        "capacity": room,
        "allocatable": room,
        "conditions": conditions("True", AGES_AGO),
        "nodeInfo": dict.fromkeys(_NODE_INFO, "simulated"),
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": status}


def conditions(ready: str, at: str) -> list[Object]:
    """Return the conditions that a kubelet, or the node controller in its place, writes at `at`."""
    calm = ("MemoryPressure", "DiskPressure", "PIDPressure")
    rows = [("Ready", ready), *((kind, "False" if ready == "True" else ready) for kind in calm)]
    times = {"lastHeartbeatTime": at, "lastTransitionTime": at}
    return [{"type": kind, "status": status, "reason": "Simulated", **times} for kind, status in rows]


def heartbeat(at: str) -> Object:
    """Return a node status patch that changes nothing that anybody decides on."""
    return {"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": at}]}}


def secret(store_url: str) -> Object:
    fields = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_ENDPOINT_URL": store_url}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": fields}


def job(name: str, nodes: int) -> Object:
    """Return a job of so many nodes whose training never ends."""
    stage: dict[str, Any] = {
        "name": "pretrain",
        "data": {"url": f"s3://bench/{name}/corpus"},
        "sequenceLength": SEQUENCE,
        "globalBatchTokens": SEQUENCE * nodes * GPUS_OF_POD,
        "steps": 10_000_000,
    }
    spec = {
        "model": {"preset": "internlm2-tiny"},
        "checkpoint": {"url": f"s3://bench/{name}/run", "secretName": "s3"},
        "nodes": {"min": nodes, "max": nodes, "gpusPerNode": GPUS_OF_POD},
        "health": {"maxCordonPercent": 100},
        "stages": [stage],
    }
    body = {"apiVersion": "training.internlm.io/v1alpha1", "kind": "InternLM2Job"}
    return body | {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


_NODE_INFO: Final = (
    "architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion", "kubeletVersion",
    "machineID", "operatingSystem", "osImage", "systemUUID",
)  # fmt: skip
