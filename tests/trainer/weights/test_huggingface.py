"""`config.json`: every field that we write, and every one that we read."""

import json
from dataclasses import replace
from typing import Any

import pytest

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Refused
from internlm2_spec.presets import PRESETS
from internlm2_trainer.compute import model
from internlm2_trainer.weights import huggingface
from internlm2_trainer.weights.naming import Format

SEVEN = PRESETS["internlm2-7b"]

# As the 7B chat model was released, with what points at its Python files.
RELEASED: dict[str, Any] = {
    "architectures": ["InternLM2ForCausalLM"],
    "attn_implementation": "eager",
    "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
    "bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "internlm2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 92544,
}


def parsed(data: Any) -> huggingface.Described:
    return huggingface.parse_config(json.dumps(data), "config.json")


def test_the_released_7b_chat_model_is_read_field_by_field() -> None:
    assert parsed(RELEASED) == huggingface.Described(Architecture(SEVEN, 1e6, 32768, 2.0), "internlm2")


def test_what_is_written_of_it_is_what_was_released() -> None:
    written = huggingface.config_json(Architecture(SEVEN, 1e6, 32768, 2.0), "internlm2", "bfloat16")

    assert written == {name: v for name, v in RELEASED.items() if name not in ("attn_implementation", "auto_map")}


@pytest.mark.parametrize("format", ["internlm2", "llama"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("factor", [None, 2.0])
def test_what_is_written_is_read_back(preset: str, factor: float | None, format: Format) -> None:
    of = Architecture(PRESETS[preset], 50000.0, 4096, factor)

    assert parsed(huggingface.config_json(of, format, "float32")) == huggingface.Described(of, format)


def test_a_reward_model_says_where_its_score_is() -> None:
    of = Architecture(PRESETS["internlm2-20b"], 1e6, 32768, reward_token=92527)
    written = huggingface.config_json(of, "internlm2", "bfloat16")

    assert written["architectures"] == ["InternLM2ForRewardModel"]
    assert written["reward_token_id"] == 92527
    assert parsed(written).architecture == of


def test_a_newer_llama_has_its_rotary_fields_in_one_object() -> None:
    written = huggingface.config_json(Architecture(SEVEN, 1e6, 32768), "llama", "bfloat16")
    del written["rope_theta"], written["rope_scaling"]
    written["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 500000.0, "factor": 4.0}

    assert parsed(written).architecture == Architecture(SEVEN, 500000.0, 32768, 4.0)


REFUSED = {
    "another model": ({"model_type": "qwen2"}, 'model_type is "qwen2"; use one of internlm2, llama'),
    "biases": ({"bias": True}, "bias is true; only false is computed"),
    "biases by the class's default": ({"bias": ...}, "bias is null; only false is computed"),
    "another eps": ({"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06; only 1e-05 is computed"),
    "eps by the class's default": ({"rms_norm_eps": ...}, "rms_norm_eps is null; only 1e-05 is computed"),
    "another activation": ({"hidden_act": "gelu"}, 'hidden_act is "gelu"; only "silu" is computed'),
    "tied embeddings": ({"tie_word_embeddings": True}, "tie_word_embeddings is true; only false is computed"),
    "no width": ({"hidden_size": ...}, "hidden_size is missing; write hidden_size as a whole number"),
    "a width in words": ({"hidden_size": "4096"}, 'hidden_size is "4096"; write hidden_size as a whole number'),
    "heads that do not divide": ({"num_attention_heads": 30}, "hidden_size 4096, num_attention_heads 30"),
    "wide heads": ({"head_dim": 256}, "head_dim is 256; only hidden_size / num_attention_heads = 128 is computed"),
    "no base": ({"rope_theta": ...}, "rope_theta is null; write the base of the rotary embedding"),
    "linear scaling": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "only type dynamic with a factor of 1"),
    "a factor below one": ({"rope_scaling": {"type": "dynamic", "factor": 0.5}}, "only type dynamic with a factor"),
    "another head": ({"architectures": ["InternLM2ForSequenceClassification"]}, "use InternLM2ForCausalLM or"),
    "a reward head without its token": ({"architectures": ["InternLM2ForRewardModel"]}, "reward_token_id is missing"),
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_computed_in_another_way_is_refused(change: dict[str, Any], told: str) -> None:
    data = {name: value for name, value in (RELEASED | change).items() if value is not ...}

    with pytest.raises(Refused) as refused:
        parsed(data)
    assert str(refused.value).startswith("config.json: ")
    assert told in str(refused.value)


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(Refused, match=r"config.json: is not JSON .*; name a folder of released weights"):
        huggingface.parse_config("<html>", "config.json")


def test_a_preset_names_the_field_that_differs_and_the_model_that_it_is() -> None:
    huggingface.check_preset(SEVEN, "internlm2-7b", "config.json")

    with pytest.raises(Refused) as refused:
        huggingface.check_preset(SEVEN, "internlm2-20b", "config.json")
    assert str(refused.value) == (
        "config.json: num_hidden_layers is 32, and 48 in internlm2-20b; these are the sizes of internlm2-7b"
    )
    with pytest.raises(Refused, match="vocab_size is 92550, and 92544 in internlm2-7b; leave out --preset"):
        huggingface.check_preset(replace(SEVEN, vocab=92550), "internlm2-7b", "config.json")


def test_the_constants_are_those_of_the_model_that_trains() -> None:
    assert (huggingface.NORM_EPS, huggingface.INIT_STD) == (model.NORM_EPS, model.INIT_STD)
