"""Processes that die or stand still: a rank, a pod's agent, the operator. Nobody has to start new ones."""

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from lab import process, victims
from lab.faults.record import Kind, Record

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
    pid = victims.rank_process(lab, pod)
    begin = time.time()
    os.kill(pid, signal.SIGSTOP)
    born = process.started(pid)
    return {"fault": "process-stop", "time": begin, **victims.where(pod), "pid": pid, "started": born}


def go_on(_: "Lab", record: Record) -> None:
    """Continue a process that a fault stopped."""
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
    "process-stop": Kind(process_stop, go_on),
    "agent-kill": Kind(agent_kill),
    "operator-kill": Kind(operator_kill),
}
