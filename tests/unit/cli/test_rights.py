"""Whether quotas have room."""

from typing import Any

import pytest

from internlm2_operator.cli.rights import shortfalls


def pods(count: int) -> list[dict[str, Any]]:
    resources = {"limits": {"nvidia.com/gpu": "8", "memory": "1Ti"}, "requests": {"cpu": "64", "memory": "512Gi"}}
    return [{"spec": {"containers": [{"resources": resources}]}}] * count


@pytest.mark.parametrize(
    ("hard", "used", "short"),
    [
        ({"requests.nvidia.com/gpu": "16"}, {}, []),
        ({"requests.nvidia.com/gpu": "16"}, {"requests.nvidia.com/gpu": "1"}, ["requests.nvidia.com/gpu"]),
        ({"pods": "1"}, {}, ["pods"]),
        ({"cpu": "127"}, {}, ["cpu"]),
        ({"requests.memory": "1Ti", "limits.memory": "1Ti"}, {}, ["limits.memory"]),
        ({"services": "0"}, {"services": "0"}, []),
    ],
)
def test_two_pods_of_eight_gpus(hard: dict[str, str], used: dict[str, str], short: list[str]) -> None:
    quota = {"metadata": {"name": "team"}, "status": {"hard": hard, "used": used}}
    assert [one.resource for one in shortfalls([quota], pods(2))] == short
