"""Visual prompt tuning. Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119; inside the
blocks of text encoders as well."""

import inspect
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count, ShareBelowOne
from methods.peft.freezing import on_meta_device, trial_forward
from methods.peft.prompt_tuning import insert, remove
from methods.peft.sites import Site, existing, find_blocks, find_sites
from methods.peft.surgeon import PEFTMethod
from recipes.contract import Declaration
from recipes.networks.network import Network


def widened(mask: Tensor, count: int, at: int) -> Tensor:
    """An attention mask [..., T] or [..., T, T] for `count` more tokens after the first `at`: every
    token attends to them, and they attend to what the first token attends to. Boolean or integer
    (non-zero is visible), or floating and added to the scores."""
    seen = mask.new_full((*mask.shape[:-1], count), not mask.is_floating_point())
    tokens = mask.shape[-1]
    mask = torch.cat([mask[..., :at], seen, mask[..., at:]], dim=-1)
    if mask.ndim < 4 or mask.shape[-2] != tokens:
        return mask
    rows = mask[..., :1, :].expand(*mask.shape[:-2], count, mask.shape[-1])
    return torch.cat([mask[..., :at, :], rows, mask[..., at:, :]], dim=-2)


class BlockPrompts(nn.Module):
    """Rows [L, P, d] for L blocks (deep), or [1, P, d] for the first one (shallow), inserted after
    the network's first `at` tokens."""

    def __init__(self, rows: Tensor, at: int, dropout: float):
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.at = at
        self.dropout = nn.Dropout(dropout)


class AtBlock:
    """The hooks of one block: its rows are inserted, or replace those of the previous block.

    mask_name: the block's argument for the attention mask, None if it has none.
    """

    def __init__(self, prompts: BlockPrompts, index: int, mask_name: str | None):
        self.prompts = prompts
        self.index = index
        self.mask_name = mask_name

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        p = self.prompts
        x = args[0]
        count = p.rows.shape[1]
        if self.index == 0:
            x = insert(x, p.dropout(p.rows[0]), p.at)
        elif self.index < len(p.rows):
            x = insert(remove(x, count, p.at), p.dropout(p.rows[self.index]), p.at)
        rest = list(args[1:])
        if self.mask_name is None:
            return (x, *rest), kwargs
        # the mask is a positional or a keyword argument
        names = list(inspect.signature(block.forward).parameters)
        position = names.index(self.mask_name) - 1
        if position < len(rest):
            if rest[position] is not None:
                rest[position] = widened(rest[position], count, p.at)
        elif kwargs.get(self.mask_name) is not None:
            kwargs = kwargs | {self.mask_name: widened(kwargs[self.mask_name], count, p.at)}
        return (x, *rest), kwargs

    def after(self, block: nn.Module, args: Any, output: Any) -> Any:
        """After the last block: remove the rows, so that norms, pooling and heads see the network's
        own tokens only."""
        count = self.prompts.rows.shape[1]
        at = self.prompts.at
        if isinstance(output, tuple):
            return (remove(output[0], count, at), *output[1:])
        return remove(output, count, at)


def mask_argument(block: nn.Module) -> str | None:
    """The name of a block's argument for the attention mask, None if it has none."""
    known = inspect.signature(block.forward).parameters
    return next((name for name in ("attention_mask", "attn_mask") if name in known), None)


class VPT(PEFTMethod):
    """[x_cls; P_1 … P_P; x_1 … x_T] inside the blocks of a frozen transformer: learned tokens among
    its own.

    P: [P, d] per block, after the class token (and registers), without position embeddings, not
    pooled. Initialised uniformly in ±√(6 / (c·p² + d)), c·p² the numbers in a patch (on text: d).
    Networks with a fixed number of tokens (tables of relative positions, windows, rotations) are
    refused. Rows have no weight decay. Learning rates: AdamW 1e-3 to 1e-2.

    mode: tokens of their own for every block, `deep` (better, paper), or for the first, `shallow`.
        `deep`: block i gets rows of its own in place of what came out of block i-1 there.
    length: tokens P, at least 1; 10 (paper searches 1 to 200).
    dropout: dropout of the tokens, in [0, 1); 0 (authors' deep runs: 0.1).
    backbone: mode of the frozen network in training: `eval` (authors) or `train`, with dropout and
        drop path.
    load: delta saved by another run, to start from; null: none.
    """

    declaration = Declaration(tags=("delta", "adds_tokens"), slots=("prompts",))
    preserves: bool = False

    def __init__(
        self,
        mode: Literal["deep", "shallow"] = "deep",
        length: Count = 10,
        dropout: ShareBelowOne = 0.0,
        backbone: Literal["eval", "train"] = "eval",
        load: str | None = None,
    ):
        self.mode = mode
        self.length = length
        self.dropout = dropout
        self.backbone = backbone
        self.load = load

    def attach(self, network: Network) -> None:
        backbone = network.backbone
        sites = find_sites(backbone)
        names = find_blocks(backbone)
        if not names:
            raise UserError(
                f"methods.{self.key}: prompts need transformer blocks, and "
                f"{type(backbone).__name__} has {existing(sites)}; use peft=lora, or a transformer "
                "as network"
            )
        if self.backbone == "eval":
            network.keep_eval_only([backbone])
        device = next(backbone.parameters()).device
        rows = self.start(sites, len(names)).to(device)
        at = getattr(backbone, "num_prefix_tokens", 1)
        prompts = BlockPrompts(rows, at, self.dropout)
        network.deltas[self.key] = prompts
        self.connect(prompts, [backbone.get_submodule(name) for name in names])
        self.try_out(network)

    def start(self, sites: list[Site], blocks: int) -> Tensor:
        """The initial rows: [blocks, P, d] if deep, [1, P, d] if shallow."""
        width = next(len(site.weight) for site in sites if site.role == "mlp.out")
        patches = (site.weight[0].numel() for site in sites if site.role == "conv.stem")
        patch = next(patches, width)
        bound = math.sqrt(6 / (patch + width))
        rows = torch.empty(blocks if self.mode == "deep" else 1, self.length, width)
        return nn.init.uniform_(rows, -bound, bound)

    def connect(self, prompts: BlockPrompts, blocks: list[nn.Module]) -> None:
        for index, block in enumerate(blocks):
            here = AtBlock(prompts, index, mask_argument(block))
            block.register_forward_pre_hook(here.before, with_kwargs=True)
            for module in block.modules():
                # rotary attentions do not rotate this many tokens at the start
                own_tokens = getattr(module, "num_prefix_tokens", None)
                if own_tokens is not None:
                    module.num_prefix_tokens = own_tokens + self.length
            if index == len(blocks) - 1:
                block.register_forward_hook(here.after)

    def try_out(self, network: Network) -> None:
        """Run the network once. Raises UserError if it does not accept the tokens."""
        if on_meta_device(network):
            return
        try:
            with torch.no_grad(), trial_forward(network):
                network(network.example())
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise UserError(
                f"methods.{self.key}: the blocks of {type(network.backbone).__name__} accept no "
                f"more tokens ({str(error).splitlines()[0][:90]}); use peft=lora, or a plain ViT "
                "or BERT as network"
            ) from error

    def parameter_groups(self, context: Any) -> list[dict[str, Any]]:
        return [
            {"params": list(context.network.deltas[self.key].parameters()), "weight_decay": 0.0}
        ]
