"""What a Hugging Face encoder does with texts, found out by running it on two short ones.

The network feeds word embeddings, so that methods can work on them. Some encoders change what they
read from their table before they use it (Marian multiplies by √d), some accept no embeddings, some
return nothing per token. `inspect_encoder` compares the path through embeddings with the encoder's
own forward on ids and refuses an encoder for which they are not equal.
"""

import copy
import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from foundation.errors import UserError, first_line
from recipes.networks.attention import SDPA
from recipes.networks.encoder_kinds import declared_causal, position_limit
from recipes.networks.network import eval_mode

TOLERANCE = 1e-5
LENGTH = 8  # tokens of a trial text, at most
# an encoder that cannot run without values is tried on the CPU, up to so many parameters
MOST_PARAMETERS = 150_000_000
REMEDY = "use another encoder"
# found by the comparison, said before there are values to compare
_DIFFERENT = {"esm": "leaves out positions and scale when it is given embeddings in place of ids"}


@dataclass(frozen=True)
class EncoderFacts:
    """What is known of an encoder once it has run.

    width: of its last hidden states.
    scale: factor between the rows of its table and the embeddings that it works on.
    unused: names of parameters that the forward never reads.
    limit: tokens that it has positions for, None without a limit.
    causal: whether a token sees only those before it.
    in_place: whether the forward changes the embeddings that it is given (CTRL).
    """

    width: int
    scale: float = 1.0
    unused: frozenset[str] = frozenset()
    limit: int | None = None
    causal: bool = False
    in_place: bool = False


def inspect_encoder(backbone: PreTrainedModel) -> EncoderFacts:
    """Run the encoder on its device. On the meta device there are no values to compare, and some
    encoders do not run: those are tried with random weights on the CPU if they are small.

    Raises UserError if it cannot be used.
    """
    _check_arguments(backbone)
    # some encoders make single parameters on the CPU whatever the default device is
    if not token_table(backbone).weight.is_meta:
        return _Trial(backbone).facts()
    try:
        return _Trial(backbone).shapes()
    except UserError:
        raise
    except Exception as error:
        if sum(p.numel() for p in backbone.parameters()) <= MOST_PARAMETERS:
            return _on_cpu(backbone)
        if "meta" not in str(error):
            raise refusal(backbone, f"does not run ({first_line(error)})") from error
        # it needs values, and is compared with itself once it has some
        width = backbone.config.get_text_config().hidden_size
        causal = declared_causal(backbone)
        return EncoderFacts(width, limit=position_limit(backbone), causal=causal)


def refusal(backbone: nn.Module, reason: str) -> UserError:
    return UserError("network.name", f"{type(backbone).__name__} {reason}", REMEDY)


def make_encoder(config: PretrainedConfig) -> Any:
    """The encoder of a configuration, with random weights, on the default device."""
    return encoder_part(AutoModel.from_config(config))


def encoder_part(model: Any) -> Any:
    """The encoder of a model that has a decoder as well, else the model."""
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    if not isinstance(encoder, PreTrainedModel):
        raise refusal(model, "has no encoder that can be used alone")
    return encoder


def token_table(backbone: Any) -> Any:
    """The encoder's table of tokens. Raises UserError if it has none."""
    try:
        table = backbone.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        table = getattr(backbone, "embed_tokens", None)
    if not isinstance(table, nn.Embedding):
        raise refusal(backbone, "has no table with a row for each token")
    return table


def _check_arguments(backbone: Any) -> None:
    known = inspect.signature(backbone.forward).parameters
    if "input_ids" not in known:
        raise refusal(backbone, "does not read texts")
    if "inputs_embeds" not in known:
        raise refusal(backbone, "accepts no embeddings in place of ids")
    if "attention_mask" not in known:
        raise refusal(backbone, "accepts no attention mask, so padding would change its features")
    if backbone.config.model_type in _DIFFERENT:
        raise refusal(backbone, _DIFFERENT[backbone.config.model_type])
    token_table(backbone)


def _on_cpu(backbone: PreTrainedModel) -> EncoderFacts:
    config = copy.deepcopy(backbone.config)
    if config._attn_implementation == SDPA:
        config._attn_implementation = "sdpa"
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            encoder: Any = AutoModel.from_config(config)
        except ValueError:  # the configuration of a part
            encoder = type(backbone)(config)
        if type(encoder) is not type(backbone):
            encoder = encoder.get_encoder()
        if getattr(backbone, "pooler", encoder) is None:
            encoder.pooler = None
        return _Trial(encoder).facts()


