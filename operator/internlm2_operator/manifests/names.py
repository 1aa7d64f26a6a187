"""Names of everything that belongs to a job. Deterministic, so that creating twice is creating once.

A job's name is a host name of at most 63 characters, so it is a label value and the name of a Service as it is; the
name of a ConfigMap may be longer. Only a pod needs room behind it.
"""

import hashlib
from typing import Final

# A host name has 63 characters; `-15-99999-5063-r99999` takes 21 of them.
_LONGEST_STEM: Final = 40
_DIGITS: Final = 10


def service(job: str) -> str:
    return job


def config_map(job: str, stage: int) -> str:
    return f"{job}-{stage}"


def pod(job: str, *, stage: int, attempt: int, slot: int, replacement: int = 0) -> str:
    """Return a pod's name, which is its host name too.

    torchrun orders ranks by address as text: zeros in front keep the order of the slots, and a
    replacement sorts where the pod it replaces did, because `-` and `.` both sort before digits.
    """
    return f"{_stem(job)}-{stage}-{attempt:03d}-{slot:04d}" + (f"-r{replacement}" if replacement else "")


def _stem(job: str) -> str:
    """Return what the names of all pods of a job begin with: its name, or the head of a long one and a hash.

    A shortened stem is one character longer than any that is not, so it is no other job's name by accident or intent.
    """
    if len(job) <= _LONGEST_STEM:
        return job
    return f"{job[: _LONGEST_STEM - _DIGITS]}-{hashlib.sha256(job.encode()).hexdigest()[:_DIGITS]}"


def address(pod_name: str, *, job: str, namespace: str) -> str:
    """Return the DNS name of a pod below the headless Service; the search path adds the cluster's domain."""
    return f"{pod_name}.{service(job)}.{namespace}.svc"


def rendezvous_id(uid: str, attempt: int) -> str:
    """Return the id that keeps members of one attempt from meeting those of another."""
    return f"{uid}-{attempt}"
