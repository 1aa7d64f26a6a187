"""`internlm2 replay`: recorded faults through the operator's own diagnosis, and where it says something else."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from internlm2_operator.replay.case import read
from internlm2_operator.replay.judge import Outcome, replay

VERB: Final = "replay"
MEANING: Final = "recorded faults through the diagnosis: what it would say and cordon, and where that is wrong"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder and the form of the answer."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="cases, one JSON a file; or one such file")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="default text")


def answer(asked: argparse.Namespace) -> tuple[Iterator[str], int]:
    """Return the lines of the answer, and the exit code: 0 when every case came out as expected, else 1.

    Raises:
        Refused: a file is not a case.
    """
    outcomes = [replay(case) for case in read(asked.folder)]
    lines = iter([json.dumps(summary(outcomes), indent=2)]) if asked.output == "json" else _text(outcomes)
    return lines, int(any(one.wrong for one in outcomes))


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the figures. A case is right when class, cordoned nodes and, with a cordon, the node blamed are.

    What is to be done is compared, too, and told in `actionsDiffer`; it is no part of the accuracy.
    """
    wrong = [one for one in outcomes if one.wrong]
    return {
        "cases": len(outcomes),
        "accuracy": round(1 - len(wrong) / len(outcomes), 4),
        "falseCordons": sum(len(one.false_cordons) for one in outcomes),
        "missedCordons": sum(len(one.missed_cordons) for one in outcomes),
        "actionsDiffer": sorted(one.case.id for one in outcomes if one.action_differs),
        "misses": [
            {
                "id": one.case.id,
                "wrong": list(one.wrong),
                "class": one.verdict.blame,
                "cause": one.verdict.cause,
                "node": one.verdict.node or None,
                "gpu": one.verdict.gpu or None,
                "cordoned": list(one.cordoned),
                "action": one.verdict.action,
                "rule": one.verdict.rule,
                "evidence": list(one.verdict.evidence),
            }
            for one in wrong
        ],
    }


def _text(outcomes: Sequence[Outcome]) -> Iterator[str]:
    figures = summary(outcomes)
    for miss in figures["misses"]:
        yield f"{miss['id']}: {'; '.join(miss['wrong'])} ({miss['cause']}: {miss['rule']})"
    yield (
        f"{figures['cases']} cases, {figures['accuracy']:.1%} as expected,"
        f" {figures['falseCordons']} false cordons, {figures['missedCordons']} missed"
    )
