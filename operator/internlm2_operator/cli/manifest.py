"""Reads the InternLM2Job of a file, and says in one line what is wrong with the file."""

import sys
from pathlib import Path
from typing import Any, Final

import yaml

from internlm2_operator.api.job import InternLM2Job
from internlm2_spec.config import Refused
from internlm2_spec.contract import API_GROUP, API_VERSION, KIND

_API: Final = f"{API_GROUP}/{API_VERSION}"
_NO_UID: Final = "00000000-0000-0000-0000-000000000000"


def read(path: str) -> dict[str, Any]:
    """Return the one InternLM2Job of a YAML or JSON file, `-` for standard input.

    Raises:
        Refused: it cannot be read, is not YAML, or has no or several jobs.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(path, wrong=f"cannot be read ({error})", right="name a YAML file with an InternLM2Job") from error
    return parse(text, path)


def parse(text: str, path: str) -> dict[str, Any]:
    """Return the one InternLM2Job of a text that came from `path`; other kinds beside it are passed over.

    Raises:
        Refused: as above.
    """
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise Refused(where, wrong=f"not YAML ({why})", right="correct this line") from error
    jobs = [one for one in documents if isinstance(one, dict) and one.get("kind") == KIND]
    if len(jobs) != 1:
        found = ", ".join(str(one.get("kind")) if isinstance(one, dict) else type(one).__name__ for one in documents)
        wrong = f"holds {len(jobs)} {KIND}s ({found or 'it is empty'})"
        raise Refused(path, wrong=wrong, right=f"write one with `apiVersion: {_API}` and `kind: {KIND}`")
    if (version := jobs[0].get("apiVersion")) != _API:
        raise Refused(f"{path}: apiVersion", wrong=f"{version} is not known", right=f"write {_API}")
    metadata = jobs[0].get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise Refused(f"{path}: metadata.name", wrong="missing", right="give the job a name")
    return jobs[0]


def placed(body: dict[str, Any], path: str, wanted: str | None, fallback: str) -> dict[str, Any]:
    """Return a manifest with its namespace: its own, which `wanted` may only repeat, else `wanted`, else `fallback`.

    Raises:
        Refused: it has another than is wanted.
    """
    own = body["metadata"].get("namespace")
    if own and wanted and own != wanted:
        raise Refused("--namespace", wrong=f"{wanted}, and {path} has metadata.namespace {own}", right="leave one out")
    return body | {"metadata": body["metadata"] | {"namespace": own or wanted or fallback}}


def imagined(body: dict[str, Any]) -> InternLM2Job:
    """Return a checked manifest as the job that it would become; its uid and its age are not known yet."""
    known = {"uid": _NO_UID, "creationTimestamp": "1970-01-01T00:00:00Z"}
    return InternLM2Job.from_object(body | {"metadata": known | body["metadata"]})
