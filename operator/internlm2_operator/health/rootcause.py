"""Which line of all ranks' logs tells why a job fell: one rank fails, and the others then say what that did to them.

Nothing here may lead to a cordon. A rank's log is written by the user's own code, which can write any line: what is
found explains a fault to people and goes into its evidence, whatever `blame` says; only what the kernel, the kubelet
or an exporter says speaks against a node.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health.diagnose import COMMON_NODES, COMMON_WITHIN
from internlm2_operator.health.logrules import EXCEPTION, UNANSWERED, LogRule, Weight
from internlm2_operator.health.rulebook import Rulebook, clean
from internlm2_operator.health.tracebacks import Entry, gather
from internlm2_operator.health.verdict import Blame

# Of two nodes' lines the earlier one is certain only beyond this. Clocks that NTP keeps differ by milliseconds, and a
# container runtime writes the time at which it read the line; but a rank notices a closed connection within
# milliseconds, too. Lines of one node have one clock, and need none of it.
TOLERANCE: Final = timedelta(seconds=1)
UNKNOWN_CAUSE: Final = "Unknown"
SILENT: Final = "RankSilent"
BEHIND: Final = "RankBehind"
FABRIC: Final = "FabricErrors"
MAX_EVIDENCE: Final = 8
_MAX_WORDS: Final = 300

# Rank 0 of our trainer says that a step is done. All ranks have part in each, so all were well when it began.
_STEP: Final = re.compile(r'\{"step": \d+, "loss": ')
# The collective that timed out, counted in its process group; older lines do not name the group.
_COLLECTIVE: Final = re.compile(r"WorkNCCL\(SeqNum=(\d{1,18})\b")
_GROUP: Final = re.compile(r"\[(PG .*?) Rank \d+\]")
# The driver writes into the kernel's log: in a rank's own, somebody printed its words.
_HEARSAY: Final = re.compile(r"\bNVRM: ")
_VARIABLE: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True, slots=True)
class RankLine:
    """One line of one rank's log; `at` is when the container runtime read it, by the clock of `node`."""

    at: datetime
    node: str
    rank: int
    text: str


@dataclass(frozen=True, slots=True)
class RootCause:
    """What the logs say happened first, and to whom.

    `rule` is the row of the table that was hit. `node` is empty and `rank` None where nobody can be named. `common`
    says that all ranks showed the same error within COMMON_WITHIN, so that it was nobody's in particular.
    """

    blame: Blame
    cause: str
    rule: str
    node: str
    rank: int | None
    at: datetime
    evidence: tuple[str, ...]
    common: bool


