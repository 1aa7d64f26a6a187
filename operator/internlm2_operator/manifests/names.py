"""Names of everything that belongs to a job. Deterministic, so that creating twice is creating once."""


def service(job: str) -> str:
    return job


def config_map(job: str, stage: int) -> str:
    return f"{job}-{stage}"


def pod(job: str, *, stage: int, attempt: int, slot: int, replacement: int = 0) -> str:
    """Return a pod's name, which is its host name too.

    torchrun orders ranks by address as text: zeros in front keep the order of the slots, and a
    replacement sorts where the pod it replaces did, because `-` and `.` both sort before digits.
    """
    return f"{job}-{stage}-{attempt:03d}-{slot:04d}" + (f"-r{replacement}" if replacement else "")


def address(pod_name: str, *, job: str, namespace: str) -> str:
    """Return the DNS name of a pod below the headless Service; the search path adds the cluster's domain."""
    return f"{pod_name}.{service(job)}.{namespace}.svc"


def rendezvous_id(uid: str, attempt: int) -> str:
    """Return the id that keeps members of one attempt from meeting those of another."""
    return f"{uid}-{attempt}"
