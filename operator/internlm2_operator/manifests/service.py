"""The headless Service of a job."""

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.manifests import labels, names
from internlm2_operator.manifests.metadata import Manifest, metadata
from internlm2_spec.contract import METRICS_PORT, RENDEZVOUS_PORT


def service(job: InternLM2Job) -> Manifest:
    """Give every member a DNS name, also before it is ready: members meet before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(job, name=names.service(job.name), labels=labels.of_job(job.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": labels.of_job(job.name),
            "ports": [
                {"name": "rendezvous", "port": RENDEZVOUS_PORT, "targetPort": RENDEZVOUS_PORT, "protocol": "TCP"},
                {"name": "metrics", "port": METRICS_PORT, "targetPort": METRICS_PORT, "protocol": "TCP"},
            ],
        },
    }
