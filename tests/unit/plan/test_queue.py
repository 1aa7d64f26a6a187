"""Who may have which nodes, and who stops for whom."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internlm2_operator.plan.constraints import Constraints, admits
from internlm2_operator.plan.queue import Contender, Quota, Turn, line_up
from tests.examples import few
from tests.unit.plan.contenders import Floor, cluster, running, starts, waiting
from tests.unit.plan.world import GPUS, node

POOL = (("pool", "a"),)
ORDER = {
    "a higher priority comes before an older job": ([waiting("old", 2, age=9), waiting("high", 2, priority=1)], "high"),
    "among equals the older job comes first": ([waiting("young", 2), waiting("old", 2, age=9)], "old"),
    "among jobs of one second the uid decides": ([waiting("b", 2), waiting("a", 2)], "a"),
}


@pytest.mark.parametrize(("jobs", "first"), ORDER.values(), ids=ORDER.keys())
def test_order(jobs: list[Contender], first: str) -> None:
    assert starts(line_up(jobs, cluster(2))) == [first]


def test_jobs_that_fit_side_by_side_all_start_on_nodes_of_their_own() -> None:
    line = line_up([waiting("a", 2), waiting("b", 3)], cluster(5))
    assert starts(line) == ["a", "b"]
    taken = {key: {n for n, i in line.kept.items() if i == line.view(key).index} for key in line.places}
    assert taken == {"team/a": {"n0", "n1"}, "team/b": {"n2", "n3", "n4"}}


def test_small_job_does_not_pass_a_large_one_on_nodes_that_both_can_use() -> None:
    runs = running("runs", "n0")
    line = line_up([runs, waiting("large", 4, age=9), waiting("small", 1)], cluster(4, [runs]))
    assert starts(line) == []
    assert line.places["team/small"].turn is Turn.BEHIND
    assert line.places["team/small"].others == ("team/large (priority 0)",)
    assert not line.view("team/small").may_take("n3")
    # The control: without the large job the small one starts.
    assert starts(line_up([runs, waiting("small", 1)], cluster(4, [runs]))) == ["small"]


BACKFILL = {
    "nodes that its selector leaves out": {"wanted": Constraints(POOL)},
    "nodes with too few GPUs": {"gpus": 2 * GPUS},
}


@pytest.mark.parametrize("demand", BACKFILL.values(), ids=BACKFILL.keys())
def test_small_job_starts_on_nodes_that_the_one_ahead_can_never_use(demand: dict[str, object]) -> None:
    useful = [node(f"a{i}", labels=POOL, gpus=2 * GPUS, used=2 * GPUS * (i == 0)) for i in range(4)]
    plain = [node("z1"), node("z2")]
    head = replace(waiting("head", 4, age=9), **demand)  # type: ignore[arg-type]  # fields by name
    line = line_up([head, waiting("small", 2)], [*useful, *plain])
    assert starts(line) == ["small"]
    view = line.view("team/small")
    assert [n.name for n in (*useful, *plain) if view.may_take(n.name)] == ["z1", "z2"]


def test_free_part_of_a_node_is_kept_too_when_the_one_ahead_needs_it_whole() -> None:
    shared = [node(f"n{i}", gpus=4, used=2) for i in range(2)]
    line = line_up([waiting("whole", 2, age=9, gpus=4), waiting("half", 1)], shared)
    assert starts(line) == []
    assert line.places["team/whole"].turn is Turn.SHORT


def test_job_larger_than_the_cluster_holds_up_nobody() -> None:
    line = line_up([waiting("huge", 9, priority=5), waiting("small", 2)], cluster(4))
    assert starts(line) == ["small"]
    assert (line.places["team/huge"].turn, line.places["team/huge"].exist) == (Turn.TOO_LARGE, 4)


def test_node_at_fault_still_counts_as_one_that_exists() -> None:
    """A job that waits for a repair keeps its place: the nodes that are left are not given away."""
    nodes = [*cluster(3), node("n3", ready=False)]
    line = line_up([waiting("head", 4, age=9), waiting("small", 1)], nodes)
    assert starts(line) == []
    assert line.places["team/small"].turn is Turn.BEHIND


def test_running_job_replaces_a_lost_member_before_anybody_starts() -> None:
    hurt = running("hurt", "n0", empty=1)
    line = line_up([hurt, waiting("next", 1, age=9)], cluster(2, [hurt]))
    assert line.to_act() == ("team/hurt",)
    assert not line.view("team/next").may_take("n1")


def test_node_of_a_member_that_ended_is_kept_for_its_replacement() -> None:
    hurt = running("hurt", "n0", empty=1, keeps=("n1",))
    line = line_up([hurt, waiting("next", 1)], cluster(2, [hurt]))
    assert starts(line) == []
    assert line.view("team/hurt").may_take("n1")


def test_job_that_only_lacks_a_spare_takes_nothing_from_those_that_wait() -> None:
    whole = running("whole", "n0", spares=1)
    line = line_up([whole, waiting("next", 3)], cluster(3, [whole]))
    assert not line.view("team/whole").may_take("n1")


# Preemption


def test_lower_priority_stops_for_a_higher_one_and_gets_its_nodes_back() -> None:
    low = running("low", "n0", "n1", "n2")
    floor = Floor(cluster(4), {low.key: low})
    floor.arrive(waiting("high", 4, priority=1))
    line = floor.line()
    assert line.view("team/low").yields_to == floor.jobs["team/high"]
    assert line.places["team/high"].others == ("team/low (priority 0)",)
    floor.settle()
    assert (floor.started, floor.stopped) == (["high"], ["low"])
    floor.finish("team/high")
    floor.settle()
    assert floor.started == ["high", "low"]


def test_nobody_else_is_stopped_while_pods_leave() -> None:
    gone = replace(running("gone", "n0", "n1"), size=0, holds={}, leaving={"n0": GPUS, "n1": GPUS}, waits=True)
    runs = running("runs", "n2", "n3")
    jobs = [gone, runs, waiting("high", 2, priority=1)]
    line = line_up(jobs, cluster(4, jobs))
    assert not line.yields
    assert line.places["team/high"].turn is Turn.MAKING_ROOM
    assert not line.view("team/gone").may_take("n0")


STAY = {
    "of the same priority": [running("runs", "n0", "n1", priority=1)],
    "when all of them would not be enough": [running("runs", "n0", "n1"), running("important", "n2", priority=2)],
    "on nodes that the waiting job cannot use": [running("runs", "x0", "x1"), running("important", "n2", priority=2)],
}


@pytest.mark.parametrize("runs", STAY.values(), ids=STAY.keys())
def test_nobody_stops(runs: list[Contender]) -> None:
    nodes = [*cluster(4, runs), *(node(f"x{i}", gpus=1, used=1) for i in range(2))]
    line = line_up([*runs, waiting("high", 4, priority=1)], nodes)
    assert not line.yields
    assert line.places["team/high"].turn is Turn.SHORT


def test_nobody_stops_when_their_nodes_are_at_fault() -> None:
    low = running("low", "n0", "n1")
    nodes = [node("n0", used=GPUS), node("n1", used=GPUS, unschedulable=True)]
    assert not line_up([low, waiting("high", 2, priority=1)], nodes).yields


VICTIMS = {
    "the lowest priority first": (
        [running("p2", "n0", priority=2), running("p1", "n1", priority=1), running("p0", "n2")], 1, {"p0"}
    ),
    "of those the youngest first": ([running("old", "n0", age=9), running("young", "n1")], 1, {"young"}),
    "nobody in vain": ([running("a", "n0", age=1), running("b", "n1", "n2", "n3", age=9)], 3, {"b"}),
    "one instead of several of the same priority": (
        [running("a", "n0"), running("b", "n1"), running("c", "n2", "n3", age=9)], 2, {"c"}
    ),
    "several instead of one of a higher priority": (
        [running("a", "n0"), running("b", "n1"), running("c", "n2", "n3", priority=1)], 2, {"a", "b"}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("runs", "need", "stopped"), VICTIMS.values(), ids=VICTIMS.keys())
def test_who_stops(runs: list[Contender], need: int, stopped: set[str]) -> None:
    held = {name for job in runs for name in job.holds}
    full = [node(f"n{i}", used=GPUS) for i in range(4) if f"n{i}" in held]
    line = line_up([*runs, waiting("high", need, priority=9)], full)
    assert {key.removeprefix("team/") for key in line.yields} == stopped


def test_two_jobs_on_one_node_both_stop_when_it_is_needed_whole() -> None:
    runs = [running(name, "n0", gpus=2) for name in ("a", "b")]
    line = line_up([*runs, waiting("high", 1, priority=1, gpus=4)], [node("n0", gpus=4, used=4)])
    assert set(line.yields) == {"team/a", "team/b"}


# Quotas


def test_job_over_its_quota_waits_and_holds_up_nobody() -> None:
    quota = Quota("gpus", gpus=2 * GPUS)
    line = line_up([waiting("large", 3, age=9), waiting("small", 2)], cluster(4), {"team": quota})
    assert starts(line) == ["small"]
    assert line.places["team/large"].quota == quota
    assert line.allowed == {"team/large": 2, "team/small": 2}


def test_quota_is_given_out_once_and_what_runs_is_taken_off() -> None:
    runs = running("runs", "n0")
    jobs = [runs, waiting("a", 2, age=9), waiting("b", 2)]
    line = line_up(jobs, cluster(8, jobs), {"team": Quota("pods", pods=4)})
    assert starts(line) == ["a"]
    assert line.places["team/b"].turn is Turn.OVER_QUOTA


def test_waiting_jobs_that_rank_with_a_running_one_are_counted() -> None:
    runs = running("runs", "n0", "n1", priority=1)
    jobs = [runs, waiting("high", 2, priority=2), waiting("same", 1, priority=1), waiting("low", 1)]
    nodes = cluster(2, jobs)
    line = line_up([replace(job, priority=2) if job is runs else job for job in jobs], nodes)
    assert line.waiting(1, "team/runs") == 2
    assert line.waiting(2, "team/runs") == 1
    assert line.waiting(2, "team/high") == 0


# What holds whatever happens

names = st.integers(0, 10_000).map(lambda i: f"job{i}")
jobs_ = st.builds(
    lambda name, need, more, priority, age, pool: waiting(
        name, need, priority=priority, age=age, sizes=(need, need + more) if more else (need,),
        wanted=Constraints((("pool", "a"),)) if pool else Constraints(),
    ),
    names, st.integers(1, 5), st.integers(0, 2), st.integers(0, 3), st.integers(0, 50), st.booleans(),
)  # fmt: skip
happenings = st.lists(st.one_of(jobs_, st.integers(0, 20)), min_size=1, max_size=14)


def floor() -> Floor:
    return Floor([node(f"n{i}", labels=POOL if i < 5 else ()) for i in range(6)])


def played(story: list[Contender | int]) -> Floor:
    """Let jobs arrive (a job) and finish (a number, of those that run), the line settled after each."""
    made = floor()
    for event in story:
        if isinstance(event, Contender):
            made.arrive(event) if event.key not in made.jobs else None
        elif runs := sorted(key for key, job in made.jobs.items() if job.size):
            made.finish(runs[event % len(runs)])
        made.settle()
    return made


@settings(few, max_examples=150)
@given(happenings)
def test_every_job_runs_in_the_end(story: list[Contender | int]) -> None:
    """No deadlock, no livelock: jobs that run finish one after the other, and nobody is left waiting."""
    made = played(story)
    while made.jobs:
        runs = sorted(key for key, job in made.jobs.items() if job.size)
        assert runs, f"nobody runs: {made.line().places}"
        made.finish(runs[0])
        made.settle()
    arrived = {event.uid for event in story if isinstance(event, Contender)}
    assert arrived <= set(made.started)


@settings(few, max_examples=150)
@given(happenings)
def test_nobody_waits_for_a_lower_priority(story: list[Contender | int]) -> None:
    made = played(story)
    assert waits_for_lower(made) == []


def waits_for_lower(made: Floor) -> list[tuple[str, list[str]]]:
    """Return who waits though the free nodes and those of lower priorities would be enough."""
    found = []
    for job in made.jobs.values():
        useful = [n for n in made.nodes if admits(n, job.wanted)]
        lower = [c for c in made.jobs.values() if c.size and c.priority < job.priority]
        held = {name for c in made.jobs.values() if c not in lower for name in (*c.holds, *c.leaving)}
        ahead = any(c.waits and c.rank < job.rank for c in made.jobs.values())
        if job.waits and not ahead and sum(n.name not in held for n in useful) >= min(job.sizes):
            found.append((job.uid, [c.uid for c in lower]))
    return found


def test_first_come_first_served_is_the_control_that_waits_for_a_lower_priority() -> None:
    low, high = running("low", "n0", "n1", "n2", "n3"), waiting("high", 4, priority=1)
    assert waits_for_lower(Floor(floor().nodes, {low.key: low, high.key: high})) == [("high", ["low"])]


def finishes_until_start(made: Floor, key: str, *, greedy: bool = False) -> int | None:
    """Let the jobs that run now finish one by one; what starts meanwhile runs for ever. None: it never starts."""
    first = sorted(k for k, job in made.jobs.items() if job.size)
    for count in range(len(first) + 1):
        made.settle()
        if greedy:
            made.start_whatever_fits()
        if made.jobs[key].size:
            return count
        if count < len(first) and first[count] in made.jobs:
            made.finish(first[count])
    return None


@settings(few, max_examples=200)
@given(happenings, st.lists(jobs_, min_size=2, max_size=5))
def test_first_in_line_is_never_delayed_by_jobs_behind_it(story: list[Contender | int], late: list[Contender]) -> None:
    """Take everybody behind away, and the first job that lacks nodes starts not one moment sooner."""
    made = played(story)
    for job in late:
        made.arrive(job)
    line = made.line()
    lacking = [c for c in line.order if c.waits and line.places[c.key].turn is Turn.SHORT]
    for head in lacking[:1]:
        alone = {key: c for key, c in made.jobs.items() if not c.waits or c.rank <= head.rank}
        soonest = finishes_until_start(Floor(made.nodes, alone), head.key)
        assert finishes_until_start(made, head.key) == soonest


def test_starting_whatever_fits_is_the_control_that_delays() -> None:
    runs = running("runs", "n0", "n1")
    jobs = {job.key: job for job in (runs, waiting("head", 4, age=9), waiting("small", 2))}
    assert finishes_until_start(Floor(cluster(4), dict(jobs)), "team/head") == 1
    assert finishes_until_start(Floor(cluster(4), dict(jobs)), "team/head", greedy=True) is None


@settings(few, max_examples=80)
@given(happenings, st.randoms(use_true_random=False))
def test_line_is_blind_to_the_order_of_jobs_and_nodes(story: list[Contender | int], chance: random.Random) -> None:
    made = played(story)
    made.arrive(waiting("late", 6, priority=3))
    jobs, nodes = list(made.jobs.values()), made.nodes
    mixed = line_up(chance.sample(jobs, len(jobs)), chance.sample(nodes, len(nodes)))
    assert mixed == line_up(jobs, nodes)
