"""How often to save: Young's and Daly's optimum for a job that loses what it did since its last checkpoint."""

import math
from typing import Final

# Llama 3 405B: 419 unexpected interruptions in 54 days on 16,384 H100s (arXiv 2407.21783, section 3.3.4): one in
# 50,676 hours of a GPU.
LLAMA3_GPU_HOURS: Final = 16384 * 54 * 24 / 419
LLAMA3: Final = "Llama 3's 419 unexpected interruptions in 54 days on 16,384 GPUs (arXiv 2407.21783, 3.3.4)"


def job_mttf(node_hours: float, nodes: int) -> float:
    """Return the seconds between interruptions of a job that any of its nodes stops."""
    return node_hours * 3600 / nodes


def best(pause: float, mttf: float) -> float:
    """Return the seconds of work between two checkpoints that lose least; both arguments are seconds.

    J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22 (2006),
    equation 37. Its first term is Young's sqrt(2 pause mttf) (CACM 17, 1974). A pause of twice the MTTF or more
    leaves nothing to choose: the MTTF itself.
    """
    if pause >= 2 * mttf:
        return mttf
    part = pause / (2 * mttf)
    return math.sqrt(2 * pause * mttf) * (1 + math.sqrt(part) / 3 + part / 9) - pause


def lost(pause: float, mttf: float, interval: float) -> float:
    """Return the fraction of time that saving and doing work again take, to first order, restarts not counted."""
    return pause / interval + interval / (2 * mttf)
