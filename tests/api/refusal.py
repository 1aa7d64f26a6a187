"""What the API server says to a manifest that it must refuse."""

import json
from typing import Any

import pytest
from kubernetes import client

from internlm2_spec import contract

# Changes to the valid job; then what the message must hold: the field, the value and the cure.
Row = tuple[dict[str, Any], tuple[str, ...]]


def refusal(admin: client.ApiClient, body: dict[str, Any]) -> str:
    """Return what the API server says to a manifest that it must refuse."""
    custom = client.CustomObjectsApi(admin)
    place = (contract.API_GROUP, contract.API_VERSION, "default", contract.PLURAL)
    with pytest.raises(client.ApiException) as caught:
        custom.create_namespaced_custom_object(*place, body, dry_run="All")
    assert caught.value.status == 422, caught.value.body
    return str(json.loads(caught.value.body or "")["message"])