@dataclass(frozen=True, slots=True)
class _Hit:
    at: datetime
    node: str
    rank: int
    rule: LogRule
    text: str
    entry: Entry

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes hits of two ranks the same one: rule, words but for their numbers, place in the code."""
        return (self.rule.name, _VARIABLE.sub("#", self.text), self.entry.frame)


Called = Callable[[int], str]
"""How evidence calls a rank."""
_RANK: Final[Called] = "rank {}".format


def pick(
    lines: Sequence[RankLine], rulebook: Rulebook | None = None, *, world: int | None = None, called: Called = _RANK
) -> RootCause | None:
    """Return what explains the others, None when no line is about a fault.

    A cause goes before hearsay and before a symptom, then the first in time as far as clocks can tell, then what the
    table knows before any other exception, then the lowest rank. Symptoms alone name nobody, except the one rank that
    the others wait for: that shows none while all others do, or whose collective is an earlier one than that of all
    others. `world` is the number of ranks where it is known; else the ranks are those up to the highest that wrote a
    line. Lines may come in any order; of one rank, those of the same time keep theirs. `called` is for the evidence
    alone.
    """
    hits = _hits(lines, rulebook or Rulebook())
    found = [hit for hit in hits if hit.rule.weight is Weight.CAUSE]
    causes = [hit for hit in found if not _HEARSAY.search(hit.text)] or found
    homes = {line.rank: line.node for line in sorted(lines, key=lambda line: (line.at, line.node))}
    ranks = set(range(world)) if world else set(homes)
    if causes:
        return _caused(_first(causes), hits, ranks, called)
    if hits:
        return _only_symptoms(hits, ranks if world else set(range(max(ranks) + 1)), homes, called)
    return None


def _hits(lines: Iterable[RankLine], rulebook: Rulebook) -> list[_Hit]:
    """Return the lines that say something of a fault and are not survived, by time."""
    logs: dict[tuple[str, int], list[tuple[datetime, str]]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: line.at):
        logs[line.node, line.rank].append((line.at, clean(line.text)))
    stepped = [at for log in logs.values() for at, text in log if _STEP.match(text)]
    found = [_hit(entry, node, rank, rulebook) for (node, rank), log in logs.items() for entry in gather(log)]
    alive = max(stepped) - TOLERANCE if stepped else None
    kept = (hit for hit in found if hit is not None and (alive is None or hit.at >= alive))
    return sorted(kept, key=lambda hit: (hit.at, hit.rank, hit.node))


def _hit(entry: Entry, node: str, rank: int, rulebook: Rulebook) -> _Hit | None:
    """Return what an entry says: of a chain the last exception that the table knows, else the last one."""
    found = [(rulebook.hit(text), text) for text in entry.errors]
    for rule, text in reversed(found):
        if rule is not None and rule is not EXCEPTION:
            return _Hit(entry.at, node, rank, rule, text, entry)
    rule, text = found[-1]
    return _Hit(entry.at, node, rank, EXCEPTION, text, entry) if rule or entry.traceback else None


def _first(causes: Sequence[_Hit]) -> _Hit:
    """Return the first in time: exact on one node, and between nodes as exact as their clocks."""
    first_of: dict[str, _Hit] = {}
    for hit in causes:
        before = first_of.setdefault(hit.node, hit)
        if hit.at == before.at:
            first_of[hit.node] = min(before, hit, key=_preferred)
    earliest = min(hit.at for hit in first_of.values())
    return min((hit for hit in first_of.values() if hit.at - earliest <= TOLERANCE), key=_preferred)


def _preferred(hit: _Hit) -> tuple[bool, int, str]:
    return (hit.rule is EXCEPTION, hit.rank, hit.node)


def _caused(first: _Hit, hits: Sequence[_Hit], ranks: set[int], called: Called) -> RootCause:
    same = [hit for hit in hits if hit.key == first.key and abs(hit.at - first.at) <= COMMON_WITHIN]
    common = len(ranks) > 1 and {hit.rank for hit in same} == ranks
    blame = first.rule.blame
    if common and len({hit.node for hit in same}) > 1:  # no one node can bring that about; their program can
        raised = first.entry.traceback and blame is Blame.NODE
        blame = first.rule.everywhere or (Blame.USER if raised else blame)
    return RootCause(
        blame, first.rule.cause, first.rule.name, first.node, first.rank, first.at,
        _evidence(first, hits, called, same=len({hit.rank for hit in same}), of=len(ranks)), common,
    )  # fmt: skip


def _only_symptoms(hits: Sequence[_Hit], ranks: set[int], homes: dict[int, str], called: Called) -> RootCause:
    first = hits[0]
    silent = sorted(ranks - {hit.rank for hit in hits})
    evidence = _evidence(first, hits, called, same=0, of=len(ranks))
    if len(silent) == 1:
        rank, cause, words = silent[0], SILENT, f"{called(silent[0])} says nothing while all others wait"
    elif _everywhere(hits, set(homes.values())):
        return RootCause(Blame.FABRIC, FABRIC, first.rule.name, "", None, first.at, evidence, common=True)
    elif (behind := _behind(hits)) is not None:
        rank, cause, words = behind, BEHIND, f"{called(behind)} is at an earlier collective than all others"
    else:
        return RootCause(Blame.UNKNOWN, UNKNOWN_CAUSE, first.rule.name, "", None, first.at, evidence, common=False)
    return RootCause(
        Blame.UNKNOWN, cause, first.rule.name, _home(rank, homes), rank, first.at,
        (words, *evidence)[:MAX_EVIDENCE], common=False,
    )  # fmt: skip


def _everywhere(hits: Iterable[_Hit], nodes: set[str]) -> bool:
    """Say whether every node found that another one did not answer over InfiniBand: then none of them just went."""
    return len(nodes) >= COMMON_NODES and nodes <= {hit.node for hit in hits if hit.rule.name == UNANSWERED}


def _behind(hits: Iterable[_Hit]) -> int | None:
    """Return the one rank whose first timeout is of an earlier collective than that of all others of its group."""
    groups: dict[str, dict[int, int]] = defaultdict(dict)
    for hit in hits:
        if (counted := _COLLECTIVE.search(hit.text)) is not None:
            group = _GROUP.search(hit.text)
            groups[group[1] if group else ""].setdefault(hit.rank, int(counted[1]))
    for reached in groups.values():
        last, *others = sorted(reached, key=lambda rank: (reached[rank], rank))
        if len(others) > 1 and len({reached[rank] for rank in others}) == 1 and reached[last] < reached[others[0]]:
            return last
    return None


def _home(rank: int, homes: dict[int, str]) -> str:
    """Return the node of a rank; of one that wrote nothing, where both its neighbours are, else empty."""
    before, after = homes.get(rank - 1, ""), homes.get(rank + 1, "")
    return homes.get(rank, before if before == after else "")


def _evidence(first: _Hit, hits: Sequence[_Hit], called: Called, *, same: int, of: int) -> tuple[str, ...]:
    """Say which rule was hit where, the end of its traceback, and what the others say."""
    who = f"{called(first.rank)} on {first.node}"
    head = f"log rule {first.rule.name}: {who} at {first.at.isoformat()}: {first.text}"
    shared = [f"the same on {same} of {of} ranks"] if same > 1 else []
    others = Counter(hit.rule.name for hit in hits if hit.key != first.key)
    counted = ", ".join(f"{name} {times} times" for name, times in sorted(others.items()))
    tail = [*shared, *([f"besides: {counted}"] if counted else [])]
    frames = [line for line in first.entry.lines if line.strip() and line != first.text and first.entry.traceback]
    room = MAX_EVIDENCE - 1 - len(tail)
    return tuple(text[:_MAX_WORDS] for text in (head, *frames[-room:], *tail))
