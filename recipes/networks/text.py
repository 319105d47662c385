"""Networks of text: any Hugging Face encoder, fed with embeddings so that continuous methods reach
it."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModel,
    BertConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from foundation.errors import UserError, first_line, nearest
from recipes.networks.meta import on_meta
from recipes.networks.names import SMALL, Pooling
from recipes.networks.network import Network
from recipes.step.step import Embedded

logger = logging.getLogger(__name__)

_SMALL_SETTINGS: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "type_vocab_size": 1,
}


def _unconditional_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    # transformers looks whether all tokens are real, to drop the mask: the device would wait for
    # the host
    if "allow_is_bidirectional_skip" in kwargs:
        kwargs["allow_is_bidirectional_skip"] = False
    return sdpa_mask(*args, **kwargs)


AttentionInterface.register("roux_sdpa", sdpa_attention_forward)
AttentionMaskInterface.register("roux_sdpa", _unconditional_mask)


class TextNetwork(Network):
    """Hugging Face encoder on token embeddings.

    `embed` looks the tokens up; positions, token types and the first normalisation belong to
    `features`, so a perturbation of the embedding is one of the words alone (as in Miyato et al.
    2017, arXiv:1605.07725). Padding must stand on the right, as `datamodules` puts it: encoders
    count positions from the left when they see no ids.

    pooling: `mean` of the last hidden states over real tokens, Σ_l m_l h_l / Σ_l m_l; `cls`, the
    first token's state.
    max_length: longest sequence the encoder has positions for, None when unlimited. vocab_size: its
        number of
    tokens. architecture: its configuration as JSON, where `build_text` made it. Raises UserError
    when a text is longer than max_length.
    """

    kind = "text"
    backbone: PreTrainedModel

    def __init__(
        self,
        backbone: PreTrainedModel,
        tasks: dict[str, int],
        *,
        pooling: Pooling = "mean",
        drop_rate: float = 0.0,
    ):
        super().__init__(backbone.config.hidden_size, tasks, drop_rate)
        self.backbone = backbone
        self.pooling = pooling
        self.max_length = _longest(backbone)
        tokens: Any = backbone.get_input_embeddings()
        self.vocab_size: int = tokens.num_embeddings
        self.architecture: str | None = None

    def embed(self, view: Mapping[str, Tensor]) -> Embedded:
        return Embedded(
            self.backbone.get_input_embeddings()(view["ids"]), view["mask"], view.get("content")
        )

    def example(self) -> Embedded:
        length = min(8, self.max_length or 8)
        generator = torch.Generator("cpu").manual_seed(0)
        ids = torch.randint(self.vocab_size, (2, length), generator=generator, device="cpu")
        mask = torch.ones(2, length, dtype=torch.bool, device="cpu")
        mask[1, length - length // 3 :] = False
        device = self.backbone.device
        return self.embed({"ids": ids.to(device), "mask": mask.to(device)})

    def features(self, embedded: Embedded) -> Tensor:
        x, mask = embedded.x, embedded.mask
        if self.max_length is not None and x.shape[1] > self.max_length:
            raise UserError(
                f"a text view has {x.shape[1]} tokens, the encoder takes at most "
                f"{self.max_length}; "
                "shorten the texts of the data or name another network"
            )
        attention = x.new_ones(x.shape[:2], dtype=torch.long) if mask is None else mask.long()
        hidden = self.backbone(inputs_embeds=x, attention_mask=attention).last_hidden_state
        return hidden[:, 0] if self.pooling == "cls" else masked_mean(hidden, attention)


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Σ_l m_l h_l / max(Σ_l m_l, 1) in float32, returned in the type of `hidden`.

    hidden: [N, L, D]; mask: [N, L], non-zero on real tokens. What stands on padding has no
    influence, not even a nan.
    """
    real = (mask != 0).unsqueeze(-1)
    total = torch.where(real, hidden.float(), 0.0).sum(1)
    return (total / real.sum(1).clamp_min(1)).to(hidden.dtype)


