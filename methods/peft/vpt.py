"""Visual prompt tuning. Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119; inside the
blocks of text encoders as well."""

import inspect
import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.errors import UserError
from methods.peft.freezing import keep_eval_only, on_meta_device, trial_forward
from methods.peft.prompt_tuning import insert, remove
from methods.peft.sites import existing, find_blocks, find_sites
from methods.peft.surgeon import PEFTMethod
from recipes.contract import Declaration
from recipes.networks.network import Network


def widened(mask: Tensor, count: int, at: int) -> Tensor:
    """An attention mask [..., T] or [..., T, T] for `count` more tokens after the first `at`: all
    see them, and they see what the first token sees. Boolean or integer (not 0 is seen), or
    floating and added to the scores."""
    seen = mask.new_full((*mask.shape[:-1], count), not mask.is_floating_point())
    tokens = mask.shape[-1]
    mask = torch.cat([mask[..., :at], seen, mask[..., at:]], dim=-1)
    if mask.ndim < 4 or mask.shape[-2] != tokens:
        return mask
    rows = mask[..., :1, :].expand(*mask.shape[:-2], count, mask.shape[-1])
    return torch.cat([mask[..., :at, :], rows, mask[..., at:, :]], dim=-2)


class BlockPrompts(nn.Module):
    """Rows [L, P, d] for L blocks (deep), or [1, P, d] for the first one, after `at` tokens of the
    network's own."""

    def __init__(self, rows: Tensor, at: int, dropout: float):
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.at = at
        self.dropout = nn.Dropout(dropout)


class AtBlock:
    """What happens before one block: rows come in, or take the place of those of the block
    before."""

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
        if self.mask_name is not None:
            names = list(inspect.signature(block.forward).parameters)
            place = names.index(self.mask_name) - 1
            mask = rest[place] if place < len(rest) else kwargs.get(self.mask_name)
            if mask is not None and place < len(rest):
                rest[place] = widened(mask, count, p.at)
            elif mask is not None:
                kwargs = kwargs | {self.mask_name: widened(mask, count, p.at)}
        return (x, *rest), kwargs

    def after(self, block: nn.Module, args: Any, output: Any) -> Any:
        """After the last block: rows go out, so that norms, pooling and heads see what they always
        see."""
        count = self.prompts.rows.shape[1]
        at = self.prompts.at
        if isinstance(output, tuple):
            return (remove(output[0], count, at), *output[1:])
        return remove(output, count, at)


class VPT(PEFTMethod):
    """[x_cls; P_1 … P_P; x_1 … x_T] inside the blocks of a frozen transformer: learned tokens
    beside its own.

    P: [P, d] a block, after the class token (and registers), without positions of their own, not
    pooled. Start: uniform in ±√(6 / (c·p² + d)), c·p² the numbers in a patch (on text: d). Networks
    that know the number of their tokens (tables of relative positions, windows, rotations) are
    refused. Rows have no weight decay. Rates: AdamW 1e-3 to 1e-2.

    mode: tokens of their own for every block, `deep` (better, paper), or for the first, `shallow`.
        `deep`: block i gets rows of its own in place of what came out of block i-1 there.
    length: tokens P, at least 1; 10 (paper searches 1 to 200).
    dropout: dropout of the tokens, in [0, 1); 0 (authors' deep runs: 0.1).
    backbone: mode of the frozen network in training: `eval` (authors) or `train`, with dropout and
        drop path.
    load: delta saved by another run, to start from; null: none.
    """

    declaration = Declaration(tags=("delta", "adds_tokens"), slots=("prompts",))
    preserves: ClassVar[bool] = False

    def __init__(
        self,
        mode: Literal["deep", "shallow"] = "deep",
        length: Annotated[int, Field(ge=1)] = 10,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
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
                f"methods.{self.key}: prompts are tokens among tokens, and "
                f"{type(backbone).__name__} has "
                f"{existing(sites)}; use peft=lora, or name a transformer as network"
            )
        if self.backbone == "eval":
            keep_eval_only(network, [backbone])
        width = next(len(site.module.weight) for site in sites if site.role == "mlp.out")
        patch = next(
            (site.module.weight[0].numel() for site in sites if site.role == "conv.stem"), width
        )
        rows = torch.empty(len(names) if self.mode == "deep" else 1, self.length, width)
        nn.init.uniform_(rows, -math.sqrt(6 / (patch + width)), math.sqrt(6 / (patch + width)))
        device = next(backbone.parameters()).device
        at = getattr(backbone, "num_prefix_tokens", 1)
        network.deltas[self.key] = prompts = BlockPrompts(rows.to(device), at, self.dropout)
        self.connect(prompts, [backbone.get_submodule(name) for name in names])
        self.try_out(network)

    def connect(self, prompts: BlockPrompts, blocks: list[nn.Module]) -> None:
        for index, block in enumerate(blocks):
            known = inspect.signature(block.forward).parameters
            mask_name = next(
                (name for name in ("attention_mask", "attn_mask") if name in known), None
            )
            here = AtBlock(prompts, index, mask_name)
            block.register_forward_pre_hook(here.before, with_kwargs=True)
            for module in block.modules():
                # attentions that rotate positions leave out so many tokens at the beginning
                if hasattr(module, "num_prefix_tokens"):
                    module.num_prefix_tokens += self.length
            if index == len(blocks) - 1:
                block.register_forward_hook(here.after)

    def try_out(self, network: Network) -> None:
        if on_meta_device(network):
            return
        try:
            with torch.no_grad(), trial_forward(network):
                network(network.example())
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise UserError(
                f"methods.{self.key}: {type(network.backbone).__name__} cannot take more tokens "
                "into its blocks "
                f"({str(error).splitlines()[0][:90]}); use peft=lora, or name a plain ViT or BERT "
                "as network"
            ) from error

    def parameter_groups(self, context: Any) -> list[dict[str, Any]]:
        return [
            {"params": list(context.network.deltas[self.key].parameters()), "weight_decay": 0.0}
        ]
