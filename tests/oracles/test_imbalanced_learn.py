"""Class counts of the resampled data against imbalanced-learn. Which samples are drawn is each
package's own matter."""

import pytest
import torch

from methods.long_tail.random_over_sampling import RandomOverSampling
from methods.long_tail.random_under_sampling import RandomUnderSampling
from tests.support.comparison import installed

LABELS = torch.arange(3).repeat_interleave(torch.tensor([100, 10, 1]))


@pytest.mark.parametrize(
    ("method", "module", "name"),
    [
        (RandomOverSampling(), "over_sampling", "RandomOverSampler"),
        (RandomUnderSampling(), "under_sampling", "RandomUnderSampler"),
    ],
)
def test_classes_after_resampling(method, module, name):
    sampler = getattr(installed(f"imblearn.{module}", "imbalanced-learn"), name)(random_state=0)
    _, expected = sampler.fit_resample(torch.arange(len(LABELS))[:, None].numpy(), LABELS.numpy())
    found = LABELS[method.order(LABELS, 0, 0, "labeled").take(0, len(expected))]
    assert torch.bincount(found).tolist() == torch.bincount(torch.as_tensor(expected)).tolist()
