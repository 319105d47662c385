"""Proxy-NCA loss. Movshovitz-Attias, Toshev, Leung, Ioffe and Singh, No fuss distance metric
learning using proxies, ICCV 2017, arXiv 1703.07464."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_rows

from foundation.randomness import generator
from foundation.types import Count, Scale, Weight
from methods.metric_learning.members import count_labeled
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pairwise import masked_log_sum
from methods.metric_learning.proxies import Proxies, proxies_of_tasks
from methods.metric_learning.surveys import survey_embeddings, surveyed_rows
from recipes.contract import Clock, Context, Declaration, Survey
from recipes.contract.survey import Table


def squared_distance_logits(x: Tensor, proxies: Tensor, scale: float) -> Tensor:
    """-‖s x̂ - s ŵ_c‖², but for the constant 2s², [B, C]. x: [B, d], proxies: [C, d]."""
    return 2 * scale**2 * unit_rows(x, dim=1) @ unit_rows(proxies, dim=1).T


def proxy_nca(x: Tensor, labels: Tensor, proxies: Tensor, scale: float) -> Tensor:
    """mean_i of d(x_i, w_{y_i}) + log Σ_{c≠y_i} e^{-d(x_i, w_c)}, d the squared distance of unit
    vectors times s. labels: [B], -1 for none."""
    logits = squared_distance_logits(x, proxies, scale)
    classes = torch.arange(len(proxies), device=labels.device)
    own = labels[:, None] == classes
    others = masked_log_sum(logits, ~own)
    # the constant of both terms cancels
    losses = others - (logits * own).sum(1)
    return torch.where(labels >= 0, losses, 0).sum() / count_labeled(labels)


class ProxyNCA(MetricLoss):
    """L = mean over samples of d(x, w_y) + log Σ_{c≠y} e^{-d(x,w_c)}, d = ‖s x̂ - s ŵ‖²: a sample is
    nearer to the proxy of its class than to all others.

    Every class has a learnt proxy. As in the paper the own proxy is not in the sum, so the loss has
    no lower bound at 0 and is negative once classes are apart: no error. With it the loss is a
    softmax, `proxy_nca_pp`, which libraries call by this name, too. Different scales of embeddings
    and proxies would count by their product alone. With `init=sample` a survey before the first
    step gives the embeddings at which proxies start, which suits pretrained networks.

    scale: s, above 0; 3 (authors' code); 1 (paper's formula).
    init: start of proxies: `normal`, N(0, 1) / 8 (authors' code), or `sample`, that of a sample.
        It is one of the class, drawn at random, whose direction they take.
    proxy_lr: learning rate of the proxies over the network's, above 0; 100 (as `proxy_anchor`).
        Smaller with a large rate or SGD.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (paper: 64).
    normalize: L2-normalise the embedding; true; the loss takes unit vectors either way.
    """

    samples_in_batch = 1
    classes_in_batch = 1  # other classes are there as proxies

    def __init__(
        self,
        scale: Scale = 3.0,
        init: Literal["normal", "sample"] = "normal",
        proxy_lr: Scale = 100.0,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.scale = scale
        self.init = init
        self.proxy_lr = proxy_lr

    def declare(self) -> Declaration:
        at_start = survey_embeddings(Clock.at_start())
        return replace(super().declare(), surveys=(at_start,) if self.init == "sample" else ())

    def build(self, context: Context) -> None:
        context.method_modules[self.key] = proxies_of_tasks(
            context, lambda classes: Proxies(classes, self.dim, self.proxy_lr, "normal")
        )

    def surveyed(self, survey: Survey, table: Table, context: Context) -> None:
        for task, proxies in self.module(context).items():
            x, labels = surveyed_rows(table, task)
            proxies.move_to(x, labels, generator(context.seed, self.key, task))

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        vectors = self.module(context)[task].vectors.float()
        return proxy_nca(x, labels, vectors, self.scale), {}
