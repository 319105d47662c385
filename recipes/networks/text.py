"""Text networks: any Hugging Face encoder, called with embeddings, so that methods on continuous
inputs work on text."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, BertConfig, PretrainedConfig, PreTrainedModel

from foundation.errors import UserError, first_line, nearest
from recipes.networks.attention import SDPA
from recipes.networks.encoder_files import load_encoder, read_from_hub, refuse_kernels
from recipes.networks.encoder_kinds import first_token_refusal
from recipes.networks.encoders import (
    encoder_part,
    inspect_encoder,
    make_encoder,
    token_table,
)
from recipes.networks.meta import on_meta
from recipes.networks.names import SMALL, Pooling
from recipes.networks.network import Network
from recipes.step.step import Embedded

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


class TextNetwork(Network):
    """Hugging Face encoder on token embeddings.

    `embed` returns word embeddings; positions, token types and the first normalization are part of
    `features`, so a perturbation of the embedding perturbs words only (as in Miyato et al. 2017,
    arXiv:1605.07725). Padding must be on the right, as in `datamodules`: without ids, encoders
    count positions from the left.

    What an encoder does to the rows of its table before it uses them (Marian multiplies by √d) is
    part of `embed`: the features are those of the encoder's own forward on ids.

    pooling: `mean` of the last hidden states over real tokens, Σ_l m_l h_l / Σ_l m_l; `cls`, the
        first token's state; `last`, that of the last real token, which in a decoder has seen all
        others.
    causal: whether a token sees only those before it, as in a decoder.
    max_length: longest sequence that the encoder has positions for, None if unlimited.
    vocab_size: its number of tokens.
    architecture: its configuration as JSON if `build_text` built it, else None.

    Raises UserError for an encoder whose features from embeddings differ from those from ids or
    that cannot run, for a pooling that does not suit it, and for a text longer than max_length.
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
        # a cache of keys and values is of no use without generation
        for config in (backbone.config, backbone.config.get_text_config()):
            config.use_cache = False
        facts = inspect_encoder(backbone)
        _check_pooling(backbone, pooling, facts.causal)
        super().__init__(facts.width, tasks, drop_rate)
        self.backbone = backbone
        self.pooling = pooling
        self.causal = facts.causal
        self.scale = facts.scale
        self.in_place = facts.in_place
        self.freeze_unused(facts.unused)
        self.max_length = facts.limit
        self.vocab_size: int = token_table(backbone).num_embeddings
        self.architecture: str | None = None

    def embed(self, view: Mapping[str, Tensor]) -> Embedded:
        words = token_table(self.backbone)(view["ids"])
        if self.scale != 1.0:
            words = self.scale * words
        return Embedded(words, view["mask"], view.get("content"))

    def example(self) -> Embedded:
        length = min(8, self.max_length or 8)
        generator = torch.Generator("cpu").manual_seed(0)
        ids = torch.randint(self.vocab_size, (2, length), generator=generator, device="cpu")
        mask = torch.ones(2, length, dtype=torch.bool, device="cpu")
        mask[1, length - length // 3 :] = False
        device = token_table(self.backbone).weight.device
        return self.embed({"ids": ids.to(device), "mask": mask.to(device)})

    def features(self, embedded: Embedded) -> Tensor:
        x = embedded.x
        if self.max_length is not None and x.shape[1] > self.max_length:
            raise UserError(
                f"a text view has {x.shape[1]} tokens, the encoder takes at most "
                f"{self.max_length}; shorten the texts of the data or use another network"
            )
        if self.in_place:
            x = x.clone()
        attention = attention_mask(embedded)
        hidden = self.backbone(inputs_embeds=x, attention_mask=attention).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            return last_state(hidden, attention)
        return masked_mean(hidden, attention)


def attention_mask(embedded: Embedded) -> Tensor:
    """int64 [N, L], 1 on real tokens; on all tokens if there is no mask."""
    if embedded.mask is None:
        return embedded.x.new_ones(embedded.x.shape[:2], dtype=torch.long)
    return embedded.mask.long()


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Σ_l m_l h_l / max(Σ_l m_l, 1) in float32, returned in the type of `hidden`.

    hidden: [N, L, D]; mask: [N, L], non-zero on real tokens. Values on padding have no influence,
    not even NaN.
    """
    real = (mask != 0).unsqueeze(-1)
    total = torch.where(real, hidden.float(), 0.0).sum(1)
    return (total / real.sum(1).clamp_min(1)).to(hidden.dtype)


def last_state(hidden: Tensor, mask: Tensor) -> Tensor:
    """h_l of the last l with m_l ≠ 0, [N, D]. hidden: [N, L, D]; mask: [N, L]."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * (mask != 0)).amax(1)
    index = last[:, None, None].expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1)


