"""Processes that die or stand still: a rank, a pod's agent, the operator, a kubelet. Nobody has to start new ones."""

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from lab import process, victims
from lab.faults.record import Kind, Record, need

if TYPE_CHECKING:
    from lab.cluster import Lab


def process_kill(lab: "Lab", what: Record) -> Record:
    """SIGKILL one training process in a pod."""
    pod = victims.training_pod(lab, what.get("pod"))
    pid = victims.rank_process(lab, pod)
    begin = time.time()
    process.kill([pid])
    return {"fault": "process-kill", "time": begin, **victims.where(pod), "pid": pid}


def process_stop(lab: "Lab", what: Record) -> Record:
    """SIGSTOP one training process in a pod, until it is healed."""
    pod = victims.training_pod(lab, what.get("pod"))
    return {"fault": "process-stop", **victims.where(pod), **_stop(victims.rank_process(lab, pod))}


def kubelet_stop(lab: "Lab", what: Record) -> Record:
    """SIGSTOP a node's kubelet, until it is healed: the API server hears nothing of the node, its pods go on."""
    node = lab.node(need(what, "node", "n2"))
    return {"fault": "kubelet-stop", "node": node.name, **_stop(node.running("kubelet"))}


def _stop(pid: int) -> Record:
    """SIGSTOP a process; return when, and what `_continue` knows it by."""
    begin = time.time()
    os.kill(pid, signal.SIGSTOP)
    return {"time": begin, "pid": pid, "started": process.started(pid)}


def _continue(_: "Lab", record: Record) -> None:
    if process.started(record["pid"]) == record["started"]:  # no other process has its pid by now
        with suppress(ProcessLookupError):
            os.kill(record["pid"], signal.SIGCONT)


def agent_kill(lab: "Lab", what: Record) -> Record:
    """SIGKILL the first process of a pod's container, our torchrun agent: its ranks die with it."""
    return _kill_container(lab, "agent-kill", victims.training_pod(lab, what.get("pod")))


def operator_kill(lab: "Lab", what: Record) -> Record:
    """SIGKILL the operator; its kubelet starts it again."""
    return _kill_container(lab, "operator-kill", victims.operator_pod(lab, what.get("pod")))


def _kill_container(lab: "Lab", fault: str, pod: victims.Pod) -> Record:
    pids = victims.container_inits(lab, pod)
    begin = time.time()
    process.kill(pids)
    return {"fault": fault, "time": begin, **victims.where(pod), "pids": pids}


KINDS: Final = {
    "process-kill": Kind(process_kill),
    "process-stop": Kind(process_stop, _continue),
    "kubelet-stop": Kind(kubelet_stop, _continue),
    "agent-kill": Kind(agent_kill),
    "operator-kill": Kind(operator_kill),
}
