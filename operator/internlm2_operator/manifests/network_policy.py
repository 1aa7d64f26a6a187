"""Who may speak to the pods of a job."""

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.manifests import labels, names
from internlm2_operator.manifests.metadata import Manifest, metadata
from internlm2_spec.contract import METRICS_PORT


def network_policy(job: InternLM2Job) -> Manifest:
    """Let the pods of a job speak to each other at any port, and everybody else read their metrics.

    The rendezvous and the store of torchrun have no password and run what they unpickle; NCCL and gloo listen at
    ports of their own choice.
    """
    mine = {"matchLabels": labels.of_job(job.name)}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(job, name=names.service(job.name), labels=labels.of_job(job.name)),
        "spec": {
            "podSelector": mine,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": mine}]},
                {"ports": [{"port": METRICS_PORT, "protocol": "TCP"}]},
            ],
        },
    }
