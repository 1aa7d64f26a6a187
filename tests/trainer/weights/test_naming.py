"""Names and rows of the released formats, without a byte of a tensor."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Model, Refused
from internlm2_spec.manifest import elements
from internlm2_spec.presets import PRESETS, parameters
from internlm2_trainer.weights import naming
from internlm2_trainer.weights.naming import Format, Rows
from tests import ranks
from tests.trainer import parity

FORMATS: tuple[Format, ...] = ("internlm2", "llama")


def architecture(sizes: Model) -> Architecture:
    return Architecture(sizes, 1e6, 32768)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_row_of_every_tensor_goes_to_exactly_one_place(preset: str, format: Format) -> None:
    of = architecture(PRESETS[preset])
    rows: dict[str, list[Rows]] = defaultdict(list)
    for each in naming.tensors(of, format):
        assert each.shape[0] == sum(part.count for part in each.rows)
        for part in each.rows:
            rows[part.tensor.removeprefix("model.")].append(part)

    shapes = naming.own_shapes(of)
    assert rows.keys() == shapes.keys()
    for name, parts in rows.items():
        ordered = sorted(parts, key=lambda part: part.start)
        assert ordered[0].start == 0
        assert all(a.start + a.count == b.start for a, b in pairwise(ordered))
        assert ordered[-1].start + ordered[-1].count == shapes[name][0]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_released_model_has_as_many_weights_as_its_report_says(preset: str) -> None:
    shapes = naming.own_shapes(architecture(PRESETS[preset]))

    assert sum(map(elements, shapes.values())) == parameters(PRESETS[preset])


def test_head_h_of_a_llama_model_is_query_h_modulo_n_of_group_h_over_n() -> None:
    sizes = PRESETS["internlm2-7b"]
    size, n = 128, 4
    first: dict[str, list[int]] = {}
    for each in naming.tensors(architecture(sizes), "llama"):
        if each.name.startswith("model.layers.3.self_attn.") and "o_proj" not in each.name:
            starts = [part.start + at for part in each.rows for at in range(0, part.count, size)]
            first[each.name.split(".")[4]] = starts

    # Row g (n + 2) d + s d of wqkv: s < n is query g n + s, n the key and n + 1 the value of group g.
    assert first["q_proj"] == [(h // n * (n + 2) + h % n) * size for h in range(32)]
    assert first["k_proj"] == [(g * (n + 2) + n) * size for g in range(8)]
    assert first["v_proj"] == [(g * (n + 2) + n + 1) * size for g in range(8)]


def test_names_and_shapes_are_those_of_the_model_that_trains() -> None:
    (trained,) = ranks.run(1, parameter_shapes)

    assert naming.own_shapes(architecture(parity.SIZES)) == trained


def test_a_reward_model_has_one_row_of_v_head_and_no_output() -> None:
    of = replace(architecture(parity.SIZES), reward_token=9)
    names = {each.name: each.shape for each in naming.tensors(of, "internlm2")}

    assert names["v_head.weight"] == (1, parity.SIZES.hidden)
    assert "output.weight" not in names
    with pytest.raises(Refused, match="llama has no place for the reward head v_head; use internlm2"):
        naming.tensors(of, "llama")


def parameter_shapes(_rank: int, _world: int) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in parity.trainer(parity.stage()).model.parameters().items()}
