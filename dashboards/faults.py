"""What broke, how long each step of the recovery took, what it cost, and which nodes come back for more."""

from dashboards import promql as q
from dashboards.panel import BAD, GOOD, JOB, NAMESPACE, PLAIN, WARN, Board, Look, Panel, Query, Row

_QUIET = "no fault in this range"
_TOTAL = 'arrow="total"'


def _mean(*by: str, of: str = "") -> str:
    """Return the mean seconds of arrows in the range."""
    matchers = (of,) if of else ()
    seconds = q.grown(q.operator("fault_arrow_seconds_sum", *matchers), *by)
    return f"{seconds} / ({q.grown(q.operator('fault_arrow_seconds_count', *matchers), *by)} > 0)"


def _quantile(quantile: float, *by: str, of: str = "") -> str:
    matchers = (of,) if of else ()
    return f"histogram_quantile({quantile}, {q.grown(q.operator('fault_arrow_seconds_bucket', *matchers), 'le', *by)})"


def _sorted(expr: str, label: str = "cause") -> str:
    """Return the greatest first, without those of which there were none."""
    return f"sort_desc({q.or_none(f'({expr} > 0)', label)})"


_OPEN = q.job("fault_timestamp_seconds")
_CORDONED = q.operator("node_cordon_timestamp_seconds")
_LOST = q.job("gpu_seconds_total", 'spent_on=~"fault|redo"')

_SUM = Row(
    "In the range chosen above",
    (
        Panel(
            "Faults", "How often did something break?", Look.STAT,
            (Query(q.known_zero(q.grown(q.operator("faults_total")))),),
            unit="none", base=PLAIN, width=4, height=4, decimals=0,
        ),
        Panel(
            "Open now", "How many faults are open now?", Look.STAT,
            (Query(q.known_zero(f"count({q.job('fault_timestamp_seconds')})")),),
            unit="none", steps=((1, BAD),), width=4, height=4, decimals=0,
        ),
        Panel(
            "Signal to next step, mean", "How long does a job stand still after a fault?", Look.STAT,
            (Query(_mean(of=_TOTAL)),),
            unit="s", steps=((120, WARN), (300, BAD)), empty=_QUIET, width=4, height=4, decimals=1,
        ),
        Panel(
            "Signal to next step, 90 %", "How long does it stand still at worst? (Nine of ten faults take no longer.)",
            Look.STAT, (Query(_quantile(0.9, of=_TOTAL)),),
            unit="s", steps=((120, WARN), (300, BAD)), empty=_QUIET, width=4, height=4, decimals=1,
        ),
        Panel(
            "GPU-hours lost", "What did the faults cost?", Look.STAT,
            (Query(f"{q.grown(_LOST)} / 3600 or max({q.operator('leader')}) * 0"),),
            unit="none", base=PLAIN, width=4, height=4, decimals=2,
        ),
        Panel(
            "Steps done twice", "How many steps did jobs lose?", Look.STAT,
            (Query(q.known_zero(q.grown(q.operator("fault_steps_lost_total")))),),
            unit="none", base=PLAIN, width=4, height=4, decimals=0,
        ),
    ),
)  # fmt: skip

_WHEN = Row(
    "When and why",
    (
        Panel(
            "Faults as they happened", "Which fault was open when, in which job, on which node?", Look.STATES,
            (Query(q.or_none(f"{_OPEN} > bool 0", "training_job"), "{{training_job}} {{cause}} {{training_node}}"),),
            words={0: ("none", GOOD), 1: ("open", BAD)}, empty=_QUIET, width=24,
        ),
        Panel(
            "Causes", "What breaks most often?", Look.BARS,
            (Query(_sorted(q.grown(q.operator("faults_total"), "cause")), "{{cause}}"),),
            unit="none", base=WARN, least=0, decimals=0, empty=_QUIET,
        ),
        Panel(
            "GPU-hours lost by cause", "Which cause costs most, in standing still and in steps done twice?", Look.BARS,
            (Query(_sorted(f"{q.grown(_LOST, 'cause')} / 3600"), "{{cause}}"),),
            unit="none", base=BAD, least=0, decimals=3, empty=_QUIET,
        ),
        Panel(
            "Steps done twice by cause", "Which cause loses most steps?", Look.BARS,
            (Query(_sorted(q.grown(q.operator("fault_steps_lost_total"), "cause")), "{{cause}}"),),
            unit="none", base=WARN, least=0, decimals=0, empty=_QUIET,
        ),
    ),
)  # fmt: skip

