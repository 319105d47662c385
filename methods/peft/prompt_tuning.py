"""Prompt tuning. Lester, Al-Rfou and Constant, The Power of Scale for Parameter-Efficient Prompt
Tuning, EMNLP 2021, arXiv 2104.08691."""

import inspect
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count
from methods.peft.peft_format import is_peft
from methods.peft.prompt_format import read_rows, write_rows
from methods.peft.surgeon import PEFTMethod, averaged
from recipes.contract import Context, Declaration
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

    at: tokens before the rows.
    first: position id of a text's first token; None if the encoder numbers its positions itself.
    behind: how many of the rows, the last ones, come after a text and its padding instead.
    """

    def __init__(self, rows: Tensor, at: int, first: int | None, behind: int = 0):
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.at = at
        self.first = first
        self.behind = behind

    def made(self) -> Tensor:
        """The rows of this forward, [P, d_e]."""
        return self.rows

    def before(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        x = kwargs["inputs_embeds"]
        mask = kwargs["attention_mask"]
        rows = self.made()
        inner = {
            "inputs_embeds": self.surrounded(x, rows),
            "attention_mask": self.surrounded(mask, mask.new_ones(len(rows))),
        }
        if self.first is not None:
            inner["position_ids"] = self.first + self.positions(mask)
        return args, kwargs | inner

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        states = output.last_hidden_state
        if self.behind:
            states = states[:, : -self.behind]
        output["last_hidden_state"] = remove(states, len(self.rows) - self.behind, self.at)
        return output

    def surrounded(self, x: Tensor, rows: Tensor) -> Tensor:
        """[N, T, ...] with the rows [P, ...] at their places: [N, T + P, ...]."""
        front = len(rows) - self.behind
        wide = insert(x, rows[:front], self.at)
        return insert(wide, rows[front:], wide.shape[1]) if self.behind else wide

    def positions(self, mask: Tensor) -> Tensor:
        """Positions from 0, [N, T + P]: tokens keep theirs, rows have that of the first token, rows
        behind a text that of its last."""
        texts, tokens = mask.shape
        positions = torch.arange(tokens, device=mask.device)[None]
        front = len(self.rows) - self.behind
        positions = insert(positions, positions.new_zeros(front), self.at)
        # a row for each text: XLM does not expand it
        positions = positions.expand(texts, -1)
        if not self.behind:
            return positions
        last = (mask.sum(1, keepdim=True) - 1).clamp_min(0)
        return torch.cat([positions, last.expand(-1, self.behind)], dim=1)


def first_position(network: TextNetwork) -> int | None:
    """The position id of a text's first token: 0; in the RoBERTa family the one after the
    padding's. None if the encoder takes no positions."""
    backbone = network.backbone
    if "position_ids" not in inspect.signature(backbone.forward).parameters:
        return None
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


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
    load: delta of another run, or a folder in the peft library's format, to start from; null: none.
        A run with placement=before and positions=shift writes such a folder.
    """

    declaration = Declaration(
        modalities=("text",), tags=("delta", "adds_tokens"), slots=("prompts",)
    )
    preserves: bool = False
    peft_type: ClassVar[str] = "PROMPT_TUNING"

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
        prompt = self.prompt(network, self.first_position(network))
        network.deltas[self.key] = prompt
        network.backbone.register_forward_pre_hook(prompt.before, with_kwargs=True)
        network.backbone.register_forward_hook(prompt.after)

    def prompt(self, network: TextNetwork, first: int | None) -> Prompt:
        """The rows and their place."""
        return Prompt(self.start(network), int(self.placement == "after_first"), first)

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
        """The position id of the first token; None if the encoder is to number all tokens."""
        if self.positions == "shift":
            if network.max_length is not None:
                network.max_length -= self.length
            return None
        first = first_position(network)
        if first is None and network.max_length is not None:
            raise UserError(
                f"methods.{self.key}.positions=keep: {type(network.backbone).__name__} takes no "
                "positions; use shift"
            )
        return first

    def parameter_groups(self, context: Any) -> list[dict[str, Any]]:
        return [
            {"params": list(context.network.deltas[self.key].parameters()), "weight_decay": 0.0}
        ]

    def read(self, path: Path, network: Network, trained: dict[str, nn.Parameter]) -> None:
        if not is_peft(path):
            return super().read(path, network, trained)
        prompt = network.deltas[self.key]
        assert isinstance(prompt, Prompt)
        kinds = ("PROMPT_TUNING", "P_TUNING")
        rows = read_rows(path, kinds, prompt.rows.shape, f"methods.{self.key}.load")
        with torch.no_grad():
            prompt.rows.copy_(rows)

    def save_artifacts(self, folder: Path, context: Context) -> None:
        super().save_artifacts(folder, context)
        if self.placement != "before" or self.positions != "shift":
            return  # the library would compute something else
        network = averaged(context) or context.network
        prompt = network.deltas[self.key]
        assert isinstance(prompt, Prompt) and isinstance(network, TextNetwork)
        with torch.no_grad():
            rows = prompt.made()
        folder = folder / f"{self.key}_peft"
        write_rows(folder, self.peft_type, rows, rows.shape[1], network, **self.peft_settings())

    def peft_settings(self) -> dict[str, Any]:
        """What the library's configuration of the method has beside the rows."""
        return {}
