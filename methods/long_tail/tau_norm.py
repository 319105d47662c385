"""τ-normalized classifier. Kang et al., Decoupling Representation and Classifier for Long-Tailed
Recognition, ICLR 2020, arXiv 1910.09217."""

from collections.abc import Mapping
from typing import Annotated, cast

import pytorch_lightning as pl
import torch
from pydantic import Field
from torch import Tensor, nn

from datamodules.datamodule import StreamDataModule
from foundation.distributed import global_sum
from foundation.errors import UserError
from recipes.contract import Context, Declaration, Method
from recipes.networks.network import Network

GRID = tuple(round(0.1 * i, 1) for i in range(21))  # 0, .1 … 2, as the authors search


def normalised(logits: Tensor, head: nn.Linear, tau: Tensor | float, drop_bias: bool) -> Tensor:
    """z'_c = (w_c / ‖w_c‖^τ) · x (+ b_c), [N, C], from the head's logits z_c = w_c · x + b_c."""
    bias = head.bias.float() if head.bias is not None else torch.zeros_like(logits[0])
    norm = head.weight.float().norm(dim=1).clamp_min(1e-12)
    scaled = (logits.float() - bias) * norm**-tau
    return scaled if drop_bias else scaled + bias


def linear_head(network: Network, task: str) -> nn.Linear:
    """The head of a task, whose weight `TauNorm.build` has checked to be a matrix."""
    return cast(nn.Linear, network.heads[task])


class Candidates(nn.Module):
    """The τ used for one task, and the correct predictions per class of each τ on the grid."""

    tau: Tensor
    right: Tensor
    seen: Tensor

    def __init__(self, tau: float, classes: int):
        super().__init__()
        self.register_buffer("tau", torch.tensor(tau))
        self.register_buffer("right", torch.zeros(len(GRID), classes), persistent=False)
        self.register_buffer("seen", torch.zeros(classes), persistent=False)

    def update(self, logits: Tensor, target: Tensor, head: nn.Linear, drop_bias: bool) -> None:
        known = (target >= 0).float()
        label = target.clamp_min(0)
        self.seen.index_add_(0, label, known)
        for i, tau in enumerate(GRID):
            right = normalised(logits, head, tau, drop_bias).argmax(1) == target
            self.right[i].index_add_(0, label, right.float())

    def choose(self) -> None:
        """Set τ to the one with the best mean accuracy over the classes that occur, over all ranks;
        among equal ones to the smallest."""
        right = global_sum(self.right)
        seen = global_sum(self.seen)
        best = (right / seen.clamp_min(1)).sum(1).argmax()
        self.tau.copy_(self.tau.new_tensor(GRID)[best])
        self.right.zero_()
        self.seen.zero_()


class TauNorm(Method):
    """w_c ← w_c / ‖w_c‖^τ at prediction, after training without changes: under SGD rare classes
    have weights of small norm, which this compensates. (Under Adam-like optimizers norms do not
    follow class counts: expect little.)

    Heads must be linear. The raw network is evaluated as well.

    tau: exponent τ, 0 to 2; null: the best of 0, 0.1 … 2 on the validation part (paper). The
        criterion is balanced accuracy, never on the test part; τ is chosen before every validation
        and after the last step, with another pass over the validation data, and saved in every
        checkpoint.
    drop_bias: remove the heads' biases; true (authors' code). τ = 0 is the identity only with
        false.
    """

    neutral = {"tau": 0}
    declaration = Declaration(
        slots=("prior_correction",),
        refuses={
            "nonlinear_heads": (
                "it scales the rows of linear heads on the features; leave one out, or use "
                "posthoc_logit_adjustment"
            )
        },
    )

    def __init__(
        self, tau: Annotated[float, Field(ge=0, le=2)] | None = None, drop_bias: bool = True
    ):
        self.tau = tau
        self.drop_bias = drop_bias

    def build(self, context: Context) -> None:
        if self.tau is None and not context.sizes.get("val"):
            raise UserError(
                f"methods.{self.key}.tau: null chooses τ on the validation part, and there is "
                "none; give a number, e.g. 0.7, or data.val_fraction=0.1"
            )
        candidates = nn.ModuleDict()
        for name, task in context.tasks.items():
            weight = getattr(context.network.heads[name], "weight", None)
            if getattr(weight, "ndim", 0) != 2:
                raise UserError(
                    f"methods.{self.key}: the head of task '{name}' is not linear; leave one out"
                )
            candidates[name] = Candidates(self.tau or 0.0, task.outputs)
        context.method_modules[self.key] = candidates

    def infer(self, logits: Tensor, task: str, context: Context) -> Tensor:
        tau = context.method_modules[self.key][task].tau
        return normalised(logits, linear_head(context.reported(), task), tau, self.drop_bias)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.search(cast(Context, module))

    def finish(self, context: Context) -> None:
        self.search(context)

    @torch.no_grad()
    def search(self, context: Context) -> None:
        """Choose τ from predictions of the reported network for the validation part."""
        trainer = context.trainer
        data: StreamDataModule | None = trainer.datamodule
        if self.tau is not None or data is None:
            return
        modules: Mapping[str, Candidates] = context.method_modules[self.key]
        for batch in data.evaluation_loader("val") if "val" in data.parts else ():
            if not len(batch["index"]):  # of a few samples a rank may have none
                continue
            batch = data.transfer_batch_to_device(batch, context.device, 0)
            with trainer.precision_plugin.val_step_context(), context.reporting() as network:
                logits = network(network.embed(context.evaluation_view(batch))).logits
            for task, candidates in modules.items():
                target = batch["targets"][task]
                head = linear_head(network, task)
                candidates.update(logits[task].float(), target, head, self.drop_bias)
        for candidates in modules.values():
            candidates.choose()