_ARROWS = Row(
    "How fast",
    (
        Panel(
            "Latency of each arrow, mean", "Where does the time go between the signal and the next step? Each arrow is"
            " the time since the one before it; total is all of it.", Look.BARS,
            (Query(f"sort_desc({_mean('arrow')})", "{{arrow}}"),),
            unit="s", steps=((60, WARN), (180, BAD)), least=0, decimals=1, empty=_QUIET, width=12,
        ),
        Panel(
            "Latency of each arrow, 90 %", "And at worst? (Nine of ten faults take no longer.)", Look.BARS,
            (Query(f"sort_desc({_quantile(0.9, 'arrow')})", "{{arrow}}"),),
            unit="s", steps=((60, WARN), (180, BAD)), least=0, decimals=1, empty=_QUIET, width=12,
        ),
        Panel(
            "GPUs lost to faults", "When were GPUs lost, and to what?", Look.TIMES,
            (Query(f"sum by (cause) (rate({_LOST}{q.RATE}))", "{{cause}}"),),
            unit="none", least=0, stacked=True, empty=_QUIET, width=12,
        ),
        Panel(
            "Age of open faults", "Is a fault open for longer than it should be?", Look.TIMES,
            (Query(q.or_none(f"(time() - {_OPEN})", "training_job"), "{{training_job}} {{cause}} {{training_node}}"),),
            unit="s", steps=((300, BAD),), least=0, empty=_QUIET, width=12,
        ),
    ),
)  # fmt: skip

_NODES = Row(
    "Nodes",
    (
        Panel(
            "Cordoned nodes", "Which nodes are out, why, and since when? (`internlm2 why-cordoned NODE` tells what"
            " mends one.)", Look.TABLE,
            (Query(f"time() - max by (training_node, cause) ({_CORDONED})", "For", "s"),),
            empty="no node is cordoned",
        ),
        Panel(
            "Lemons", "Which nodes break again and again? (Cordons, each halved for every week since.)", Look.BARS,
            (Query(f"sort_desc(max by (training_node) ({q.operator('node_lemon_score')}))", "{{training_node}}"),),
            unit="none", steps=((2, WARN), (3, BAD)), least=0, decimals=1, empty="no node was ever cordoned",
        ),
        Panel(
            "Cordons held back", "What was found and not acted on, because the breaker is open, a job only observes, or"
            " needs the node?", Look.TIMES,
            (Query(f"max by (reason) ({q.operator('nodes_held')})", "{{reason}}"),),
            unit="none", steps=((1, WARN),), least=0,
        ),
        Panel(
            "Cordons and their ends", "How many nodes were taken out and given back, in the range chosen above?",
            Look.BARS,
            (
                Query(_sorted(q.grown(q.operator("cordons_total"), "cause")), "cordoned, {{cause}}"),
                Query(_sorted(q.grown(q.operator("uncordons_total"), "cause")), "uncordoned, {{cause}}"),
            ),
            unit="none", base="blue", least=0, decimals=0, empty="none in this range",
        ),
        Panel(
            "Suspicions", "What was not enough for a cordon, in the range chosen above?", Look.BARS,
            (Query(_sorted(q.grown(q.operator("suspicions_total"), "cause")), "{{cause}}"),),
            unit="none", base="blue", least=0, decimals=0, empty="none in this range",
        ),
        Panel(
            "Node checks", "How many nodes passed and failed a check, in the range chosen above?", Look.BARS,
            (Query(_sorted(q.grown(q.operator("node_checks_total"), "outcome"), "outcome"), "{{outcome}}"),),
            unit="none", base="blue", least=0, decimals=0, empty="none in this range",
        ),
    ),
)  # fmt: skip

BOARD = Board(
    "faults",
    "InternLM2 / Faults",
    "What broke, how long each step of the recovery took, what it cost, and which nodes come back for more.",
    (NAMESPACE, JOB),
    (_SUM, _WHEN, _ARROWS, _NODES),
)
