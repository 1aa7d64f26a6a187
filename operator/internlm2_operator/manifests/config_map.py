"""The configuration of one stage, as the trainer reads it."""

from pathlib import PurePosixPath

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.manifests import labels, names
from internlm2_operator.manifests.metadata import Manifest, metadata
from internlm2_spec.config import to_json
from internlm2_spec.contract import CONFIG_PATH


def config_map(job: InternLM2Job, stage: int) -> Manifest:
    """Hold the stage's JSON. Secrets never go in here: they reach a pod by environment only."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(job, name=names.config_map(job.name, stage), labels=labels.of_stage(job.name, stage)),
        "data": {PurePosixPath(CONFIG_PATH).name: to_json(job.stage_config(stage))},
    }
