"""The whole lab, once per session: tests here run inside its network (`make test-e2e`)."""

import os

import pytest

from lab import scene
from lab.cluster import Lab
from tests.e2e.world import World


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def world() -> World:
    """Start from a healed lab with the operator installed."""
    if "PROMETHEUS_URL" not in os.environ:
        pytest.fail(
            "tests/e2e runs inside the lab: make test-e2e, or python -m lab enter -- python -m pytest tests/e2e"
        )
    lab = Lab()
    lab.heal()
    scene.prepare()
    return World(lab)
