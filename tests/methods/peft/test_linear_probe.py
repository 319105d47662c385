import pytest
import torch

from foundation.errors import UserError
from methods.peft.bitfit import BitFit
from methods.peft.linear_probe import LinearProbe
from tests.support.harness import Setup, build, fit
from tests.support.small_networks import features, network, operate


def test_only_the_heads_move_and_the_backbone_is_in_evaluation_mode():
    setup = Setup(steps=2)
    recipe = build({"linear_probe": LinearProbe()}, setup, network("vit", {"label": 3}))
    before = {n: v.clone() for n, v in recipe.network.state_dict().items()}
    result = fit(recipe, setup)
    moved = {n for n, v in result.parameters.items() if not torch.equal(v, before[n])}
    assert moved == {"heads.label.weight", "heads.label.bias"}
    recipe.network.train()
    assert not any(m.training for m in recipe.network.backbone.modules())
    example = recipe.network.example()
    assert not recipe.network.features(example).requires_grad


def test_norm_standardises_features_by_the_batch_and_later_by_running_moments():
    made = operate(LinearProbe(norm=True), network("vit"), "linear_probe")
    seen = []
    made.heads["label"].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    made(made.example())
    found = features(made)
    expected = (found - found.mean(0)) / (found.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=1e-3)
    assert made.deltas["linear_probe"].norm.num_batches_tracked == 1
    assert made.batch_statistics
    made.eval()
    assert not made.batch_statistics


def test_nothing_else_may_learn():
    with pytest.raises(
        UserError,
        match=r"linear_probe cannot be combined with methods.bitfit: it trains the heads only",
    ):
        Setup().composition({"linear_probe": LinearProbe(), "bitfit": BitFit()})
