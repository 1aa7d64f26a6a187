"""The one mesh of a run: which ranks share what."""

from dataclasses import dataclass
from typing import Final

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from internlm2_spec import layout
from internlm2_spec.config import Model, Parallel
from internlm2_spec.context import kv_copies
from internlm2_spec.layout import Degrees

# Context ranks hold the same parameters and read other tokens, as the ranks of `shard` do: FSDP shards over both.
DIMENSIONS: Final = ("pp", "replicate", "fsdp", "tp")
# The ranks of context and tensor parallelism by what they exchange, of one and the same data.
EXCHANGES: Final = ("data", "ring", "ulysses", "kv", "copies")


@dataclass(frozen=True, slots=True)
class Ranks:
    """Ranks that work on one thing together, and this one's place among them. One alone has no group."""

    group: dist.ProcessGroup | None
    rank: int
    size: int


ALONE: Final = Ranks(None, 0, 1)


@dataclass(frozen=True, slots=True)
class Mesh:
    """A device mesh with the dimensions `DIMENSIONS`, and this rank's place in it.

    `fsdp` is shard x context. The context ranks are a `ring` of groups that exchange heads (`ulysses`);
    `kv_copies` are the tensor ranks that need one and the same KV head.
    """

    degrees: Degrees
    devices: DeviceMesh
    ring: Ranks
    ulysses: Ranks
    kv_copies: Ranks

    @property
    def fsdp(self) -> DeviceMesh:
        """Ranks with the same part of every matrix as (replicate, fsdp): what FSDP calls HSDP."""
        return self.devices["replicate", "fsdp"]

    @property
    def tensor(self) -> DeviceMesh:
        return self.devices["tp"]

    @property
    def pipeline(self) -> DeviceMesh:
        return self.devices["pp"]

    @property
    def data_rank(self) -> int:
        """Place among the ranks that read different samples."""
        replicate: int = self.devices.get_local_rank("replicate")
        fsdp: int = self.devices.get_local_rank("fsdp")
        return replicate * self.degrees.shard + fsdp // self.degrees.context


def open_mesh(model: Model, parallel: Parallel, device: str) -> Mesh:
    """Build the mesh over the ranks of the default process group.

    Raises:
        Refused: the ranks do not divide, or a degree that this version cannot run.
    """
    sizes = layout.degrees(parallel, dist.get_world_size())
    shape = (sizes.pipeline, sizes.replicate, sizes.shard * sizes.context, sizes.tensor)
    devices = init_device_mesh(device, shape, mesh_dim_names=DIMENSIONS)
    return Mesh(sizes, devices, *_exchanges(sizes, kv_copies(model, parallel), device))


def _exchanges(sizes: Degrees, copies: int, device: str) -> tuple[Ranks, Ranks, Ranks]:
    """Return the ranks of the ring, of Ulysses and of a KV head. A run that has none of them makes no groups."""
    if sizes.context == 1 and copies == 1:
        return ALONE, ALONE, ALONE
    data = sizes.pipeline * sizes.data
    shape = (data, sizes.context // sizes.ulysses, sizes.ulysses, sizes.tensor // copies, copies)
    mesh = init_device_mesh(device, shape, mesh_dim_names=EXCHANGES)

    def along(dimension: str) -> Ranks:
        one = mesh[dimension]
        return Ranks(one.get_group(), one.get_local_rank(), one.size()) if one.size() > 1 else ALONE

    return along("ring"), along("ulysses"), along("copies")
