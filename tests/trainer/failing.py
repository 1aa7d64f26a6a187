"""An agent whose ranks fail on purpose: `python -m tests.trainer.failing FAULT RANK STEP agent-arguments`.

The fault happens in the source, in the step after STEP, once.
"""

import os
import signal
import sys
import time
from typing import Any, Final

from internlm2_trainer.data import source
from internlm2_trainer.pod import agent

FAULT: Final = "TEST_FAULT"
SLOW_SECONDS: Final = 2.0

micro_batch_of = source.CorpusSource.micro_batch


def fail(fault: str) -> None:
    if fault == "blocks":
        time.sleep(600)
    elif fault == "raises":
        raise ZeroDivisionError(f"planted on rank {os.environ['RANK']}")
    elif fault == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "slow":
        time.sleep(SLOW_SECONDS)


def micro_batch(self: source.CorpusSource, batch: int, **place: Any) -> Any:
    fault, rank, step = os.environ[FAULT].split(":")
    if (os.environ["RANK"], str(batch)) == (rank, step):
        fail(fault)
    return micro_batch_of(self, batch, **place)


def plant(fault: str) -> None:
    """Plant a fault in this process, and so in those that are forked from it."""
    os.environ[FAULT] = fault
    source.CorpusSource.micro_batch = micro_batch  # type: ignore[method-assign]


if __name__ == "__main__":
    from tests.trainer import failing  # so that stacks name this module

    failing.plant(":".join(sys.argv[1:4]))
    sys.exit(agent.main(sys.argv[4:]))
