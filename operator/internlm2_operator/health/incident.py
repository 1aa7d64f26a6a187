"""What a job's whole incident is, once each of its nodes is judged: one verdict, the gravest that is proved."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from internlm2_operator.health.diagnose import SYMPTOM
from internlm2_operator.health.rootcause import UNKNOWN_CAUSE, RootCause
from internlm2_operator.health.rules import Weight, signal_rule
from internlm2_operator.health.verdict import Action, Blame, Confidence, Verdict

# The program's where it comes first; a watchdog that ends a rank brings it about as well.
CHANNEL_CLOSED: Final = "Xid43"
STALLED: Final = "Stalled"
SIGTERM: Final = "torchrun-sigterm"  # the row of the rank logs: somebody asked torchrun to end


@dataclass(frozen=True, slots=True)
class Words:
    """What the job's own processes say, which its user can write: nothing here speaks against a node.

    `user` are ends of pods that are the user's; `again` says that two of them were equal at one step.
    """

    root: RootCause | None = None
    user: tuple[str, ...] = ()
    again: bool = False
    waits: bool = False
    stopped: bool = False  # a pod ended because somebody wanted it to
    taken: bool = False  # somebody else took a pod away: a scheduler, a drain, a person
    ended: frozenset[str] = frozenset()  # nodes on which a pod has ended
    lost: str = ""  # node of a pod that the cluster took away or killed
    stalled: bool = False
    hung_before: bool = False
    behind: str = ""  # node of the one rank that all others wait for
    blind: bool = False


def judge(verdicts: Sequence[Verdict], words: Words, now: datetime) -> Verdict:
    """Return the verdict on the incident.

    A node that is convicted explains all else, then what many nodes share. An end that is the user's on all ranks
    goes before a mere suspicion; a trusted suspicion before what one rank says; hints and blindness come last.
    """
    order = sorted(verdicts, key=lambda v: (v.signal_at or now, v.node))
    if convicted := [v for v in order if v.cordon]:
        return min(convicted, key=lambda v: not v.certain)
    if shared := [v for v in order if v.blame is Blame.FABRIC]:
        return replace(shared[0], node="")
    root = words.root
    common = root is not None and root.common and root.blame is Blame.USER
    suspected = [v for v in order if v.blame in _OPEN and _trusted(v)]
    if suspected and not common:
        return suspected[0]
    if (contained := [v for v in order if v.blame is Blame.NODE and v.action is Action.RESTART]) and not common:
        return contained[0]
    program = [v for v in order if v.blame is Blame.USER and not _torn_down(v, words, now)]
    if program and (root is None or root.blame not in (Blame.USER, Blame.NONE)):
        return replace(program[0], node="", gpu="")  # the driver's word goes before a rank's
    if root is not None and root.blame is not Blame.UNKNOWN:
        return _by_log(root, words)
    if root is not None and (agreed := [v for v in order if v.blame is Blame.UNKNOWN and v.cause == root.cause]):
        return agreed[0]  # rank and node say the same of the node, and the user's end is what came of it
    if words.user:
        return _user("a pod's end is its user's", words, words.user)
    if words.waits:
        return _plain(Blame.NONE, "Outside", Action.WAIT, "something that the job needs is not there")
    return _unproved(order, words)


def _unproved(order: Sequence[Verdict], words: Words) -> Verdict:
    root = words.root
    going = [v for v in order if v.action is Action.DRAIN and v.node in words.ended]
    if left := [v for v in going if root is None or root.node in ("", v.node)]:
        return left[0]  # its pods were told to end, and the others lost them
    if words.behind:
        return _plain(Blame.UNKNOWN, STALLED, Action.CHECK, "one rank is behind, all others wait", words.behind)
    if hinted := [v for v in order if v.blame in _OPEN and v.action is Action.CHECK]:
        return hinted[0]
    asked = words.stopped and root is not None and root.rule == SIGTERM
    if asked or (words.taken and (root is None or root.cause == UNKNOWN_CAUSE)):
        return _plain(Blame.NONE, "Outside", Action.WAIT, "somebody took its pods away, and the others lost them")
    if root is not None:
        named = root.node if root.cause in ("RankSilent", "RankBehind") else ""
        action = Action.CHECK if named or words.hung_before else Action.RESTART
        return replace(
            _plain(Blame.UNKNOWN, root.cause, action, "symptoms without a cause", named), evidence=root.evidence
        )
    if words.stalled:
        action = Action.CHECK if words.hung_before else Action.RESTART
        return _plain(Blame.UNKNOWN, STALLED, action, "nothing moves, and nobody is behind")
    if found := [v for v in order if v.blame is Blame.UNKNOWN and not (words.stopped and v.rule == SYMPTOM)]:
        return found[0]
    if words.lost:
        return _plain(Blame.UNKNOWN, "PodLost", Action.CHECK, "the cluster took a pod away", words.lost)
    if words.blind:
        return _plain(Blame.UNKNOWN, "ExporterDown", Action.WAIT, "Prometheus does not answer: nothing is known")
    if found := [v for v in order if v.blame is Blame.NONE and v.action is not Action.NONE]:
        return found[0]
    return _plain(Blame.NONE, "Healthy", Action.NONE, "nothing speaks against anybody")


def _torn_down(verdict: Verdict, words: Words, now: datetime) -> bool:
    """Say whether ranks had given up already, or were done, when the driver closed the channel of one."""
    if verdict.cause != CHANNEL_CLOSED:
        return False
    if (root := words.root) is None:
        return words.stopped and not words.user
    return root.blame is Blame.UNKNOWN and root.at <= (verdict.signal_at or now)


# Of a node that is not convicted: what is found against it, for sure its own or not.
_OPEN: Final = (Blame.UNKNOWN, Blame.NODE)
_SUSPECTING: Final = (Weight.SUSPECT, Weight.HARD)


def _trusted(verdict: Verdict) -> bool:
    """Say whether more than a hint is behind an unknown: a code of the driver, or a row that suspects."""
    if verdict.cause.startswith("Xid"):
        return verdict.action is Action.CHECK
    row = "SXidFatal" if verdict.cause.startswith("SXid") else verdict.cause
    return signal_rule(row).weight in _SUSPECTING and verdict.action is Action.CHECK


def _by_log(root: RootCause, words: Words) -> Verdict:
    match root.blame:
        case Blame.USER:
            return _user(f"log rule {root.rule}", words, root.evidence, root.cause)
        case Blame.NONE:
            verdict = _plain(Blame.NONE, root.cause, Action.WAIT, f"log rule {root.rule}")
        case Blame.FABRIC:
            verdict = _plain(Blame.FABRIC, root.cause, Action.CHECK, f"log rule {root.rule}")
        case _:  # a rank's word about its node is a reason to test it, and no more
            verdict = _plain(Blame.UNKNOWN, root.cause, Action.CHECK, f"log rule {root.rule}", root.node)
    return replace(verdict, evidence=root.evidence, signal_at=root.at)


def _user(rule: str, words: Words, evidence: tuple[str, ...], cause: str = "ProgramError") -> Verdict:
    action = Action.FAIL if words.again else Action.RESTART
    return replace(_plain(Blame.USER, cause, action, rule), evidence=evidence)


def _plain(blame: Blame, cause: str, action: Action, rule: str, node: str = "") -> Verdict:
    confidence = Confidence.SUSPECTED if node else Confidence.NONE
    return Verdict(blame, cause, node, (), action, rule, confidence)
