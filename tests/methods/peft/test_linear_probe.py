import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from datamodules.errors import UserError
from methods.peft.bitfit import BitFit
from methods.peft.linear_probe import LinearProbe
from tests.harness import Setup, build, fit
from tests.methods.peft.small import features, network, operate


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


def test_the_optimum_is_that_of_logistic_regression():
    """λ matched: mean cross-entropy + (λ/2)‖W‖² here, ½‖W‖² + C Σ cross-entropy there, so C = 1/(λ N)."""
    generator = torch.Generator().manual_seed(0)
    made = operate(LinearProbe(), network("digits_cnn", {"label": 3}), "linear_probe").eval()
    x, y = torch.rand(60, 1, 8, 8, generator=generator), torch.arange(60) % 3
    with torch.no_grad():
        found = 20 * made.features(made.embed(x))
    head, decay = made.heads["label"], 0.01
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(found), y) + decay / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    oracle = LogisticRegression(C=1 / (decay * 60), tol=1e-8, max_iter=5000).fit(found.numpy(), y.numpy())
    np.testing.assert_allclose(head.weight.detach().numpy(), oracle.coef_, atol=2e-3)


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
    with pytest.raises(UserError, match=r"linear_probe cannot meet methods.bitfit: it trains the heads alone"):
        Setup().composition({"linear_probe": LinearProbe(), "bitfit": BitFit()})
