"""Feature squeezing. Xu, Evans and Qi, Feature Squeezing: Detecting Adversarial Examples in Deep
Neural Networks, NDSS 2018, arXiv 1704.01155; the attack that defeats it after He et al.,
Adversarial Example Defenses: Ensembles of Weak Defenses are not Strong, WOOT 2017, arXiv
1706.04701."""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.attack import least_side
from methods.adversarial.detection import alarm_at
from methods.adversarial.squeezers import check_nlm, squeezers
from recipes.contract import Clock, Context, Declaration, Method, Remark, Seen, Survey, Table
from recipes.contract.environment import Environment
from recipes.step import Embedded

SCORE = "score"
NonLocalMeans = Annotated[
    str,
    Field(pattern=r"^[1-9]\d*-[1-9]\d*-[1-9]\d*$", description="three numbers such as 13-3-2"),
]


def distances(clean: Mapping[str, Tensor], squeezed: Mapping[str, Tensor]) -> Tensor:
    """max over tasks of ‖p(x) - p(s(x))‖₁, in [0, 2], from logits by task; [N]."""
    apart = []
    for task, logits in squeezed.items():
        apart.append((clean[task].softmax(1) - logits.softmax(1)).abs().sum(1))
    return torch.stack(apart).amax(0)


class Threshold(nn.Module):
    """The score above which a sample is flagged; NaN until the first validation."""

    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(torch.nan))


class FeatureSqueezing(Method):
    """s(x) = max over squeezers q of ‖p(x) - p(q(x))‖₁ at evaluation and prediction: a sample whose
    prediction changes when its picture is squeezed is flagged as attacked.

    The threshold is the score that 5 % of the clean samples of the validation part exceed, set
    before every validation and after the last step; training does not change. Predictions have the
    columns `feature_squeezing/score` and `feature_squeezing/score_flagged`, and evaluation reports
    the share of flagged samples. It detects only attacks that do not know of it: `evaluate.attack`
    goes through squeezers (rounding and median with the identity as backward), and
    evaluate.attack=pgd also lowers the score. The authors' sets are bits=1 window=2 (MNIST), bits=5
    window=2 nlm=13-3-2 (CIFAR-10) and bits=5 window=2 nlm=11-3-4 (ImageNet).

    bits: bit depth of a pixel, 1 to 8; 5 (paper on CIFAR-10 and ImageNet); null: not squeezed so.
    window: side of the median filter in pixels, at least 2; 2 (paper); null: none.
    nlm: non-local means `WINDOW-PATCH-STRENGTH`, e.g. `13-3-2` (paper); null: none. It needs
        OpenCV (`pip install 'roux[squeezing]'`); the paper's numbers are those of CIFAR-10.
    false_alarms: share of clean validation samples above the threshold, between 0 and 1; 0.05
        (paper).
    predict: the picture of predictions: `original` (paper) or `squeezed`. The second is that made
        by the first of the squeezers.
    """

    def __init__(
        self,
        bits: Annotated[int, Field(ge=1, le=8)] | None = 5,
        window: Annotated[int, Field(ge=2)] | None = 2,
        nlm: NonLocalMeans | None = None,
        false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.05,
        predict: Literal["original", "squeezed"] = "original",
    ):
        self.bits = bits
        self.window = window
        self.nlm = nlm
        self.false_alarms = false_alarms
        self.predict = predict
        self.squeezers = tuple(squeezers(bits, window, nlm))

    def declare(self) -> Declaration:
        scores = Survey("scores", part="val", take=self.scores, when=Clock.before_validation())
        return Declaration(modalities=("image",), surveys=(scores,))

    def check(self, environment: Environment) -> None:
        key = f"methods.{self.key}"
        if not self.squeezers:
            raise UserError(key, "has no squeezer", f"give {key}.bits, window or nlm a value")
        channels = environment.shape[0] if environment.shape else None
        check_nlm(f"{key}.nlm", self.nlm, channels)
        side = least_side(environment)
        if side is not None and self.window is not None and self.window > side:
            problem = f"got {self.window}, and pictures have {side} pixels"
            raise UserError(f"{key}.window", problem, "expected fewer")

    def implements(self, point: str) -> bool:
        """Predictions from the original picture need no change of the input."""
        if point == "transform_input" and self.predict == "original":
            return False
        return super().implements(point)

    def build(self, context: Context) -> None:
        if not context.sizes.get("val"):
            raise UserError(
                f"methods.{self.key}",
                "sets its threshold on clean samples of the validation part, and there is none",
                "hold one out, e.g. data.val_fraction=0.1",
            )
        context.method_modules[self.key] = Threshold()

    # -- the threshold -----------------------------------------------------------------------------
    def scores(self, seen: Seen) -> dict[str, Tensor]:
        return {SCORE: seen.remarks()[f"{self.key}/{SCORE}"].values}

    def surveyed(self, survey: Survey, table: Table, context: Context) -> None:
        threshold = alarm_at(table[SCORE].float(), self.false_alarms)
        self.module(context).value.copy_(threshold)

    # -- at evaluation and prediction --------------------------------------------------------------
    def remark(
        self,
        embedded: Embedded,
        logits: Mapping[str, Tensor],
        index: Tensor | None,
        context: Context,
    ) -> dict[str, Remark]:
        def predicted(x: Tensor) -> dict[str, Tensor]:
            found = context.predict(Embedded(x), index=index, without=self.key)
            return {task: found[task] for task in context.tasks}

        clean = logits if self.predict == "original" else predicted(embedded.x)
        scores = [distances(clean, predicted(squeeze(embedded.x))) for squeeze in self.squeezers]
        return {SCORE: Remark(torch.stack(scores).amax(0), self.module(context).value)}

    def transform_input(
        self, embedded: Embedded, randomness: SampleRandomness, context: Context
    ) -> Embedded:
        return Embedded(self.squeezers[0](embedded.x))
