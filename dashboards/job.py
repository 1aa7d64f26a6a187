"""One job: how it trains, where its time goes, what would be lost if it fell now."""

import dataclasses

from dashboards import promql as q
from dashboards.fleet import ETTR_STEPS, MFU_STEPS
from dashboards.panel import BAD, JOB, NAMESPACE, PHASES, PLAIN, WARN, Board, Look, Panel, Query, Row, phase_code

_IDLE = "the job has no pods that train"
_PARTS = f"sum by (part) (rate({q.train('step_part_seconds_total')}{q.RATE}))"
_CAUSES = f"sum by (cause) (rate({q.train('seconds_total')}{q.RATE}))"
_SPENT = q.job("gpu_seconds_total")
_PRODUCTIVE = q.job("gpu_seconds_total", 'spent_on="productive"')

_NOW = Row(
    "Now",
    (
        Panel(
            "Phase", "What does the job do now?", Look.STAT, (Query(f"max({phase_code(q.job('phase'))})"),),
            words=PHASES, empty="no such job", width=3, height=4,
        ),
        Panel(
            "Step", "How far is it?", Look.STAT, (Query(f"max({q.job('step')})"),),
            unit="none", base=PLAIN, empty="no such job", width=3, height=4, decimals=0,
        ),
        Panel(
            "Loss", "Is it learning? (Mean loss per token, last step.)", Look.STAT,
            (Query(f"max({q.train('loss')} > 0)"),),
            unit="none", base=PLAIN, empty=_IDLE, width=3, height=4, decimals=3,
        ),
        Panel(
            "MFU", "How well does it use its GPUs, attention counted once? (0 while it does not train.)", Look.STAT,
            (Query(f"max({q.while_running(q.train('mfu_ratio'))})"),),
            unit="percentunit", base=BAD, steps=MFU_STEPS, empty=_IDLE, width=3, height=4, decimals=1,
        ),
        Panel(
            "Tokens per second", "How fast is it? (All ranks; 0 while it does not train.)", Look.STAT,
            (Query(f"max({q.while_running(q.train('tokens_per_second'))})"),),
            base=PLAIN, empty=_IDLE, width=3, height=4,
        ),
        Panel(
            "ETTR", "Which part of its GPU time went to steps that count, in the range chosen above?", Look.STAT,
            (Query(f"sum({q.grown(_PRODUCTIVE)}) / sum({q.grown(_SPENT)})"),),
            unit="percentunit", base=BAD, steps=ETTR_STEPS, empty="not begun", width=3, height=4, decimals=1,
        ),
        Panel(
            "Checkpoint age", "How old is the newest checkpoint that is whole?", Look.STAT,
            (Query(f"time() - max({q.job('checkpoint_timestamp_seconds')})"),),
            unit="s", steps=((300, WARN), (600, BAD)), empty="none yet", width=3, height=4, decimals=0,
        ),
        Panel(
            "Open faults", "Is a fault open?", Look.STAT,
            (Query(q.known_zero(f"count({q.job('fault_timestamp_seconds')})")),),
            steps=((1, BAD),), width=3, height=4, decimals=0,
        ),
    ),
)  # fmt: skip

_TRAINING = Row(
    "Training",
    (
        Panel(
            "Loss", "Does it fall, and does it go on where it was after a fault?", Look.TIMES,
            (Query(f"{q.of_job(q.train('loss'))} > 0", "loss"),), unit="none", empty=_IDLE,
        ),
        Panel(
            "MFU, both conventions", "How well are the GPUs used, attention counted once (causal) and in full?"
            " (0 while it does not train.)", Look.TIMES,
            (
                Query(q.while_running(q.train("mfu_ratio")), "causal"),
                Query(q.while_running(q.train("mfu_full_ratio")), "full"),
            ),
            unit="percentunit", base=BAD, steps=MFU_STEPS, least=0, empty=_IDLE,
        ),
        Panel(
            "Tokens per second", "How fast is it? (0 while it does not train.)", Look.TIMES,
            (Query(q.while_running(q.train("tokens_per_second")), "tokens/s"),), least=0, empty=_IDLE,
        ),
        Panel(
            "Gradient norm", "Is the training stable? (Before clipping.)", Look.TIMES,
            (Query(f"{q.of_job(q.train('grad_norm'))} > 0", "norm"),), unit="none", least=0, empty=_IDLE,
        ),
        Panel(
            "Steps", "Where was it thrown back? (Newest finished step, as each pod has it, and of the job.)",
            Look.TIMES,
            (Query(q.of_job(q.train("step")), "of the pods"), Query(q.as_of_pods(q.job("step")), "of the job")),
            unit="none", empty=_IDLE,
        ),
        Panel(
            "What went wrong in the training", "How many spikes, rollbacks, skipped steps and checkpoints were there?",
            Look.TIMES,
            (
                Query(f"max({q.train('loss_spikes_total')})", "spikes of the loss"),
                Query(f"max({q.train('rollbacks_total')})", "rollbacks"),
                Query(f"max({q.train('skipped_steps_total')})", "steps skipped"),
                Query(f"max({q.train('checkpoints_skipped_total')})", "checkpoints skipped"),
            ),
            unit="none", least=0, empty=_IDLE,
        ),
    ),
)  # fmt: skip