def _check_pooling(backbone: PreTrainedModel, pooling: Pooling, causal: bool) -> None:
    reason = first_token_refusal(backbone.config, causal) if pooling == "cls" else ""
    if reason:
        raise UserError(
            "network.pooling=cls",
            f"does not suit {type(backbone).__name__}: {reason}",
            "expected last or mean",
        )


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
    """A TextNetwork around the encoder `name`: a name on the hub, a local folder, or
    `roux_text_small`, a BERT of two layers of 128 units (similar to those of Turc et al. 2019,
    arXiv:1908.08962) that needs no files.

    options: fields of the encoder's configuration.
    vocab_size: tokens of the tokenizer in use. An encoder without pretrained weights gets as many,
        one with them must have at least as many.

    Raises UserError for a name that is not found, an unknown option, or a vocabulary that does not
    fit.
    """
    given = dict(options or {})
    config = _configure(name, pretrained, given, vocab_size)
    architecture = config.to_json_string()
    key = f"network.name='{name}'"
    try:
        encoder = _create(name, config, given, pretrained and not on_meta())
        if encoder.config._attn_implementation == "sdpa":
            encoder.set_attn_implementation(SDPA)
        network = around_encoder(encoder, tasks, pooling, drop_rate)
    except UserError as error:
        if error.key != "network.name":
            raise
        raise error.about(key) from error
    network.architecture = architecture
    return network


def around_encoder(
    encoder: Any, tasks: dict[str, int], pooling: Pooling, drop_rate: float
) -> TextNetwork:
    """The network, without the encoder's pooler unless its forward needs one: the pooler's
    parameters would be counted and saved for nothing."""
    pooler = getattr(encoder, "pooler", None)
    if pooler is not None:
        encoder.pooler = None
        try:
            return TextNetwork(encoder, tasks, pooling=pooling, drop_rate=drop_rate)
        except UserError as error:
            if error.key != "network.name":
                raise
            encoder.pooler = pooler
    return TextNetwork(encoder, tasks, pooling=pooling, drop_rate=drop_rate)


def _create(name: str, config: PretrainedConfig, options: dict[str, Any], load: bool) -> Any:
    """The encoder, with its weights or with random ones."""
    if load:
        return encoder_part(load_encoder(name, config))
    try:
        return make_encoder(config)
    except UserError:
        raise
    # settings of a file raise whatever a class of transformers raises at them
    except Exception as error:
        key = f"network.name='{name}' with network.options={options}"
        raise UserError(key, f"{type(error).__name__}: {first_line(error)[:200]}") from error


def _configure(
    name: str, pretrained: bool, options: dict[str, Any], vocab_size: int | None
) -> PretrainedConfig:
    """The encoder's configuration, with the user's options and the size of the vocabulary."""
    if name == SMALL:
        config = _small_config(pretrained, vocab_size)
    else:
        config = read_from_hub(name, lambda: AutoConfig.from_pretrained(name))
        refuse_kernels(name, config)
    for key, value in options.items():
        if not hasattr(config, key):
            hint = nearest(key, config.to_dict())
            raise UserError(
                f"network.options.{key}: the encoder '{name}' has no such setting; {hint}"
            )
        setattr(config, key, value)
    if vocab_size is not None and pretrained and vocab_size > config.vocab_size:
        raise UserError(
            f"network.vocab_size={vocab_size}: the encoder '{name}' has {config.vocab_size} "
            "tokens; use its own tokenizer"
        )
    if vocab_size is not None and not pretrained:
        config.vocab_size = vocab_size
    return config


def _small_config(pretrained: bool, vocab_size: int | None) -> PretrainedConfig:
    if pretrained:
        raise UserError(
            f"network.name: '{SMALL}' has no pretrained weights, but network.pretrained=true; use "
            "an encoder of the hub or a local folder: network.name=NAME"
        )
    if vocab_size is None:
        raise UserError(
            f"network.vocab_size is missing: '{SMALL}' needs the size of the vocabulary"
        )
    return BertConfig(vocab_size=vocab_size, **_SMALL_SETTINGS)
