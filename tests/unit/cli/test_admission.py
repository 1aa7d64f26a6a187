"""The verdict without a cluster is the API server's: the tables of `tests/api` are its proof against the real one."""

from typing import Any, Final

import pytest
import yaml

from internlm2_operator.api.spec import Spec
from internlm2_operator.cli.admission import judge
from lab import install_manifest
from lab.settings import CHECKOUT
from tests.api import test_refused, test_refused_template
from tests.api.jobs import GONE, job
from tests.api.test_accepted import ACCEPTED

REFUSED: Final = test_refused.REFUSED | test_refused_template.REFUSED


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_api_server_refuses_is_refused_in_its_words(name: str) -> None:
    changes, expected = REFUSED[name]
    _, problems = judge(job(changes))
    told = "\n".join(map(str, problems))
    assert [part for part in expected if part not in told] == [], told


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_the_api_server_accepts_is_accepted(name: str) -> None:
    body, problems = judge(job(ACCEPTED[name]))
    assert problems == ()
    assert Spec.model_validate(body["spec"])


@pytest.mark.parametrize("name", test_refused_template.RESERVED)
def test_a_reserved_variable_is_refused(name: str) -> None:
    _, problems = judge(job({"template": {"env": [{"name": name, "value": "1"}]}}))
    assert [f"template.env name {name} is reserved" in str(problem) for problem in problems] == [True]


EXAMPLES = sorted(set((CHECKOUT / "manifests").glob("*.yaml")) - {install_manifest.PATH})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_accepted(path: Any) -> None:
    assert judge(yaml.safe_load(path.read_text()))[1] == ()


def test_defaults_are_those_that_the_models_have() -> None:
    body, _ = judge(job())
    assert Spec.model_validate(body["spec"]) == Spec.model_validate(job()["spec"])
    assert body["spec"]["health"]["maxCordonPercent"] == 10


ODD: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a misspelled field": ({"checkpoint.evrySteps": 5}, 'spec.checkpoint.evrySteps: unknown field "spec.checkpoint.'),
    "a text for a number": ({"nodes.min": "two"}, 'spec.nodes.min: Invalid value: "two": must be of type integer'),
    "truth for a number": ({"nodes.min": True}, "spec.nodes.min: Invalid value: true: must be of type integer"),
    "a list for an object": ({"nodes": []}, "spec.nodes: Invalid value: []: must be of type object"),
    "null where something is required": ({"model": None}, "spec.model: Required value"),
    "no spec": ({"metadata.name": "x", "stages": GONE}, "spec.stages: Required value"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_field_that_cannot_be_read_is_named(name: str) -> None:
    changes, first = ODD[name]
    assert str(judge(job(changes))[1][0]).startswith(first)


def test_rules_wait_until_every_field_is_right() -> None:
    """A rule about a field of the wrong type would only be a second error, as on the API server."""
    _, problems = judge(job({"nodes.min": "6"}))
    assert [problem.field for problem in problems] == ["spec.nodes.min"]
