"""The process of one device: it does one task, writes what came of it, and ends.

A process a task, because one that hangs in a driver or a library can only be killed.
"""

import datetime
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore

from internlm2_spec.contract import FailureClass
from internlm2_trainer.check.work import Sizes, Work, sizes
from internlm2_trainer.pod import ending

MakeWork = Callable[[torch.device, Sizes], Work]


@dataclass(frozen=True, slots=True)
class Task:
    """Measure compute and memory alone, or the bus among `world` devices of which this one is `rank`.

    They meet in `store`, which is HOST:PORT or a file, under `prefix`.
    """

    device: int
    depth: str
    result: str
    rank: int = 0
    world: int = 1
    store: str = ""
    prefix: str = ""
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def become(make_work: MakeWork) -> Callable[[dict[str, str], list[str]], NoReturn]:
    """Return what a forked process runs."""

    def run(environment: dict[str, str], arguments: list[str]) -> NoReturn:
        os.environ.update(environment)
        task = Task(**json.loads(arguments[0]))
        try:
            told = _done(task, make_work)
        except Exception as error:
            lost = ending.explain(error).failure is FailureClass.PEER
            first_line = (str(error) or "no message").splitlines()[0][:200]
            told = {"lost": "lost the others"} if lost else {"error": f"{type(error).__name__}: {first_line}"}
        path = Path(task.result)
        path.with_suffix(".part").write_text(json.dumps(told))
        path.with_suffix(".part").rename(path)
        os._exit(0)  # without waiting for threads, or for a group whose other members may be gone

    return run


def _done(task: Task, make_work: MakeWork) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", task.device) if cuda else torch.device("cpu")
    torch.set_num_threads(1)  # a CPU's rate is that of one core, whatever the pod may use
    if cuda:
        torch.cuda.set_device(device)
    work = make_work(device, sizes(device, task.depth))
    if task.world > 1:
        _join(task, "nccl" if cuda else "gloo")
        return {"bus": work.bus()}
    rate = work.compute()
    memory, wrong = work.memory()
    return {"device": work.name(), "compute": rate, "memory": memory, "wrong_bytes": wrong}


def _join(task: Task, backend: str) -> None:
    timeout = datetime.timedelta(seconds=task.seconds)
    store: Store
    host, _, port = task.store.rpartition(":")
    if port.isdigit():
        store = TCPStore(host, int(port), is_master=False, timeout=timeout)
    else:
        store = FileStore(task.store, task.world)
    dist.init_process_group(
        backend, store=PrefixStore(task.prefix, store), rank=task.rank, world_size=task.world, timeout=timeout
    )
