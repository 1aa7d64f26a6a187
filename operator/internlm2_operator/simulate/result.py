"""What one run came to, as plain values."""

from dataclasses import dataclass

from internlm2_operator.simulate.account import LOST, Part
from internlm2_operator.simulate.simulation import Setup, Simulation


@dataclass(frozen=True, slots=True)
class Row:
    """GPU-hours that one cause took, by part."""

    cause: str
    faults: int
    interruptions: int
    hours: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.hours.values())


@dataclass(frozen=True, slots=True)
class Result:
    """One seed. Hours are GPU-hours; `ettr` is the part of the job's GPU time that went to steps that count."""

    seed: int
    ettr: float
    faults: int
    interruptions: int
    attempts: int
    stored_resumes: int  # starts that went back to a checkpoint in the store
    outs: int  # nodes that went to repair
    most_out: int  # of them at once
    plans: int
    steps: float
    hours: dict[str, float]
    rows: tuple[Row, ...]  # dearest first


def run(setup: Setup) -> Result:
    """Simulate. The same setup gives the same result."""
    done = Simulation(setup).go()
    account = done.account
    wanted = setup.job.spec.nodes.max * setup.gpus_per_node * setup.seconds
    causes = {cause for (part, cause) in account.booked if part in LOST and cause} | set(account.faults)
    rows = (
        Row(
            cause=cause,
            faults=account.faults[cause],
            interruptions=account.interruptions[cause],
            hours={part.value: account.booked.get((part, cause), 0.0) / 3600 for part in LOST},
        )
        for cause in sorted(causes)
    )
    return Result(
        seed=setup.seed,
        ettr=account.of(Part.PRODUCTIVE) / wanted,
        faults=account.faults.total(),
        interruptions=account.interruptions.total(),
        attempts=done.new_attempts,
        stored_resumes=done.stored_resumes,
        outs=done.outs,
        most_out=done.most_out,
        plans=done.plans,
        steps=done.position,
        hours={part.value: account.of(part) / 3600 for part in Part},
        rows=tuple(sorted(rows, key=lambda row: (-row.total, row.cause))),
    )
