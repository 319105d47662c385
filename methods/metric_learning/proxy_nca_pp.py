"""Proxy-NCA++ loss. Teh, DeVries and Taylor, ProxyNCA++: revisiting and revitalizing proxy
neighborhood component analysis, ECCV 2020, arXiv 2004.01113."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from foundation.types import Count, Scale, ShareBelowOne, Weight
from methods.metric_learning.members import count_labeled
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.proxies import Proxies, proxies_of_tasks
from methods.metric_learning.proxy_nca import squared_distance_logits
from recipes.contract import Context


def proxy_nca_pp(
    x: Tensor, labels: Tensor, proxies: Tensor, temperature: float, smoothing: float = 0.0
) -> Tensor:
    """mean_i of -log softmax_c(-‖x̂_i - ŵ_c‖² / T)[y_i].

    x: [B, d], labels: [B], -1 for none, proxies: [C, d]. smoothing: of the targets, over all
    classes.
    """
    logits = squared_distance_logits(x, proxies, temperature**-0.5)
    total = cross_entropy(
        logits, labels, ignore_index=-1, label_smoothing=smoothing, reduction="sum"
    )
    return total / count_labeled(labels)


class ProxyNCAPP(MetricLoss):
    """L = -mean over samples of log softmax_c(-‖x̂ - ŵ_c‖² / T)[y]: the probability of the own proxy
    among all, at a low temperature.

    A softmax over cosines to learnt proxies with temperature T/2. Unlike in `proxy_nca` the own
    proxy is in the sum, so the loss is at least 0. To the method belong batches with equally many
    samples of each class (`pk`), fast proxies, a LayerNorm of the features and global max pooling,
    which is a setting of the network: `+network.options.global_pool=max`. The authors' learning
    rates belong to Adam with an eps of 1 and do not carry over.

    temperature: T, above 0; 0.111 = 1/9 (authors); larger softens.
    smoothing: share of the target that is spread over all classes, in [0, 1); 0 (authors).
    layer_norm: normalise the features over their width before the embedding, without parameters;
        true (paper).
    proxy_lr: learning rate of the proxies over the network's, above 0; 100. Smaller with a large
        rate or SGD.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (paper: 512 and 2048).
    normalize: L2-normalise the embedding; true; the loss takes unit vectors either way.
    """

    samples_in_batch = 1
    classes_in_batch = 1  # other classes are there as proxies

    def __init__(
        self,
        temperature: Scale = 1 / 9,
        smoothing: ShareBelowOne = 0.0,
        layer_norm: bool = True,
        proxy_lr: Scale = 100.0,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.temperature = temperature
        self.smoothing = smoothing
        self.layer_norm = layer_norm
        self.proxy_lr = proxy_lr

    def build(self, context: Context) -> None:
        context.method_modules[self.key] = proxies_of_tasks(
            context, lambda classes: Proxies(classes, self.dim, self.proxy_lr, "normal")
        )

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        vectors = self.module(context)[task].vectors.float()
        return proxy_nca_pp(x, labels, vectors, self.temperature, self.smoothing), {}
