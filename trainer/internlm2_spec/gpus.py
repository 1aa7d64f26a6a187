"""GPU types by their published figures: the denominator of MFU and the ground of every prediction.

Sources: NVIDIA's data sheets (A100, A800, H100, H800, H200, H20, B200: dense bf16 without sparsity, memory,
memory bandwidth; NVLink is published as the sum of both directions, here is one) and of their DGX systems
(eight GPUs, one network port of 200 Gbit/s each for A100, 400 Gbit/s after that). H20's and the 800 series'
network is that of the system they replace. H100-PCIe has no DGX: PCIe 5.0 x16 and one 200 Gbit/s port a GPU.
"""

import re
from dataclasses import dataclass
from typing import Final

GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One type. FLOP/s of dense bf16, bytes, bytes/s of memory, to GPUs of its node, and to other nodes, one way.

    `words` are those of the driver's device name that tell the type.
    """

    name: str
    words: frozenset[str]
    flops: float
    memory: int
    memory_bandwidth: float
    link: float
    network: float


def _gpu(name: str, words: str, flops: float, gib: int, memory: float, link: float, network: float) -> Gpu:
    """Take TFLOP/s, GiB, TB/s and GB/s as the data sheets write them."""
    return Gpu(name, frozenset(words.split()), flops * 1e12, gib * GIB, memory * 1e12, link * 1e9, network * 1e9)


# More words first: an H100 PCIe is not just an H100.
GPUS: Final = (
    _gpu("A100-40GB", "A100 40GB", 312, 40, 1.555, 300, 25),
    _gpu("A100-80GB", "A100", 312, 80, 2.039, 300, 25),
    _gpu("A800-80GB", "A800", 312, 80, 2.039, 200, 25),
    _gpu("H100-PCIe", "H100 PCIE", 756, 80, 2.0, 64, 25),
    _gpu("H100-NVL", "H100 NVL", 835, 94, 3.9, 300, 25),
    _gpu("H100-80GB", "H100", 989, 80, 3.35, 450, 50),
    _gpu("H800-80GB", "H800", 989, 80, 3.35, 200, 50),
    _gpu("H200", "H200", 989, 141, 4.8, 450, 50),
    _gpu("H20", "H20", 148, 96, 4.0, 450, 50),
    _gpu("B200", "B200", 2250, 180, 8.0, 900, 50),
)

# Dense bf16 FLOP/s of the best matmul somebody measured in public (stas00/ml-engineering, compute/accelerator, MAMF:
# the mean of 100 products in torch; it gives H200 as H100). The check multiplies one shape, not the best of all.
MATMUL: Final = {
    "A100-40GB": 271.2e12, "A100-80GB": 271.2e12, "H100-80GB": 794.5e12, "H200": 794.5e12, "B200": 1745e12,
}  # fmt: skip


def by_name(name: str) -> Gpu | None:
    """Return a type by the name that the command line takes."""
    return next((gpu for gpu in GPUS if gpu.name.lower() == name.lower()), None)


def by_device(device_name: str) -> Gpu | None:
    """Return the type of a device by its driver's name, as in `NVIDIA H100 80GB HBM3`; None for one not listed."""
    words = _words(device_name)
    return next((gpu for gpu in GPUS if gpu.words <= words), None)


def has_switch(device_name: str) -> bool:
    """Say whether all GPUs of its node are one NVSwitch apart; else their links depend on how the node is wired."""
    return by_device(device_name) is not None and not _words(device_name) & {"PCIE", "NVL"}


def _words(device_name: str) -> set[str]:
    return set(re.split(r"[^A-Z0-9]+", device_name.upper()))
