"""The rules of rank logs that a cluster adds: read from one ConfigMap again and again, in force once they are right."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.health.logrules import LogRule
from internlm2_operator.health.rulebook import Rulebook, parse
from internlm2_operator.manifests.event import config_map_event
from internlm2_operator.plan.actions import Announce
from internlm2_operator.runtime.metrics import Metrics
from internlm2_operator.runtime.observed import Observed
from internlm2_spec.config import Refused

RULE_SECONDS: Final = 10.0
KEY: Final = "rules.yaml"
MAX_TEXT: Final = 256 * 1024  # characters; 200 rules are half of it, and YAML is read at some 100 KB/s
log = logging.getLogger(__name__)


class RuleSource:
    """Keeps `observed.rulebook` as the ConfigMap has it. A text with a mistake changes nothing, and is told once."""

    def __init__(self, gateway: Gateway, observed: Observed, metrics: Metrics, *, namespace: str, name: str) -> None:
        self._gateway = gateway
        self._observed = observed
        self._metrics = metrics
        self._namespace = namespace
        self._name = name
        self._seen: tuple[str, str] | None = None  # uid and resourceVersion of what was read last

    async def step(self) -> None:
        """Look at the ConfigMap; one that does not exist adds nothing.

        Raises:
            ClusterError: the API server does not answer, or not us; the rules stay as they are.
        """
        try:
            raw = await self._gateway.config_map(self._namespace, self._name)
        except errors.NotFound:
            self._seen = None
            self._take(())
            return
        version = raw["metadata"]["uid"], raw["metadata"]["resourceVersion"]
        if version == self._seen:
            return
        try:
            # In a thread: the lease must be renewed meanwhile.
            self._take(await asyncio.to_thread(_rules, raw))
        except Refused as error:
            await self._refuse(raw, error)
        self._seen = version

    def _take(self, rules: tuple[LogRule, ...]) -> None:
        self._metrics.log_rules_refused.set(0)
        self._metrics.log_rules.set(len(rules))
        if rules != self._observed.rulebook.further:
            self._observed.rulebook = Rulebook(rules)
            log.info("%d further rules of rank logs are in force", len(rules))

    async def _refuse(self, raw: Mapping[str, Any], error: Refused) -> None:
        kept = len(self._observed.rulebook.further)
        self._metrics.log_rules_refused.set(1)
        log.error("%s; the last %d rules stay in force", error, kept)
        told = Announce("LogRulesRefused", f"{error}; the last {kept} rules stay in force", warning=True)
        await self._gateway.record_event(config_map_event(raw["metadata"], told, datetime.now(UTC)))


def _rules(raw: Mapping[str, Any]) -> tuple[LogRule, ...]:
    path = f"ConfigMap {raw['metadata']['namespace']}/{raw['metadata']['name']}: {KEY}"
    text = (raw.get("data") or {}).get(KEY)
    if text is None:
        raise Refused(path, wrong="is missing", right="write the rules under this key of `data`")
    if len(text) > MAX_TEXT:
        raise Refused(path, wrong=f"has {len(text)} characters", right=f"write {MAX_TEXT} at most")
    return parse(text, path=path)
