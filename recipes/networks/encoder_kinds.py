"""What the classes and configurations of Hugging Face encoders say about them: how many positions
they have, and whether their first token stands for the text."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto as names

# -- positions -------------------------------------------------------------------------------------
_TABLES = ("position_embeddings", "embed_positions", "wpe", "positions_embed")
# limits that stand in the configuration alone
_SETTINGS = {"mpt": "max_seq_len", "tipsv2_text_model": "max_position_embeddings"}
_BUFFERS = ("embed_positions", "pos_encoding")


def position_limit(backbone: nn.Module, called: set[nn.Module] | None = None) -> int | None:
    """The number of tokens that an encoder has positions for, None without a limit.

    called: modules to look at; all by default.

    Some tables have rows that no token uses: `offset` of them before the first position (BART), or
    those up to the padding's (RoBERTa). Encoders with windows pad texts to whole windows.
    """
    config = getattr(backbone, "config", None)
    setting = _SETTINGS.get(getattr(config, "model_type", ""))
    if setting is not None:
        return int(getattr(config, setting))
    modules = backbone.named_modules()
    limit = _rows({name: m for name, m in modules if called is None or m in called})
    windows = getattr(config, "attention_window", None)
    if limit is None or not windows:
        return limit
    window = max(windows) if isinstance(windows, list | tuple) else int(windows)
    return limit // window * window


def _rows(modules: Mapping[str, nn.Module]) -> int | None:
    for name, module in modules.items():
        if name.endswith(_TABLES) and isinstance(module, nn.Embedding):
            unused = getattr(module, "offset", None)
            if unused is None:
                unused = 0 if module.padding_idx is None else module.padding_idx + 1
            rows = module.num_embeddings - unused
            # some read the positions from a buffer beside the table, which may be shorter
            beside = modules.get(name.rpartition(".")[0])
            positions = getattr(beside, "position_ids", None)
            return rows if positions is None else min(rows, positions.shape[-1])
    for module in modules.values():
        for name, buffer in module.named_buffers(recurse=False):
            if name in _BUFFERS:
                return len(buffer)
    return None


# -- pooling ---------------------------------------------------------------------------------------
# encoders of an encoder-decoder whose texts begin with a token for the whole text
_LEADING = {"bart", "led", "mvp"}
# they have a causal head in transformers, and see the whole text without one
_BOTH_WAYS = {"xlnet", "xlm", "flaubert", "bert-generation"}


def _in_two_parts(config: Any) -> bool:
    # T5's encoder has a configuration of its own that says otherwise
    listed = config.model_type in names.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    return config.is_encoder_decoder or listed


def declared_causal(backbone: nn.Module) -> bool:
    """Whether a token sees only those before it, as far as is known without values."""
    assert isinstance(backbone.config, PretrainedConfig)
    config = backbone.config.get_text_config()
    kind = config.model_type
    if _in_two_parts(config):
        return False
    if getattr(config, "is_decoder", False) or getattr(config, "causal", False):
        return True
    if kind in names.MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind in _BOTH_WAYS:
        return False
    return kind in names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def first_token_refusal(config: Any, causal: bool) -> str:
    """Why the first token does not stand for the text; empty if it may."""
    if causal:
        return "the first token of a decoder sees no other token"
    if _in_two_parts(config) and config.model_type not in _LEADING:
        return "its texts begin with an ordinary word"
    if config.model_type == "xlnet":
        return "its token for the whole text is the last one"
    return ""
