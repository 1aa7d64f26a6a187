"""The table of causes: everything that ends, stops or delays a job, one row each.

`docs/faults.md` is written from it. Where two rows fit by the same sign, the earlier one is meant.
Kubernetes' words: kubelet's eviction, preemption and node shutdown managers, its admission handlers
and its image manager; the reasons of DisruptionTarget are those of the Pod API.
"""

from typing import Final

from internlm2_operator.plan.cause import By, Cause, Kind, Mark, Reaction
from internlm2_spec.contract import HANG, ExitCode, FailureClass

# A registry or an API server that has a bad minute is back by then.
_SHORT: Final = (15.0, 300.0)
_LONG: Final = (30.0, 600.0)


def _exits(*codes: int) -> tuple[Mark, ...]:
    return tuple(Mark(By.EXIT, str(int(code))) for code in codes)


_NODES: Final = (
    Cause(
        "NodeNotReady", Kind.INFRASTRUCTURE, Reaction.REPLACE,
        "repair the node; a passed check lifts the cordon, or a person does (docs/health.md)",
        seen="node condition Ready is not True", symptom=True,
    ),
    Cause(
        "NodeGone", Kind.INFRASTRUCTURE, Reaction.REPLACE, "",
        marks=(Mark(By.DISRUPTION, "DeletionByPodGC"),), seen="the pod's node does not exist", symptom=True,
    ),
    Cause(
        "NodeFault", Kind.INFRASTRUCTURE, Reaction.REPLACE,
        "`internlm2 why-cordoned NODE` tells what mends it; a check lifts the cordon, or a person (docs/health.md)",
        seen="a cordon of ours on the node; the record has its cause, such as Xid79 or GpuMissing",
    ),
    Cause(
        "NodeCheckFailed", Kind.INFRASTRUCTURE, Reaction.REPLACE,
        "repair or reboot the node; it is checked again once it is back", marks=_exits(ExitCode.NODE_CHECK),
        seen="a cordon of ours after a check by the operator; a pod of a job that ends so only suspects its node",
        suspects=True,
    ),
    Cause(
        "DeviceError", Kind.INFRASTRUCTURE, Reaction.REPLACE, "look at the node's kernel log for its GPUs",
        marks=(
            Mark(By.KUBELET, "StartError", says="nvidia-container-cli"),
            Mark(By.CLASS, FailureClass.INFRASTRUCTURE),
        ),
        suspects=True, symptom=True,
    ),
)  # fmt: skip

_DISRUPTIONS: Final = (
    Cause(
        "Preempted", Kind.REQUEST, Reaction.RESTART,
        "give the job a higher template.priorityClassName if it should not yield",
        marks=(Mark(By.DISRUPTION, "PreemptionByScheduler"), Mark(By.KUBELET, "Preempting")),
    ),
    Cause(
        "Drained", Kind.REQUEST, Reaction.RESTART, "", marks=(Mark(By.DISRUPTION, "EvictionByEvictionAPI"),),
    ),
    Cause(
        "Maintenance", Kind.REQUEST, Reaction.RESTART, "",
        seen="a notice on a node of the job that it will go; the pods write a checkpoint first",
    ),
    Cause(
        "TaintEvicted", Kind.REQUEST, Reaction.RESTART,
        "tolerate the NoExecute taint in template.tolerations if the pods may stay",
        marks=(Mark(By.DISRUPTION, "DeletionByTaintManager"),),
    ),
    Cause(
        "StorageLimitExceeded", Kind.USER, Reaction.RESTART,
        "raise the ephemeral-storage limit or the volume's sizeLimit in template, or write less",
        marks=(
            Mark(By.KUBELET, "Evicted", says="exceeds the limit"),
            Mark(By.KUBELET, "Evicted", says="exceeds the total limit"),
            Mark(By.KUBELET, "Evicted", says="local ephemeral storage limit"),
        ), repeats=3,
    ),
    Cause(
        "Evicted", Kind.INFRASTRUCTURE, Reaction.REPLACE, "free the resource that the node is short of",
        marks=(Mark(By.KUBELET, "Evicted"),),
    ),
    Cause(
        "NodeShutdown", Kind.INFRASTRUCTURE, Reaction.REPLACE, "",
        marks=(Mark(By.KUBELET, "NodeShutdown"), Mark(By.KUBELET, "Terminated")),
    ),
    Cause(
        "TerminatedByKubelet", Kind.INFRASTRUCTURE, Reaction.REPLACE, "",
        marks=(Mark(By.DISRUPTION, "TerminationByKubelet"),),
    ),
    Cause(
        "PodDeleted", Kind.REQUEST, Reaction.RESTART, "",
        marks=(Mark(By.DELETED, "by somebody else"),),
    ),
    Cause(
        "PodLost", Kind.REQUEST, Reaction.REPLACE, "", seen="the pod's object is gone, nobody saw why", symptom=True,
    ),
    Cause(
        "StuckTerminating", Kind.INFRASTRUCTURE, Reaction.REPLACE,
        "take the finalizer off the pod, or restart its kubelet; its GPUs stay counted until it is gone",
        seen="a pod that is being deleted, 30 s after its grace ended, on a node that is ready",
    ),
)  # fmt: skip

