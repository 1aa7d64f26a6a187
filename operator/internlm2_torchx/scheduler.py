"""torchx's interface to the API server. Each call opens a connection of its own: torchx is synchronous."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import yaml
from torchx.schedulers.api import DescribeAppResponse, ListAppResponse, Scheduler, Stream, StructuredOpts, filter_regex
from torchx.specs import AppDef, AppDryRunInfo, CfgVal, InvalidRunConfigException, runopts

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cli import admission, logs, manifest
from internlm2_operator.cluster import errors, gateway, records
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.manifests.pod import CONTAINER
from internlm2_operator.plan.snapshot import PodRecord
from internlm2_spec.config import Refused
from internlm2_torchx import appdef

MANAGER = "internlm2-torchx"

T = TypeVar("T")


@dataclass
class Options(StructuredOpts):
    """What `-cfg` takes."""

    job: str
    """manifest with the InternLM2Job that says what to train; nodes, image and env come from the component"""

    namespace: str | None = None
    """namespace of the job, instead of the manifest's"""


class InternLM2Scheduler(Scheduler[Options]):
    """Submits InternLM2Jobs, and answers about them."""

    def _run_opts(self) -> runopts:
        return Options.as_runopts()

    def _submit_dryrun(self, app: AppDef, cfg: Options) -> AppDryRunInfo[dict[str, Any], Options]:
        try:
            body = appdef.manifest(app, manifest.read(cfg.job), cfg.namespace)
        except Refused as error:
            raise InvalidRunConfigException(str(error), "job", cfg) from error
        _, problems = admission.judge(body)
        if problems:
            raise InvalidRunConfigException("; ".join(f"{cfg.job}: {one}" for one in problems), "job", cfg)
        return AppDryRunInfo(body, lambda request: yaml.safe_dump(request, sort_keys=False))

    def schedule(self, dryrun_info: AppDryRunInfo[dict[str, Any]]) -> str:
        """Create the job; returns `namespace:name`.

        Raises:
            InvalidRunConfigException: there is one of this name, or the API server refuses it, with its words.
        """
        body = dryrun_info.request
        try:
            made = _ask(lambda api: api.create_job(body, manager=MANAGER, dry_run=False))
        except (errors.AlreadyExists, errors.GiveUp) as error:
            raise InvalidRunConfigException(errors.told(error), "job", dryrun_info.cfg) from error
        return appdef.app_id(made["metadata"]["namespace"], made["metadata"]["name"])

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """Return the job with the pods of its current attempt, None when there is no such job."""
        try:
            job, pods = _ask(lambda api: _read(api, app_id))
        except errors.NotFound:
            return None
        return appdef.described(job, pods)

    def list(self, cfg: Mapping[str, CfgVal] | None = None) -> list[ListAppResponse]:
        """Return the jobs of the namespace in `cfg`, else of all namespaces."""
        namespace = str((cfg or {}).get("namespace") or "")
        jobs = [InternLM2Job.from_object(raw) for raw in _ask(lambda api: api.objects(gateway.jobs_of(namespace)))]
        return [
            ListAppResponse(app_id=appdef.app_id(job.namespace, job.name), state=appdef.state(job), name=job.name)
            for job in jobs
        ]

    def _cancel_existing(self, app_id: str) -> None:
        """Suspend: the job stops after a checkpoint and can be resumed."""
        namespace, name = appdef.parse_id(app_id)
        _ask(lambda api: api.patch_job(namespace, name, {"spec": {"suspend": True}}, manager=MANAGER))

    def _delete_existing(self, app_id: str) -> None:
        """Delete the job with everything that it made; its checkpoints stay."""

        async def deleted(api: Gateway) -> None:
            job, _ = await _read(api, app_id)
            await api.delete_job(job.namespace, job.name, uid=job.uid, version=job.resource_version)

        _ask(deleted)

    def log_iter(
        self,
        app_id: str,
        role_name: str,  # noqa: ARG002  # there is one role
        k: int = 0,
        regex: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        should_tail: bool = False,
        streams: Stream | None = None,
    ) -> Iterable[str]:
        """Yield the lines of slot `k`; the kubelet keeps both streams as one and from the start.

        Raises:
            NotImplementedError: one stream, or a part of the time, was asked for.
            Refused: no pod of the slot has started.
        """
        if since or until or streams not in (None, Stream.COMBINED):
            raise NotImplementedError("a log of internlm2 is whole: leave since, until and streams out")
        lines = _lines(app_id, k, follow=should_tail)
        return filter_regex(regex, lines) if regex else lines


def create_scheduler(session_name: str, **_: object) -> InternLM2Scheduler:
    """Return the scheduler; the entry point of the group torchx.schedulers."""
    return InternLM2Scheduler("internlm2", session_name)


def _ask(call: Callable[[Gateway], Awaitable[T]]) -> T:
    async def asked() -> T:
        async with await gateway.connect(gateway.unobserved) as api:
            return await call(api)

    return asyncio.run(asked())


async def _read(api: Gateway, app_id: str) -> tuple[InternLM2Job, list[PodRecord]]:
    namespace, name = appdef.parse_id(app_id)
    job = InternLM2Job.from_object(await api.job(namespace, name))
    facts = (records.pod(raw) for raw in await api.objects(gateway.pods_of(namespace)))
    return job, [known.record for known in facts if known is not None and known.record.job == name]


def _lines(app_id: str, slot: int, *, follow: bool) -> Iterator[str]:
    """Yield lines with their line feeds, as torchx wants them."""
    with asyncio.Runner() as runner:
        api = runner.run(gateway.connect(gateway.unobserved))
        try:
            job, pods = runner.run(_read(api, app_id))
            pod = logs.member(job, pods, slot, previous=False)
            lines = api.log(pod.namespace, pod.name, container=CONTAINER, follow=follow)
            while (line := runner.run(_next(lines))) is not None:
                yield f"{line}\n"
        finally:
            runner.run(api.close())


async def _next(lines: "gateway.Lines") -> str | None:
    return await anext(lines, None)
