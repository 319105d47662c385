"""P-tuning. Liu et al., GPT Understands, Too, 2021, arXiv 2103.10385 (AI Open 2023)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count, Scale, ShareBelowOne
from methods.peft.peft_format import is_peft
from methods.peft.prompt_tuning import Prompt, PromptTuning
from recipes.contract import Context
from recipes.networks.network import Network
from recipes.networks.text import TextNetwork

Placement = Literal["after_first", "before", "behind", "split"]


class RecurrentEncoder(nn.Module):
    """E ↦ W₂ relu(W₁ [→h_i; ←h_i] + b₁) + b₂, h the states of a bidirectional LSTM of two layers
    over the rows. E: [P, d], result: [P, d]."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, 2, dropout=dropout, bidirectional=True, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, width)
        )

    def forward(self, rows: Tensor) -> Tensor:
        # not every processor has an LSTM in half precision
        with torch.autocast(rows.device.type, enabled=False):
            states, _ = self.lstm(rows.unsqueeze(0))
        return self.mlp(states[0])  # type: ignore[no-any-return]


def pointwise_encoder(width: int, hidden: int) -> nn.Sequential:
    """E ↦ W₃ relu(W₂ relu(W₁ E)), each row for itself. E: [P, d], result: [P, d]."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, width),
    )


class EncodedPrompt(Prompt):
    """A prompt whose rows are computed from `rows`, E, by an encoder."""

    def __init__(self, rows: Tensor, at: int, first: int | None, behind: int, encoder: nn.Module):
        super().__init__(rows, at, first, behind)
        self.encoder = encoder.to(rows.device)

    def made(self) -> Tensor:
        return self.encoder(self.rows)  # type: ignore[no-any-return]

    @torch.no_grad()
    def bake(self) -> None:
        """Replace E by the rows that are made of it, and remove the encoder."""
        self.rows.copy_(self.made())
        self.encoder = nn.Identity()


class PTuning(PromptTuning):
    """P = MLP(BiLSTM(E)): prompt tuning with rows that a small network makes from trained ones.

    E, P: [P, d_e]. The encoder ties the rows together, which makes their training more stable; with
    hidden = 768 it has 27 million parameters (`mlp`: 1.8 million). Only the P rows are needed
    afterwards: the exported network holds them in place of E and the encoder. Differs from the
    paper, in which a language model fills in a word: here a head reads the encoder. Nothing that is
    added has weight decay. Learning rates: AdamW 1e-4 to 1e-3.

    length: rows P, at least 1; 20 (peft library's examples).
    encoder: the network between E and P: `lstm` (paper) or `mlp` (the peft library's default).
        `lstm`: two bidirectional layers and W₂ relu(W₁ h); `mlp`: W₃ relu(W₂ relu(W₁ e)).
    hidden: width of the LSTM in one direction, or of the MLP, at least 1; null: d_e (paper).
    dropout: dropout between the layers of the LSTM, in [0, 1); 0.
    init: start of E: `normal` N(0, 1) (authors' code) or `sampled_vocab`, random words.
    placement: rows `after_first`, `before` a text, `behind` it, or `split`, half of them behind.
        `after_first`: behind the first token, where poolers still find it (ours); the rest of
        `split` is placed so, too. The paper treats the place as a hyperparameter.
    positions: `keep` the tokens' positions (ours) or `shift` them by P (paper). With keep the rows
        have the position of the first token, those behind a text that of its last.
    backbone_lr: learning rate at which the whole encoder is trained too (paper, many labels); null:
        frozen.
    load: delta saved by another run, to start from; null: none.
    """

    peft_type = "P_TUNING"

    def __init__(
        self,
        length: Count = 20,
        encoder: Literal["lstm", "mlp"] = "lstm",
        hidden: Count | None = None,
        dropout: ShareBelowOne = 0.0,
        init: Literal["normal", "sampled_vocab"] = "normal",
        placement: Placement = "after_first",
        positions: Literal["keep", "shift"] = "keep",
        backbone_lr: Scale | None = None,
        load: str | None = None,
    ):
        self.length = length
        self.encoder = encoder
        self.hidden = hidden
        self.dropout = dropout
        self.init = init  # type: ignore[assignment]
        self.placement = placement  # type: ignore[assignment]
        self.positions = positions
        self.backbone_lr = backbone_lr
        self.load = load

    def attach(self, network: Network) -> None:
        super().attach(network)
        for parameter in self.tuned(network):
            parameter.requires_grad_(True)

    def tuned(self, network: Network) -> Iterator[nn.Parameter]:
        """The parameters of the backbone that `backbone_lr` trains: those that are read."""
        if self.backbone_lr is not None:
            for name, parameter in network.backbone.named_parameters():
                if name not in network.unused:
                    yield parameter

    def prompt(self, network: TextNetwork, first: int | None) -> EncodedPrompt:
        behind = {"behind": self.length, "split": self.length // 2}.get(self.placement, 0)
        if behind and first is None:
            raise UserError(
                f"methods.{self.key}.placement={self.placement}",
                "rows behind the padding need positions of their own, and "
                f"{type(network.backbone).__name__} counts them itself",
                f"use methods.{self.key}.positions=keep, or placement=after_first",
            )
        rows = self.start(network)
        hidden = self.hidden or rows.shape[1]
        encoder: nn.Module
        if self.encoder == "lstm":
            encoder = RecurrentEncoder(rows.shape[1], hidden, self.dropout)
        else:
            encoder = pointwise_encoder(rows.shape[1], hidden)
        return EncodedPrompt(rows, int(self.placement != "before"), first, behind, encoder)

    def start(self, network: TextNetwork) -> Tensor:
        rows = super().start(network)
        return torch.randn_like(rows) if self.init == "normal" else rows  # type: ignore[comparison-overlap]

    def parameter_groups(self, context: Context) -> list[dict[str, Any]]:
        groups = super().parameter_groups(context)
        tuned = list(self.tuned(context.network))
        return [*groups, {"params": tuned, "lr": self.backbone_lr}] if tuned else groups

    def read(self, path: Path, network: Network, trained: dict[str, nn.Parameter]) -> None:
        if is_peft(path):
            raise UserError(
                f"methods.{self.key}.load={path}",
                "a folder of the peft library has the rows, not the encoder that makes them",
                "load it by peft=prompt_tuning, or load the delta of a run",
            )
        super().read(path, network, trained)

    def peft_settings(self) -> dict[str, Any]:
        return {"encoder_reparameterization_type": self.encoder.upper()}

    def merge(self, network: Network) -> None:
        prompt = network.deltas[self.key]
        assert isinstance(prompt, EncodedPrompt)
        prompt.bake()
