"""What the operator tells Prometheus about itself."""

from internlm2_operator.cluster.registry import Registry
from internlm2_spec import metrics as catalogue


class Metrics:
    """All metrics of the catalogue, in a registry of their own."""

    def __init__(self) -> None:
        made = Registry(catalogue.OPERATOR, catalogue.OPERATOR_PREFIX)
        self.registry = made.collector
        self.reconcile = made.histogram("reconcile_seconds")
        self.waited = made.histogram("queue_wait_seconds")
        self.failures = made.counter("reconcile_failures_total")
        self.queue = made.gauge("queue_depth")
        self.actions = made.counter("actions_total")
        self.requests = made.counter("api_requests_total")
        self.faults = made.counter("faults_total")
        self.arrows = made.histogram("fault_arrow_seconds")
        self.steps_lost = made.counter("fault_steps_lost_total")
        self.job_phase = made.gauge("job_phase")
        self.job_condition = made.gauge("job_condition")
        self.job_step = made.gauge("job_step")
        self.job_nodes = made.gauge("job_nodes")
        self.job_gpu_seconds = made.counter("job_gpu_seconds_total")
        self.job_checkpoint = made.gauge("job_checkpoint_timestamp_seconds")
        self.job_faults = made.gauge("job_fault_timestamp_seconds")
        self.cordons = made.counter("cordons_total")
        self.uncordons = made.counter("uncordons_total")
        self.holds = made.counter("cordons_held_total")
        self.nodes_held = made.gauge("nodes_held")
        self.nodes = made.gauge("nodes")
        self.cordoned = made.gauge("node_cordon_timestamp_seconds")
        self.suspicions = made.counter("suspicions_total")
        self.lemons = made.gauge("node_lemon_score")
        self.node_checks = made.counter("node_checks_total")
        self.prometheus = made.gauge("prometheus_up")
        self.log_rules = made.gauge("log_rules")
        self.log_rules_refused = made.gauge("log_rules_refused")
        self.rounds = made.counter("source_rounds_total")
        self.watch_age = made.gauge("watch_age_seconds")
        self.resync_repairs = made.counter("resync_repairs_total")
        self.leader = made.gauge("leader")

    def answered(self, method: str, code: int) -> None:
        """Count one answer of the API server."""
        self.requests.labels(method, str(code)).inc()
