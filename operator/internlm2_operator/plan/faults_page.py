"""The page of all causes, made from the table that the decisions read."""

import itertools
from collections.abc import Iterable
from typing import Final

from internlm2_operator.health.logrules import EXCEPTION, TABLE, LogRule
from internlm2_operator.health.maintenance import TABLE as NOTICES
from internlm2_operator.health.rules import SIGNALS
from internlm2_operator.health.xid import TABLE as XIDS
from internlm2_operator.plan.cause import MEANINGS, By, Cause, Kind, Mark
from internlm2_operator.plan.causes import GROUPS

_HEAD: Final = """
# Faults

What ends, stops or delays a job, one row each. The cause is `status.faults[].cause`, the reason of the condition
`Progressing` or `Failed`, and the reason of the event; `internlm2 why JOB` says what is decided now.

Whose a cause is decides what counts:

| whose | counts |
|---|---|
| user | against `failurePolicy.maxRestarts` within `windowSeconds`; so many equal ones as the row says end the job |
| infrastructure | never; a number in `status.restarts.infrastructure` |
| waiting | never: something is not there. Tried again ever more rarely, and at once after an edit of the spec |
| request | never: somebody wanted it |

Two failures are equal when step and the end of the traceback are, or, where Kubernetes names the cause, when the cause
is. A node at fault explains a traceback before the user does. **Suspects its node** means that the end speaks against
the node, which is cordoned when a second source agrees.

Signs are believed in this order: the kubelet's reason, the condition `DisruptionTarget`, a deletion by somebody else,
the trainer's own word, the exit code. Of a pod that lost a peer neither word nor code is: its cause is the peer's.

## How fast

- Three faults in a row are answered at once. From the fourth on, those that are open or younger than 60 s put off the
  next pods by 1 s, doubled each time, 60 s at most. Any number of nodes lost at once is one fault in this count, and
  cordoned nodes are none.
- A row's own back-off, and this one, vary by a quarter of their length, drawn from the job's uid.
- All jobs together make 200 pods a second after a burst of 2,000; condition reason `WaitingForTurn`.

## Pods that do not go

A new attempt has new names, so no pod in `Terminating` stands in its way. On a node that is gone or silent it is
removed by force; on one that lives it keeps its GPUs in the books until it is really gone, and the job goes elsewhere.
A job that needs those very GPUs asks for them for 60 s, and then takes a smaller legal size or queues.
"""
_NODES: Final = """
## What speaks against a node

A cordon needs one **hard** signal, or a **suspect** and anything from **hint** on that comes from another source
within 5 minutes. Sources are the driver (an XID is one source, by kernel log and by metric), NVSwitch, the exporter's
counters, the Node's conditions, checks that the operator ran, and pods; what a user can write is a hint at most, and
hints never add up to a cordon.

1. Two nodes of a job or of a rack whose links go down within 60 s, and nodes that go silent together in one rack: the
   fabric. What else speaks against a node with such a link is judged without it.
2. One XID on 3 nodes of a job, or on 3 nodes of several jobs in one rack, within 60 s: the program's, or the fabric.
3. A hard signal: cordon. It counts for 30 minutes, so that what the breaker held back is not forgotten.
4. A suspect and a second source: cordon.
5. A suspect code on one GPU 5 times in 24 hours, bursts of 3 minutes counted once: cordon.
6. A suspect alone, within a day of the node's last uncordon: cordon. Any fault in that day asks for other hardware.
7. A suspect alone: the node is to be checked, without a cordon. So is one whose GPU alone shows XID 31, or 13 on the
   same cores, twice within 24 hours.
8. A program's XID: the processes start again.
9. Hints only: the node is to be checked. Words of users alone, a full disk, or nothing to be seen: unknown.

`internlm2 why-cordoned NODE` names the rule; `internlm2 replay` shows what they say of recorded faults. Actions
after `cordon-` are what mends the node; the operator never resets or reboots by itself. Which cordons are held back,
and which end by themselves: `docs/health.md`.
"""
_NOTICES: Final = """
### Notices that a node will go

No fault of anybody: jobs write a checkpoint and go on elsewhere. Each speaks only while it is there.
"""
_LOGS: Final = """
## Lines of rank logs

When one rank fails, all others say what that did to them. Of the lines of all ranks the one is picked that explains the
others, and the evidence of a fault names the rule that it hits, the rank and the line (`log rule cuda-ecc: rank 12 of
pod p on n2 at ...: ...`). Looked at is what the ends of all pods of the attempt carry: the traceback of the rank that
the trainer blames, or the stacks of its crash, or, of an agent that was killed, the last 80 lines of the log. A log is
written by the user's own code: no rule, whatever its blame, ever leads to a cordon.

1. A cause goes before a symptom. Timeouts of NCCL and gloo, connections that a peer reset, the agent's SIGTERM, XID 43
   and 45 are symptoms always, whatever else their line says.
2. Then the first in time: exactly so on one node; between nodes, whose clocks differ, only beyond 1 s.
3. Then what the table knows before any other exception, then the lowest rank.
4. Symptoms alone name nobody, except the one rank that the others wait for: that shows none while all others do
   (`RankSilent`), or whose collective that timed out is an earlier one than that of all others (`RankBehind`).

A traceback counts as one, by its last line; of a chain, by the last that the table knows. The same traceback on all
ranks of several nodes within 60 s is the program's, and speaks against no node; so is a line whose blame says
`user everywhere`: one node's disk may be full, that of all is a volume they share. What was followed by a step that
rank 0 reports was survived. Where two rules fit a line, the earlier one is meant.

A cluster's own rules are YAML or JSON, `rules: [{name, pattern, blame, cause, weight, source}]`, read by `parse` in
`health/rulebook.py`; they come after the table and before any other exception. Patterns are those of Rust's regex,
which takes linear time, and see the first 2,000 characters of a line.
"""
_TAIL: Final = """
## Tests

Each row is the case of its name in `tests/unit/plan/test_causes.py`: what is seen of a pod goes in, cause, class and
reaction come out, through the decisions themselves. Three of them run on a real API server, too, in
`tests/api/test_failures.py`. Each rule of the logs has a line that hits it, and one that looks like it, in
`tests/unit/health/test_logrules.py`; whole crowds of ranks are in `tests/unit/health/test_rootcause.py`.
"""
_SIGNS: Final = {
    By.KUBELET: "reason",
    By.DISRUPTION: "DisruptionTarget",
    By.DELETED: "deletionTimestamp",
    By.TRAINER: "the trainer's reason",
    By.EXIT: "exit",
    By.CLASS: "the trainer's class",
    By.SANDBOX: "PodReadyToStartContainers",
    By.WAITING: "container waiting",
    By.SCHEDULER: "PodScheduled",
    By.API: "creation refused",
}


