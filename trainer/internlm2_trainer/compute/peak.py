"""What a device can compute at most, as the denominator of MFU."""

import time

import torch

from internlm2_spec import gpus
from internlm2_trainer.observe.output import say


def peak_flops(device: torch.device, *, warn: bool) -> float | None:
    """Return FLOP/s of one device; None for a GPU that is not in the table, and then no MFU is said."""
    return _measure_gemm() if device.type == "cpu" else published(torch.cuda.get_device_name(device), warn=warn)


def published(device_name: str, *, warn: bool) -> float | None:
    """Return the dense bf16 FLOP/s that a device is sold with; None for one not in the table, and say so."""
    if gpu := gpus.by_device(device_name):
        return gpu.flops
    if warn:
        say(event="mfu-unknown", device=device_name, reason="its peak is not in the table, so no MFU is said")
    return None


def _measure_gemm(size: int = 512, seconds: float = 0.1) -> float:
    """Return the best of the fp32 products that fit into `seconds`, in this thread's CPU time.

    CPU time, because a neighbour on the machine would otherwise lower the peak and flatter the MFU.
    """
    a = torch.ones(size, size)
    best, end = float("inf"), time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.thread_time()
        torch.mm(a, a)
        best = min(best, time.thread_time() - start)
    return 2.0 * size**3 / best
