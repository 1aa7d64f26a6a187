"""`internlm2` and the operator's own command line: what they print, what they change, and how they refuse."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from internlm2_operator.health.node import FaultNote
from internlm2_spec import contract
from tests.api.apiserver import ApiServer
from tests.api.jobs import job
from tests.api.kubelet import Kubelet
from tests.api.rest import JOBS, Rest
from tests.api.stage import Stage, make_pod, on_stage
from tests.servers import S3Server, s3_server
from tests.unit.plan.world import T0

pytestmark = pytest.mark.api

Done = subprocess.CompletedProcess[str]


def run(module: str, *args: str, kubeconfig: Path | str) -> Done:
    env = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ} | {
        "KUBECONFIG": str(kubeconfig)
    }
    argv = [sys.executable, "-m", module, *args]
    return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120, check=False)


@pytest.fixture(scope="module")
def rest(api: ApiServer) -> Rest:
    return Rest(api)


@pytest.fixture(scope="module")
def namespace(rest: Rest) -> str:
    """A namespace with the job `told`, whose Secret does not exist."""
    rest("POST", "/api/v1/namespaces", {"metadata": {"name": "asked"}})
    body = job({"metadata.name": "told", "metadata.namespace": "asked"})
    rest("POST", f"{JOBS}/namespaces/asked/internlm2jobs", body)
    return "asked"


@pytest.fixture
def ask(api: ApiServer, namespace: str) -> Any:
    """`internlm2` in that namespace."""

    def asked(*args: str) -> Done:
        return run("internlm2_operator.cli", *args, "-n", namespace, kubeconfig=api.kubeconfig)

    return asked


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


VERBS = {
    "status": "asked/told: Pending, stage -, attempt 0",
    "faults": "asked/told: no faults",
    "why": "asked/told is Pending: SecretMissing: ",
}


@pytest.mark.parametrize(("verb", "first"), VERBS.items(), ids=VERBS)
def test_a_verb_answers_about_a_new_job(ask: Any, verb: str, first: str) -> None:
    done = ask(verb, "told")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith(first)


def test_why_in_full_names_every_decision(ask: Any) -> None:
    done = ask("why", "told", "-o", "wide")
    assert "asked/told: what each decision says, in the order they are asked" in done.stdout
    assert "keep_finished: nothing to say" in done.stdout


def test_status_without_a_name_is_a_table_of_the_namespace(ask: Any) -> None:
    done = ask("status")
    head, row = done.stdout.splitlines()
    assert head.split()[:4] == ["NAME", "PHASE", "STAGE", "NODES"]
    assert row.split()[:2] == ["told", "Pending"]


def test_status_of_every_namespace_names_them(ask: Any) -> None:
    lines = ask("status", "-A").stdout.splitlines()
    assert lines[0].startswith("NAMESPACE")
    assert any(line.split()[:2] == ["asked", "told"] for line in lines)


def test_machines_get_json_yaml_and_names(ask: Any) -> None:
    (told,) = json.loads(ask("status", "-o", "json").stdout)
    assert (told["namespace"], told["name"], told["status"]["phase"]) == ("asked", "told", "Pending")
    assert yaml.safe_load(ask("status", "told", "-o", "yaml").stdout) == told
    assert ask("status", "-o", "name").stdout == "internlm2job.training.internlm.io/told\n"


@pytest.fixture
def scratch(rest: Rest, namespace: str) -> Iterator[str]:
    """A job to change."""
    body = job({"metadata.name": "scratch", "metadata.namespace": namespace})
    path = f"{JOBS}/namespaces/{namespace}/internlm2jobs"
    rest("POST", path, body)
    yield f"{path}/scratch"
    rest("DELETE", f"{path}/scratch")


def test_resize_writes_only_the_bounds_it_was_given_under_its_own_name(ask: Any, rest: Rest, scratch: str) -> None:
    done = ask("resize", "scratch", "--max", "8")
    assert (done.returncode, done.stdout) == (
        0, "internlm2job.training.internlm.io/scratch: nodes.max 4 -> 8\n",
    )  # fmt: skip
    body = rest("GET", scratch)
    assert (body["spec"]["nodes"]["min"], body["spec"]["nodes"]["max"]) == (2, 8)
    assert "internlm2-cli" in [entry["manager"] for entry in body["metadata"]["managedFields"]]


def test_a_size_that_the_api_server_refuses_is_its_message_and_2(ask: Any, rest: Rest, scratch: str) -> None:
    done = ask("resize", "scratch", "--min", "3", "--max", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nodes.min 3 x 8 GPUs = 24 ranks is not divisible by" in done.stderr
    assert "Traceback" not in done.stderr
    assert rest("GET", scratch)["spec"]["nodes"]["min"] == 2


def test_resize_without_a_bound_says_what_to_write(ask: Any) -> None:
    done = ask("resize", "told")
    assert (done.returncode, done.stderr) == (2, "--min, --max: both are missing; set at least one, as in --max 8\n")


def test_suspend_and_resume_say_what_they_changed_and_when_they_did_not(ask: Any, rest: Rest, scratch: str) -> None:
    name = "internlm2job.training.internlm.io/scratch"
    assert ask("suspend", "scratch").stdout == f"{name}: suspend false -> true\n"
    assert rest("GET", scratch)["spec"]["suspend"] is True
    assert ask("suspend", "scratch").stdout == f"{name}: unchanged\n"
    assert ask("resume", "scratch").stdout == f"{name}: suspend true -> false\n"


def test_an_unknown_job_is_one_line_and_2(api: ApiServer) -> None:
    done = run("internlm2_operator.cli", "status", "nobody", kubeconfig=api.kubeconfig)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "NAME: no InternLM2Job nobody in namespace default; see `internlm2 status -A`\n"


def test_a_context_that_is_not_there_is_one_line_and_2(ask: Any) -> None:
    done = ask("status", "--context", "moon")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "moon" in done.stderr


@pytest.mark.parametrize("module", ["internlm2_operator.cli", "internlm2_operator"])
def test_without_a_cluster_it_is_one_line_and_2(module: str, tmp_path: Path) -> None:
    args = ("status", "told") if module.endswith("cli") else ("run", "--metrics-port=0")
    done = run(module, *args, kubeconfig=tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("KUBECONFIG: ")
    assert "Traceback" not in done.stderr


def test_a_cordon_is_explained(ask: Any, rest: Rest) -> None:
    note = FaultNote("Xid79", ("XID 79 on GPU-7",), T0, T0, T0, gpu="GPU-7", by="internlm2-operator")
    meta = {"name": "cli-lemon", "annotations": {contract.ANNOTATION_FAULT: note.to_json()}}
    rest("POST", "/api/v1/nodes", {"metadata": meta, "spec": {"unschedulable": True}})
    try:
        lines = ask("cordons", "-o", "wide").stdout.splitlines()
        told = json.loads(ask("cordons", "-o", "json").stdout)
        known = ask("nodes").stdout.splitlines()
    finally:
        rest("DELETE", "/api/v1/nodes/cli-lemon")
    assert lines[0].split() == ["NODE", "SINCE", "CAUSE", "GPU", "BY", "JOBS"]
    row = next(number for number, line in enumerate(lines) if line.startswith("cli-lemon"))
    assert lines[row].split()[2:] == ["Xid79", "GPU-7", "internlm2-operator", "-"]
    assert lines[row + 1] == "  evidence: XID 79 on GPU-7"
    assert next(one for one in told if one["node"] == "cli-lemon")["evidence"] == ["XID 79 on GPU-7"]
    row = next(number for number, line in enumerate(known) if line.startswith("cli-lemon"))
    assert known[row].split()[1] == "cordoned"
    assert known[row].endswith("Xid79; what mends it needs a person, who lifts it")


# Of a job whose objects exist


@pytest.fixture
def stage(rest: Rest, store: S3Server, request: pytest.FixtureRequest) -> Iterator[Stage]:
    name = f"cli-{abs(hash(request.node.name)) % 10**6}"
    with on_stage(rest, store, name) as ready:
        ready.make_job()
        yield ready


def test_checkpoints_tells_verified_from_corrupt(api: ApiServer, stage: Stage) -> None:
    for step, size in ((5, 4), (10, 4), (15, 3)):
        stage.put_checkpoint(step, size=size)
    done = run("internlm2_operator.cli", "checkpoints", "job", "-n", stage.name, kubeconfig=api.kubeconfig)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:3] for row in rows[1:]] == [
        ["pretrain", "15", "corrupt:"], ["pretrain", "10", "newest"], ["pretrain", "5", "verified"],
    ]  # fmt: skip
    names = run(
        "internlm2_operator.cli", "checkpoints", "job", "-n", stage.name, "-o", "name", kubeconfig=api.kubeconfig
    )
    assert names.stdout.splitlines()[1] == stage.store.url(f"{stage.name}/run/pretrain/step-00000010")


def test_checkpoints_of_a_store_that_is_away_is_1(api: ApiServer, stage: Stage, store: S3Server) -> None:
    store.stop()
    try:
        done = run("internlm2_operator.cli", "checkpoints", "job", "-n", stage.name, kubeconfig=api.kubeconfig)
    finally:
        store.start()
    assert (done.returncode, done.stdout) == (1, "")
    assert stage.store.url(f"{stage.name}/run") in done.stderr


def test_logs_are_those_of_the_newest_pod_of_the_slot(api: ApiServer, rest: Rest, stage: Stage) -> None:
    with contextlib.ExitStack() as stack:
        kubelet = stack.enter_context(Kubelet(api))
        (node,) = stage.make_nodes("k")
        rest.merge(f"/api/v1/nodes/{node}/status", {"status": kubelet.status()})
        make_pod(rest, stage.name, "old", node, "Failed", attempt=1, slot=1)
        make_pod(rest, stage.name, "new", node, "Running", attempt=2, slot=1)

        def logs(*flags: str) -> Done:
            return run("internlm2_operator.cli", "logs", "job", "-n", stage.name, *flags, kubeconfig=api.kubeconfig)

        done = logs("--slot", "1")
        assert (done.returncode, done.stdout) == (0, f"line 1 of {stage.name}/new/trainer\nline 2, the last\n")
        assert done.stderr == f"pod new on {node}, attempt 2, slot 1\n"
        assert logs("--rank", "3", "-f").stdout == done.stdout
        assert kubelet.asked[-1].endswith("follow=true")
        assert logs("--previous").stdout.startswith(f"line 1 of {stage.name}/old/")
        absent = logs("--slot", "7")
        assert (absent.returncode, absent.stdout) == (2, "")
        assert absent.stderr.startswith(f"NAME: no pod of slot 7 of {stage.name}/job has started; slots with pods: 1;")


# plan


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job({"metadata.name": "new", "metadata.namespace": "asked"})))
    return path


def test_plan_asks_the_cluster_and_changes_nothing(ask: Any, rest: Rest, file: Path) -> None:
    quota: dict[str, Any] = {
        "metadata": {"name": "team"},
        "spec": {"hard": {"requests.nvidia.com/gpu": "16", "pods": "50"}},
    }
    rest("POST", "/api/v1/namespaces/asked/resourcequotas", quota)
    counted = {"hard": quota["spec"]["hard"], "used": {"requests.nvidia.com/gpu": "8", "pods": "1"}}
    rest.merge("/api/v1/namespaces/asked/resourcequotas/team/status", {"status": counted})
    done = ask("plan", "-f", str(file), "--cluster")
    rest("DELETE", "/api/v1/namespaces/asked/resourcequotas/team")
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.split("on the cluster:\n")[1].splitlines()
    assert told[:3] == [
        "  the API server would create it",
        "  you may do all that internlm2 does",
        "  quota team: requests.nvidia.com/gpu 8 of 16 used, 32 more are needed",
    ]
    assert told[3].startswith("  now: asked/new is Pending: SecretMissing: ")
    assert rest.maybe(f"{JOBS}/namespaces/asked/internlm2jobs/new") is None


def test_plan_of_a_change_that_is_not_allowed_is_refused_by_the_cluster_alone(ask: Any, tmp_path: Path) -> None:
    path = tmp_path / "told.yaml"
    path.write_text(
        yaml.safe_dump(job({"metadata.name": "told", "metadata.namespace": "asked", "model.preset": "internlm2-20b"}))
    )
    assert ask("plan", "-f", str(path)).returncode == 0
    done = ask("plan", "-f", str(path), "--cluster")
    assert (done.returncode, done.stdout) == (2, "")
    assert "internlm2-20b differs from the model that the job was made with, internlm2-7b" in done.stderr


def test_plan_names_the_rights_that_a_person_lacks(api: ApiServer, namespace: str, file: Path, tmp_path: Path) -> None:
    api.kubectl("create", "serviceaccount", "guest", "-n", namespace)
    guest = api.bearing(api.kubectl("create", "token", "guest", "-n", namespace).stdout.strip(), tmp_path / "guest")
    done = run("internlm2_operator.cli", "plan", "-f", str(file), "--cluster", kubeconfig=guest)
    assert done.returncode == 0, done.stderr
    assert "you may not create internlm2jobs in namespace asked, to submit the job" in done.stdout
    assert "quotas cannot be read" in done.stdout


def test_it_is_a_plugin_of_kubectl(api: ApiServer, namespace: str, tmp_path: Path) -> None:
    """The console script as pip writes it, found by kubectl itself on its PATH."""
    script = tmp_path / "kubectl-internlm2"
    entry = "import sys\nfrom internlm2_operator.cli.__main__ import main\nsys.exit(main())\n"
    script.write_text(f"#!{sys.executable}\n{entry}")
    script.chmod(0o755)
    env = {"PATH": str(tmp_path), "PYTHONPATH": os.environ["PYTHONPATH"], "KUBECONFIG": str(api.kubeconfig)}
    for args, first in (
        (("status", "told", "-n", namespace), "asked/told: "),
        (("--help",), "usage: kubectl internlm2"),
    ):
        argv = [str(api.kubectl_path), "internlm2", *args]
        done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120, check=False)
        assert (done.returncode, done.stdout[: len(first)]) == (0, first), done.stderr
