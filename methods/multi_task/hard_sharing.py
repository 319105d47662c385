"""Hard parameter sharing. Caruana, Multitask Learning: A Knowledge-Based Source of Inductive Bias,
ICML 1993; Machine Learning 28, 1997."""

from typing import Literal

from torch import nn

from foundation.errors import UserError
from foundation.types import Steps
from methods.multi_task.stages import layers_of, split_into_columns
from recipes.contract import Context, Declaration, Method
from recipes.networks.network import linear_head


def mlp_head(width: int, classes: int) -> nn.Sequential:
    """W₂ ReLU(W₁ z + b₁) + b₂ with a hidden layer as wide as z."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), linear_head(width, classes))


class HardSharing(Method):
    """z = f(x) shared by all tasks, y_t = h_t(z): what every run with several tasks does; here it
    is set where they branch.

    The layers after stage `split_stage` of the backbone are copied for every task, and run side by
    side. The copies start equal, so the network's function is that of the shared one.

    split_stage: stages that all tasks share, at least 0; null: the whole backbone. Stages are those
        of timm (a transformer has four); 0 shares nothing, so that gradients of tasks cannot be
        balanced.
    head: head of a task: `linear` or `mlp` with one hidden layer.
    """

    def __init__(
        self,
        split_stage: Steps | None = None,
        head: Literal["linear", "mlp"] = "linear",
    ):
        self.split_stage = split_stage
        self.head = head

    def declare(self) -> Declaration:
        tags: tuple[str, ...] = ()
        if self.split_stage is not None:
            tags = ("features_by_task",)
        if self.split_stage == 0:
            tags = ("features_by_task", "shares_no_layer")
        if self.head == "mlp":
            tags = (*tags, "nonlinear_heads")
        reason = (
            "where tasks part makes no difference to a backbone that does not learn; leave one out"
        )
        return Declaration(
            modalities=("image",),
            tasks_at_least=2,
            slots=("sharing", "heads") if self.head == "mlp" else ("sharing",),
            tags=tags,
            refuses={"freezes_backbone": reason},
            after=("delta",),
        )

    def build(self, context: Context) -> None:
        network = context.network
        if self.head == "mlp":
            for name, task in context.tasks.items():
                network.heads[name] = mlp_head(network.feature_dim, task.outputs)
        if self.split_stage is None:
            return
        option = f"multi_task={self.key}"
        layers = layers_of(network, option)
        # the layers that follow each number of shared stages, as long as one of them is trained
        ends = [0, *(i + 1 for i, layer in enumerate(layers) if layer.ends_stage)]
        copyable = []
        for end in ends:
            if any(layer.trained for layer in layers[end:]):
                copyable.append(layers[end:])
        if self.split_stage >= len(copyable):
            key = f"methods.{self.key}.split_stage"
            most = len(copyable) - 1
            raise UserError(
                f"{key}={self.split_stage}: no layers are left to copy; expected 0 to {most}"
            )
        split_into_columns(network, list(context.tasks), copyable[self.split_stage], {}, option)
