"""What a user prepares before the first job: a bucket, a tokenized corpus, the operator, a Secret.

Runs inside the lab's network namespace (`lab enter`), with the environment that it sets.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import ClientError

from lab.node import KERNEL_LOG

TOP = Path(__file__).parent.parent
BUCKET = "internlm2"
CORPUS_URL = f"s3://{BUCKET}/corpus"
CHART = TOP / "charts" / "internlm2-operator"
RELEASE = "internlm2"
OPERATOR_NAMESPACE = "internlm2-system"
WAITING = ("--wait", "--timeout", "120s")


def kubectl(*args: str, stdin: str | None = None) -> str:
    """Run kubectl and return what it printed; its message becomes the error's."""
    return _run("kubectl", *args, stdin=stdin, seconds=150)


def helm(*args: str) -> str:
    """Run helm, as above."""
    return _run("helm", *args, seconds=300)


def _run(*command: str, stdin: str | None = None, seconds: float) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def s3() -> Any:
    """Return a client of the lab's S3 server."""
    return boto3.client("s3")


def make_bucket() -> None:
    """Create the bucket unless it is there."""
    try:
        s3().create_bucket(Bucket=BUCKET)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise


def upload_corpus() -> None:
    """Tokenize the example corpus into the bucket unless a finished one is there."""
    if "Contents" in s3().list_objects_v2(Bucket=BUCKET, Prefix="corpus/index.json"):
        return
    examples = TOP / "examples"
    subprocess.run(
        [
            sys.executable, "-m", "internlm2_trainer", "tokenize",
            "--input", str(examples / "corpus"),
            "--tokenizer", str(examples / "tokenizer" / "internlm2-2k.model"),
            "--output", CORPUS_URL,
        ],
        check=True,
    )  # fmt: skip


def values() -> list[str]:
    """Return the values that every chart needs in the lab, as helm takes them."""
    sets = (f"prometheus.url={os.environ['PROMETHEUS_URL']}", "agent.enabled=true", f"agent.kernelLog={KERNEL_LOG}")
    return [word for each in sets for word in ("--set", each)]


def install_operator() -> None:
    """Install or upgrade the chart and wait until the operator runs, and the node agent on every node."""
    helm(
        "upgrade", "--install", RELEASE, str(CHART), "--namespace", OPERATOR_NAMESPACE, "--create-namespace", *WAITING,
        "--take-ownership",  # of the CRD of a lab that an older chart was installed in
        "--set", "jobs.maxPriority=1000000", *values(),
    )  # fmt: skip


def make_secret(namespace: str = "default") -> None:
    """Create the Secret that a job names in `checkpoint.secretName`."""
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s3", "namespace": namespace},
        "stringData": {key: os.environ[key] for key in keys if key in os.environ},
    }
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(secret))


def delete_checkpoints(prefix: str) -> None:
    """Delete every object under `prefix` in the bucket, so that a job starts from step 0."""
    for page in s3().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix.rstrip("/") + "/"):
        for item in page.get("Contents", []):
            s3().delete_object(Bucket=BUCKET, Key=item["Key"])


def prepare() -> None:
    """Make everything that a job needs; idempotent."""
    make_bucket()
    upload_corpus()
    install_operator()
    make_secret()


def job(name: str, **changes: Any) -> dict[str, Any]:
    """Return `manifests/demo.yaml` as a job called `name`, checkpoints of its own, spec parts replaced.

    A change is given by its dotted path with `__` for the dot: `stages__0__steps=40`.
    """
    body: dict[str, Any] = yaml.safe_load((TOP / "manifests" / "demo.yaml").read_text())
    body["metadata"]["name"] = name
    body["spec"]["checkpoint"]["url"] = f"s3://{BUCKET}/{name}"
    for path, value in changes.items():
        *parents, last = path.split("__")
        target: Any = body["spec"]
        for part in parents:
            target = target[int(part)] if part.isdigit() else target[part]
        target[last] = value
    return body


def apply(body: dict[str, Any]) -> None:
    """`kubectl apply` one manifest."""
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
