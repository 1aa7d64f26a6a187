"""How much less of a long sequence a rank holds when more ranks share it.

    python -m bench.long [--sequence-length 8192] [--output bench/results/long.json]

Real ranks on gloo train one wide layer; the peak of a step is what the allocator gave beyond weights and optimizer
state (`tests/trainer/test_long_sequences.py` asserts its ratios).
"""

import argparse
import dataclasses
import json
import sys

from bench import record
from tests.trainer.test_long_sequences import SPLITS, WIDE, peaks

MIB = 2**20


def main() -> int:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.long", description=__doc__.split("\n")[0])
    parser.add_argument("--sequence-length", type=int, default=8192, help="tokens of the sequence (default 8192)")
    record.add_output(parser, "long")
    options = parser.parse_args()
    found = {name: max(each) for name, each in peaks(options.sequence_length).items()}
    results = {
        "sequenceLength": options.sequence_length,
        "model": dataclasses.asdict(WIDE),
        "peakMibOfARank": {name: round(peak / MIB, 1) for name, peak in found.items()},
        "timesRanks": {name: round(peak * SPLITS[name][0] / found["one rank"], 3) for name, peak in found.items()},
    }
    record.write(options.output, "bench.long", results)
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
