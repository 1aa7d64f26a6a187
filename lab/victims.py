"""Which process a fault kills: from a pod to the processes of its containers, by their control groups."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from internlm2_spec.contract import LABEL_JOB
from lab import cgroups
from lab.settings import LabError

if TYPE_CHECKING:
    from lab.cluster import Lab

OPERATOR = "app.kubernetes.io/name=internlm2-operator"

Pod = dict[str, Any]


def where(pod: Pod) -> dict[str, str]:
    """Return namespace/name and node of a pod, for the record."""
    return {"pod": f"{pod['metadata']['namespace']}/{pod['metadata']['name']}", "on": pod["spec"]["nodeName"]}


def training_pod(lab: "Lab", name: str | None) -> Pod:
    """Return the pod `namespace/name`, by default the first running one of the first job.

    Raises:
        LabError: no such pod runs.
    """
    return _running(lab, name, ["-l", LABEL_JOB], "--pod: no pod of an InternLM2Job runs; start a job first")


def operator_pod(lab: "Lab", name: str | None) -> Pod:
    """Return the operator's pod; errors as `training_pod`."""
    return _running(lab, name, ["-l", OPERATOR], f"operator-kill: no pod with {OPERATOR} runs; install the chart first")


def _running(lab: "Lab", name: str | None, selector: list[str], nobody: str) -> Pod:
    if name is not None:
        namespace, _, short = name.rpartition("/")
        pods = [lab.get("pod", short, "-n", namespace or "default")]
    else:
        pods = lab.get("pods", "-A", *selector)["items"]
    for pod in sorted(pods, key=lambda p: (p["metadata"]["namespace"], p["metadata"]["name"])):
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]:
            return dict(pod)
    raise LabError(
        nobody if name is None else f"--pod: {name} does not run; look at `python -m lab kubectl get pods -A`"
    )


def container_inits(lab: "Lab", pod: Pod) -> list[int]:
    """Return the host pids of the first process of every container in the pod, the sandbox's left out."""
    wanted = [
        c["containerID"].rpartition("/")[2] for c in pod["status"]["containerStatuses"] if "running" in c["state"]
    ]
    group = lab.names.cgroup(pod["spec"]["nodeName"])
    found = {pid for container in wanted for pid in cgroups.processes_below(group, container)}
    return sorted(pid for pid in found if _inner_pid(pid) == 1)


def pids(lab: "Lab", pod: Pod) -> set[int]:
    """Return the host pids of all processes in the pod, the sandbox's too."""
    return cgroups.processes_below(lab.names.cgroup(pod["spec"]["nodeName"]), f"pod{pod['metadata']['uid']}")


def rank_process(lab: "Lab", pod: Pod) -> int:
    """Return the host pid of the rank that used most CPU.

    Raises:
        LabError: the pod runs no rank (it is still starting, or a spare).
    """
    ranks = [pid for pid in pids(lab, pod) if _is_rank(pid)]
    if not ranks:
        raise LabError(f"--pod: {where(pod)['pod']} runs no rank yet; wait for its first step or name another pod")
    return max(ranks, key=_cpu_ticks)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X", "0", *["0"] * 20]


def _cpu_ticks(pid: int) -> int:
    return int(_stat(pid)[11]) + int(_stat(pid)[12])


def _inner_pid(pid: int) -> int:
    """Return the pid inside the container, 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), 0)


def _is_rank(pid: int) -> bool:
    """Say whether a process bears the name that the trainer gives its ranks: rank0, rank1, ..."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return False
    return name.startswith("rank") and name[4:].isdigit()
