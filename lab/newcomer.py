"""A lab that knows nothing of us yet, and the two commands of the quick start in it, in namespaces of their own."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import yaml

from lab import scene
from lab.cluster import Lab

SYSTEM: Final = "fresh-system"
TEAM: Final = "fresh-team"
JOB: Final = "quickstart"
DEFINITION: Final = "internlm2jobs.training.internlm.io"
WHERE: Final = (scene.RELEASE, "--namespace", SYSTEM)


@contextlib.contextmanager
def bare(lab: Lab) -> Iterator[None]:
    """Take the lab's release away with the definition of jobs, and the jobs; afterwards it is as it was."""
    scene.make_bucket()
    scene.upload_corpus()
    scene.helm(
        "uninstall", scene.RELEASE, "--namespace", scene.OPERATOR_NAMESPACE, "--ignore-not-found", *scene.WAITING
    )
    _forget()
    scene.kubectl("create", "namespace", TEAM)
    scene.make_secret(TEAM)
    try:
        yield
    finally:
        scene.helm("uninstall", *WHERE, "--ignore-not-found", *scene.WAITING)
        _forget()
        lab.heal()
        scene.install_operator()


def install(*more: str) -> None:
    """`helm install`, until operator and agents run."""
    scene.helm("install", *WHERE, str(scene.CHART), "--create-namespace", *scene.WAITING, *scene.values(), *more)


def apply_job() -> None:
    """`kubectl apply` the manifest of the quick start, with the lab's image and no end."""
    job: dict[str, Any] = yaml.safe_load((scene.TOP / "manifests" / "quickstart.yaml").read_text())
    job["metadata"]["namespace"] = TEAM
    job["spec"]["stages"][0]["steps"] = 100_000
    del job["spec"]["template"]["image"]
    scene.apply(job)


def _forget() -> None:
    scene.kubectl("delete", "crd", DEFINITION, "--ignore-not-found", "--wait=true")
    scene.kubectl("delete", "namespace", SYSTEM, TEAM, "--ignore-not-found", "--wait=true")
    scene.delete_checkpoints(JOB)
