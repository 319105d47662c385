"""Any timm model behind a normalisation of its own: sizes, channels, moments, gradients,
mistakes."""

from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import timm
import torch
from timm.models import adapt_input_conv, save_for_hf
from torch import nn

from foundation.errors import UserError
from recipes.networks import build_network, image, parameter_counts
from recipes.networks.moments import resolve_moments
from recipes.networks.network import eval_mode
from recipes.step import Embedded


def info(*shape: int, **more: object) -> SimpleNamespace:
    return SimpleNamespace(kind="image", shape=shape, **more)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (1, 28, 28)),
        ("vit_tiny_patch16_224", (3, 32, 32)),
        ("mobilenetv3_small_050", (5, 40, 56)),
        ("convnext_atto", (3, 64, 64)),
    ],
)
def test_any_model_size_and_channels(name: str, shape: tuple[int, ...]) -> None:
    network = build_network(info(*shape), {"label": 7, "colour": 3}, name=name)
    output = network(network.embed(torch.rand(2, *shape)))
    assert output.features.shape == (2, network.feature_dim)
    assert {task: tuple(logits.shape) for task, logits in output.logits.items()} == {
        "label": (2, 7),
        "colour": (2, 3),
    }
    assert network.training


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "wrn_28_2", "digits_cnn"])
def test_meta_device_counts_as_the_real_one(name: str) -> None:
    with torch.device("meta"):
        plan = build_network(info(3, 32, 32), {"label": 10}, name=name)
    assert all(p.is_meta for p in plan.parameters())
    real = build_network(info(3, 32, 32), {"label": 10}, name=name)
    assert not any(p.is_meta for p in real.parameters())
    assert parameter_counts(plan) == parameter_counts(real)
    for parameter in real.backbone.parameters():
        parameter.requires_grad_(False)
    head = real.feature_dim * 10 + 10
    assert parameter_counts(real) == (head, parameter_counts(plan)[0] - head)


def test_features_normalise_and_keep_out_the_dropout() -> None:
    network = build_network(
        info(3, 4, 4), {"label": 2}, name="resnet18", mean=[0.1, 0.2, 0.3], std=0.5, drop_rate=0.9
    )
    network.backbone = nn.Flatten()
    x = torch.rand(2, 3, 4, 4)
    by_hand = torch.stack([(x[:, c] - m) / 0.5 for c, m in enumerate((0.1, 0.2, 0.3))], 1)
    torch.testing.assert_close(network.features(network.embed(x)), by_hand.flatten(1))


def test_heads_see_features_through_dropout() -> None:
    network = build_network(info(1, 8, 8), {"label": 4}, drop_rate=0.5)
    network.backbone.eval()
    x = torch.rand(3, 1, 8, 8)
    first, second = network(network.embed(x)), network(network.embed(x))
    torch.testing.assert_close(first.features, second.features, rtol=0, atol=0)
    assert not torch.equal(first.logits["label"], second.logits["label"])
    network.eval()
    output = network(network.embed(x))
    torch.testing.assert_close(output.logits["label"], network.heads["label"](output.features))


def test_a_method_may_replace_a_head() -> None:
    network = build_network(info(1, 8, 8), {"label": 4})
    network.heads["label"] = nn.Sequential(
        nn.Linear(network.feature_dim, 5), nn.ReLU(), nn.Linear(5, 9)
    )
    assert network(network.embed(torch.rand(2, 1, 8, 8))).logits["label"].shape == (2, 9)


def test_head_is_glorot_normal() -> None:
    torch.manual_seed(0)
    head = build_network(info(3, 32, 32), {"label": 1000}, name="resnet18").heads["label"]
    assert head.weight.std().item() == pytest.approx((2 / 1512) ** 0.5, rel=0.01)
    assert head.bias.abs().max().item() == 0


def test_gradient_reaches_the_picture() -> None:
    network = build_network(info(1, 8, 8), {"label": 4})
    x = network.embed(torch.rand(3, 1, 8, 8)).x.requires_grad_()
    network(Embedded(x)).logits["label"].logsumexp(1).sum().backward()
    assert (x.grad.abs().amax((1, 2, 3)) > 0).all()


def test_input_size_resizes_inside() -> None:
    network = build_network(
        info(3, 8, 8), {"label": 4}, name="vit_tiny_patch16_224", input_size=[32, 48]
    )
    seen = []
    network.backbone.register_forward_pre_hook(
        lambda module, inputs: seen.append(tuple(inputs[0].shape))
    )
    network(network.embed(torch.rand(2, 3, 8, 8)))
    assert seen == [(2, 3, 32, 48)]


