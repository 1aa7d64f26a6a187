"""What the real operator tells Prometheus of a job that loses a node, against the job's own status."""

from datetime import datetime

import pytest

from tests.api.apiserver import wait_for
from tests.api.rest import Rest
from tests.api.stage import OperatorProcess, node_of, on_stage
from tests.servers import S3Server

pytestmark = pytest.mark.api


def test_the_metrics_of_a_job_say_what_its_status_says(process: OperatorProcess, rest: Rest, store: S3Server) -> None:
    def metric(name: str, **labels: str) -> float:
        told = {"training_namespace": "books", "training_job": "job"} | labels
        inside = ",".join(f'{key}="{value}"' for key, value in sorted(told.items()))
        return process.metric(f"internlm2_operator_job_{name}{{{inside}}}")

    with on_stage(rest, store, "books") as stage:
        stage.make_nodes("a", "b", "c")
        stage.make_job()
        stage.wait_for_pods(2)
        wait_for(lambda: metric("phase", phase="Starting") == 1, what="phase Starting")
        wait_for(lambda: metric("gpu_seconds_total", spent_on="start", cause="") > 0, what="GPU time of the start")
        stage.run_pods()
        wait_for(lambda: stage.status().get("nodes", {}).get("ready") == 2, what="two ready pods")
        dead = node_of(next(pod for name, pod in stage.pods().items() if name.endswith("-0001")))
        stage.set_ready(dead, ready=False)
        fault = wait_for(lambda: stage.status().get("faults"), what="fault record")[0]
        labels = {"cause": "NodeNotReady", "kind": "infrastructure", "training_node": dead}
        seen = wait_for(lambda: metric("fault_timestamp_seconds", **labels), what="open fault")
        assert seen == datetime.fromisoformat(fault["times"]["signal"]).timestamp()
        cost = {"spent_on": "fault", "cause": "NodeNotReady"}
        wait_for(lambda: metric("gpu_seconds_total", **cost) > 0, what="GPU time of the fault")
        assert metric("phase", phase="Starting") == 0
        assert metric("phase", phase="Recovering") == 1
        assert process.metric('internlm2_operator_nodes{state="cordoned"}') >= 1
    wait_for(lambda: metric("phase", phase="Recovering") == 0, what="the end of the series of a job that is gone")
    assert metric("gpu_seconds_total", **cost) == 0
    assert process.healthy()
