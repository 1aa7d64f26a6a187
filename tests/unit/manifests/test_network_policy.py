"""Who may speak to the pods of a job."""

from internlm2_operator.manifests import labels
from internlm2_operator.manifests.network_policy import network_policy
from tests.unit.manifests.golden import assert_golden
from tests.unit.plan.world import job


def test_pods_of_a_job_hear_each_other_and_whoever_reads_their_metrics() -> None:
    assert_golden("network-policy", network_policy(job()))


def test_every_pod_of_the_job_is_chosen_and_none_of_another() -> None:
    member = labels.of_member(job().name, stage=0, attempt=1, slot=0, replacement=0)
    chosen = network_policy(job())["spec"]["podSelector"]["matchLabels"]
    assert chosen.items() <= member.items()
    assert not chosen.items() <= labels.of_job("other").items()
