import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foundation.errors import UserError
from foundation.randomness import generator
from methods.long_tail.bags import BAGS
from methods.long_tail.equalization_loss_v2 import EqualizationLossV2
from methods.long_tail.tau_norm import TauNorm
from methods.multi_task.dwa import DWA
from methods.multi_task.mrn import (
    MRN,
    Precisions,
    RelatedHead,
    covariance,
    inverse,
    next_factor,
    quadratic_form,
)
from methods.multi_task.static import Static
from recipes.optimization.build import parameter_groups
from recipes.optimization.optimizers import SGD
from tests.support.harness import Setup, build, train

TASKS = {"shape": 3, "colour": 3}
SOURCE = generator("mrn")
W = torch.arange(1.0, 13.0, dtype=torch.float64).view(2, 2, 3) / 10
S = [
    torch.tensor([[2, 0.5], [0.5, 1]], dtype=torch.float64),
    torch.tensor([[1, 0.2], [0.2, 1.5]], dtype=torch.float64),
    torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)),
]
P = [inverse(s) for s in S]


def random_factors(shape):
    factors = []
    for size in shape:
        root = torch.randn(size, size + 2, generator=SOURCE, dtype=torch.float64)
        factors.append(root @ root.T / size)
    return factors


def kronecker(factors):
    whole = np.ones((1, 1))
    for factor in factors:
        whole = np.kron(whole, factor.numpy())
    return whole


def test_worked_example():
    assert float(quadratic_form(W, P)) == pytest.approx(2.0512720157, abs=1e-9)
    logdet = sum(12 / len(s) * float(s.logdet()) for s in S)
    assert (float(quadratic_form(W, P)) + logdet) / 2 == pytest.approx(7.9986757622, abs=1e-9)
    expected = [[0.045634, 0.113955], [0.113955, 0.333305]]
    torch.testing.assert_close(
        covariance(W, P, 0), torch.tensor(expected).double(), atol=1e-6, rtol=0
    )


def test_equals_the_explicit_kronecker_product():
    shape = (3, 2, 4)
    w = torch.randn(shape, generator=SOURCE, dtype=torch.float64)
    factors = random_factors(shape)
    precisions = [inverse(s) for s in factors]
    vector = w.numpy().reshape(-1)
    expected = vector @ np.linalg.inv(kronecker(factors)) @ vector
    assert float(quadratic_form(w, precisions)) == pytest.approx(expected, rel=1e-10)
    for mode in range(3):
        others = [factors[j] for j in range(3) if j != mode]
        rows = np.moveaxis(w.numpy(), mode, 0).reshape(shape[mode], -1)
        expected = shape[mode] / 24 * rows @ np.linalg.inv(kronecker(others)) @ rows.T
        np.testing.assert_allclose(covariance(w, precisions, mode), expected, rtol=1e-9)


def test_the_update_is_where_the_objective_is_flat():
    """1/2 (quad + D/D_k ln|S_k|) has gradient 0 in S_k at the closed form: the log-determinant's
    sign is plus."""
    shape = (3, 2, 4)
    w = torch.randn(shape, generator=SOURCE, dtype=torch.float64)
    precisions = [inverse(s) for s in random_factors(shape)]
    for mode, size in enumerate(shape):
        best = covariance(w, precisions, mode)
        for point, flat in ((best, True), (best + 0.3 * torch.eye(size).double(), False)):
            s = point.clone().requires_grad_()
            changed = [*precisions[:mode], torch.linalg.inv(s), *precisions[mode + 1 :]]
            objective = quadratic_form(w, changed) + 24 / size * torch.logdet(s)
            (slope,) = torch.autograd.grad(objective, s)
            assert (float(slope.abs().max()) < 1e-8) == flat