def test_channels_last_pictures_stay_so() -> None:
    network = build_network(info(3, 32, 32), {"label": 4}, name="resnet18").to(
        memory_format=torch.channels_last
    )
    seen = []
    network.backbone.layer4.register_forward_hook(
        lambda module, inputs, out: seen.append(
            out.is_contiguous(memory_format=torch.channels_last)
        )
    )
    network.backbone.conv1.register_forward_pre_hook(
        lambda module, inputs: seen.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    network(network.embed(torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)))
    assert seen == [True, True]


def test_batch_statistics_follow_the_mode() -> None:
    network = build_network(info(1, 8, 8), {"label": 4})
    assert network.batch_statistics
    x = torch.rand(6, 1, 8, 8)
    whole, part = network(network.embed(x)), network(network.embed(x[:2]))
    assert not torch.allclose(whole.features[:2], part.features, atol=1e-4)
    network.eval()
    assert not network.batch_statistics
    whole, part = network(network.embed(x)), network(network.embed(x[:2]))
    torch.testing.assert_close(whole.features[:2], part.features)
    network.backbone.layers[1].track_running_stats = False
    network.backbone.layers[1].running_mean = network.backbone.layers[1].running_var = None
    assert network.batch_statistics
    assert not build_network(
        info(3, 32, 32), {"label": 4}, name="vit_tiny_patch16_224"
    ).batch_statistics


def test_batch_statistics_of_timms_own_norms() -> None:
    network = build_network(info(1, 8, 8), {"label": 4}).eval()
    assert not network.batch_statistics
    network.backbone.layers[1] = timm.layers.EvoNorm2dB0(32).train()
    assert network.batch_statistics


def test_eval_mode_restores_the_mode_of_every_module() -> None:
    network = build_network(info(1, 8, 8), {"label": 4})
    network.backbone.layers[1].eval()
    before = [module.training for module in network.modules()]
    with pytest.raises(RuntimeError, match="on the way"), eval_mode(network):
        assert not any(module.training for module in network.modules())
        raise RuntimeError("on the way")
    assert [module.training for module in network.modules()] == before
    assert any(before) and not all(before)


def test_moments_by_precedence_and_channels() -> None:
    model = {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}
    assert resolve_moments(3, None, None, None) == ([0.5] * 3, [0.5] * 3)
    assert resolve_moments(1, None, None, None, (0.2, 0.3)) == ([0.2], [0.3])
    assert resolve_moments(3, None, None, model, (0.2, 0.3)) == ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    assert resolve_moments(3, 0.0, [1.0], model, (0.2, 0.3)) == ([0.0] * 3, [1.0] * 3)
    grey = resolve_moments(1, None, None, model)
    assert grey == ([pytest.approx(0.5)], [pytest.approx(0.2)])
    assert resolve_moments(4, None, None, model)[0] == [0.4, 0.5, 0.6, 0.4]
    with pytest.raises(UserError, match=r"network\.mean=\[0\.1, 0\.2\]: 2 values for 3 channels"):
        resolve_moments(3, [0.1, 0.2], None, None)
    with pytest.raises(UserError, match=r"network\.std=\[0\.0\].*above 0"):
        resolve_moments(1, None, 0.0, None)


def test_grey_moments_fit_the_filters_that_timm_sums() -> None:
    """With one deviation for all channels, the summed layer on a grey picture with our mean answers
    as the original on three equal channels, but for the constant Σ_c w_c (m_c - m) / s of a filter,
    which BatchNorm removes."""
    torch.manual_seed(0)
    weight = torch.randn(8, 3, 3, 3)
    model = {"mean": (0.485, 0.456, 0.406), "std": (0.2,) * 3}
    x = torch.rand(2, 1, 8, 8)
    answers = []
    for count, filters in ((3, weight), (1, adapt_input_conv(1, weight))):
        mean, std = (
            torch.tensor(v).view(1, -1, 1, 1) for v in resolve_moments(count, None, None, model)
        )
        answers.append(nn.functional.conv2d((x.expand(-1, count, -1, -1) - mean) / std, filters))
    difference = answers[1] - answers[0]
    constant = (weight.sum((2, 3)) * (torch.tensor(model["mean"]) - 0.449)).sum(1) / 0.2
    torch.testing.assert_close(
        difference, constant.view(1, -1, 1, 1).expand_as(difference), atol=2e-5, rtol=0
    )


