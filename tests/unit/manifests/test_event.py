"""Events on a job."""

from internlm2_operator.manifests.event import MAX_MESSAGE, event
from internlm2_operator.plan.actions import Announce
from tests.unit.manifests.golden import assert_golden
from tests.unit.plan.world import T0, after, job

SAID = Announce(reason="NewAttempt", message="attempt 1 is given up", warning=True)


def test_event_is_about_the_job() -> None:
    assert_golden("event", event(job(), SAID, T0))


def test_same_words_have_the_same_name_and_other_words_another() -> None:
    first, again = event(job(), SAID, T0), event(job(), SAID, after(9))
    other = event(job(), Announce(reason="NewAttempt", message="attempt 2 is given up"), T0)
    assert first["metadata"]["name"] == again["metadata"]["name"] != other["metadata"]["name"]


def test_long_message_is_cut_to_what_the_api_server_takes() -> None:
    assert len(event(job(), Announce("R", "x" * 2000), T0)["message"]) == MAX_MESSAGE
