"""What one device does in a node check: products, patterns in its memory, sums with other devices."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

MIB: Final = 2**20
BLOCK_CELLS: Final = 32 * MIB  # of 8 bytes; what verifying needs beside the memory under test is two of these

# All bits clear, all set, every other one, and its inverse. `None` is the address of each cell: a line that picks the
# wrong cell writes a constant where it belongs.
PATTERNS: Final = (0, -1, 0x5555555555555555, ~0x5555555555555555, None)

WARM_UP: Final = 2  # messages: the first connects
MESSAGE_SECONDS: Final = 5.0  # in which a network five times too slow still shows within what a hang may cost


class Wrong(Exception):
    """A device computed something else than it should have."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a check does: the side of the matrices, bytes under test (at most, and of what is free), a message."""

    matrix: int
    products: int
    memory_bytes: int
    memory_fraction: float
    message_bytes: int
    messages: int


CPU: Final = {"quick": Sizes(384, 60, 16 * MIB, 0.1, MIB, 60), "full": Sizes(1024, 21, 256 * MIB, 0.2, 8 * MIB, 60)}
# A message of 256 MiB fills NVLink and eight ports; smaller ones measure their latency instead.
CUDA: Final = {
    "quick": Sizes(8192, 200, 8192 * MIB, 0.1, 256 * MIB, 20),
    "full": Sizes(16384, 500, 512 * 1024 * MIB, 0.8, 1024 * MIB, 60),
}


def sizes(device: torch.device, depth: str) -> Sizes:
    """Return how much is done at depth `quick` or `full`."""
    return (CUDA if device.type == "cuda" else CPU)[depth]


class Work:
    """One device and what it is asked to do. A test gives a device with a fault by overriding one of the steps."""

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device = device
        self.sizes = sizes

    def name(self) -> str:
        """Return the driver's name of the device."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def compute(self) -> float:
        """Return FLOP/s of square products, bf16 on a GPU and fp32 on a CPU: the median, after some to warm up.

        The median and not the best, because a device that is throttled begins fast.

        Raises:
            Wrong: the same product came out different.
        """
        side = self.sizes.matrix
        generator = torch.Generator(self.device).manual_seed(side)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        # Random numbers: a GPU that multiplies constants draws less power than in training, and is faster.
        a, b = (torch.randn(side, side, generator=generator, device=self.device).to(dtype) for _ in range(2))
        first = self.multiply(a, b)
        seconds = [self.device_seconds(lambda: self.multiply(a, b)) for _ in range(self.sizes.products)]
        if not torch.equal(first, self.multiply(a, b)):
            raise Wrong("the same product came out different")
        return 2.0 * side**3 / statistics.median(seconds[len(seconds) // 3 :])

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the product."""
        return a @ b

    def memory(self) -> tuple[float, int]:
        """Return bytes/s of writing and reading patterns, the best of them, and how many bytes came back wrong.

        All blocks are held at once, so that each pattern stands in as many different places as were asked for.
        """
        total = int(min(self.sizes.memory_bytes, self.sizes.memory_fraction * self._free_bytes())) // 8
        cells = max(1, min(BLOCK_CELLS, total))
        blocks = [torch.empty(cells, dtype=torch.int64, device=self.device) for _ in range(max(1, total // cells))]
        passes = [self._pass(blocks, pattern) for pattern in PATTERNS]
        best = min(seconds for seconds, _ in passes)
        return 2 * 8 * cells * len(blocks) / best, sum(wrong for _, wrong in passes)

    def _pass(self, blocks: Sequence[Tensor], pattern: int | None) -> tuple[float, int]:
        found: list[Tensor] = []
        seconds = self.device_seconds(lambda: found.extend(self._written_and_read(blocks, pattern)))
        return seconds, sum(int(wrong) for wrong in found)

    def _written_and_read(self, blocks: Sequence[Tensor], pattern: int | None) -> list[Tensor]:
        for place, block in enumerate(blocks):
            self.write(block, place, pattern)
        return [self._differing_bytes(block, place, pattern) for place, block in enumerate(blocks)]

    def write(self, block: Tensor, place: int, pattern: int | None) -> None:
        """Fill a block with a pattern; `place` is its number."""
        block.copy_(self._addresses(block, place)) if pattern is None else block.fill_(pattern)

    def _differing_bytes(self, block: Tensor, place: int, pattern: int | None) -> Tensor:
        expected = self._addresses(block, place) if pattern is None else pattern
        return (block ^ expected).view(torch.uint8).count_nonzero()

    def _addresses(self, block: Tensor, place: int) -> Tensor:
        return torch.arange(place * block.numel(), (place + 1) * block.numel(), device=self.device)

    def bus(self) -> float:
        """Return the bus bandwidth of all-reduces in the default group, in bytes/s: the best of them.

        The best and not the median, because whoever else uses the network can only make it slower. Bus bandwidth is
        2 (n - 1) / n of the message over the time, as NCCL's tests define it: the same for any number of ranks.

        Raises:
            Wrong: a sum is not what it must be.
        """
        world = dist.get_world_size()
        message = torch.empty(self.sizes.message_bytes // 4, device=self.device)
        warm = min(self._reduced_seconds(message) for _ in range(WARM_UP))
        best = min(self._reduced_seconds(message) for _ in range(self._affordable(warm)))
        return 2 * (world - 1) / world * self.sizes.message_bytes / best

    def _reduced_seconds(self, message: Tensor) -> float:
        world = dist.get_world_size()
        message.fill_(dist.get_rank() + 1)
        seconds = self.wall_seconds(lambda: self.reduce(message))
        if not bool((message == world * (world + 1) / 2).all()):
            raise Wrong("an all-reduce came to a wrong sum")
        return seconds

    def _affordable(self, seconds: float) -> int:
        """Return how many messages there is time for, the same on all ranks: a slow network is slow, and not hung."""
        slowest = torch.tensor([seconds], device=self.device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        return max(1, min(self.sizes.messages, int(MESSAGE_SECONDS / slowest.item())))

    def reduce(self, message: Tensor) -> None:
        """Replace a message by its sum over the group."""
        dist.all_reduce(message)

    def _free_bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return self.sizes.memory_bytes * 10  # a pod's own limit is no file of a certain place: the size alone bounds it

    def wall_seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds from when the device is idle until it is idle again."""
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def device_seconds(self, work: Callable[[], object]) -> float:
        """Return the device's own seconds; on a CPU those of this thread, which a neighbour does not lengthen."""
        if self.device.type == "cpu":
            start = time.thread_time()
            work()
            return time.thread_time() - start
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        work()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3
