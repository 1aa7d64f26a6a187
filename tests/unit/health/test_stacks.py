"""What the words of all pods of a hang amount to."""

from internlm2_operator.health.stacks import Standstill, Witness, standstill
from internlm2_spec.standstill import Cluster

REDUCE = "internlm2_trainer.compute.optim.reduce, line 90"
READ = "internlm2_trainer.data.source.micro_batch, line 71"


def waits(*ranks: int, place: str = REDUCE, call: str = "all_reduce") -> Cluster:
    return Cluster(ranks, "step", waits=True, place=place, call=call)


def reads(*ranks: int) -> Cluster:
    return Cluster(ranks, "step", place=READ)


def pod(number: int, *stood: Cluster, spoke: bool = True) -> Witness:
    """Return the word of one of four pods with two ranks each."""
    return Witness(f"p{number}", f"n{number}", (2 * number, 2 * number + 1), stood, spoke)


def test_the_rank_that_reads_is_named_with_its_pod_and_node_over_all_pods() -> None:
    seen = standstill([pod(0, waits(0, 1)), pod(1, waits(2, 3)), pod(2, waits(4), reads(5)), pod(3, waits(6, 7))])
    assert seen == Standstill(
        ("p2",),
        ("n2",),
        (
            f"rank 5 on n2 stands in {READ}; 7 others wait for it in all_reduce",
            f"ranks 0-4, 6-7 wait in all_reduce of {REDUCE}, phase step",
            f"rank 5 stands in {READ}, phase step",
        ),
    )
    assert seen.node == "n2"


def test_a_pod_that_said_nothing_is_named_and_one_that_lost_its_peers_is_not() -> None:
    seen = standstill([pod(0, waits(0, 1)), pod(1, spoke=False), pod(2), pod(3, waits(6, 7))])
    assert (seen.pods, seen.node) == (("p1",), "n1")
    assert seen.evidence[0] == "ranks 2-3 on n1 left no word; 6 others wait for them in all_reduce"


def test_a_rank_that_waits_elsewhere_is_named_with_both_places() -> None:
    elsewhere = waits(3, place="model.forward, line 8", call="all_gather")
    seen = standstill([pod(0, waits(0, 1)), pod(1, waits(2), elsewhere), pod(2, waits(4, 5)), pod(3, waits(6, 7))])
    assert seen.node == "n1"
    told = "rank 3 on n1 waits in all_gather (model.forward, line 8); most of the 7 others in all_reduce"
    assert seen.evidence[0] == told


def test_of_odd_ranks_on_two_nodes_neither_is_the_one() -> None:
    seen = standstill(
        [pod(0, reads(0), waits(1)), pod(1, reads(2), waits(3)), pod(2, waits(4, 5)), pod(3, waits(6, 7))]
    )
    assert (seen.nodes, seen.node) == (("n0", "n1"), "")
    assert seen.evidence[0].startswith(f"ranks 0, 2 on n0, n1 stand in {READ}; 6 others wait for them")


def test_a_pod_speaks_for_its_own_ranks_alone() -> None:
    """Users write these words: one pod must not make another's node a suspect."""
    liar = pod(0, waits(0, 1), reads(5))
    seen = standstill([liar, pod(1, waits(2, 3)), pod(2, waits(4, 5)), pod(3, waits(6, 7))])
    assert (seen.pods, seen.nodes) == ((), ())


def test_a_pod_whose_ranks_are_not_known_is_that_of_the_ranks_it_speaks_of() -> None:
    """Processes that were started again may have other ranks than those before."""
    again = Witness("p2", "n2", (), (waits(4), reads(5)))
    seen = standstill([pod(0, waits(0, 1)), pod(1, waits(2, 3)), again, pod(3, waits(6, 7))])
    assert (seen.pods, seen.node) == (("p2",), "n2")


def test_where_all_wait_in_one_place_nobody_is_named() -> None:
    seen = standstill([pod(number, waits(2 * number, 2 * number + 1)) for number in range(4)])
    assert (seen.pods, seen.node) == ((), "")
    assert seen.evidence == (
        "no rank stands out from the others",
        f"ranks 0-7 wait in all_reduce of {REDUCE}, phase step",
    )


def test_many_scattered_ranks_are_told_by_the_first_and_their_number() -> None:
    odd, even = tuple(range(1, 64, 2)), tuple(range(0, 64, 2))
    seen = standstill([Witness("p", "n", tuple(range(64)), (waits(*even), waits(*odd, place="elsewhere")))])
    assert seen.evidence[1].startswith("ranks 0, 2, 4, 6, 8, 10, 12, 14 and 24 more ranges wait")