class _Trial:
    """Two short texts, the second one padded on the right, and what the encoder makes of them."""

    def __init__(self, backbone: Any):
        self.backbone = backbone
        self.table = token_table(backbone)
        device = self.table.weight.device
        limit = position_limit(backbone)
        length = min(LENGTH, limit or LENGTH)
        mask = torch.ones(2, length, dtype=torch.long, device="cpu")
        mask[1, length - length // 3 :] = 0
        ids = _ordinary_ids(backbone.config, self.table.num_embeddings, length)
        pad = getattr(backbone.config, "pad_token_id", None)
        fits = isinstance(pad, int) and 0 <= pad < self.table.num_embeddings
        ids = ids.where(mask.bool(), torch.tensor(pad if fits else 0, device="cpu"))
        self.ids = ids.to(device)
        self.mask = mask.to(device)
        self.called: set[nn.Module] = set()
        self.in_place = False

    def shapes(self) -> EncoderFacts:
        """Without values: that it runs, in both modes."""
        with _quiet(self.backbone):
            hidden = self.states(inputs_embeds=self.table(self.ids))
            unused = self.unused(hidden)
            with torch.no_grad():
                self.backbone.train()
                self.states(inputs_embeds=self.table(self.ids))
        causal = declared_causal(self.backbone)
        return EncoderFacts(hidden.shape[-1], 1.0, unused, self.limit(), causal, self.in_place)

    def facts(self) -> EncoderFacts:
        """That the path through embeddings is equal to the encoder's forward on ids."""
        try:
            with _quiet(self.backbone):
                return self._facts()
        except UserError:
            raise
        except Exception as error:
            raise refusal(self.backbone, f"does not run ({first_line(error)})") from error

    def _facts(self) -> EncoderFacts:
        with torch.no_grad():
            own = self.states(input_ids=self.ids)
        errors: dict[float, float] = {}
        for scale in scales(self.backbone):
            with torch.no_grad():
                hidden = self.states(inputs_embeds=scale * self.table(self.ids))
            errors[scale] = self.distance(hidden, own)
        best = min(errors, key=lambda scale: errors[scale])
        if not errors[best] <= TOLERANCE:
            raise refusal(
                self.backbone,
                "computes other features from embeddings than from ids (they differ by "
                f"{errors[best]:.1g} of their size)",
            )
        unused = self.unused(self.states(inputs_embeds=best * self.table(self.ids)))
        with torch.no_grad():
            self.backbone.train()
            self.states(inputs_embeds=best * self.table(self.ids))
        causal = declared_causal(self.backbone) or self.first_is_blind(best * self.table(self.ids))
        return EncoderFacts(own.shape[-1], best, unused, self.limit(), causal, self.in_place)

    @torch.no_grad()
    def first_is_blind(self, x: Tensor) -> bool:
        """Whether a change of the last token leaves the first state as it is."""
        with eval_mode(self.backbone):
            before = self.states(inputs_embeds=x)
            changed = x.clone()
            # on the first text only: the other one ends in padding
            changed[0, -1] += changed[0].flip(0)[1:].sum(0) + x.std()
            after = self.states(inputs_embeds=changed)
        return torch.equal(before[0, 0], after[0, 0])

    def limit(self) -> int | None:
        return position_limit(self.backbone, self.called)

    def states(self, **tokens: Tensor) -> Tensor:
        """The last hidden states, [2, L, D]."""
        # a copy, since some encoders change it
        tokens = {name: value.clone() for name, value in tokens.items()}
        versions = [value._version for value in tokens.values()]
        with _recorded(self.backbone, self.called):
            output = self.backbone(attention_mask=self.mask, **tokens)
        self.in_place |= versions != [value._version for value in tokens.values()]
        hidden = getattr(output, "last_hidden_state", None)
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != self.mask.shape:
            raise refusal(self.backbone, "does not return one hidden state for each token")
        return hidden

    def distance(self, a: Tensor, b: Tensor) -> float:
        """The largest difference on real tokens, relative to the largest value above 1."""
        real = self.mask.bool()
        a, b = a[real].float(), b[real].float()
        return float((a - b).abs().max() / b.abs().max().clamp_min(1.0))

    def unused(self, hidden: Tensor) -> frozenset[str]:
        """Parameters without a path to the hidden states. Experts are left out: which of them a
        text uses depends on the text."""
        named = [
            (name, p)
            for name, p in self.backbone.named_parameters()
            if p.requires_grad and "expert" not in name
        ]
        gradients = torch.autograd.grad(
            hidden.float().sum(), [p for _, p in named], allow_unused=True
        )
        pairs = zip(named, gradients, strict=True)
        return frozenset(name for (name, _), gradient in pairs if gradient is None)


@contextmanager
def _recorded(backbone: nn.Module, called: set[nn.Module]) -> Iterator[None]:
    """Add the modules that are called meanwhile: an encoder may have parts for other modalities."""

    def note(module: nn.Module, args: Any) -> None:
        called.add(module)

    handles = [module.register_forward_pre_hook(note) for module in backbone.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _quiet(backbone: nn.Module) -> Iterator[None]:
    """Evaluation mode, gradients enabled; random generators and modes are restored afterwards."""
    with eval_mode(backbone), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        yield


def _ordinary_ids(config: Any, size: int, length: int) -> Tensor:
    """Ids [2, L] without special tokens, where there are others."""
    keys = [key for key in vars(config) if key.endswith("_token_id")]
    special = {getattr(config, key) for key in keys if isinstance(getattr(config, key), int)}
    ordinary = [i for i in range(min(size, 1000)) if i not in special] or [0]
    generator = torch.Generator("cpu").manual_seed(0)
    picks = torch.randint(len(ordinary), (2, length), generator=generator, device="cpu")
    return torch.tensor(ordinary, device="cpu")[picks]


def scales(backbone: nn.Module) -> list[float]:
    """The factors that an encoder may apply to the rows of its table, 1 first."""
    named = [getattr(module, "embed_scale", 1.0) for module in backbone.modules()]
    # a width of hundreds gives √d below 1000; a table that scales by itself gives 1
    found = [float(scale) for scale in named if isinstance(scale, int | float)]
    width = math.sqrt(token_table(backbone).embedding_dim)
    return list(dict.fromkeys([1.0, *found, width]))
