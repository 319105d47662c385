"""Proxy-Anchor loss. Kim, Kim, Cho and Kwak, Proxy anchor loss for deep metric learning, CVPR 2020,
arXiv 2003.13911."""

import torch
from torch import Tensor

from foundation.types import Count, Scale, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.measures import Cosine
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors
from methods.metric_learning.proxies import Proxies, proxies_of_tasks
from recipes.contract import Context


def proxy_anchor(x: Tensor, labels: Tensor, proxies: Tensor, alpha: float, delta: float) -> Tensor:
    """1/|C⁺| Σ_{c in C⁺} log[1 + Σ_{y=c} e^{-α(S-δ)}] + 1/C Σ_c log[1 + Σ_{y≠c} e^{α(S+δ)}], S the
    cosine.

    x: [B, d], labels: [B], -1 for none, proxies: [C, d], of which each is the anchor of its class.
    C⁺ are the classes of the batch; sums of exponentials run over samples, so the hardest ones of a
    class weigh most.
    """
    classes = torch.arange(len(proxies), device=labels.device)
    # |C⁺|; the last place is that of -1, samples without label
    present = x.new_zeros(len(proxies) + 1).index_fill_(0, labels, 1)[:-1]
    present_count = present.sum().clamp_min_(1)

    def loss(block: Block) -> BlockLoss:
        pull = block.positive_log_sum(-alpha, delta, plus_one=True)
        push = block.negative_log_sum(alpha, -delta, plus_one=True)
        value = pull.value.sum() / present_count + push.value.sum() / len(proxies)
        return BlockLoss(
            value, pull.gradient(-alpha / present_count), push.gradient(alpha / len(proxies))
        )

    return sum_over_anchors(Cosine(), loss, proxies, classes, x, labels)[0]


class ProxyAnchor(MetricLoss):
    """L = 1/|C⁺| Σ_{C⁺} log[1 + Σ_{y=c} e^{-α(S-δ)}] + 1/C Σ_c log[1 + Σ_{y≠c} e^{α(S+δ)}], S =
    cos(x, proxy_c).

    Every class has a learnt proxy, and each proxy is an anchor that gathers its samples and repels
    all others. The second mean is over all C classes, those absent from the batch included. Works
    with shuffled batches; classes must be those of training.

    alpha: α, scale of the cosines, above 0; 32 (paper).
    delta: δ, margin; 0.1 (paper).
    proxy_lr: learning rate of the proxies over the network's, above 0; 100 (authors' code, AdamW at
        1e-4). Smaller with a large rate or SGD.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (paper: 512).
    normalize: L2-normalise the embedding; true; the loss takes cosines either way.
    """

    samples_in_batch = 1
    classes_in_batch = 1

    def __init__(
        self,
        alpha: Scale = 32.0,
        delta: float = 0.1,
        proxy_lr: Scale = 100.0,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.alpha = alpha
        self.delta = delta
        self.proxy_lr = proxy_lr

    def build(self, context: Context) -> None:
        context.method_modules[self.key] = proxies_of_tasks(
            context, lambda classes: Proxies(classes, self.dim, self.proxy_lr)
        )

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        vectors = self.module(context)[task].vectors.float()
        return proxy_anchor(x, labels, vectors, self.alpha, self.delta), {}
