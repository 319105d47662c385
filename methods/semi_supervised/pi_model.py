"""Π-Model. Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017, arXiv
1610.02242; several passes and mutual exclusivity after Sajjadi, Javanmardi and Tasdizen, NeurIPS
2016, arXiv 1606.04586."""

from itertools import combinations
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from foundation.types import Share
from methods.semi_supervised.consistency import labeled_fraction, squared_distance
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.ramps import Ramp, RampKind


def stability(passes: list[Tensor]) -> Tensor:
    """Σ_{j<k} (1/C) ‖f_j - f_k‖² over the passes' probabilities, [N]; gradient flows through all of
    them."""
    distances = [squared_distance(a, b) for a, b in combinations(passes, 2)]
    return distances[0] if len(distances) == 1 else torch.stack(distances).sum(0)


def mutual_exclusivity(p: Tensor) -> Tensor:
    """-Σ_c p_c Π_{l≠c} (1 - p_l), [N]: smallest (-1) exactly at one-hot outputs.

    The leave-one-out products come from cumulative products from both ends; dividing by 1 - p_c
    breaks at p_c = 1.
    """
    rest = 1.0 - p
    one = torch.ones_like(rest[:, :1])
    before = torch.cat([one, rest[:, :-1].cumprod(1)], dim=1)
    after = torch.cat([rest[:, 1:].flip(1).cumprod(1).flip(1), one], dim=1)
    return -(p * before * after).sum(1)


class PiModel(Method):
    """L = CE + w(t) · mean_i Σ_{j<k} (1/C)‖p_j(x_i) - p_k(x_i)‖² over independently drawn weak
    views.

    Gradients flow through *both* branches, as in the papers. w(t) = weight · (M/N) · ramp with M/N
    the labeled fraction. With two streams, CE is a mean over the labeled batch, the distance a mean
    over the samples of `consistency_on`. On text whose weak view is the identity, passes differ
    only by dropout.

    weight: largest weight of the consistency loss, at least 0; 100 (paper), multiplied by
        label_fraction.
    label_fraction: multiply the weight by M/N, the labeled fraction (paper). Part of the published
        weight: 8 at 4000 of 50000 labels.
    ramp: growth of the weight: `constant`, `linear` or `sigmoid` (paper).
    ramp_end: share of the run after which the weight is full, 0 to 1; 0.27 (paper: 80 of 300
        epochs).
    passes: number n of views compared, 2 to 8; 2 (Laine and Aila).
    exclusivity_weight: weight λ of the mutual-exclusivity term, at least 0; 0: none (Sajjadi et al.
        have it).
    consistency_on: samples of the consistency loss: `all` (paper) or `unlabeled`.
    detach: stop the gradient of one branch; false (paper). True halves the gradient in expectation
        (Google's and USB's form).
    """

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 100.0,
        label_fraction: bool = True,
        ramp: RampKind = "sigmoid",
        ramp_end: Share = 0.27,
        passes: Annotated[int, Field(ge=2, le=8)] = 2,
        exclusivity_weight: Annotated[float, Field(ge=0)] = 0.0,
        consistency_on: Literal["all", "unlabeled"] = "all",
        detach: bool = False,
    ):
        self.weight = weight
        self.label_fraction = label_fraction
        self.detach = detach
        self.ramp = Ramp(ramp, end=ramp_end)
        self.exclusivity_weight = exclusivity_weight
        self.views = ("weak", *(f"weak{i}" for i in range(2, passes + 1)))
        self.streams = ("labeled", "unlabeled") if consistency_on == "all" else ("unlabeled",)

    def declare(self) -> Declaration:
        return Declaration(
            views=dict.fromkeys(self.streams, self.views),
            tags=("unlabeled_loss",),
            lower_on_collapse=("weight",),
        )

    def idle_settings(self) -> list[str]:
        return [] if self.exclusivity_weight else super().idle_settings()

    def prepare(self, step: Step, context: Context) -> None:
        for stream in self.streams:
            for view in self.views:
                step.request(stream, view)

    def terms(self, step: Step, context: Context) -> None:
        fraction = labeled_fraction(context) if self.label_fraction else 1.0
        ramp = self.ramp(step.progress)
        weight = self.weight * fraction * ramp
        for task in step.tasks:
            passes = [self._probabilities(step, view, task) for view in self.views]
            if self.detach:
                passes[1:] = [p.detach() for p in passes[1:]]
            values = stability(passes)
            step.term(step.term_name(self.key, task), values, weight=weight, task=task)
            if self.exclusivity_weight:
                values = torch.stack([mutual_exclusivity(p) for p in passes]).sum(0)
                name = step.term_name(f"{self.key}/exclusivity", task)
                step.term(name, values, weight=self.exclusivity_weight * ramp, task=task)

    def _probabilities(self, step: Step, view: str, task: str) -> Tensor:
        logits = [step.logits(f"{stream}/{view}", task) for stream in self.streams]
        return torch.softmax(torch.cat(logits), dim=1)
