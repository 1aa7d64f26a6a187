"""Whether the operator sees, decides and acts: what to look at when a job is not helped."""

from dashboards import promql as q
from dashboards.panel import BAD, GOOD, PLAIN, WARN, Board, Look, Panel, Query, Row, Variable

_NAMESPACE = Variable("namespace", "Namespace of the operator", "label_values(internlm2_operator_leader, namespace)")
_FAILURES = f"sum by (kind) (rate({q.own('reconcile_failures_total')}{q.RATE}))"
_EVENTS = f"({q.grown(q.agent('events_total'), 'cause')} > 0)"
_UP = {0: ("no", BAD), 1: ("yes", GOOD)}


def _quantile(quantile: float, name: str) -> str:
    return f"histogram_quantile({quantile}, sum by (le, kind) (rate({q.own(name + '_bucket')}{q.RATE})))"


_SEES = Row(
    "Does it see",
    (
        Panel(
            "Leads", "Does an operator hold the lease?", Look.STAT, (Query(f"max({q.own('leader')})"),),
            words=_UP, empty="no operator is scraped", width=4, height=4,
        ),
        Panel(
            "Prometheus answers", "Does it see GPU metrics? (XIDs and lost GPUs of the exporter.)", Look.STAT,
            (Query(f"max({q.own('prometheus_up')} >= 0)"),),
            words=_UP, empty="not asked", width=4, height=4,
        ),
        Panel(
            "Oldest watch", "Is it deaf? (Time since the last event or bookmark of a watch.)", Look.STAT,
            (Query(f"max({q.own('watch_age_seconds')})"),),
            unit="s", steps=((90, WARN), (180, BAD)), width=4, height=4, decimals=0,
        ),
        Panel(
            "Rules of rank logs", "How many rules did this cluster add?", Look.STAT,
            (Query(f"max({q.own('log_rules')})"),), unit="none", base=PLAIN, width=4, height=4, decimals=0,
        ),
        Panel(
            "Rules refused", "Has the ConfigMap of these rules a mistake?", Look.STAT,
            (Query(f"max({q.own('log_rules_refused')})"),),
            words={0: ("no", GOOD), 1: ("yes", BAD)}, width=4, height=4,
        ),
        Panel(
            "Node agents well", "How many node agents find nothing wrong? (Needs agent.enabled, and a scrape of them.)",
            Look.STAT, (Query(f"count({q.agent('healthy')} == 1)"),),
            unit="none", base=PLAIN, empty="no agent is scraped", width=4, height=4, decimals=0,
        ),
        Panel(
            "Age of watches", "Which watch went silent?", Look.TIMES,
            (Query(f"max by (kind) ({q.own('watch_age_seconds')})", "{{kind}}"),),
            unit="s", steps=((180, BAD),), least=0,
        ),
        Panel(
            "Rounds of its sources", "Which source of knowledge is not asked any more?", Look.TIMES,
            (Query(f"sum by (source) (rate({q.own('source_rounds_total')}{q.RATE}))", "{{source}}"),),
            unit="ops", least=0,
        ),
        Panel(
            "Objects that the watch had missed", "Are watches to be trusted? (Found newer by a LIST.)", Look.TIMES,
            (Query(f"max({q.own('resync_repairs_total')})", "repairs"),), unit="none", least=0,
        ),
    ),
)  # fmt: skip

_ACTS = Row(
    "Does it decide and act",
    (
        Panel(
            "Wait in the queue, 99 %", "Is it overloaded?", Look.TIMES,
            (Query(_quantile(0.99, "queue_wait_seconds"), "{{kind}}"),), unit="s", steps=((5, BAD),), least=0,
        ),
        Panel(
            "Time of one look, 99 %", "Which kind of look is slow?", Look.TIMES,
            (Query(_quantile(0.99, "reconcile_seconds"), "{{kind}}"),), unit="s", steps=((5, BAD),), least=0,
        ),
        Panel(
            "Keys that wait", "Does work pile up?", Look.TIMES,
            (Query(f"max({q.own('queue_depth')})", "keys"),), unit="none", least=0,
        ),
        Panel(
            "Looks", "What is it busy with?", Look.TIMES,
            (Query(f"sum by (kind) (rate({q.own('reconcile_seconds_count')}{q.RATE}))", "{{kind}}"),),
            unit="ops", least=0,
        ),
        Panel(
            "Looks that failed", "Does something stand in its way? (Its log says what.)", Look.TIMES,
            (Query(q.or_none(_FAILURES, "kind"), "{{kind}}"),),
            unit="ops", steps=((0.1, BAD),), least=0, empty="no operator is scraped",
        ),
        Panel(
            "Actions", "What did it do, in the range chosen above?", Look.BARS,
            (Query(f"sort_desc({q.grown(q.own('actions_total'), 'kind')})", "{{kind}}"),),
            unit="none", base="blue", least=0, decimals=0, empty="nothing yet",
        ),
    ),
)  # fmt: skip

_TALKS = Row(
    "The API server and the agents",
    (
        Panel(
            "Requests to the API server", "How much does it ask for?", Look.TIMES,
            (Query(f"sum by (method) (rate({q.own('api_requests_total')}{q.RATE}))", "{{method}}"),),
            unit="reqps", least=0, stacked=True,
        ),
        Panel(
            "Answers by code", "Is it refused, throttled, or without an answer (0)?", Look.TIMES,
            (Query(f"sum by (code) (rate({q.own('api_requests_total')}{q.RATE}))", "{{code}}"),),
            unit="reqps", least=0,
        ),
        Panel(
            "Events of kernel logs", "What do the nodes' kernels say, in the range chosen above?", Look.BARS,
            (Query(f"sort_desc({q.or_none(_EVENTS, 'cause', q.agent('healthy'))})", "{{cause}}"),),
            unit="none", base=WARN, least=0, decimals=0, empty="no agent is scraped",
        ),
    ),
)  # fmt: skip

BOARD = Board(
    "operator",
    "InternLM2 / Operator",
    "Whether the operator sees, decides and acts: what to look at when a job is not helped.",
    (_NAMESPACE,),
    (_SEES, _ACTS, _TALKS),
)
