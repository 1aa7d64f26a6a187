"""The JSON files of a released folder: from a model's architecture, and back with every field checked.

Nothing is left to the defaults of whoever reads them: those of the released InternLM2Config class are not
the model (vocabulary 103,168, eps 1e-6, biases). Fields that point at Python files (`auto_map`) are left out,
because the folder has none: vLLM, LMDeploy and SGLang know `InternLM2ForCausalLM` by name, and the `llama`
format is for those that do not.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Model, Refused
from internlm2_spec.presets import PRESETS
from internlm2_trainer.weights.naming import Format

CONFIG: Final = "config.json"
GENERATION: Final = "generation_config.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"

# As every released InternLM2 tokenizer has them: <s>, and </s> also as padding.
BOS, EOS, PAD = 1, 2, 2
INIT_STD: Final = 0.02
NORM_EPS: Final = 1e-5

SIZES: Final = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
}
CAUSAL: Final = {"internlm2": "InternLM2ForCausalLM", "llama": "LlamaForCausalLM"}
REWARD: Final = "InternLM2ForRewardModel"

# What the model computes whatever its sizes. A missing field has the value of its class: None is refused.
FIXED: Final[dict[Format, dict[str, tuple[Any, Any]]]] = {
    "internlm2": {
        "bias": (False, None),
        "hidden_act": ("silu", "silu"),
        "rms_norm_eps": (NORM_EPS, None),
        "tie_word_embeddings": (False, False),
    },
    "llama": {
        "attention_bias": (False, False),
        "mlp_bias": (False, False),
        "hidden_act": ("silu", "silu"),
        "rms_norm_eps": (NORM_EPS, None),
        "tie_word_embeddings": (False, False),
    },
}


@dataclass(frozen=True, slots=True)
class Described:
    """What a `config.json` says."""

    architecture: Architecture
    format: Format


def config_json(architecture: Architecture, format: Format, dtype: str) -> dict[str, Any]:
    """Return `config.json` for weights of `dtype`, `bfloat16` or `float32`."""
    scaling = None
    if architecture.dynamic_ntk is not None:
        # These two fields and no third: the released class refuses others.
        scaling = {"type": "dynamic", "factor": architecture.dynamic_ntk}
    reward = {} if architecture.reward_token is None else {"reward_token_id": architecture.reward_token}
    return {
        "architectures": [REWARD if reward else CAUSAL[format]],
        "model_type": format,
        **{theirs: getattr(architecture.model, ours) for ours, theirs in SIZES.items()},
        **{name: value for name, (value, _) in FIXED[format].items()},
        "max_position_embeddings": architecture.max_positions,
        "rope_theta": architecture.rope_base,
        "rope_scaling": scaling,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "initializer_range": INIT_STD,
        "use_cache": True,
        "torch_dtype": dtype,
        **reward,
    }


def generation_json() -> dict[str, Any]:
    """Return `generation_config.json`: which tokens begin and end a text."""
    return {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


def tokenizer_json(format: Format) -> dict[str, Any]:
    """Return `tokenizer_config.json` for a SentencePiece `tokenizer.model` that comes without one."""
    return {
        "tokenizer_class": "InternLM2Tokenizer" if format == "internlm2" else "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }


def parse_config(text: str, path: str) -> Described:
    """Read a `config.json`; `path` names it in the refusal.

    Raises:
        Refused: it is of another kind of model, or says that something is computed in another way than here.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise Refused(path, wrong=f"is not JSON ({error})", right="name a folder of released weights") from None
    if not isinstance(data, dict) or data.get("model_type") not in CAUSAL:
        kind = data.get("model_type") if isinstance(data, dict) else None
        wrong, right = f"model_type is {json.dumps(kind)}", f"use one of {', '.join(CAUSAL)}"
        raise Refused(path, wrong=wrong, right=right)
    format: Format = data["model_type"]
    for name, (value, default) in FIXED[format].items():
        if (found := data.get(name, default)) != value:
            raise Refused(path, wrong=f"{name} is {json.dumps(found)}", right=f"only {json.dumps(value)} is computed")
    sizes = Model(**{ours: _whole_number(data, theirs, path) for ours, theirs in SIZES.items()})
    _check_heads(sizes, data, path)
    base, factor = _rope(data, path)
    positions = _whole_number(data, "max_position_embeddings", path)
    return Described(Architecture(sizes, base, positions, factor, _reward_token(data, format, path)), format)


def check_preset(sizes: Model, preset: str, path: str) -> None:
    """Compare sizes with those of a released model.

    Raises:
        Refused: a size differs; says which, and which released model has these sizes, if one has.
    """
    expected = PRESETS[preset]
    for ours, theirs in SIZES.items():
        if (found := getattr(sizes, ours)) != (wanted := getattr(expected, ours)):
            same = next((name for name, other in PRESETS.items() if other == sizes), None)
            right = f"these are the sizes of {same}" if same else "leave out --preset for a model of other sizes"
            raise Refused(path, wrong=f"{theirs} is {found}, and {wanted} in {preset}", right=right)


def _whole_number(data: dict[str, Any], name: str, path: str) -> int:
    value = data.get(name)
    if name == "num_key_value_heads" and value is None:
        value = data.get("num_attention_heads")  # both classes take that for it
    if type(value) is not int or value < 1:
        wrong = f"{name} is {json.dumps(value)}" if name in data else f"{name} is missing"
        raise Refused(path, wrong=wrong, right=f"write {name} as a whole number")
    return value


def _check_heads(sizes: Model, data: dict[str, Any], path: str) -> None:
    if sizes.hidden % (2 * sizes.heads) or sizes.heads % sizes.kv_heads:
        wrong = f"hidden_size {sizes.hidden}, num_attention_heads {sizes.heads}, num_key_value_heads {sizes.kv_heads}"
        raise Refused(path, wrong=wrong, right="heads of an even size, and the same number for each KV head")
    if data.get("head_dim") not in (None, sizes.hidden // sizes.heads):
        right = f"only hidden_size / num_attention_heads = {sizes.hidden // sizes.heads} is computed"
        raise Refused(path, wrong=f"head_dim is {json.dumps(data['head_dim'])}", right=right)


def _rope(data: dict[str, Any], path: str) -> tuple[float, float | None]:
    """Return base and factor of dynamic NTK, from `rope_theta` and `rope_scaling`, or a newer `rope_parameters`."""
    newer = data.get("rope_parameters") or {}
    base = newer.get("rope_theta", data.get("rope_theta"))
    if not isinstance(base, int | float) or base <= 0:
        raise Refused(path, wrong=f"rope_theta is {json.dumps(base)}", right="write the base of the rotary embedding")
    scaling = newer or data.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return float(base), None
    factor = scaling.get("factor")
    if kind != "dynamic" or not isinstance(factor, int | float) or factor < 1:
        wrong = f"rope_scaling is {json.dumps(scaling)}"
        raise Refused(path, wrong=wrong, right="only type dynamic with a factor of 1 or more is computed")
    return float(base), float(factor)


def _reward_token(data: dict[str, Any], format: Format, path: str) -> int | None:
    kinds = data.get("architectures")
    if kinds == [CAUSAL[format]]:
        return None
    if kinds == [REWARD]:
        return _whole_number(data, "reward_token_id", path)
    right = f"use {CAUSAL[format]}" + (f" or {REWARD}" if format == "internlm2" else "")
    raise Refused(path, wrong=f"architectures is {json.dumps(kinds)}", right=right)
