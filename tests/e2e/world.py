"""A user of the lab: jobs that leave nothing behind, and questions that kubectl answers."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from internlm2_spec.contract import LABEL_JOB
from lab import scene
from lab.cluster import Lab
from lab.watch import JobWatch


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
            scene.kubectl("wait", "--for=delete", "pod", "-l", f"{LABEL_JOB}={name}", "--timeout=120s")
            self.lab.heal()

    def cordoned(self) -> set[str]:
        """Return the names of all nodes that are not schedulable."""
        nodes = json.loads(scene.kubectl("get", "nodes", "-o", "json"))["items"]
        return {n["metadata"]["name"] for n in nodes if n["spec"].get("unschedulable")}

    def names(self, kind: str, job: str) -> list[str]:
        """Return the names of a job's objects of one kind."""
        return scene.kubectl("get", kind, "-l", f"{LABEL_JOB}={job}", "-o", "name").split()
