"""Label propagation. Iscen, Tolias, Avrithis and Chum, Label Propagation for Deep Semi-supervised
Learning, CVPR 2019, arXiv 1904.04717."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.distributed import from_first_rank, is_first_rank
from foundation.types import Count, Scale, ShareBelowOne, StepsOrShare, Weight
from methods.semi_supervised.given_labels import (
    LABELS,
    LABELS_SURVEY,
    check_warmup,
    in_warmup,
    share_of_batch,
)
from methods.semi_supervised.propagation import (
    Propagated,
    balancing_weights,
    neighbor_graph,
    propagate,
)
from recipes.contract import Clock, Context, Declaration, Method, Seen, Survey, Table
from recipes.services.tables import SampleTables
from recipes.step import PseudoLabels, Step
from recipes.step.criterion import Role, one_hot

FEATURES = "features"


def features_of(seen: Seen) -> dict[str, Tensor]:
    assert seen.features is not None  # of the run's own network
    return {FEATURES: seen.features}


class LabelPropagation(Method):
    """L = (1/N) Σ_i ω_i ζ_{ŷ_i} CE(f(x_i), ŷ_i) over the N = B + U samples of a batch: labels that
    spread over a graph of nearest neighbors to pseudo-labels ŷ of certainty ω.

    After `warmup` on the labels alone, and then after every pass over the unlabeled set, the
    network evaluates the features v of all training samples. W = A + Aᵀ with A_ij = max(cos(v_i,
    v_j), 0)^γ for the k nearest neighbors j of i, S = D^{-1/2} W D^{-1/2}, and (I - αS) Z = Y is
    solved by conjugate gradients for every class. ŷ = argmax Z, ω = 1 - H(Z / Σ Z) / log C; labeled
    samples keep their label, with ω = 1. A sample that no label reaches has ω = 0. ζ_c = N / (C
    n_c) balances the classes by their labels and pseudo-labels.

    One run replaces the paper's two stages. The labeled samples of a batch are data.batch_size, the
    others data.unlabeled_ratio for each of them (paper: 50 of 100 on CIFAR-10, 31 of 128 else). The
    table (20 bytes × samples × tasks) is part of the checkpoint. With several ranks the first one
    solves for all. Memory grows with samples × neighbors: 100,000 samples with 50 neighbors need
    0.8 GB for the moment.

    neighbors: k of the graph, at least 1; 50 (paper).
    gamma: exponent γ of the similarities, above 0; 3 (paper).
    alpha: α of the propagation, in [0, 1); 0.99 (paper); 0: labels stay where they are.
    iterations: of the conjugate gradients, at least 1; 20 (authors' code), before they converge.
    tolerance: residual relative to the labels at which they end earlier, above 0; 1e-6 (authors).
    balanced_labels: divide the columns of Y by the labels of their class (authors' code); false:
        one-hot rows (paper).
    relative_certainty: divide ω by its maximum (authors' code); false: as it is (paper).
    class_weights: weight classes by ζ (paper); false where another method corrects the prior.
    weight: factor of the samples with pseudo-labels, at least 0; 1 (paper).
    warmup: optimizer steps on labels alone, before the first propagation, below 1 a share of the
        run; 0.5 (paper: the first of two equal stages).
    every: passes over the unlabeled set from one propagation to the next, above 0; 1 (paper).
    view: the view that learns the pseudo-labels: `weak` (paper) or `strong`.
    """

    def __init__(
        self,
        neighbors: Count = 50,
        gamma: Scale = 3.0,
        alpha: ShareBelowOne = 0.99,
        iterations: Count = 20,
        tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6,
        balanced_labels: bool = True,
        relative_certainty: bool = True,
        class_weights: bool = True,
        weight: Weight = 1.0,
        warmup: StepsOrShare = 0.5,
        every: Scale = 1.0,
        view: Literal["weak", "strong"] = "weak",
    ):
        self.neighbors = neighbors
        self.gamma = gamma
        self.alpha = alpha
        self.iterations = iterations
        self.tolerance = tolerance
        self.balanced_labels = balanced_labels
        self.relative_certainty = relative_certainty
        self.class_weights = class_weights
        self.weight = weight
        self.warmup = warmup
        self.view = view
        self.clock = Clock.every_pass("unlabeled", every, first=warmup)

    def idle_settings(self) -> list[str]:
        # without the unlabeled samples the weights of classes remain
        return [] if self.class_weights else super().idle_settings()

    def declare(self) -> Declaration:
        corrects = self.class_weights
        return Declaration(
            views={"unlabeled": (self.view,)},
            surveys=(LABELS_SURVEY, Survey(FEATURES, "unlabeled", features_of, self.clock)),
            slots=("pseudo_labels", "prior_correction") if corrects else ("pseudo_labels",),
            tags=("unlabeled_loss", "weighs_classes") if corrects else ("unlabeled_loss",),
            lower_on_collapse=("weight",),
        )

    def build(self, context: Context) -> None:
        check_warmup(self.key, self.clock, context.total_steps)
        samples = context.sizes["unlabeled"]
        labels = {
            name: PropagatedLabels(samples, task.outputs) for name, task in context.tasks.items()
        }
        context.method_modules[self.key] = nn.ModuleDict(labels)

    # -- between steps -----------------------------------------------------------------------------
    def surveyed(self, survey: Survey, table: Table, context: Context) -> None:
        index = table["index"].to(context.device)
        if survey.name == LABELS:
            for task, labels in self.module(context).items():
                labels.given[index] = table[task].to(context.device)
            return
        graph = None
        if is_first_rank():
            features = table[FEATURES].to(context.device)
            graph = neighbor_graph(features, self.neighbors, self.gamma)
        for labels in self.module(context).values():
            given = labels.given[index]
            # what the other ranks have is only of the right form
            found = Propagated(given, torch.zeros_like(given, dtype=torch.float32))
            if graph is not None:
                found = self.propagated(graph, given, labels.classes)
            shared = Propagated(*(from_first_rank(values) for values in found))
            labels.renew(index, shared)

    def propagated(self, graph: Tensor, given: Tensor, classes: int) -> Propagated:
        return propagate(
            graph,
            given,
            classes,
            alpha=self.alpha,
            steps=self.iterations,
            tolerance=self.tolerance,
            balanced=self.balanced_labels,
            relative=self.relative_certainty,
        )

    # -- in a step ---------------------------------------------------------------------------------
    def prepare(self, step: Step, context: Context) -> None:
        if not in_warmup(self.clock, step):
            step.request("unlabeled", self.view)

    def sample_weights(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor,
        task: str,
        role: Role,
        context: Context,
    ) -> Tensor | None:
        """ζ of the class; and for labels their share of the batch, over all of which L is the
        mean."""
        if in_warmup(self.clock, step):
            return None
        factor = share_of_batch(step, "labeled") if role == "labeled" else 1.0
        if not self.class_weights:
            return logits.new_full((len(logits),), factor)
        weights: Tensor = self.module(context)[task].class_weights
        return (factor * weights).expand(len(logits), -1)

    def terms(self, step: Step, context: Context) -> None:
        if in_warmup(self.clock, step):
            return
        name = f"unlabeled/{self.view}"
        weight = self.weight * share_of_batch(step, "unlabeled")
        for task in step.tasks:
            labels: PropagatedLabels = self.module(context)[task]
            found = labels.of(step.streams["unlabeled"].index)
            # ω is 0 where there is no label
            target = found.labels.clamp_min(0)
            q = one_hot(target, labels.classes)
            pseudo = PseudoLabels(q, target, found.certainty, found.certainty)
            step.publish_pseudo_labels(task, pseudo)
            values = step.classify(name, task, "pseudo", target)
            step.term(
                step.term_name(self.key, task),
                values,
                weight=weight,
                mask=found.certainty,
                task=task,
            )


class PropagatedLabels(SampleTables):
    """Labels of all training samples for one task, -1 for none: `given` and propagated ones, with
    their certainty, [M] each; and the weights ζ of the classes, [C], 1 before any propagation."""

    given: Tensor
    class_weights: Tensor

    def __init__(self, samples: int, classes: int):
        super().__init__()
        self.classes = classes
        self.add_table("given", (samples,), fill=-1, dtype=torch.int64)
        self.add_table("labels", (samples,), fill=-1, dtype=torch.int64)
        self.add_table("certainty", (samples,))
        self.register_buffer("class_weights", torch.ones(classes))

    def renew(self, index: Tensor, found: Propagated) -> None:
        """Write the pseudo-labels of the samples `index` [M]."""
        self.put_rows("labels", index, found.labels)
        self.put_rows("certainty", index, found.certainty)
        self.class_weights.copy_(balancing_weights(found.labels, self.classes))

    def of(self, index: Tensor) -> Propagated:
        """Labels and certainties of the samples `index` [N]."""
        return Propagated(self.table_rows("labels", index), self.table_rows("certainty", index))
