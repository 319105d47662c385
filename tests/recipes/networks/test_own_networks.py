"""Our own networks, here and in timm: counts, initial weights, order of operations, conventions."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import recipes.networks.in_timm  # noqa: F401  (registers them)
from foundation.errors import UserError
from recipes.networks.cifar_resnet import subsample_and_pad
from recipes.networks.image import build_image
from recipes.networks.own import OWN

CHANNELS = {
    "wrn_28_2": 3,
    "wrn_28_8": 3,
    "wrn_37_2": 3,
    "resnet20_cifar": 3,
    "resnet32_cifar": 3,
    "resnet56_cifar": 3,
    "digits_cnn": 1,
}


def wide_resnet_parameters(groups: int, blocks: int, width: int, classes: int) -> int:
    """Convolutions 9·i·o (shortcuts i·o), two numbers a channel of a BatchNorm, the classifier with
    bias."""
    total, inputs = 9 * 3 * 16, 16
    for group in range(groups):
        outputs = 16 * width * 2**group
        for _ in range(blocks):
            total += 2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs * outputs
            total += inputs * outputs if inputs != outputs else 0
            inputs = outputs
    return total + 2 * inputs + inputs * classes + classes


@pytest.mark.parametrize(
    ("name", "shape"),
    [("wrn_28_2", (3, 4, 2, 10)), ("wrn_28_8", (3, 4, 8, 100)), ("wrn_37_2", (4, 4, 2, 10))],
)
def test_wide_resnet_counts(name: str, shape: tuple[int, int, int, int]) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=shape[-1])
    counted = sum(p.numel() for p in network.parameters())
    assert counted == wide_resnet_parameters(*shape)
    if name == "wrn_28_2":
        assert counted == 1_467_610


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet20_cifar", 269_722), ("resnet32_cifar", 464_154), ("resnet56_cifar", 853_018)],
)
def test_cifar_resnet_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in timm.create_model(name).parameters()) == count


def test_initial_weights_and_batchnorm_of_wide_resnet() -> None:
    torch.manual_seed(0)
    network = timm.create_model("wrn_28_2")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
            k = layer.kernel_size[0]
            expected = math.sqrt(2 / (k * k * layer.out_channels))
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.04)
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.momentum, layer.eps) == (0.001, 1e-3)
            assert layer.weight.eq(1).all()
            assert layer.bias.eq(0).all()
    assert network.fc.bias.eq(0).all()
    quick = timm.create_model("wrn_28_2", bn_momentum=0.1)
    assert {m.momentum for m in quick.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_wide_resnet_activates_before_the_first_residual_only() -> None:
    torch.manual_seed(0)
    network = timm.create_model("wrn_28_2").eval()
    for index, block in enumerate(network.blocks):
        channels = block.conv1.in_channels
        x = torch.randn(2, channels, 8, 8)
        active = F.leaky_relu(block.bn1(x), 0.1)
        residual = block.conv2(F.leaky_relu(block.bn2(block.conv1(active)), 0.1))
        start = active if index == 0 else x
        skip = start if block.conv1.out_channels == channels else block.shortcut(start)
        torch.testing.assert_close(block(x), skip + residual)
    strides = [block.conv1.stride[0] for block in network.blocks]
    assert strides == [1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1]


def test_shortcut_without_parameters() -> None:
    x = torch.arange(2 * 4 * 5 * 5.0).view(2, 4, 5, 5)
    y = subsample_and_pad(x, 8, 2)
    assert y.shape == (2, 8, 3, 3)
    torch.testing.assert_close(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, :2].abs().sum() + y[:, 6:].abs().sum() == 0
    names = [name for name, _ in timm.create_model("resnet20_cifar").named_parameters()]
    assert not any("shortcut" in name or "downsample" in name for name in names)


def test_none_is_forgotten() -> None:
    assert CHANNELS.keys() == OWN.keys()


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("pool", ["avg", "catavgmax"])
def test_made_here_and_by_timm_alike(name: str, pool: str) -> None:
    options = {
        "num_classes": 7,
        "in_chans": 2,
        "global_pool": pool,
        "bn_momentum": None,
        "drop_rate": 0.25,
    }
    torch.manual_seed(0)
    ours = OWN[name].create(name, **options)
    torch.manual_seed(0)
    theirs = timm.create_model(name, **options)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert repr(ours) == repr(theirs)
    assert ours.pretrained_cfg.items() <= theirs.pretrained_cfg.items()
    x = torch.rand(2, 2, 16, 16)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", OWN)
def test_timm_conventions(name: str) -> None:
    network = timm.create_model(name, num_classes=7, in_chans=2).eval()
    assert timm.is_model(name)
    assert network.default_cfg["architecture"] == name
    assert len(network.default_cfg["mean"]) == len(network.default_cfg["std"]) == CHANNELS[name]
    assert (
        dict(network.named_modules())[network.default_cfg["classifier"]] is network.get_classifier()
    )
    assert isinstance(dict(network.named_modules())[network.default_cfg["first_conv"]], nn.Conv2d)
    x = torch.rand(2, 2, 16, 16)
    with torch.no_grad():
        maps = network.forward_features(x)
        assert maps.shape[:2] == (2, network.num_features)
        hidden = network.forward_head(maps, pre_logits=True)
        torch.testing.assert_close(hidden, maps.mean((2, 3)))
        torch.testing.assert_close(network(x), network.get_classifier()(hidden))
        network.reset_classifier(0)
        torch.testing.assert_close(network(x), hidden)
        network.reset_classifier(0, "")
        torch.testing.assert_close(network(x), maps)
        network.reset_classifier(3, "max")
    assert network(x).shape == (2, 3)


@pytest.mark.parametrize("side", [8, 16, 28])
def test_digits_cnn_takes_small_pictures(side: int) -> None:
    wide = timm.create_model("digits_cnn", width=8, num_classes=0)
    assert wide(torch.rand(3, 1, side, side)).shape == (3, 16)
    momenta = {m.momentum for m in wide.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}


@pytest.mark.parametrize("name", [*sorted(OWN), "botnet50ts_256"])
def test_weights_that_nobody_has_published_are_refused_before_the_run(name):
    with torch.device("meta"), pytest.raises(UserError) as refusal:
        build_image((3, 32, 32), {"label": 2}, name=name, pretrained=True)
    line = f"network.name: '{name}' has no pretrained weights, but network.pretrained=true; "
    assert str(refusal.value).startswith(line)
