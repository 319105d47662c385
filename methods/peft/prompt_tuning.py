"""Prompt tuning. Lester, Al-Rfou and Constant, The Power of Scale for Parameter-Efficient Prompt
Tuning, EMNLP 2021, arXiv 2104.08691."""

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count
from methods.peft.surgeon import PEFTMethod
from recipes.contract import Declaration
from recipes.networks.network import Network
from recipes.networks.text import TextNetwork


def insert(x: Tensor, rows: Tensor, at: int) -> Tensor:
    """[N, T, ...] with the rows [P, ...] after the first `at` of every sample."""
    batch_rows = rows.to(x.dtype).expand(x.shape[0], *rows.shape)
    return torch.cat([x[:, :at], batch_rows, x[:, at:]], dim=1)


def remove(x: Tensor, count: int, at: int) -> Tensor:
    """The inverse of `insert`: without `count` rows after the first `at`."""
    return torch.cat([x[:, :at], x[:, at + count :]], dim=1)


class Prompt(nn.Module):
    """P rows that are inserted into the embeddings of every text, and removed from the last hidden
    states.

    first: position id of a text's first token; None if the encoder numbers its positions itself.
    """

    def __init__(self, rows: Tensor, at: int, first: int | None):
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.at = at
        self.first = first

    def before(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        x = kwargs["inputs_embeds"]
        mask = kwargs["attention_mask"]
        inner = {
            "inputs_embeds": insert(x, self.rows, self.at),
            "attention_mask": insert(mask, mask.new_ones(len(self.rows)), self.at),
        }
        if self.first is not None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
            positions = insert(positions, positions.new_zeros(len(self.rows)), self.at)
            # a row for each text: XLM does not expand it
            inner["position_ids"] = self.first + positions.expand(len(x), -1)
        return args, kwargs | inner

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        output["last_hidden_state"] = remove(output.last_hidden_state, len(self.rows), self.at)
        return output


class PromptTuning(PEFTMethod):
    """e(x) ← [e(x)_1; P_1 … P_P; e(x)_2 …]: learned rows among the word embeddings of a frozen text
    encoder.

    P: [P, d_e], not masked, not pooled. Differs from the paper, in which a language model answers
    in words: here a head reads the encoder. Weak on encoders below a billion parameters; `vpt` adds
    rows to every block. Rows have no weight decay. Learning rates: AdamW 1e-3 to 1e-2.

    length: rows P, at least 1; 20 (paper).
    init: start of the rows: `sampled_vocab`, random words (paper), or
        `random_uniform` in ±0.5.
    placement: rows `after_first`, where poolers still find the first token (ours), or `before`
        (paper).
    positions: `keep` the tokens' positions (ours) or `shift` them by P (paper). With keep the
        prompt has the position of the first token; with shift, as in the peft library, P of the
        encoder's positions are lost for texts.
    load: delta saved by another run, to start from; null: none.
    """

    declaration = Declaration(modalities=("text",), tags=("delta",), slots=("prompts",))
    preserves: bool = False

    def __init__(
        self,
        length: Count = 20,
        init: Literal["sampled_vocab", "random_uniform"] = "sampled_vocab",
        placement: Literal["after_first", "before"] = "after_first",
        positions: Literal["keep", "shift"] = "keep",
        load: str | None = None,
    ):
        self.length = length
        self.init = init
        self.placement = placement
        self.positions = positions
        self.load = load

    def attach(self, network: Network) -> None:
        if not isinstance(network, TextNetwork):
            raise UserError(
                f"methods.{self.key}: works on text encoders only; for images use peft=vpt"
            )
        at = int(self.placement == "after_first")
        prompt = Prompt(self.start(network), at, self.first_position(network))
        network.deltas[self.key] = prompt
        network.backbone.register_forward_pre_hook(prompt.before, with_kwargs=True)
        network.backbone.register_forward_hook(prompt.after)

    def start(self, network: TextNetwork) -> Tensor:
        """The initial rows, [P, d_e]: as wide as word embeddings, which in some encoders are
        narrower than hidden states."""
        embeddings = network.backbone.get_input_embeddings()
        assert isinstance(embeddings.weight, Tensor)
        words = network.scale * embeddings.weight.detach()
        if self.init == "random_uniform":
            return torch.rand(self.length, words.shape[1], device=words.device) - 0.5
        return words[torch.randint(len(words), (self.length,), device=words.device)].clone()

    def first_position(self, network: TextNetwork) -> int | None:
        """The position id of the first token: 0; in the RoBERTa family the one after the
        padding's."""
        backbone = network.backbone
        if "position_ids" not in inspect.signature(backbone.forward).parameters:
            if self.positions == "keep" and network.max_length is not None:
                raise UserError(
                    f"methods.{self.key}.positions=keep: {type(backbone).__name__} takes no "
                    "positions; use shift"
                )
            return None
        if self.positions == "shift":
            if network.max_length is not None:
                network.max_length -= self.length
            return None
        for name, module in backbone.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                return 0 if module.padding_idx is None else module.padding_idx + 1
        return 0

    def parameter_groups(self, context: Any) -> list[dict[str, Any]]:
        return [
            {"params": list(context.network.deltas[self.key].parameters()), "weight_decay": 0.0}
        ]