def test_identities_are_weight_decay_and_only_the_product_of_scales_counts():
    ones = [torch.eye(size, dtype=torch.float64) for size in W.shape]
    assert float(quadratic_form(W, ones)) == pytest.approx(float(W.square().sum()))
    moved = [7 * P[0], P[1] / 7, P[2]]
    assert float(quadratic_form(W, moved)) == pytest.approx(float(quadratic_form(W, P)))
    w = W.clone().requires_grad_()
    (0.5 * quadratic_form(w, P)).backward()
    solved = np.linalg.solve(kronecker(S), W.numpy().reshape(-1))
    np.testing.assert_allclose(w.grad.numpy().reshape(-1), solved, rtol=1e-9)


def test_rules_of_scale():
    for mode, size in enumerate(W.shape):
        plain = covariance(W, P, mode)
        free = next_factor(W, P, mode, 0.0, "free")
        torch.testing.assert_close(free, plain + 1e-5 * torch.eye(size).double())
        fixed = next_factor(W, P, mode, 0.1, "fixed")
        assert float(fixed.trace()) == pytest.approx(size)
        assert torch.linalg.eigvalsh(fixed).min() > 0.09
        code = next_factor(W, P, mode, 0.0, "code")
        torch.testing.assert_close(code, plain * (12 / size) + 1e-5 * torch.eye(size).double())


def test_related_tasks_are_found():
    """W of two equal tasks and an opposite one."""
    base = torch.randn(4, 5, generator=SOURCE)
    noise = 0.1 * torch.randn(3, 4, 5, generator=SOURCE)
    w = torch.stack([base, base, -base]) + noise
    method = MRN()
    precisions = Precisions(w.shape, 1.0)
    for _ in range(20):
        method.update(precisions, w)
    s = inverse(precisions.task)
    for mode, size in zip((s, inverse(precisions.get_buffer("class"))), (3, 4), strict=True):
        assert float(mode.trace()) == pytest.approx(size, rel=1e-4)
    assert s[0, 1] > 0.5 > -0.5 > s[0, 2]
    assert quadratic_form(w, precisions.by_mode()) < w.square().sum()


def test_only_what_is_named_is_learnt():
    precisions = Precisions((3, 4, 5), 2.0)
    assert torch.equal(precisions.task, torch.eye(3) / 2)
    method = MRN(learn=["task"], prior_scale=2.0)
    method.update(precisions, torch.randn(3, 4, 5, generator=SOURCE))
    assert float(inverse(precisions.task).trace()) == pytest.approx(6.0, rel=1e-4)
    assert torch.equal(precisions.feature, torch.eye(5))
    assert torch.equal(precisions.get_buffer("class"), torch.eye(4))


@pytest.mark.parametrize("rule", ["fixed", "free"])
def test_weights_collapse_only_at_free_scales(rule):
    """W = argmin ½‖W - W₀‖² + ½ quad and the factors in turn, twenty times, as with few data."""
    start = torch.randn(3, 4, 5, generator=SOURCE)
    w, precisions, method = start, Precisions(start.shape, 1.0), MRN(scale=rule)
    for _ in range(20):
        method.update(precisions, w)
        prior = kronecker(precisions.by_mode())
        solved = np.linalg.solve(np.eye(60) + prior, start.numpy().reshape(-1))
        w = torch.tensor(solved, dtype=torch.float32).view(3, 4, 5)
    kept = float(w.norm() / start.norm())
    assert kept > 0.3 if rule == "fixed" else kept < 0.01


def test_in_a_run():
    """The term is the penalty over the number of labeled samples, and no weighting touches it."""
    methods = {"mrn": MRN(0.5, bottleneck=6, update_every=2), "static": Static([2.0, 1.0])}
    result = train(methods, tasks=TASKS, steps=3)
    heads = build({"mrn": MRN(0.5, bottleneck=6)}, Setup(tasks=TASKS)).network.heads
    decay = sum(
        float(heads[task].get_parameter(f"{layer}.weight").detach().square().sum())
        for task in TASKS
        for layer in ("bottleneck", "classifier")
    )
    row = result.history[0]
    assert row["train/mrn"] == pytest.approx(decay / 2 / 24, rel=1e-5)
    expected = 2 * row["train/supervised/shape"] + row["train/supervised/colour"]
    assert row["train/loss"] == pytest.approx(expected + 0.5 * row["train/mrn"], rel=1e-5)
    modules = result.recipe.method_modules["mrn"]
    assert list(modules) == ["bottleneck", "classifier"]
    sizes = {mode: len(p) for mode, p in modules["bottleneck"].named_buffers()}
    assert sizes == {"task": 2, "class": 6, "feature": 16}
    for precision in modules["bottleneck"].by_mode():
        assert float(inverse(precision).trace()) == pytest.approx(len(precision), rel=1e-4)
        assert not torch.equal(precision, torch.eye(len(precision)))


