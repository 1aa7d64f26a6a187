"""All jobs and nodes on one page."""

from dashboards import promql as q
from dashboards.panel import (
    BAD,
    GOOD,
    JOB,
    NAMESPACE,
    PHASES,
    PLAIN,
    WARN,
    Board,
    Look,
    Panel,
    Query,
    Row,
    phase_code,
)

_NONE = "no job"
_SPENT = q.job("gpu_seconds_total")
_PRODUCTIVE = q.job("gpu_seconds_total", 'spent_on="productive"')
_OWN = ("training_namespace", "training_job")
_ETTR = f"{q.grown(_PRODUCTIVE, *_OWN)} / {q.grown(_SPENT, *_OWN)}"
ETTR_STEPS = ((0.9, WARN), (0.95, GOOD))
MFU_STEPS = ((0.3, WARN), (0.4, GOOD))

_NOW = Row(
    "Now",
    (
        Panel(
            "Jobs that train",
            "How many jobs make steps now?",
            Look.STAT,
            (Query(q.known_zero(f"sum({q.job('phase', q.PHASE_RUNNING)})")),),
            base=PLAIN, width=4, height=4, decimals=0,
        ),
        Panel(
            "Open faults",
            "Does any job suffer from a fault of the infrastructure or of its code right now?",
            Look.STAT,
            (Query(q.known_zero(f"""count({q.job("fault_timestamp_seconds", 'kind=~"infrastructure|user"')})""")),),
            steps=((1, BAD),), width=4, height=4, decimals=0,
        ),
        Panel(
            "Nodes cordoned",
            "How many nodes has the operator taken out?",
            Look.STAT,
            (Query(f"""max({q.operator("nodes", 'state="cordoned"')})"""),),
            steps=((1, WARN),), width=4, height=4, decimals=0,
        ),
        Panel(
            "ETTR",
            "Which part of the jobs' GPU time went to steps that count, in the range chosen above? (Effective training"
            " time ratio; the best published figures are near 97 %.)",
            Look.STAT,
            (Query(f"sum({q.grown(_PRODUCTIVE)}) / sum({q.grown(_SPENT)})"),),
            unit="percentunit", empty=_NONE, base=BAD, steps=ETTR_STEPS, width=4, height=4, decimals=1,
        ),
        Panel(
            "GPU-hours lost",
            "How many GPU-hours went to faults and to steps done twice, in the range chosen above?",
            Look.STAT,
            (Query(f"""sum({q.grown(q.job("gpu_seconds_total", 'spent_on=~"fault|redo"'))}) / 3600 or"""
                   f" max({q.operator('leader')}) * 0"),),
            unit="none", base=PLAIN, width=4, height=4, decimals=2,
        ),
        Panel(
            "MFU, mean of all jobs",
            "How well are the GPUs used? (Model FLOPs utilisation, causal attention; a job that does not train has 0.)",
            Look.STAT,
            (Query(f"avg({q.while_running(q.train('mfu_ratio'))})"),),
            unit="percentunit", empty=_NONE, base=BAD, steps=MFU_STEPS, width=4, height=4, decimals=1,
        ),
    ),
)  # fmt: skip

_JOBS = Row(
    "Jobs",
    (
        Panel(
            "Phases",
            "What did each job do, and when?",
            Look.STATES,
            (Query(phase_code(q.job("phase")), "{{training_namespace}}/{{training_job}}"),),
            empty=_NONE, words=PHASES, width=24,
        ),
        Panel(
            "All jobs",
            "How does each job fare?",
            Look.TABLE,
            (
                Query(q.as_of_pods(phase_code(q.job("phase"))), "Phase", "none"),
                Query(q.as_of_pods(q.job("step")), "Step", "none"),
                Query(q.as_of_pods(q.job("nodes", 'state="active"')), "Nodes", "none"),
                Query(q.of_job(f"{q.train('loss')} > 0"), "Loss", "none", 3),
                Query(q.while_running(q.train("mfu_ratio")), "MFU", "percentunit", 1),
                Query(q.as_of_pods(_ETTR), "ETTR", "percentunit", 1),
                Query(f"time() - {q.as_of_pods(q.job('checkpoint_timestamp_seconds'))}", "Checkpoint age", "s"),
            ),
            empty=_NONE, words=PHASES, width=24,
        ),
        Panel(
            "MFU",
            "How well does each job use its GPUs? (Causal attention; 0 while it does not train.)",
            Look.TIMES,
            (Query(q.while_running(q.train("mfu_ratio")), "{{namespace}}/{{training_job}}"),),
            unit="percentunit", empty=_NONE, base=BAD, steps=MFU_STEPS, least=0, width=12,
        ),
        Panel(
            "Tokens per second",
            "How fast is each job? (0 while it does not train.)",
            Look.TIMES,
            (Query(q.while_running(q.train("tokens_per_second")), "{{namespace}}/{{training_job}}"),),
            empty=_NONE, least=0, width=12,
        ),
    ),
)  # fmt: skip

_GPUS = Row(
    "GPUs and nodes",
    (
        Panel(
            "What the GPUs do",
            "How many GPUs of jobs train, and what are the others lost to? (docs/metrics.md explains the accounts.)",
            Look.TIMES,
            (Query(f"sum by (spent_on) (rate({_SPENT}{q.RATE}))", "{{spent_on}}"),),
            unit="none", empty=_NONE, least=0, stacked=True, width=12,
        ),
        Panel(
            "Nodes",
            "How many nodes can be used?",
            Look.TIMES,
            (Query(f"max by (state) ({q.operator('nodes')})", "{{state}}"),),
            unit="none", least=0, stacked=True, width=12,
        ),
    ),
)  # fmt: skip

BOARD = Board(
    "fleet",
    "InternLM2 / Fleet",
    "All training jobs and nodes: who trains, how well, and what is lost.",
    (NAMESPACE, JOB),
    (_NOW, _JOBS, _GPUS),
)
