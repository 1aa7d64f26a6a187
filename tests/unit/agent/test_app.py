"""What the agent takes over from its last run."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from kubernetes.aio import client

from internlm2_operator.agent import memory
from internlm2_operator.agent.app import Agent
from internlm2_operator.agent.metrics import Metrics
from internlm2_operator.agent.options import parse
from internlm2_operator.cluster.gateway import Gateway, unobserved
from internlm2_operator.health.condition import Kept, event

NOW = datetime(2026, 11, 26, 10, tzinfo=UTC)


def test_a_fault_of_what_is_not_measured_any_more_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "boot").write_text("b1\n")
    levels = tuple(
        event(cause, where, NOW)
        for cause, where in (("DiskFull", "/a"), ("DiskFull", "/b"), ("LinkDown", "eth0"), ("LinkDown", "eth1"),
                             ("DeviceUnhealthy", "x/gpu"), ("DeviceUnhealthy", "nvidia.com/gpu"), ("ClockSkew", ""))
    )  # fmt: skip
    kept = Kept((event("Xid79", "0000:3b:00", NOW),))
    memory.save(tmp_path / "state", memory.Memory("b1", 7, kept, levels))
    flags = ["--node=n", f"--boot-id={tmp_path / 'boot'}", f"--state={tmp_path / 'state'}", "--disk=/a", "--link=eth1"]

    async def known() -> memory.Memory:
        gateway = Gateway(client.ApiClient(configuration=client.Configuration()), unobserved)
        try:
            return Agent(parse(flags, {}), gateway, Metrics()).known
        finally:
            await gateway.close()

    found = asyncio.run(known())
    assert found.kept == kept
    assert [(e.cause, e.where) for e in found.levels] == [
        ("DiskFull", "/a"),
        ("LinkDown", "eth1"),
        ("DeviceUnhealthy", "nvidia.com/gpu"),
        ("ClockSkew", ""),
    ]
