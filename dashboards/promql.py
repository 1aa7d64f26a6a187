"""The parts that the queries are put together from."""

from typing import Final

from internlm2_spec import metrics as catalogue

# Grafana's variables. The trainer's series carry the pod's labels; the operator's say whose job they are about.
_OF_PODS: Final = ('namespace=~"$namespace"', 'training_job=~"$job"')
_OF_JOBS: Final = ('training_namespace=~"$namespace"', 'training_job=~"$job"')
_OF_OPERATOR: Final = ('namespace=~"$namespace"',)
RATE: Final = "[$__rate_interval]"
RANGE: Final = "[$__range]"


def train(name: str, *matchers: str) -> str:
    """Return the series of a trainer's metric, of the pods of the chosen jobs."""
    return _series(catalogue.TRAIN_PREFIX + name, _OF_PODS + matchers)


def job(name: str, *matchers: str) -> str:
    """Return the series of an operator's metric about the chosen jobs."""
    return _series(f"{catalogue.OPERATOR_PREFIX}job_{name}", _OF_JOBS + matchers)


def operator(name: str, *matchers: str) -> str:
    """Return the series of an operator's metric about itself or the cluster, whichever operator it is."""
    return _series(catalogue.OPERATOR_PREFIX + name, matchers)


def own(name: str, *matchers: str) -> str:
    """Return the series of the operators of the chosen namespaces."""
    return _series(catalogue.OPERATOR_PREFIX + name, _OF_OPERATOR + matchers)


def agent(name: str, *matchers: str) -> str:
    return _series(catalogue.AGENT_PREFIX + name, _OF_OPERATOR + matchers)


def _series(name: str, matchers: tuple[str, ...]) -> str:
    return f"{name}{{{', '.join(matchers)}}}" if matchers else name


def grown(series: str, *by: str) -> str:
    """Return by how much a counter grew in the whole range of the dashboard.

    `increase` counts neither the first value of a series, so that the first fault of a cause would be none, nor whole
    faults, for it extrapolates. A counter begins anew with its pod, which is another series.
    """
    highest = f"max_over_time({series}{RANGE})"
    return f"sum by ({', '.join(by)}) ({highest} - ({series} offset $__range or {highest} * 0))"


def known_zero(expr: str) -> str:
    """Return 0 where there is no such series while an operator is there to say so, and nothing without one."""
    return f"{expr} or max({operator('leader')}) * 0"


def or_none(expr: str, label: str, alive: str = "") -> str:
    """Return `none` with 0 where nothing happened, and no data where nobody could say so; an operator, or `alive`."""
    seen = alive or operator("leader")
    return f'{expr} or label_replace(max({seen}) * 0, "{label}", "none", "", "") unless on () ({expr})'


def of_job(expr: str) -> str:
    """Return one series for each job of what every pod says alike."""
    return f"max by (namespace, training_job) ({expr})"


def as_of_pods(expr: str) -> str:
    """Return what the operator says of jobs under the labels that the trainers' series have."""
    return of_job(f'label_replace({expr}, "namespace", "$1", "training_namespace", "(.+)")')


def while_running(expr: str) -> str:
    """Return 0 while the job does not train: a trainer that waits for the others goes on saying its last figure."""
    phase = as_of_pods(f"{job('phase', PHASE_RUNNING)} or {job('phase')} * 0")
    return f"{of_job(expr)} * on (namespace, training_job) {phase} or {of_job(expr)}"


PHASE_RUNNING: Final = 'phase="Running"'
