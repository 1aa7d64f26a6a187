"""GPUs that talk to each other: how long a message of a group of ranks takes."""

import math
from dataclasses import dataclass
from typing import Final

from internlm2_spec.gpus import Gpu

# Seconds before a collective's first byte, and for each hop of a ring: NCCL's own tuning tables (ring, "simple").
START: Final = 8.4e-6
LINK_HOP: Final = 3.4e-6
NETWORK_HOP: Final = 14.0e-6
# NCCL's own ceiling for Hopper's NVLink is 360 of the published 450 GB/s. Networks are given the same.
BUS: Final = 0.8

# Causal FLOP/s of a 7B or 8B model, of the peak, where no message holds it up. Ampere: InternEvo, 4,078 tokens/s
# a GPU on 8 (its doc/en/train_performance.md). After it: torchtitan, 6,667 (its docs/performance.md, 500 W, compiled).
AMPERE: Final = 0.57
HOPPER: Final = 0.35
AMPERE_PEAK: Final = 312e12


@dataclass(frozen=True, slots=True)
class Cluster:
    """`nodes` of `gpus_per_node`; `network` is bytes/s of one node to the others, all its ports together."""

    gpu: Gpu
    nodes: int
    gpus_per_node: int
    network: float

    @classmethod
    def of(cls, gpu: Gpu, nodes: int, gpus_per_node: int, network_gbit: float | None = None) -> "Cluster":
        """Take the network of the vendor's own system, or that of a node in Gbit/s."""
        network = gpu.network * gpus_per_node if network_gbit is None else network_gbit * 1e9 / 8
        return cls(gpu, nodes, gpus_per_node, network)

    @property
    def world(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def attained(self) -> float:
        """FLOP/s that a GPU reaches where nothing holds it up."""
        return self.gpu.flops * (AMPERE if self.gpu.flops <= AMPERE_PEAK else HOPPER)


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that talk: `size` of them, `stride` apart. The ranks of a node are neighbours."""

    size: int
    stride: int
    cluster: Cluster

    @property
    def nodes(self) -> int:
        """Over how many nodes the group is spread."""
        return min(self.size, max(1, -(-self.size * self.stride // self.cluster.gpus_per_node)))

    @property
    def bandwidth(self) -> float:
        """Bytes/s through one member of a ring: where it crosses nodes, the groups of a node share its network."""
        if self.nodes == 1:
            return self.cluster.gpu.link * BUS
        members = max(1, self.cluster.gpus_per_node // self.stride)
        return min(self.cluster.gpu.link, self.cluster.network * members / self.cluster.gpus_per_node) * BUS

    def gather(self, size: float) -> float:
        """Return the seconds of an all-gather or reduce-scatter of `size` bytes in all, over a ring."""
        return START + self._hops + size * (self.size - 1) / self.size / self.bandwidth if self.size > 1 else 0.0

    def reduce(self, size: float) -> float:
        """Return the seconds of an all-reduce: a ring round twice, or a tree where that has fewer hops."""
        if self.size == 1:
            return 0.0
        tree = 2 * math.ceil(math.log2(self.size)) * (NETWORK_HOP if self.nodes > 1 else LINK_HOP)
        return START + min(2 * self._hops, tree) + 2 * size * (self.size - 1) / self.size / self.bandwidth

    def exchange(self, size: float) -> float:
        """Return the seconds of an all-to-all in which each member has `size` bytes."""
        return START + size * (self.size - 1) / self.size / self.bandwidth if self.size > 1 else 0.0

    def send(self, size: float) -> float:
        """Return the seconds of a message to the next member."""
        return START + size / self.bandwidth if self.size > 1 else 0.0

    @property
    def _hops(self) -> float:
        across = self.nodes if self.nodes > 1 else 0
        return (self.size - across) * LINK_HOP + across * NETWORK_HOP
