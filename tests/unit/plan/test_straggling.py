"""A rank that holds up the others is told, once, with its node; nothing is done about it."""

import dataclasses

from internlm2_operator.plan.actions import Announce
from internlm2_operator.plan.straggling import GAP
from internlm2_operator.plan.suspects import SLOW_FOR, Suspect, suspects
from internlm2_spec.straggler import Slow, Slowness
from tests.unit.plan.checks import Cluster, nodes_of, verdicts
from tests.unit.plan.world import World, after, trained_world

SLOW = Slow(3, Slowness.COMPUTE, 1.62, 0.0431)
WHO = "rank 3 on n2 computes slowly"


def told(world: World, slow: Slow | None) -> World:
    progress = {name: dataclasses.replace(said, slow=slow) for name, said in world.progress.items()}
    return dataclasses.replace(world, progress=progress)


def condition(world: World) -> tuple[str, str, str]:
    seen = world.job.status.condition("Straggling")
    assert seen is not None
    return seen.status, seen.reason, seen.message


def test_the_condition_names_rank_node_and_what_it_is_slow_in() -> None:
    world = told(trained_world(), SLOW).settled()
    times = "1.6 times the others' median, 0.0431 s more"
    assert condition(world) == (
        "True",
        "SlowCompute",
        f"{WHO}: {times}; a check of the node tells whether it is the node",
    )
    assert world.job.status.faults == ()
    assert world.job.status.attempt == 1
    assert not any(node.fault for node in world.nodes)


def test_without_one_it_says_so() -> None:
    assert condition(trained_world())[:2] == ("False", "NoStraggler")


def test_the_event_comes_once_and_figures_that_move_write_nothing() -> None:
    world = told(trained_world(), SLOW)
    plan = world.plan()
    assert [a for a in plan.actions if isinstance(a, Announce)] == [Announce("SlowCompute", plan_message(plan), True)]

    world = world.settled()
    moved = told(world, dataclasses.replace(SLOW, ratio=1.7, seconds=0.05))
    assert moved.plan().status == world.job.status
    assert moved.plan().actions == ()


def plan_message(plan: object) -> str:
    seen = plan.status.condition("Straggling")  # type: ignore[attr-defined]
    return str(seen.message)


def test_another_rank_is_news_and_none_ends_it() -> None:
    world = told(trained_world(), SLOW).settled()
    other = told(world, Slow(0, Slowness.DATA, 8.0, 0.5))
    assert [a.reason for a in other.plan().actions if isinstance(a, Announce)] == ["SlowData"]
    assert condition(other.settled())[2].startswith("rank 0 on n1 reads its data slowly")
    assert condition(told(world, None).settled())[0] == "False"


def test_a_rank_that_nobody_runs_has_no_node() -> None:
    world = told(trained_world(), dataclasses.replace(SLOW, rank=10**6)).settled()
    assert condition(world)[2].startswith("rank 1000000 on an unknown node")


def test_what_processes_from_before_a_restart_said_is_no_news() -> None:
    world = told(trained_world(), SLOW).later(30)
    restarted = world.restarted(13, resumed=10)
    assert condition(restarted.settled())[0] == "False"


def kept(world: World) -> list[tuple[str, str, object, object]]:
    return [(one.node, one.slow_in, one.since, one.until) for one in world.job.status.stragglers]


def slow_for(seconds: float, slow: Slow = SLOW) -> World:
    """Return a job whose rank was slow for so long, and is no more."""
    world = told(trained_world().later(100), slow).settled()
    return steps_later(world, seconds, None).settled()


def steps_later(world: World, seconds: float, slow: Slow | None) -> World:
    return told(world.later(seconds).trained(40), slow)


LONG = SLOW_FOR.total_seconds()


def of(world: World) -> tuple[Suspect, ...]:
    return suspects(world.nodes, world.job.status.faults, world.job.status.stragglers, world.now)


def test_the_status_keeps_which_node_was_slow_and_for_how_long() -> None:
    world = told(trained_world().later(100), SLOW).settled()
    began = world.now
    assert kept(world) == [("n2", "compute", began, None)]
    assert kept(steps_later(world, LONG, SLOW).settled()) == [("n2", "compute", began, None)], (
        "nothing is written again"
    )
    world = steps_later(world, LONG, Slow(0, Slowness.COMMUNICATION, 3.0, 0.1)).settled()
    first, second = kept(world)
    assert (first, second) == (("n2", "compute", began, world.now), ("n1", "communication", world.now, None))


def test_who_is_slow_for_long_is_checked_once_the_job_has_left_it_and_never_cordoned_for_it() -> None:
    world = slow_for(LONG)
    (found,) = of(world)
    assert (found.node, found.why) == ("n2", "held up a job for 10 minutes, slow in compute")
    assert not any(node.fault for node in world.nodes)
    assert world.job.status.faults == ()
    assert of(slow_for(LONG - 60)) == ()
    assert of(slow_for(LONG, Slow(3, Slowness.DATA, 8.0, 0.5))) == (), "a check measures no data"


def test_the_check_of_who_was_slow_begins_with_two_good_nodes_once_nobody_uses_it() -> None:
    used = {"n2": nodes_of("n2", used=8)["n2"]}
    cluster = Cluster(nodes_of("n1", "n2", "n3"), now=after(LONG + 200), suspects=of(slow_for(LONG)))
    assert dataclasses.replace(cluster, nodes={**cluster.nodes, **used}).run(3).members() == []
    ran = dataclasses.replace(cluster, bad=frozenset({"n2"})).run(4)
    assert ran.members() == [("n1", "n3", "n2")]
    assert verdicts(ran, ("n1", "n2", "n3")) == {"n1": True, "n2": False, "n3": True}


def test_a_job_that_ends_while_a_rank_is_slow_leaves_its_node_to_be_checked() -> None:
    world = steps_later(told(trained_world().later(100), SLOW).settled(), LONG, SLOW)
    assert of(world.settled()) == (), "the job is there still"
    ended = world.edited(suspend=True).settled()
    assert [one.node for one in of(ended)] == ["n2"]


def test_a_restart_between_two_sightings_is_no_recovery() -> None:
    ended = slow_for(LONG / 2)
    ((_, _, began, until),) = kept(ended)
    assert until == ended.now
    again = steps_later(ended, GAP.total_seconds(), SLOW).settled()
    assert kept(again) == [("n2", "compute", began, None)]
    later = steps_later(ended, GAP.total_seconds() + 1, SLOW).settled()
    assert [(since, until) for _, _, since, until in kept(later)] == [(began, ended.now), (later.now, None)], (
        "the control: it had recovered"
    )