_ADMISSION: Final = (
    Cause(
        "NodeFull", Kind.INFRASTRUCTURE, Reaction.REPLACE, "keep other schedulers off the nodes of jobs",
        marks=(Mark(By.KUBELET, "OutOf*"),),
    ),
    Cause(
        "AdmissionRefused", Kind.INFRASTRUCTURE, Reaction.REPLACE,
        "look at the device plugin and the labels of the node; the message names what it lacks",
        marks=(
            Mark(By.KUBELET, "Unexpected*"), Mark(By.KUBELET, "Topology*"), Mark(By.KUBELET, "NodeAffinity"),
            Mark(By.KUBELET, "NodeName"), Mark(By.KUBELET, "InvalidNodeInfo"),
        ),
    ),
)  # fmt: skip

_USER: Final = (
    # The kernel ends a container at its limit, which the user sets, and may end one when the node is
    # full, which nobody set: once or twice proves nothing, three times in the window is a limit.
    Cause(
        "OOMKilled", Kind.USER, Reaction.RESTART,
        "raise template.resources.limits.memory, or lower what the pod keeps in memory",
        marks=(Mark(By.KUBELET, "OOMKilled"),), repeats=3,
    ),
    Cause(
        "StartError", Kind.USER, Reaction.RESTART, "use an image that holds the trainer: template.image",
        marks=(Mark(By.KUBELET, "StartError"), Mark(By.KUBELET, "ContainerCannotRun"), *_exits(126, 127)), repeats=2,
    ),
    Cause(
        "OutOfMemory", Kind.USER, Reaction.RESTART,
        "lower microBatch or sequenceLength, or shard more; `internlm2_trainer estimate` tells what fits",
        marks=(Mark(By.TRAINER, "OutOfMemory"),), repeats=2,
    ),
    Cause(
        "Diverged", Kind.USER, Reaction.RESTART,
        "lower the learning rate or clean the data; stages[].guard says what is let pass",
        marks=(Mark(By.TRAINER, "Diverged"),), repeats=2,
    ),
    Cause(
        "ConfigRefused", Kind.USER, Reaction.RESTART, "correct the field that the message names",
        marks=_exits(ExitCode.CONFIG), repeats=2,
    ),
    Cause(
        "ProgramError", Kind.USER, Reaction.RESTART, "read the traceback",
        marks=(*_exits(ExitCode.BUG), Mark(By.CLASS, FailureClass.USER)), repeats=2,
    ),
)  # fmt: skip

