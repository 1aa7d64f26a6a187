"""What a device can compute at most, as the denominator of MFU."""

import time
from typing import Final

import torch

# Dense bf16 FLOP/s by a part of the device's name (vendor data sheets).
BF16_PEAK: Final = {"A100": 312e12, "A800": 312e12, "H100": 989e12, "H200": 989e12, "H800": 989e12}


def peak_flops(device: torch.device) -> float | None:
    """Return FLOP/s of one device; None for a GPU that is not in the table, and then no MFU is said."""
    if device.type == "cpu":
        return _measure_gemm()
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in BF16_PEAK.items() if part in name), None)


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
