"""Child-Tuning. Xu et al., Raise a Child in Large Language Model: Towards Effective and
Generalizable Fine-tuning, EMNLP 2021, arXiv 2109.05687."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from foundation.randomness import generator
from foundation.types import Count
from methods.peft.fisher import sample_losses
from recipes.contract import Clock, Context, Declaration, Method, Survey
from recipes.contract.method import Closure
from recipes.networks.network import Network
from recipes.step import Step

AUTHORS_SCOPE = "layer"  # in the names of the encoder's blocks


def mask_gradients(
    parameters: Iterable[nn.Parameter], keep: float, source: torch.Generator
) -> None:
    """g ← g ⊙ M / p with M ~ Bernoulli(p) elementwise, in place; parameters without a gradient
    draw nothing.

    keep: p. source: generator on the parameters' device.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        mask = torch.empty_like(gradient, dtype=torch.float32).bernoulli_(keep, generator=source)
        gradient.mul_(mask.div_(keep).to(gradient.dtype))


def top_entries(fisher: Mapping[str, Tensor], keep: float) -> dict[str, Tensor]:
    """Masks of the share `keep` of all entries that are largest, at least one; those equal to the
    smallest of them are in as well, and entries of 0 are out."""
    values = torch.cat([value.flatten() for value in fisher.values()])
    count = max(round(keep * len(values)), 1)
    least = values.kthvalue(len(values) - count + 1).values
    return {name: (value >= least) & (value > 0) for name, value in fisher.items()}


class ChildMasks(nn.Module):
    """A mask for each trained parameter of a network: True on the child."""

    def __init__(self, network: Network):
        super().__init__()
        trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        # a buffer's name may have no dots
        self.buffer_of = {name: f"mask_{i}" for i, (name, _) in enumerate(trained)}
        for name, parameter in trained:
            mask = torch.ones_like(parameter, dtype=torch.bool)
            self.register_buffer(self.buffer_of[name], mask)

    def of(self, network: Network) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Trained parameters with their masks."""
        for name, parameter in network.named_parameters():
            if name in self.buffer_of:
                yield parameter, self.get_buffer(self.buffer_of[name])

    def write(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if name in self.buffer_of:
                self.get_buffer(self.buffer_of[name]).copy_(mask)


class ChildTuning(Method):
    """g ← g ⊙ M / p, M ~ Bernoulli(p) elementwise and new in every optimizer step: the whole
    network is trained, each time by a random part of its gradient (task-free, F). Or g ← g ⊙ M with
    M fixed on the share p of weights with the largest Fisher information F_j = mean (∂ log p(y|x) /
    ∂w_j)² on the labeled samples before the first step (task-driven, D): the rest stays as it was.

    A regulariser for full fine-tuning on small sets: with F, E[g] is unchanged and its variance
    grows to σ² + (1-p)/p (σ² + μ²). The mask covers all trained tensors, heads included. It acts
    after the gradients have been summed over micro-batches, ranks and the passes of other methods,
    and before clipping and the optimizer's moments; it is equal on all ranks. Adam divides most of
    the factor 1/p out again. Nothing is frozen or added, so checkpoints have the size of the
    network, and with D the masks. With D and decay a step copies the weights once. Learning rates:
    those of full fine-tuning.

    keep: p, share of the gradient that is kept, in (0, 1]; 0.3 (paper, F: 0.2 to 0.4, D: 0.1 to
        0.3); 1 changes nothing.
    mode: a random mask in every step, `F`, or a fixed one by Fisher information, `D`.
    fisher: with D, squared gradients of batches, `per_batch` (authors), or `per_sample`. That is
        exact, and takes a backward for each sample.
    fisher_batch: samples of a batch with `per_batch`, at least 1; 64.
    rescale_d: divide the gradient by p with D too; false (authors' code).
    decay_non_child: with D, weight decay acts on the rest too (authors' code); false: it stays.
    authors_compat: with D, clipping, dropout and masks as in the authors' code. Each tensor's
        gradient is clipped to norm 1 before it is squared, dropout is on, and only tensors with
        `layer` in their name have a mask.
    """

    neutral = {"keep": 1}

    def __init__(
        self,
        keep: Annotated[float, Field(gt=0, le=1)] = 0.3,
        mode: Literal["F", "D"] = "F",
        fisher: Literal["per_batch", "per_sample"] = "per_batch",
        fisher_batch: Count = 64,
        rescale_d: bool = False,
        decay_non_child: bool = False,
        authors_compat: bool = False,
    ):
        self.keep = keep
        self.mode = mode
        self.fisher = fisher
        self.fisher_batch = fisher_batch
        self.rescale_d = rescale_d
        self.decay_non_child = decay_non_child
        self.authors_compat = authors_compat

    def declare(self) -> Declaration:
        batched = self.mode == "D" and self.fisher == "per_batch"
        return Declaration(
            # outermost: one mask for the gradient that all passes of a step have left
            before=("repeats_batches",),
            surveys=(self.survey(),) if self.mode == "D" and self.keep < 1 else (),
            ddp_exact=not batched,
            ddp_difference="each has Fisher batches of its own samples" if batched else "",
        )

    def survey(self) -> Survey:
        return Survey(
            "fisher",
            "labeled",
            sample_losses,
            Clock.at_start(),
            network="student",
            mode="dropout" if self.authors_compat else "eval",
            gradients=True,
            batch=1 if self.fisher == "per_sample" else self.fisher_batch,
            clip=1.0 if self.authors_compat else None,
        )

    def build(self, context: Context) -> None:
        if self.mode == "D":
            context.method_modules[self.key] = ChildMasks(context.network)

    def surveyed(self, survey: Survey, table: Mapping[str, Tensor], context: Context) -> None:
        if self.authors_compat:
            table = {name: value for name, value in table.items() if AUTHORS_SCOPE in name}
        if table:
            self.module(context).write(top_entries(table, self.keep))

    def wrap_step(self, closure: Closure, optimizer: Optimizer, context: Context) -> Any:
        loss = closure()
        if self.keep < 1 and self.mode == "F":
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            step = context.trainer.global_step
            source = generator(context.seed, step, self.key, device=device_of(trained))
            mask_gradients(trained, self.keep, source)
        elif self.mode == "D":
            self.mask_fixed(context)
            if not self.decay_non_child and any(g["weight_decay"] for g in optimizer.param_groups):
                pairs = self.module(context).of(context.network)
                kept = [parameter.detach().clone() for parameter, _ in pairs]
                context.current_step.scratch[self.key] = kept
        return loss

    def mask_fixed(self, context: Context) -> None:
        """g ← g ⊙ M, or g ⊙ M / p, in place."""
        for parameter, mask in self.module(context).of(context.network):
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
                if self.rescale_d:
                    parameter.grad.div_(self.keep)

    @torch.no_grad()
    def after_batch(self, step: Step, context: Context) -> None:
        """Take the decay of the optimizer's step back outside the child, before weights are
        averaged."""
        kept = step.scratch.pop(self.key, None)
        if kept is not None:
            pairs = self.module(context).of(context.network)
            for (parameter, mask), before in zip(pairs, kept, strict=True):
                parameter.copy_(torch.where(mask, parameter, before))


def device_of(tensors: Iterable[Tensor]) -> torch.device:
    return next(iter(tensors)).device
