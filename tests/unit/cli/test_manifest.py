"""Files that hold one job, and files that do not."""

from pathlib import Path

import pytest
import yaml

from internlm2_operator.cli import manifest
from internlm2_spec.config import Refused
from tests.api.jobs import GONE, job

JOB = yaml.safe_dump(job())
BAD = {
    "not YAML": ("a: [1\nb: 2", r"^f\.yaml:2:2: not YAML"),
    "nothing": ("", "holds 0 InternLM2Jobs .it is empty"),
    "another kind": ("kind: Pod", "holds 0 InternLM2Jobs .Pod"),
    "a text": ("hello", "holds 0 InternLM2Jobs .str"),
    "two jobs": (f"{JOB}---\n{JOB}", "holds 2 InternLM2Jobs"),
    "another version": (JOB.replace("v1alpha1", "v9"), r"apiVersion: training\.internlm\.io/v9 is not known"),
    "no name": (yaml.safe_dump(job() | {"metadata": {}}), r"metadata\.name: missing; give the job a name"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_one_line(name: str) -> None:
    text, words = BAD[name]
    with pytest.raises(Refused, match=words) as caught:
        manifest.parse(text, "f.yaml")
    assert str(caught.value).startswith("f.yaml")
    assert "\n" not in str(caught.value)


def test_other_kinds_beside_the_job_are_passed_over() -> None:
    assert manifest.parse(f"kind: Secret\n---\n{JOB}---\n", "f.yaml") == job()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"none\.yaml: cannot be read"):
        manifest.read(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("own", "wanted", "namespace"), [("a", None, "a"), ("a", "a", "a"), (None, "b", "b"), (None, None, "fallback")]
)
def test_the_namespace_is_the_file_s_else_the_option_s(own: str | None, wanted: str | None, namespace: str) -> None:
    body = job({"metadata.namespace": own or GONE})
    assert manifest.placed(body, "f.yaml", wanted, "fallback")["metadata"]["namespace"] == namespace


def test_two_namespaces_are_a_mistake() -> None:
    with pytest.raises(Refused, match=r"--namespace: b, and f\.yaml has metadata\.namespace default; leave one out"):
        manifest.placed(job(), "f.yaml", "b", "fallback")
