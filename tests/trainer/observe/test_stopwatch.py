"""The parts of a step add up to its wall time, and a layer's forward pass is the rank's own."""

from collections.abc import Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec.metrics import Part
from internlm2_trainer.compute.tensor import local
from internlm2_trainer.observe import clock
from internlm2_trainer.observe.stopwatch import Stopwatch, Window
from tests import examples, ranks
from tests.trainer import parity


class Times:
    """A clock that reads times from a list."""

    def __init__(self, times: Iterable[float]) -> None:
        self._times: Iterator[float] = iter(times)

    def mark(self) -> float:
        return next(self._times)

    def seconds(self, start: float, end: float) -> float:
        return end - start


def test_time_goes_to_the_part_that_was_entered_last() -> None:
    watch = Stopwatch(Times([0, 3, 4, 6, 10, 11, 20]))
    watch.begin()
    watch.enter(Part.COMMUNICATION)
    watch.enter(Part.FORWARD_BACKWARD)
    watch.layer(0)  # at 6
    watch.layer(0)  # at 10
    watch.enter(Part.COMMUNICATION)
    assert watch.settle() is None  # under way
    watch.end()
    window = watch.settle()
    assert window is not None
    assert {part: seconds for part, seconds in window.parts.items() if seconds} == {
        Part.DATA: 3, Part.COMMUNICATION: 1 + 9, Part.FORWARD_BACKWARD: 7,
    }  # fmt: skip
    assert (window.seconds, window.own_seconds) == (20, 3 + 4)
    assert watch.settle() is None  # told once


def test_only_the_first_forward_pass_of_a_layer_in_a_step_counts() -> None:
    watch = Stopwatch(Times([0, 1, 3, 100]))
    watch.layer(0)  # before any step: no mark is made
    watch.begin()
    for _ in range(4):
        watch.layer(0)
    watch.end()
    assert watch.settle() == Window({**dict.fromkeys(Part, 0.0), Part.DATA: 100}, 100 + 2)


@examples.few
@given(st.lists(st.tuples(st.sampled_from(Part), st.integers(0, 10**6)), max_size=20), st.integers(0, 10**6))
def test_parts_add_up_to_the_wall_time_of_the_step(entered: list[tuple[Part, int]], rest: int) -> None:
    moments, now = [0], 0
    for _, seconds in entered:
        now += seconds
        moments.append(now)
    watch = Stopwatch(Times([*moments, now + rest]))
    watch.begin()
    for part, _ in entered:
        watch.enter(part)
    watch.end()
    window = watch.settle()
    assert window is not None
    assert window.seconds == now + rest


def test_a_run_counts_every_part_of_each_of_its_steps() -> None:
    """By a clock that ticks once a mark: 4 steps, the last with a checkpoint."""
    (parts,) = ranks.run(1, ticks_of_parts)
    assert parts == {
        "data": 4.0, "communication": 8.0, "forward_backward": 4.0, "optimizer": 4.0, "other": 4.0 + 1.0,
        "checkpoint_stall": 1.0,
    }  # fmt: skip


def ticks_of_parts(_rank: int, _world: int) -> dict[str, float | None]:
    run = parity.trainer(parity.stage())
    run.watch = Stopwatch(Times(range(1000)))  # the layers' hooks keep the old one
    run.run(0)
    name = "internlm2_train_step_part_seconds_total"
    return {str(part): run.metrics.registry.get_sample_value(name, {"part": part}) for part in Part}


def test_a_layers_pass_is_marked_while_its_weights_are_gathered() -> None:
    whole = parity.SIZES.hidden
    assert ranks.run(2, sizes_at_the_marks) == [(whole // 2, [whole, whole])] * 2


def sizes_at_the_marks(_rank: int, _world: int) -> tuple[int, list[int]]:
    """Return the size of a norm's scale before a step, and at both marks of its layer: FSDP's hooks change it."""
    run = parity.trainer(parity.stage(zero=3, shard=2))
    (layer, *_) = run.model.whole.model.layers.values()
    seen: list[int] = []

    def size() -> int:
        return next(local(p).numel() for name, p in layer.named_parameters() if name == "ffn_norm.weight")

    class Looking(Times):
        def mark(self) -> float:
            seen.append(size())
            return 0.0

    before = size()
    watch = Stopwatch(Looking([]))
    watch.begin()
    seen.clear()
    clock.watch_layers(watch, [layer])
    run.step(0)
    return before, seen
