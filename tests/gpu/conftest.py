"""Tests that need a GPU. `make gpu` runs them; without a device that is an error, not a row of skipped tests."""

from collections.abc import Iterator

import pytest
import torch

from bench.contestants import Place, alone
from bench.gpu import NO_DEVICE


def pytest_sessionstart() -> None:
    if not torch.cuda.is_available():
        pytest.exit(NO_DEVICE, returncode=2)


@pytest.fixture(scope="module")
def gpu() -> Iterator[Place]:
    """The first GPU, in an NCCL group of this process alone."""
    with alone(torch.device("cuda", 0)) as place:
        yield place