def test_factors_are_updated_every_so_many_steps():
    modules = train({"mrn": MRN(update_every=4)}, tasks=TASKS, steps=3).recipe.method_modules
    assert torch.equal(modules["mrn"]["classifier"].task, torch.eye(2))


def test_heads():
    head = RelatedHead(5, 4, 3)
    x = torch.randn(7, 5, generator=SOURCE)
    w1, b1 = head.bottleneck.weight, head.bottleneck.bias
    w2, b2 = head.classifier.weight, head.classifier.bias
    torch.testing.assert_close(head(x), F.linear(F.linear(x, w1, b1).clamp_min(0), w2, b2))
    assert RelatedHead(5, None, 3)(x).shape == (7, 3)


def test_its_layers_have_no_weight_decay_and_a_rate_of_their_own():
    recipe = build({"mrn": MRN(lr_scale=10.0)}, Setup(tasks=TASKS))
    groups = parameter_groups(recipe, SGD(lr=0.1, weight_decay=0.5))
    of = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    head = recipe.network.heads["shape"]
    assert of[id(head.bottleneck.weight)] == of[id(head.classifier.weight)] == (1.0, 0.0)
    assert of[id(recipe.network.body[0].weight)] == (0.1, 0.5)


def test_correlations_are_saved(tmp_path):
    method = MRN(update_every=1)
    recipe = train({"mrn": method}, tasks=TASKS, steps=2).recipe
    method.save_artifacts(tmp_path, recipe)
    content = json.loads((tmp_path / "task_correlations.json").read_text())
    assert content["tasks"] == list(TASKS)
    for layer in ("bottleneck", "classifier"):
        table = np.array(content[layer])
        np.testing.assert_allclose(table.diagonal(), 1)
        assert table[0, 1] == table[1, 0] != 0


def test_classifiers_of_different_shapes():
    tasks = {"shape": 3, "colour": 4}
    recipe = build({"mrn": MRN(), "dwa": DWA()}, Setup(tasks=tasks))
    assert list(recipe.method_modules["mrn"]) == ["bottleneck"]
    with pytest.raises(UserError, match="tasks of 3 and 4 classes have classifiers of different"):
        build({"mrn": MRN(bottleneck=None)}, Setup(tasks=tasks))
    recipe = build({"mrn": MRN(bottleneck=None)}, Setup(tasks=TASKS))
    assert list(recipe.method_modules["mrn"]) == ["classifier"]
    assert isinstance(recipe.network.heads["shape"].classifier, nn.Linear)


def test_biases_that_another_method_chose_stay():
    methods = {"equalization_loss_v2": EqualizationLossV2(start=0.02), "mrn": MRN()}
    for order in (list(methods), list(methods)[::-1]):
        recipe = build({key: methods[key] for key in order}, Setup(tasks=TASKS))
        biases = recipe.network.heads["shape"].classifier.bias
        assert torch.sigmoid(biases).tolist() == pytest.approx([0.02] * 3)


def test_two_methods_cannot_replace_the_heads():
    with pytest.raises(UserError, match="it scales the rows of linear heads on the features"):
        build({"mrn": MRN(), "tau_norm": TauNorm(0.7)}, Setup(tasks=TASKS))
    with pytest.raises(UserError, match="both own the classifiers on the features"):
        build({"mrn": MRN(), "bags": BAGS()}, Setup(tasks=TASKS))
