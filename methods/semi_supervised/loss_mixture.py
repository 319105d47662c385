"""Which labels are right, by the loss of their samples: a mixture of two normal distributions.

Networks learn right labels before wrong ones (Arpit et al., A Closer Look at Memorization in Deep
Networks, ICML 2017), so samples with a wrong label have a larger loss for some time. The mixture is
fitted on the host in float64: a function of the losses alone, equal on all devices.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FLOOR = 5e-4  # added to variances (authors' code, as the next two)
ITERATIONS = 10
TOLERANCE = 1e-2  # change of the mean log-likelihood at which the fit ends


class Mixture(NamedTuple):
    """Weights, means and variances of the components, [2] each."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray


def normalised(losses: Tensor) -> Tensor:
    """(l - min) / (max - min), [M]; zeros where all are equal."""
    low, high = losses.min(), losses.max()
    return (losses - low) / (high - low).clamp_min(torch.finfo(losses.dtype).tiny)


def clean_probability(losses: Tensor) -> Tensor:
    """The probability [M] that a sample belongs to the component with the smaller mean; 1 where all
    losses are equal."""
    x = losses.double().numpy()
    if not len(x) or x.min() == x.max():
        return torch.ones(len(x))
    mixture = fit(x)
    clean = int(mixture.means.argmin())
    return torch.from_numpy(responsibilities(x, mixture)[0][:, clean]).float()


def fit(x: np.ndarray) -> Mixture:
    """Expectation maximisation on x [M], from the best division into two groups."""
    shares = np.zeros((len(x), 2))
    upper = x > boundary(x)
    shares[~upper, 0] = 1.0
    shares[upper, 1] = 1.0
    mixture = moments(x, shares)
    likelihood = -np.inf
    for _ in range(ITERATIONS):
        before = likelihood
        shares, likelihood = responsibilities(x, mixture)
        mixture = moments(x, shares)
        if abs(likelihood - before) < TOLERANCE:
            break
    return mixture


def boundary(x: np.ndarray) -> float:
    """The largest value of the lower group, of the two groups with the smallest sum of squared
    distances to their means. x has at least two values."""
    ordered = np.sort(x)
    size = len(ordered)
    lower = np.cumsum(ordered)[:-1]
    count = np.arange(1, size)
    upper = ordered.sum() - lower
    # the sum of squares is constant, so the smallest distances have the largest of this
    between = lower**2 / count + upper**2 / (size - count)
    between[ordered[:-1] == ordered[1:]] = -np.inf
    return float(ordered[between.argmax()])


def moments(x: np.ndarray, shares: np.ndarray) -> Mixture:
    """The components of samples that belong to them in shares [M, 2]."""
    counts = shares.sum(0) + 10 * np.finfo(np.float64).eps
    means = (shares * x[:, None]).sum(0) / counts
    variances = (shares * (x[:, None] - means) ** 2).sum(0) / counts + FLOOR
    return Mixture(counts / counts.sum(), means, variances)


def responsibilities(x: np.ndarray, mixture: Mixture) -> tuple[np.ndarray, float]:
    """The probability of each component for each sample, [M, 2], and the mean log-likelihood."""
    distance = (x[:, None] - mixture.means) ** 2 / mixture.variances
    log_density = -0.5 * (np.log(2 * np.pi * mixture.variances) + distance)
    joint = np.log(mixture.weights) + log_density
    total = np.logaddexp(joint[:, 0], joint[:, 1])
    return np.exp(joint - total[:, None]), float(total.mean())
