"""How fast a rank's link is: now and then every rank sends a little to the next one of a ring.

Collectives end at the same moment on all ranks, so they cannot tell whose link is slow; a message between two can.
"""

from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from internlm2_trainer.observe.stopwatch import Stopwatch

MESSAGE_BYTES: Final = 2**20
EVERY: Final = 4  # steps
# Of fewer nobody can tell which end of a link is slow.
LEAST_NODES: Final = 4


class Link:
    """This rank's place in the ring of all ranks. Every rank must call `probe` in the same steps."""

    def __init__(self, device: torch.device, *, ranks_of_node: int) -> None:
        world = dist.get_world_size()
        self._wanted = world // (ranks_of_node if ranks_of_node < world else 1) >= LEAST_NODES
        self._device = device
        self._steps = 0

    def probe(self, watch: Stopwatch[Any]) -> None:
        """Exchange a message in some of the steps; call it where all ranks have just met."""
        self._steps += 1
        if not self._wanted or self._steps % EVERY:
            return
        sent, received = torch.zeros(2, MESSAGE_BYTES, dtype=torch.uint8, device=self._device)
        watch.link()
        self.exchange(sent, received)
        watch.link()

    def exchange(self, sent: Tensor, received: Tensor) -> None:
        """Send to the rank after this one, and receive from the one before."""
        rank, world = dist.get_rank(), dist.get_world_size()
        messages = [
            dist.P2POp(dist.isend, sent, (rank + 1) % world),
            dist.P2POp(dist.irecv, received, (rank - 1) % world),
        ]
        for message in dist.batch_isend_irecv(messages):
            message.wait()
