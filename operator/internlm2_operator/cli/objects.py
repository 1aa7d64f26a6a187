"""The objects that the operator would make for a job at a size, as it would make them."""

from typing import Any, Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.manifests import config_map, pod, service
from internlm2_operator.plan.actions import CreatePod

# The operator pins each pod to a node that it chose.
ANY_NODE: Final = "a-free-node"


def objects(job: InternLM2Job, size: int) -> list[dict[str, Any]]:
    """Return Service, ConfigMap and pods of the first attempt at the first stage, members before spares."""
    slots = range(size + job.spec.nodes.spares)
    members = (CreatePod(stage=0, attempt=1, slot=slot, replacement=0, size=size, node=ANY_NODE) for slot in slots)
    return [service.service(job), config_map.config_map(job, 0), *(pod.pod(job, member) for member in members)]
