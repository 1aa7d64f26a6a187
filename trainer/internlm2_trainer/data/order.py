"""Which sample comes when: a function of seed and position alone, whatever the number of ranks."""

from typing import Final

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

ROUNDS: Final = 6


def sample_at(positions: Indices, *, count: int, seed: int) -> Indices:
    """Return the samples at positions of the endless stream of epochs; each epoch is its own permutation.

    Every sample comes exactly once in positions [e * count, (e + 1) * count), and none of it is stored:
    a Feistel network over the next even power of two, walked until it lands below `count`.
    """
    if count < 1:
        raise ValueError("count must be positive")
    epochs, values = np.divmod(positions.astype(np.uint64), np.uint64(count))
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], epochs[outside], half=half, seed=seed)
        outside = values >= count
    return values.astype(np.int64)


def assign(global_samples: int, *, data_rank: int, data_world: int, micro_step: int, micro_batch: int) -> Indices:
    """Return the positions in a global batch that one data rank computes in one micro-step.

    Over all ranks and micro-steps each position comes exactly once; `global_samples` is divisible by
    `data_world * micro_batch` (`internlm2_spec.layout.accumulation` refuses anything else).
    """
    first = (micro_step * data_world + data_rank) * micro_batch
    if first + micro_batch > global_samples:
        raise ValueError(f"micro-step {micro_step} is beyond a batch of {global_samples} samples")
    return np.arange(first, first + micro_batch, dtype=np.int64)


def _feistel(
    values: npt.NDArray[np.uint64], epochs: npt.NDArray[np.uint64], *, half: np.uint64, seed: int
) -> npt.NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    key = _mixed(epochs ^ _mixed(np.full(values.shape, seed % 2**64, dtype=np.uint64)))
    for turn in range(ROUNDS):
        left, right = right, left ^ (_mixed(right ^ key ^ np.uint64(turn << 56)) & mask)
    return (left << half) | right


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix 64 bits: the finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