def page() -> str:
    """Return the page in Markdown."""
    reactions = "| reaction | the operator |\n|---|---|\n" + "\n".join(f"| {r} | {m} |" for r, m in MEANINGS.items())
    parts = [part for title, rows in GROUPS.items() for part in (f"### {title}", _table(rows))]
    nodes = (_NODES.strip(), _signal_rules(), "### XIDs", _xid_rules(), _NOTICES.strip(), _notices())
    logs = (_LOGS.strip(), log_rules((*TABLE, EXCEPTION)))
    return "\n\n".join((_HEAD.strip(), "## The table", reactions, *parts, *nodes, *logs, _TAIL.strip())) + "\n"


def log_rules(rules: Iterable[LogRule]) -> str:
    """Return the rules of rank logs as a table, in the order in which they are tried."""
    head = "| rule | a line with | weight | blame | cause | written by |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| `{rule.name}` | {_code(rule.pattern)} | {rule.weight} | {_blame(rule)} | `{rule.cause}` | {rule.source} |"
        for rule in rules
    )


def _blame(rule: LogRule) -> str:
    return f"{rule.blame}; {rule.everywhere} everywhere" if rule.everywhere else rule.blame


def _signal_rules() -> str:
    head = "| signal | seen as | weight | action | authority |\n|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| `{row.cause}` | {row.seen} | {row.weight.name.lower()} | {row.action} | {row.source} |"
        for row in SIGNALS.values()
    )


def _xid_rules() -> str:
    head = "| XID | what | NVIDIA says | weight | action | authority |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {code} | {row.name} | {row.nvidia} | {row.weight.name.lower()} | {row.action} | {row.source} |"
        for code, row in sorted(XIDS.items())
    )


def _notices() -> str:
    head = "| on the node | value | by | authority |\n|---|---|---|---|\n"
    return head + "\n".join(
        f"| {row.where} `{row.key}` | {row.value or 'any'} | {row.by} | {row.source} |" for row in NOTICES
    )


def _code(pattern: str) -> str:
    """Spell a pattern so that neither its `|` nor a backtick ends the cell."""
    fence = "``" if "`" in pattern else "`"
    return f"{fence}{pattern}{fence}".replace("|", "\\|")


def _table(rows: Iterable[Cause]) -> str:
    head = "| cause | seen as | whose | reaction | what to do |\n|---|---|---|---|---|\n"
    return head + "\n".join(_row(row) for row in rows)


def _row(row: Cause) -> str:
    signs = (_sign(by, tuple(marks)) for by, marks in itertools.groupby(row.marks, key=lambda mark: mark.by))
    seen = "; ".join([row.seen] * bool(row.seen) + list(signs))
    return f"| `{row.name}` | {seen} | {_whose(row)} | {row.reaction}{_times(row)} | {row.cure} |"


def _sign(by: By, marks: Iterable[Mark]) -> str:
    return f"{_SIGNS[by]} " + ", ".join(_value(mark) for mark in marks)


def _value(mark: Mark) -> str:
    if mark.value == "*":
        return f'with "{mark.says}"' if mark.says else "any other"
    return f"`{mark.value}`" + (f' with "{mark.says}"' if mark.says else "")


def _whose(row: Cause) -> str:
    words = row.kind.value
    if row.kind is Kind.USER:
        words += f", {row.repeats} equal ones end the job"
    return f"{words}, suspects its node" if row.suspects else words


def _times(row: Cause) -> str:
    words = f"; patience {row.patience:g} s" if row.patience is not None else ""
    return words + (f"; back-off {row.backoff[0]:g} to {row.backoff[1]:g} s" if row.backoff else "")
