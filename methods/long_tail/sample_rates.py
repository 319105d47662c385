"""Learned rates at which classes are drawn, and draws that have a gradient: for `meta_sampler`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam


def start(counts: Tensor, power: float) -> Tensor:
    """ω_c = logit(s_c), s_c = x_c / (min x + max x), x_c = n_c^-a; 0 for a class without samples.

    counts: [C]. power: a ≥ 0; 0 gives s = 1/2 everywhere.
    """
    n = counts.double()
    x = n.clamp_min(1.0) ** -power
    seen = x[n > 0]
    s = x / (seen.min() + seen.max())
    return torch.where(n > 0, torch.logit(s), 0.0).float()


def class_shares(omega: Tensor, counts: Tensor) -> Tensor:
    """p(c) = n_c s_c / Σ n s, [C]: how often classes are drawn."""
    rates = counts * torch.sigmoid(omega)
    return rates / rates.sum()


def gumbel(u: Tensor) -> Tensor:
    """Gumbel noise from uniform numbers in [0, 1)."""
    return -torch.log(-torch.log(u.clamp_min(torch.finfo(u.dtype).tiny)))


def present_classes(labels: Tensor, classes: int) -> Tensor:
    """bool [C]: which classes occur among these labels (-1: none)."""
    return class_sizes(labels, classes)[1:] > 0


def class_sizes(labels: Tensor, classes: int) -> Tensor:
    """int64 [1 + C]: samples without a label, and of each class."""
    sizes = torch.zeros(classes + 1, dtype=torch.int64, device=labels.device)
    return sizes.index_add_(0, labels + 1, torch.ones_like(labels))


def members(labels: Tensor, classes: int, drawn: Tensor, u: Tensor) -> Tensor:
    """For each drawn class [B] the position of one of its samples among `labels` [M], each equally
    likely. u: [B] in [0, 1)."""
    sizes = class_sizes(labels, classes)
    first = sizes.cumsum(0) - sizes
    # samples without a label come first
    order = labels.argsort(stable=True)
    size = sizes[drawn + 1]
    # float32 may round u · size up to size
    within = torch.minimum((u * size).long(), size - 1)
    return order[first[drawn + 1] + within]


class SampleRates(nn.Module):
    """ω, what it is drawn over, and the moments of its Adam.

    counts: [C], labeled samples of each class. instances: whether instances can be drawn, which
        takes a number for each sample.
    """

    omega: Tensor
    first_moment: Tensor
    second_moment: Tensor
    steps: Tensor
    log_counts: Tensor
    owners: Tensor

    def __init__(self, counts: Tensor, init_pow: float = 0.0, instances: bool = False):
        super().__init__()
        self.classes = len(counts)
        self.samples = int(counts.sum())
        self.register_buffer("omega", start(counts, init_pow))
        self.register_buffer("first_moment", torch.zeros(self.classes))
        self.register_buffer("second_moment", torch.zeros(self.classes))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("log_counts", torch.log(counts.float()), persistent=False)
        every = torch.arange(self.classes, device=counts.device)
        owners = every.repeat_interleave(counts.long()) if instances else every[:0]
        self.register_buffer("owners", owners, persistent=False)

    def entries(self, instances: bool) -> int:
        """How many things a draw chooses from: samples or classes."""
        return len(self.owners) if instances else self.classes

    def draw(
        self,
        omega: Tensor,
        noise: Tensor,
        temperature: float,
        present: Tensor,
        instances: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Drawn classes [B], and the soft weight [B] of each draw with a gradient to `omega`.

        A draw is the largest of log s + noise over instances, or of log(n s) + noise over classes,
        which has the same distribution of classes; its soft weight is its entry of the softmax.
        noise: Gumbel, [B, entries]. present: bool [C], other classes are not drawn.
        """
        log_rates = F.logsigmoid(omega).masked_fill(~present, -torch.inf)
        scores = log_rates[self.owners] if instances else log_rates + self.log_counts
        scores = scores + noise
        chosen = scores.detach().argmax(1)
        soft = torch.softmax(scores / temperature, dim=1).gather(1, chosen[:, None]).squeeze(1)
        return self.owners[chosen] if instances else chosen, soft

    @torch.no_grad()
    def descend(self, gradient: Tensor, lr: float) -> None:
        """One step of Adam on ω; its count is on the device."""
        self.steps += 1
        self.first_moment.lerp_(gradient, 1 - BETAS[0])
        self.second_moment.lerp_(gradient.square(), 1 - BETAS[1])
        m = self.first_moment / (1 - BETAS[0] ** self.steps)
        v = self.second_moment / (1 - BETAS[1] ** self.steps)
        self.omega -= lr * m / (v.sqrt() + EPS)
