"""The one mesh of a run: which ranks share what."""

from dataclasses import dataclass
from typing import Final

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from internlm2_spec import layout
from internlm2_spec.config import Parallel, Refused
from internlm2_spec.layout import Degrees

DIMENSIONS: Final = ("pp", "replicate", "shard", "cp", "tp")


@dataclass(frozen=True, slots=True)
class Mesh:
    """A device mesh with the dimensions `DIMENSIONS`, and this rank's place in it."""

    degrees: Degrees
    devices: DeviceMesh

    @property
    def fsdp(self) -> DeviceMesh:
        """Data ranks as (replicate, shard): what FSDP calls HSDP."""
        return self.devices["replicate", "shard"]

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
        shard: int = self.devices.get_local_rank("shard")
        return replicate * self.degrees.shard + shard


def open_mesh(parallel: Parallel, device: str) -> Mesh:
    """Build the mesh over the ranks of the default process group.

    Raises:
        Refused: the ranks do not divide, or a degree that this version cannot run.
    """
    if parallel.context != 1:
        raise Refused("parallel.context", wrong=f"{parallel.context} is not supported by this version", right="use 1")
    sizes = layout.degrees(parallel, dist.get_world_size())
    shape = (sizes.pipeline, sizes.replicate, sizes.shard, sizes.context, sizes.tensor)
    return Mesh(sizes, init_device_mesh(device, shape, mesh_dim_names=DIMENSIONS))
