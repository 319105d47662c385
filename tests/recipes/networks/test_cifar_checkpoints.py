"""Published CIFAR-10 weights, loaded into our networks, make exactly the published number of
errors."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.errors import UserError
from recipes.networks import build_network

DATA = Path(os.environ.get("ROUX_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
PICTURES, WEIGHTS = DATA / "cifar10_test_lossless", DATA / "checkpoints_cifar10_resnet"
INFO = SimpleNamespace(kind="image", shape=(3, 32, 32))

pytestmark = pytest.mark.skipif(
    not (PICTURES.is_dir() and WEIGHTS.is_dir()),
    reason=f"the CIFAR-10 pictures and weights are not in {DATA}",
)


@pytest.fixture(scope="module")
def test_set() -> tuple[torch.Tensor, torch.Tensor]:
    sheets = [
        np.asarray(Image.open(path).convert("RGB")) for path in sorted(PICTURES.glob("test_*.webp"))
    ]
    tiles = [
        sheet.reshape(-1, 32, 50, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3) for sheet in sheets
    ]
    pixels = torch.from_numpy(np.concatenate(tiles)).permute(0, 3, 1, 2)
    return pixels, torch.from_numpy(np.load(PICTURES / "labels.npz")["test"].astype(np.int64))


@pytest.mark.parametrize(
    ("name", "file", "pictures", "correct"),
    [
        # of the first thousand pictures the network that has 9173 of all right has as many
        ("resnet20_cifar", "resnet20-12fca82f.th", 1000, 914),
        *(
            pytest.param(f"resnet{depth}_cifar", file, 10_000, correct, marks=pytest.mark.slow)
            for depth, file, correct in (
                (20, "resnet20-12fca82f.th", 9173),
                (32, "resnet32-d509ac18.th", 9263),
                (56, "resnet56-4bfd9763.th", 9339),
            )
        ),
    ],
)
def test_published_accuracy(
    name: str,
    file: str,
    pictures: int,
    correct: int,
    test_set: tuple[torch.Tensor, torch.Tensor],
) -> None:
    network = build_network(INFO, {"label": 10}, name=name, checkpoint=str(WEIGHTS / file)).eval()
    # nothing said of mean and std: weights bring the normalisation that they were trained with
    assert network.mean.flatten().tolist() == pytest.approx((0.485, 0.456, 0.406))
    assert network.std.flatten().tolist() == pytest.approx((0.229, 0.224, 0.225))
    pixels, labels = (values[:pictures] for values in test_set)
    assert len(labels) == pictures
    hits = 0
    with torch.inference_mode():
        for part, truth in zip(pixels.split(500), labels.split(500), strict=True):
            logits = network(network.embed(part / 255)).logits["label"]
            hits += int((logits.argmax(1) == truth).sum())
    assert hits == correct


def test_weights_of_another_depth_are_refused() -> None:
    with pytest.raises(UserError, match=r"resnet20.*missing: backbone\.layer1\.3.* and \d+ more"):
        build_network(
            INFO,
            {"label": 10},
            name="resnet32_cifar",
            checkpoint=str(WEIGHTS / "resnet20-12fca82f.th"),
        )
