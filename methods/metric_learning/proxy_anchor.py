"""Proxy-Anchor loss. Kim, Kim, Cho and Kwak, Proxy anchor loss for deep metric learning, CVPR 2020,
arXiv 2003.13911."""

from typing import cast

import torch
from torch import Tensor, nn

from foundation.types import Count, Scale, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.measures import Cosine
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors
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


class Proxies(nn.Module):
    """A learned vector for each class, [C, d], Kaiming normal with fan out (the authors'), without
    weight decay.

    rate: factor of the optimizer's learning rate.
    """

    def __init__(self, classes: int, dim: int, rate: float):
        super().__init__()
        vectors = nn.init.kaiming_normal_(torch.empty(classes, dim), mode="fan_out")
        self.vectors = nn.Parameter(vectors)
        self.vectors._lr_scale = rate  # type: ignore[attr-defined]
        self.vectors._weight_decay = 0.0  # type: ignore[attr-defined]


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
        proxies = nn.ModuleDict()
        for name, task in context.tasks.items():
            proxies[name] = Proxies(task.outputs, self.dim, self.proxy_lr)
        context.method_modules[self.key] = proxies

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        proxies = cast(Proxies, cast(nn.ModuleDict, self.module(context))[task])
        return proxy_anchor(x, labels, proxies.vectors.float(), self.alpha, self.delta), {}