def build_text(
    tasks: dict[str, int],
    *,
    name: str,
    pretrained: bool = False,
    pooling: Pooling = "mean",
    drop_rate: float = 0.0,
    options: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
) -> TextNetwork:
    """A TextNetwork around the encoder `name`: a name of the hub, a local folder, or
    `roux_text_small`, a BERT of two layers of 128 units (Turc et al. 2019, arXiv:1908.08962, have
    its like) that needs no files.

    options: fields of the encoder's configuration. vocab_size: tokens of the tokenizer in use; an
    encoder without pretrained weights gets as many, one with them must have at least as many.
    Raises UserError for a name that is not found, an unknown option, a vocabulary that does not
    fit.
    """
    config = _configure(name, pretrained, dict(options or {}), vocab_size)
    architecture = config.to_json_string()
    if pretrained and not on_meta():
        model = _load(name, config)
    else:
        try:
            model = AutoModel.from_config(config)
        except ValueError as error:
            given = dict(options or {})
            raise UserError(
                f"network.name='{name}' with network.options={given}: {_line(error)}"
            ) from error
    encoder = model.get_encoder() if config.is_encoder_decoder else model
    if getattr(encoder, "pooler", None) is not None:
        # its parameters would get no gradient: they would be counted, decayed, and stop DDP
        encoder.pooler = None
    if encoder.config._attn_implementation == "sdpa":
        encoder.set_attn_implementation("roux_sdpa")
    network = TextNetwork(encoder, tasks, pooling=pooling, drop_rate=drop_rate)
    network.architecture = architecture
    return network


def _configure(
    name: str, pretrained: bool, options: dict[str, Any], vocab_size: int | None
) -> PretrainedConfig:
    if name == SMALL:
        if pretrained:
            raise UserError(
                f"network.name: '{SMALL}' has no weights to load, and network.pretrained=true "
                "wants some; "
                "name an encoder or give its folder: network.name=NAME"
            )
        if vocab_size is None:
            raise UserError(
                f"network.vocab_size is missing: '{SMALL}' needs the size of the vocabulary"
            )
        config: PretrainedConfig = BertConfig(vocab_size=vocab_size, **_SMALL_SETTINGS)
    else:
        config = _found(name, lambda: AutoConfig.from_pretrained(name))
    for key, value in options.items():
        if not hasattr(config, key):
            hint = nearest(key, config.to_dict())
            raise UserError(
                f"network.options.{key}: the encoder '{name}' has no such setting; {hint}"
            )
        setattr(config, key, value)
    if vocab_size is not None and pretrained and vocab_size > config.vocab_size:
        raise UserError(
            f"network.vocab_size={vocab_size}: the encoder '{name}' knows {config.vocab_size} "
            "tokens; "
            "use the tokenizer that belongs to it"
        )
    if vocab_size is not None and not pretrained:
        config.vocab_size = vocab_size
    return config


def _load(name: str, config: PretrainedConfig) -> PreTrainedModel:
    model, report = _found(
        name, lambda: AutoModel.from_pretrained(name, config=config, output_loading_info=True)
    )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(
            f"network.name='{name}': the files hold no weights for {missing[0]} and "
            f"{len(missing) - 1} more; "
            "the weights are not of this encoder"
        )
    return model.float()


def _found(name: str, read: Any) -> Any:
    try:
        return read()
    except (OSError, ValueError, RuntimeError) as error:
        logger.debug("reading '%s' failed", name, exc_info=True)
        raise UserError(
            f"network.name='{name}': no encoder in such a folder, nor from the hub "
            f"({_line(error)}); "
            f"give a local folder, or '{SMALL}', which needs no files"
        ) from error


def _line(error: Exception) -> str:
    return first_line(error)


def _longest(backbone: PreTrainedModel) -> int | None:
    """Positions an encoder with a learned table has; the RoBERTa family spends the first
    padding_idx + 1 of them."""
    tables = ("position_embeddings", "embed_positions", "wpe")
    for name, module in backbone.named_modules():
        if name.endswith(tables) and isinstance(module, nn.Embedding):
            spent = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - spent
    return None