_STORES: Final = (
    Cause(
        "SecretMissing", Kind.WAITING, Reaction.GATE, "create the Secret of checkpoint.secretName with its keys",
        seen="the Secret or one of its keys does not exist",
    ),
    Cause(
        "BucketMissing", Kind.WAITING, Reaction.GATE, "create the bucket of checkpoint.url",
        seen="the store has no such bucket",
    ),
    Cause(
        "CredentialsRefused", Kind.WAITING, Reaction.GATE, "correct the keys in the Secret",
        seen="the store refuses the keys, to the operator or to the trainer",
    ),
    Cause(
        "DataMissing", Kind.WAITING, Reaction.GATE, "write the corpus with `internlm2_trainer tokenize`",
        seen="stages[].data has no index.json",
    ),
    Cause(
        "StoreUnavailable", Kind.WAITING, Reaction.RETRY, "bring the store back",
        marks=(Mark(By.TRAINER, "StoreUnavailable"), Mark(By.TRAINER, "SaveFailed")), backoff=_SHORT,
    ),
    Cause(
        "DataRefused", Kind.WAITING, Reaction.RETRY, "write the corpus that the message names again",
        marks=_exits(ExitCode.DATA), backoff=_SHORT,
    ),
)  # fmt: skip

_STARTS: Final = (
    Cause(
        "ImageInvalid", Kind.WAITING, Reaction.HOLD, "correct template.image",
        marks=(Mark(By.WAITING, "InvalidImageName"), Mark(By.WAITING, "ErrImageNeverPull")),
        edited=True, patience=30, backoff=_LONG,
    ),
    Cause(
        "ImagePullFailed", Kind.WAITING, Reaction.HOLD,
        "correct template.image or template.imagePullSecrets, or bring the registry back",
        marks=(
            Mark(By.WAITING, "ErrImagePull"), Mark(By.WAITING, "ImagePullBackOff"),
            Mark(By.WAITING, "RegistryUnavailable"), Mark(By.WAITING, "ImageInspectError"),
            Mark(By.WAITING, "SignatureValidationFailed"),
        ),
        edited=True, patience=120, backoff=_LONG,
    ),
    Cause(
        "ObjectMissing", Kind.WAITING, Reaction.HOLD,
        "create the Secret or ConfigMap, or the key, that template.env names",
        marks=(Mark(By.WAITING, "CreateContainerConfigError"),), edited=True, patience=300, backoff=_LONG,
    ),
    Cause(
        "ContainerFailed", Kind.WAITING, Reaction.HOLD, "read the message; it is the container runtime's",
        marks=(Mark(By.WAITING, "CreateContainerError"), Mark(By.WAITING, "RunContainerError")),
        edited=True, patience=120, backoff=_LONG,
    ),
    Cause(
        "SandboxNotReady", Kind.WAITING, Reaction.HOLD,
        "`kubectl describe pod` names the volume that cannot be mounted, or the network that is missing",
        marks=(Mark(By.SANDBOX, "False"),), patience=300, backoff=_LONG,
    ),
    Cause(
        "StartSlow", Kind.WAITING, Reaction.HOLD, "pull the image onto the nodes beforehand, or make it smaller",
        marks=(Mark(By.WAITING, "*"),),
        patience=1800, backoff=_LONG,
    ),
    Cause(
        "SchedulingGated", Kind.WAITING, Reaction.KEEP, "",
        marks=(Mark(By.SCHEDULER, "SchedulingGated"),),
    ),
    Cause(
        "Unschedulable", Kind.WAITING, Reaction.HOLD,
        "the message is the scheduler's; compare template.nodeSelector, tolerations and affinity with the node",
        marks=(Mark(By.SCHEDULER, "Unschedulable"), Mark(By.SCHEDULER, "SchedulerError")), patience=120, backoff=_LONG,
    ),
    Cause(
        "NotStarted", Kind.WAITING, Reaction.HOLD,
        "look whether template.schedulerName and the node's kubelet are there",
        marks=(Mark(By.SCHEDULER, "*"),), patience=120, backoff=_LONG,
    ),
    Cause(
        "QuotaExceeded", Kind.WAITING, Reaction.RETRY,
        "raise the ResourceQuota of the namespace, or ask for fewer nodes",
        marks=(Mark(By.API, "*", says="exceeded quota"),), backoff=_LONG,
    ),
    Cause(
        "PodRefused", Kind.WAITING, Reaction.RETRY,
        "the message is the API server's: an admission policy, a limit range or a field of template",
        marks=(Mark(By.API, "*"),), backoff=_LONG,
    ),
)  # fmt: skip

