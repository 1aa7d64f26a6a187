"""Sizes, memory and step times: the formulas are internlm2_spec's, here is what is asked of them."""

import pytest

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cli import forecast, manifest
from internlm2_operator.cli.admission import judge
from internlm2_spec import flops, gpus, memory
from internlm2_spec.config import Refused
from tests.api.jobs import job


def made(**changes: object) -> InternLM2Job:
    return manifest.imagined(judge(job(changes))[0])


def test_legal_sizes_are_those_that_every_stage_divides_into() -> None:
    assert forecast.legal_sizes(made()) == [2, 4]


@pytest.mark.parametrize("nodes", [2, 4])
def test_the_global_batch_is_the_same_at_every_size(nodes: int) -> None:
    stage = made().stage_config(0)
    (one,) = forecast.sizes(stage, [nodes], 8, forecast.Assumptions())
    assert one.data * one.accumulation * stage.sequence_length == stage.global_batch_tokens
    assert (one.ranks, one.seconds, one.mfu) == (nodes * 8, None, None)
    assert one.fullest == memory.of_stage(stage, nodes * 8, memory.CUDA)


def test_a_given_mfu_is_plain_arithmetic() -> None:
    """7B, 4M tokens: causal FLOPs of the batch over 32 x 989 TFLOP/s x 0.4."""
    stage = made().stage_config(0)
    (one,) = forecast.sizes(stage, [4], 8, forecast.assumptions("h100", 0.4, None))
    work = 4194304 * flops.per_token_causal(stage.model, 4096)
    assert one.seconds == pytest.approx(work / (32 * 989e12 * 0.4))
    assert one.mfu == 0.4


def test_without_one_the_prediction_is_the_estimate_s_and_says_so() -> None:
    assumed = forecast.assumptions("H100-80GB", None, None)
    (one,) = forecast.sizes(made().stage_config(0), [4], 8, assumed)
    assert one.mfu is not None
    assert 0.1 < one.mfu < 0.6
    assert "docs/estimate.md" in assumed.words()


@pytest.mark.parametrize(
    ("name", "wanted"), [("h100", "H100-80GB"), ("H100 PCIe", "H100-PCIe"), ("a800-80gb", "A800-80GB")]
)
def test_a_gpu_is_known_by_part_of_its_name(name: str, wanted: str) -> None:
    assert forecast.known_gpu(name) == gpus.by_name(wanted)


@pytest.mark.parametrize(
    ("gpu", "mfu", "words"),
    [
        ("Z9", None, "--gpu: Z9 is not known; use one of A100"),
        (None, 0.4, "--gpu: missing"),
        ("h100", 40.0, "--mfu: 40 is"),
    ],
)
def test_an_assumption_that_makes_no_sense_is_refused(gpu: str | None, mfu: float | None, words: str) -> None:
    with pytest.raises(Refused, match=words):
        forecast.assumptions(gpu, mfu, None)


def test_a_checkpoint_has_twelve_bytes_a_parameter() -> None:
    assert forecast.checkpoint_bytes(made()) == 12 * 7_737_708_544