def test_auto_suits_the_data() -> None:
    names = {8: "digits_cnn", 28: "digits_cnn", 32: "wrn_28_2", 96: "resnet18"}
    with torch.device("meta"):
        for side, name in names.items():
            auto = build_network(info(3, side, side), {"label": 10})
            named = build_network(info(3, side, side), {"label": 10}, name=name)
            assert type(auto.backbone) is type(named.backbone)
            assert parameter_counts(auto) == parameter_counts(named)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "wrn_28_3"},
            r"network\.name='wrn_28_3': timm has no such model; did you mean 'wrn_28_",
        ),
        (
            {"name": "resnet18.a1_in1q"},
            r"'resnet18' has no such weights; did you mean 'resnet18\.a1_in1k'",
        ),
        (
            {"name": "resnet18", "options": {"widht": 2}},
            r"network\.options=\{'widht': 2\}: .*widht",
        ),
        (
            {"name": "vgg11"},
            r"network\.name='vgg11' does not accept images of 3x8x8 .*network\.input_size",
        ),
        (
            {"name": "resnet18", "input_size": [8, 8, 8]},
            r"network\.input_size=\[8, 8, 8\]: expected",
        ),
        (
            {"name": "digits_cnn", "pretrained": True},
            r"network\.name: 'digits_cnn' has no pretrained weights",
        ),
    ],
)
def test_mistakes_take_one_line(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_network(info(3, 8, 8), {"label": 4}, **settings)
    assert "\n" not in str(caught.value)


def test_pretrained_without_a_network_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"network\.pretrained=true: 'resnet18'.*set network\.pretrained=false"
    ):
        build_network(info(3, 32, 32), {"label": 4}, name="resnet18", pretrained=True)
    with torch.device("meta"):
        plan = build_network(info(3, 32, 32), {"label": 4}, name="resnet18", pretrained=True)
    assert parameter_counts(plan)[0] == 11_178_564


def test_pretrained_weights_come_through_timm(tmp_path) -> None:
    """A folder as the hub's, made here: pretrained=true takes its weights and, unasked, its
    normalisation."""
    torch.manual_seed(3)
    source = timm.create_model("test_resnet", num_classes=5)
    source.pretrained_cfg["mean"], source.pretrained_cfg["std"] = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    save_for_hf(source, tmp_path)
    network = build_network(
        info(3, 32, 32), {"label": 4}, name=f"local-dir:{tmp_path}", pretrained=True
    ).eval()
    assert network.mean.flatten().tolist() == pytest.approx((0.1, 0.2, 0.3))
    x = torch.rand(2, 3, 32, 32)
    normal = (x - network.mean) / network.std
    expected = source.eval().forward_head(source.forward_features(normal), pre_logits=True)
    torch.testing.assert_close(network.features(network.embed(x)), expected)


@pytest.mark.parametrize("task", ["train", "keys", "a.b", ""])
def test_task_names_torch_cannot_take(task: str) -> None:
    with pytest.raises(UserError, match="rename the task"):
        build_network(info(1, 8, 8), {task: 2})


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "digits_cnn"])
def test_the_feature_width_is_measured_once(name: str, monkeypatch) -> None:
    """And measuring draws no random number: equal seeds give equal weights with and without it."""
    measured: list[str] = []
    probe = image._probe

    def counted(skeleton: nn.Module, name: str, shape: tuple[int, ...]) -> int:
        measured.append(name)
        return probe(skeleton, name, shape)

    monkeypatch.setattr(image, "_WIDTHS", {})
    monkeypatch.setattr(image, "_probe", counted)
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(build_network(info(3, 32, 32), {"label": 7}, name=name))
    assert measured == [name]
    first, second = (network.state_dict() for network in networks)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_other_options_and_sizes_are_measured_anew(monkeypatch) -> None:
    monkeypatch.setattr(image, "_WIDTHS", {})
    widths = [
        build_network(info(1, *size), {"label": 2}, name="digits_cnn", options=options).feature_dim
        for size in ((8, 8), (16, 16))
        for options in ({"width": 8}, {"width": 16})
    ]
    assert widths[0] != widths[1]
    assert widths[:2] == widths[2:]
    assert len(image._WIDTHS) == 4


def test_few_feature_widths_are_kept(monkeypatch) -> None:
    monkeypatch.setattr(image, "_WIDTHS", {})
    monkeypatch.setattr(image, "_MOST_WIDTHS", 2)
    for width in (8, 16, 24):
        build_network(info(1, 8, 8), {"label": 2}, name="digits_cnn", options={"width": width})
    assert len(image._WIDTHS) == 2
