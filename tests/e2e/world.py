"""A user of the lab: jobs that leave nothing behind, and questions that kubectl answers."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from internlm2_spec.contract import LABEL_JOB
from lab import scene
from lab.cluster import Lab
from lab.victims import OPERATOR
from lab.watch import JobWatch
from tests.api.stage import OperatorProcess


def operator_account(namespace: str) -> str:
    """Return the ServiceAccount of the operator that a namespace has."""
    where = "jsonpath={.items[0].spec.template.spec.serviceAccountName}"
    return scene.kubectl("get", "deployments", "-n", namespace, "-o", where).strip()


class World:
    """The lab with the operator installed, and jobs that leave nothing behind."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @contextlib.contextmanager
    def job(self, name: str, **changes: Any) -> Iterator[JobWatch]:
        """Apply a job made from `manifests/demo.yaml`, follow it, delete it with its checkpoints."""
        scene.delete_checkpoints(name)
        scene.apply(scene.job(name, **changes))
        try:
            with JobWatch(name) as watch:
                yield watch
        finally:
            scene.kubectl("delete", "internlm2job", name, "--ignore-not-found", "--wait=true")
            self.lab.heal()  # no kubelet of a dead node says that its pod is gone
            scene.kubectl("wait", "--for=delete", "pod", "-l", f"{LABEL_JOB}={name}", "--timeout=120s")

    @contextlib.contextmanager
    def operator_process(self, folder: Path) -> Iterator[OperatorProcess]:
        """Let a process of this machine take the operator's place, with the rights of the operator's account."""
        space = ("-n", scene.OPERATOR_NAMESPACE)
        account = operator_account(scene.OPERATOR_NAMESPACE)
        scene.kubectl("scale", "deployment", *space, "--all", "--replicas=0")
        scene.kubectl("wait", *space, "--for=delete", "pod", "-l", OPERATOR, "--timeout=60s")
        access = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        access["users"][0]["user"] = {
            "token": scene.kubectl("create", "token", account, *space, "--duration=2h").strip()
        }
        kubeconfig = folder / "operator.kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(access))
        flags = (f"--prometheus-url={os.environ['PROMETHEUS_URL']}",)
        process = OperatorProcess(
            kubeconfig, folder, *flags, namespace=scene.OPERATOR_NAMESPACE, identity="beside-the-lab"
        )
        process.start()
        try:
            yield process
        finally:
            process.stop()
            scene.kubectl("scale", "deployment", *space, "--all", "--replicas=1")
            scene.kubectl("rollout", "status", "deployment", *space, "--timeout=120s")

    def cordoned(self) -> set[str]:
        """Return the names of all nodes that are not schedulable."""
        nodes = json.loads(scene.kubectl("get", "nodes", "-o", "json"))["items"]
        return {n["metadata"]["name"] for n in nodes if n["spec"].get("unschedulable")}

    def names(self, kind: str, job: str) -> list[str]:
        """Return the names of a job's objects of one kind."""
        return scene.kubectl("get", kind, "-l", f"{LABEL_JOB}={job}", "-o", "name").split()
