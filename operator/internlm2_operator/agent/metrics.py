"""The metrics of the agent."""

from internlm2_operator.cluster.registry import Registry
from internlm2_spec import metrics as catalogue


class Metrics:
    """All metrics of the catalogue, in a registry of their own."""

    def __init__(self) -> None:
        made = Registry(catalogue.AGENT, catalogue.AGENT_PREFIX)
        self.registry = made.collector
        self.records = made.counter("records_total")
        self.lost = made.counter("records_lost_total")
        self.events = made.counter("events_total")
        self.writes = made.counter("condition_writes_total")
        self.waited = made.gauge("write_wait_seconds")
        self.healthy = made.gauge("healthy")
