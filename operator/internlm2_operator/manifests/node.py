"""What a cordon writes on a node."""

from internlm2_operator.health.cordon import Cordon
from internlm2_operator.manifests.metadata import Manifest
from internlm2_spec.contract import ANNOTATION_FAULT, TAINT_FAULT


def cordon_patch(cordon: Cordon) -> Manifest:
    """Return a strategic merge patch: taints merge by key, so those of others stay.

    A plain merge patch would replace the whole list of taints. Applying it twice changes nothing.
    """
    return {
        "metadata": {"annotations": {ANNOTATION_FAULT: cordon.note.to_json()}},
        "spec": {
            "unschedulable": True,
            "taints": [{"key": TAINT_FAULT, "value": cordon.note.cause, "effect": "NoSchedule"}],
        },
    }
