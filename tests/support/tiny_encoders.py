"""A tiny configuration of any encoder of the installed transformers: few layers, small widths, a
vocabulary of 99."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

VOCABULARY = 99
WIDTH = 32
POSITIONS = 64
MOST_PARAMETERS = 30_000_000  # what is larger after shrinking is not tiny

# the first pattern that fits an integer's name gives its value; None leaves it as it is
_VALUES: list[tuple[str, int | None]] = [
    (r"vocab_size|n_vocab|vocab$", VOCABULARY),
    (r"experts_per_tok|_topk|top_k|topk_group|n_group$|moe_k$", 1),
    (r"num_.*experts$|n_routed_experts|num_local_experts|moe_num", 4),
    (r"(num|n)_.*(layers?|blocks)$|^n_layers?$|^depth$|^(en|de)coder_layers$|^layers$", 2),
    (r"rope_head_dim|rope_dim|rotary_dim", 4),
    (r"nope_head_dim|head_dim|d_kv|kv_channels|v_head_dim", 8),
    (r"lora_rank", 8),
    (r"key_value_heads|kv_heads|num_kv", 2),
    (r"(^|_)heads?$|attention_heads|n_heads", 4),
    (r"intermediate|ffn|d_ff|inner|n_inner", 48),
    (
        r"hidden_size|hidden_dim|d_model|n_embd|embed_dim|emb_dim|embedding_size|^n_embed$|^dim$",
        WIDTH,
    ),
    (
        r"position_embeddings$|max_position|n_positions|n_ctx|max_seq|max_source_pos|max_target_pos",
        POSITIONS,
    ),
]
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# relations between settings that the patterns do not know
_OWN: dict[str, dict[str, Any]] = {
    "longformer": {"attention_window": [8, 8], "max_position_embeddings": POSITIONS + 2},
    "led": {"attention_window": [8, 8]},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "xlnet": {"d_head": 8},
    "xmod": {"default_language": "en_XX"},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "opt": {"word_embed_proj_dim": 16},
    "marian": {"scale_embedding": True},
    "pegasus": {"scale_embedding": True},
    "mvp": {"scale_embedding": True},
    "blenderbot-small": {"scale_embedding": True},
    "bart": {"scale_embedding": True},
    "esm": {"token_dropout": True, "mask_token_id": 3, "pad_token_id": 1, "vocab_size": VOCABULARY},
}


def encoder_types() -> list[str]:
    """Every type of model that `AutoModel` knows."""
    return sorted(MODEL_MAPPING_NAMES)


def tiny_config(kind: str) -> PretrainedConfig:
    """The configuration of a type in its tiny form; may raise whatever its class raises."""
    config = _shrunk(CONFIG_MAPPING[kind]())
    for key, value in _OWN.get(kind, {}).items():
        setattr(config, key, value)
    for part in _parts(config):
        for key, value in list(vars(part).items()):
            if key.endswith("_token_id") and isinstance(value, int) and value >= VOCABULARY:
                setattr(part, key, _SPECIAL.get(key, 3))
    return config


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    yield config
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield from _parts(value)


def _shrunk(config: PretrainedConfig) -> PretrainedConfig:
    for part in _parts(config):
        for key, value in list(vars(part).items()):
            small = _small(key, value)
            if small is not None:
                setattr(part, key, small)
    return config


def _small(key: str, value: Any) -> Any:
    if isinstance(value, list) and re.search(r"layer_types|block_type|attention_layers", key):
        return _one_of_each(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        return None
    for pattern, small in _VALUES:
        if re.search(pattern, key):
            return small if small is not None and small < value else None
    return None


def _one_of_each(layers: list[Any]) -> list[Any]:
    """Two layers, of different types where there are two."""
    first = layers[0] if layers else None
    other = next((layer for layer in layers if layer != first), first)
    return [other, first] if layers else []


def texts(lengths: tuple[int, ...] = (9, 5)) -> dict[str, torch.Tensor]:
    """Two texts of ids without a special one; padding with 0 on the right."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, 90, mask.shape, generator=generator)
    return {"ids": ids.where(mask, 0), "mask": mask}
