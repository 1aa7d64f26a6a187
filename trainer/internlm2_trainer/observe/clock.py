"""Clocks for a stopwatch: the host's, and the device's own."""

import functools
import time
from typing import Any

import torch
from torch import nn

from internlm2_trainer.observe.stopwatch import Stopwatch


class HostClock:
    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        return end - start


class CudaClock:
    """Events in the current stream: recorded without a wait, read when the device is past them."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return float(start.elapsed_time(end)) / 1e3


def open_stopwatch(device: torch.device) -> Stopwatch[Any]:
    """Return a stopwatch by the clock of what computes: host time says nothing of kernels that run later."""
    return Stopwatch(CudaClock()) if device.type == "cuda" else Stopwatch(HostClock())


def watch_layers(watch: Stopwatch[Any], layers: list[nn.Module]) -> None:
    """Let a stopwatch mark the forward passes of layers, inside FSDP's hooks: the wait for weights is not in them."""
    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(functools.partial(_mark, watch, number))
        layer.register_forward_hook(functools.partial(_mark, watch, number), prepend=True)


def _mark(watch: Stopwatch[Any], number: int, *_: object) -> None:
    watch.layer(number)
