"""Binary cross-entropy of every class. Wightman, Touvron and Jégou, ResNet Strikes Back, NeurIPS
2021 workshop ImageNet: Past, Present and Future, arXiv 2110.00476."""

from torch import Tensor
from torch.nn import functional as F

from foundation.types import ShareBelowOne
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.criterion import Role, one_hot

PRIORS = (
    "a shift of logits by the class prior is undone by a softmax at prediction, not by independent "
    "sigmoids: leave it out, or weight classes (long_tail=class_balanced_loss)"
)
FOCAL = "its factors come from a softmax: take long_tail=focal_loss methods.focal_loss.mode=sigmoid"


def binary_losses(logits: Tensor) -> Tensor:
    """ℓ_y = Σ_c log(1 + e^{z_c}) - z_y for every y, [N, C] in float32.

    Σ_y t_y ℓ_y is the sum of the C binary cross-entropies for targets t with Σ t = 1, soft ones as
    well."""
    z = logits.float()
    return F.softplus(z).sum(1, keepdim=True) - z


def binary_losses_of(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum of the C binary cross-entropies for targets in [0, 1] of any sum, [N, C] with equal
    columns: whichever distribution weights them, it is the sample's loss."""
    z = logits.float()
    losses = F.softplus(z).sum(1, keepdim=True) - (targets * z).sum(1, keepdim=True)
    return losses.expand_as(z)


class BCE(Method):
    """L = (1/C) Σ_c [-t_c log s_c - (1 - t_c) log(1 - s_c)], s = sigmoid(z), in place of the
    cross-entropy of labeled samples (timm's BinaryCrossEntropy).

    Mixed and smoothed targets are exact: regularization=[bce,mixup,label_smoothing]. Losses on
    pseudo-labels stay cross-entropies; predictions, and `val/loss`, are of a softmax.

    threshold: targets above it, in [0, 1), become 1 and all others 0; null: as they are. A mixed
        picture then has all of its classes; 0.2 (timm's setting for this paper).
    sum_classes: sum over classes; false: their mean (timm), whose gradient is C times smaller.
    """

    def __init__(self, threshold: ShareBelowOne | None = None, sum_classes: bool = False):
        self.threshold = threshold
        self.sum_classes = sum_classes

    declaration = Declaration(
        slots=("class_losses",),
        after=("mixes_inputs", "soft_targets"),
        refuses={"adjusts_logits": PRIORS, "focal": FOCAL},
        sharded=True,
    )

    def prepare(self, step: Step, context: Context) -> None:
        if self.threshold is None:
            return
        step.scratch[self.key] = {
            task: (one_hot(target, context.tasks[task].outputs) > self.threshold).float()
            for task, target in step.inputs["labeled"].targets.items()
        }

    def class_losses(
        self, step: Step, logits: Tensor, task: str, role: Role, context: Context
    ) -> Tensor | None:
        if role != "labeled":
            return None
        if self.threshold is None:
            losses = binary_losses(logits)
        else:
            losses = binary_losses_of(logits, step.scratch[self.key][task])
        return losses if self.sum_classes else losses / logits.shape[1]