_PROCESSES: Final = (
    Cause(
        "Done", Kind.REQUEST, Reaction.KEEP, "", seen="exit 0; the final manifest proves it within 60 s",
    ),
    Cause(
        "CompletionUnproved", Kind.INFRASTRUCTURE, Reaction.RESTART, "look whether the store keeps what is written",
        seen="exit 0 and no final manifest within 60 s",
    ),
    Cause(
        "Fenced", Kind.REQUEST, Reaction.RESTART, "let one job alone write to checkpoint.url",
        marks=(Mark(By.TRAINER, "Fenced"),),
    ),
    Cause(
        "Stopped", Kind.REQUEST, Reaction.RESTART, "",
        marks=(*_exits(ExitCode.STOPPED), Mark(By.CLASS, FailureClass.STOPPED)),
    ),
    Cause(
        "PeerLost", Kind.INFRASTRUCTURE, Reaction.FOLLOW, "",
        marks=(Mark(By.CLASS, FailureClass.PEER),),
        seen="the rendezvous is closed or lost, a collective broke off, or a hang waits for others", symptom=True,
    ),
    Cause(
        "Hang", Kind.INFRASTRUCTURE, Reaction.REPLACE,
        "the evidence says which rank holds up the others, and where; the stacks are in the pods' logs",
        marks=(Mark(By.TRAINER, HANG), *_exits(ExitCode.HANG)), suspects=True, symptom=True,
        seen="one pod does not answer, and nothing moves",
    ),
    Cause(
        "Stalled", Kind.INFRASTRUCTURE, Reaction.RESTART, "", seen="every pod runs and nothing moves", symptom=True,
    ),
    Cause(
        "ShutdownTimeout", Kind.INFRASTRUCTURE, Reaction.REPLACE, "raise template.terminationGracePeriodSeconds",
        marks=(Mark(By.TRAINER, "ShutdownTimeout"),),
    ),
    Cause(
        "ProcessRestart", Kind.INFRASTRUCTURE, Reaction.RECORD, "", seen="a trainer says that it was started again",
        symptom=True,
    ),
    Cause(
        "ProcessKilled", Kind.INFRASTRUCTURE, Reaction.REPLACE, "",
        marks=(Mark(By.TRAINER, "RankKilled"), *_exits(137)), suspects=True, symptom=True,
    ),
    Cause(
        "ProcessTerminated", Kind.INFRASTRUCTURE, Reaction.REPLACE, "",
        marks=_exits(143), symptom=True,
    ),
    Cause(
        "ProcessAborted", Kind.INFRASTRUCTURE, Reaction.REPLACE, "the library that aborted says why in the pod's log",
        marks=(Mark(By.TRAINER, "RankAborted"), *_exits(134)), suspects=True, symptom=True,
    ),
    Cause(
        "ProcessCrashed", Kind.INFRASTRUCTURE, Reaction.REPLACE, "the stacks are in the pod's log",
        marks=_exits(132, 135, 136, 139), suspects=True, symptom=True,
    ),
    Cause(
        "ProcessExit", Kind.INFRASTRUCTURE, Reaction.REPLACE, "read the pod's log",
        seen="any other end", suspects=True, symptom=True,
    ),
)  # fmt: skip

GROUPS: Final = {
    "The node": _NODES,
    "Somebody takes the pod away": _DISRUPTIONS,
    "The kubelet does not take the pod": _ADMISSION,
    "The user's code or configuration": _USER,
    "The store": _STORES,
    "Pods that do not start": _STARTS,
    "Processes that end": _PROCESSES,
}
TABLE: Final = tuple(row for rows in GROUPS.values() for row in rows)
_BY_NAME: Final = {cause.name: cause for cause in TABLE}


def cause(name: str) -> Cause:
    """Return a row by its name; a name that has none is the cause of a cordon."""
    return _BY_NAME.get(name, _BY_NAME["NodeFault"])