_TIME = Row(
    "Where the time goes",
    (
        Panel(
            "Parts of a step", "What do the ranks do in a step? (docs/metrics.md tells what each part counts.)",
            Look.TIMES, (Query(f"{_PARTS} / on () group_left sum({_PARTS})", "{{part}}"),),
            unit="percentunit", least=0, most=1, stacked=True, empty=_IDLE,
        ),
        Panel(
            "Step time", "How long is a step?", Look.TIMES, (Query(f"max({q.train('step_seconds')})", "step"),),
            unit="s", least=0, empty=_IDLE,
        ),
        Panel(
            "Goodput", "What do the processes spend their time on? `productive` are steps that count.", Look.TIMES,
            (Query(f"{_CAUSES} / on () group_left sum({_CAUSES})", "{{cause}}"),),
            unit="percentunit", least=0, most=1, stacked=True, empty=_IDLE,
        ),
        Panel(
            "Phases", "What did the job do, and when?", Look.STATES,
            (Query(phase_code(q.job("phase")), "{{training_job}}"),), words=PHASES, empty="no such job", width=12,
        ),
        Panel(
            "GPU-hours by account", "What did its GPU time go to, in the range chosen above?", Look.BARS,
            (Query(f"sort_desc({q.grown(_SPENT, 'spent_on')} / 3600)", "{{spent_on}}"),),
            unit="none", base="blue", least=0, decimals=3, empty="not begun", width=12,
        ),
    ),
)  # fmt: skip

_STRAGGLERS = Row(
    "Stragglers",
    (
        Panel(
            "Work of a step by rank", "Does one rank work longer than the others?", Look.TIMES,
            (Query(f"max by (statistic) ({q.train('rank_work_seconds')})", "{{statistic}}"),),
            unit="s", least=0, empty=_IDLE,
        ),
        Panel(
            "Work by what it is", "In what is the slowest rank slow? (The greatest of all ranks over their median.)",
            Look.TIMES,
            (Query(f"""max by (what) ({q.train("rank_part_seconds", 'statistic="max"')})"""
                   f""" - max by (what) ({q.train("rank_part_seconds", 'statistic="median"')})""", "{{what}}"),),
            unit="s", least=0, empty=_IDLE,
        ),
        Panel(
            "Straggler", "Which rank stands out, for several windows? (-1: none.)", Look.TIMES,
            (
                Query(f"max({q.train('straggler_rank')})", "stands out"),
                Query(f"max({q.train('slowest_rank')})", "slowest of the last step"),
            ),
            unit="none", least=-1, empty=_IDLE,
        ),
    ),
)  # fmt: skip

_CHECKPOINTS = Row(
    "Checkpoints",
    (
        Panel(
            "Age of the newest checkpoint", "How much time would be lost if the job fell now?", Look.TIMES,
            (Query(f"time() - {q.as_of_pods(q.job('checkpoint_timestamp_seconds'))}", "age"),),
            unit="s", steps=((600, BAD),), least=0, empty="none yet",
        ),
        Panel(
            "Steps at risk", "How many steps would be lost, with the storage and with the nodes' memory?", Look.TIMES,
            (
                Query(f"max({q.train('step')}) - max({q.train('checkpoint_step')})", "since the storage's"),
                Query(f"max({q.train('step')}) - max({q.train('checkpoint_memory_step')})", "since the memory's"),
            ),
            unit="none", least=0, empty=_IDLE,
        ),
        Panel(
            "Checkpoint stall", "Which part of the time does the training wait for checkpoints?", Look.TIMES,
            (Query(f"""sum(rate({q.train("seconds_total", 'cause="checkpoint_stall"')}{q.RATE}))"""
                   f" / sum(rate({q.train('seconds_total')}{q.RATE}))", "stall"),),
            unit="percentunit", steps=((0.02, WARN), (0.05, BAD)), least=0, empty=_IDLE,
        ),
    ),
)  # fmt: skip

_PODS = Row(
    "Nodes and memory",
    (
        Panel(
            "Nodes", "How many nodes train, how many wait to take over, how many does it want?", Look.TIMES,
            (Query(f"max by (state) ({q.job('nodes')})", "{{state}}"),), unit="none", least=0, empty="no such job",
        ),
        Panel(
            "Memory", "Does it fit? (Local rank 0 of each pod, and what was estimated before the run.)", Look.TIMES,
            (
                Query(f"max({q.train('device_reserved_peak_bytes')})", "device, held"),
                Query(f"max({q.train('device_allocated_peak_bytes')})", "device, tensors"),
                Query(f"max({q.train('estimated_bytes')})", "estimated"),
                Query(f"max({q.train('resident_bytes')})", "RAM of the process"),
            ),
            unit="bytes", least=0, empty=_IDLE,
        ),
        Panel(
            "Conditions", "What does the operator say of it?", Look.TABLE,
            (Query(f"max by (condition, status, reason) ({q.job('condition')})", "Holds", "none"),),
            hidden=("Value",), empty="no such job",
        ),
    ),
)  # fmt: skip

BOARD = Board(
    "job",
    "InternLM2 / Job",
    "One training job: loss and speed, where its time goes, stragglers, checkpoints, nodes.",
    (NAMESPACE, dataclasses.replace(JOB, several=False)),
    (_NOW, _TRAINING, _TIME, _STRAGGLERS, _CHECKPOINTS, _PODS),
)
