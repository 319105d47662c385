import pytest
import torch
from torch import nn

from foundation.errors import UserError
from methods.averaging.ema import EMA
from methods.long_tail.posthoc_logit_adjustment import PosthocLogitAdjustment
from methods.long_tail.tau_norm import GRID, TauNorm, best_tau, normalised
from recipes.runs.run import run
from recipes.setup.spec import spec_of
from tests.support.harness import Setup, build
from tests.support.lab import parts, trial
from tests.support.tiny_runs import run_of

ROWS = torch.tensor([[3.0, 4], [1, 0], [0.3, 0.4]])


def head(bias: bool = True) -> nn.Linear:
    made = nn.Linear(2, 3, bias=bias)
    made.weight.data.copy_(ROWS)
    return made


@pytest.mark.parametrize(
    ("tau", "rows"),
    [
        (0.5, [[1.3416, 1.7889], [1, 0], [0.4243, 0.5657]]),
        (1.0, [[0.6, 0.8], [1, 0], [0.6, 0.8]]),
        (0.0, ROWS.tolist()),
    ],
)
@torch.no_grad()
def test_worked_rows(tau, rows):
    x, linear = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), head()
    expected = x @ torch.tensor(rows).T
    torch.testing.assert_close(
        normalised(linear(x), linear, tau, True), expected, atol=2e-4, rtol=0
    )
    torch.testing.assert_close(
        normalised(linear(x), linear, tau, False), expected + linear.bias, atol=2e-4, rtol=0
    )


@torch.no_grad()
def test_identities():
    x, linear = torch.randn(9, 2), head(bias=False)
    torch.testing.assert_close(normalised(linear(x), linear, 0.0, True), linear(x))
    linear.weight.data /= linear.weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(normalised(linear(x), linear, 1.0, True), linear(x))


def test_the_choice_is_the_best_mean_over_classes():
    """Class 0 has ten times the weight of class 1 and twenty times its samples; the scores favour
    the right class."""
    linear = nn.Linear(2, 2, bias=False)
    linear.weight.data.copy_(torch.tensor([[10.0, 0], [0, 1.0]]))
    x = torch.cat([torch.tensor([[1.0, 0.2]]).expand(20, 2), torch.tensor([[0.5, 1.0]])])
    y = torch.tensor([0] * 20 + [1])
    with torch.no_grad():
        z = linear(x)
        right = torch.stack([normalised(z, linear, tau, True).argmax(1) == y for tau in GRID])
        means = (right[:, :20].float().mean(1) + right[:, 20].float()) / 2
        found = best_tau(z, y, linear, True)
        # a sample without label says nothing
        more = best_tau(
            z[[*range(21), 20, 20]], torch.cat([y, y.new_tensor([-1, -1])]), linear, True
        )
    # class 1 wins its sample once 10^τ > 5, that is from τ = .7 on, and class 0 loses its own once
    # 10^τ > 50
    assert means.tolist() == [0.5] * 7 + [1.0] * 10 + [0.5] * 4
    assert float(found) == float(more) == pytest.approx(0.7)


def test_a_run_chooses_on_the_validation_part_before_it_evaluates():
    changes = {"trainer.max_steps": 6, "trainer.val_every": 3, "data.eval_batch_size": 128}
    config = run_of("image", "tau_norm", **changes)
    outcome = trial(config)
    recipe, tau = outcome.recipe, outcome.recipe.method_modules["tau_norm"]["label"].tau
    linear, data = recipe.network.heads["label"], outcome.trainer.datamodule
    batch = next(iter(data.evaluation_loader("val")))
    with torch.no_grad():
        z = recipe.predict_logits(recipe.evaluation_view(batch), raw=True)["label"]
    y, scores = batch["targets"]["label"], []
    for candidate in GRID:
        right = normalised(z, linear, candidate, True).argmax(1) == y
        scores.append(float(torch.stack([right[y == c].float().mean() for c in y.unique()]).mean()))
    assert len(y) == data.sizes["val"]
    assert float(tau) == pytest.approx(GRID[scores.index(max(scores))])
    assert outcome.history[6]["val/balanced_accuracy"] == pytest.approx(max(scores))
    torch.testing.assert_close(
        outcome.logits["label"], normalised(outcome.logits["raw/label"], linear, float(tau), True)
    )
    assert "method_modules.tau_norm.label.tau" in recipe.state_dict()


@pytest.mark.parametrize(("steps", "searches"), [(8, [5, 8]), (0, [0])])
def test_the_last_checkpoint_has_the_exponent_of_the_test(steps, searches, tmp_path, monkeypatch):
    """The last step of 8 is not validated by its interval of 5, a run of no steps not at all."""
    chosen: list[tuple[int, float]] = []
    plain = TauNorm.surveyed

    def surveyed(self, survey, table, context):
        plain(self, survey, table, context)
        tau = context.method_modules["tau_norm"]["label"].tau
        chosen.append((context.trainer.global_step, float(tau)))

    monkeypatch.setattr(TauNorm, "surveyed", surveyed)
    settings = {"trainer.max_steps": steps, "trainer.val_every": 5}
    spec = spec_of(run_of("image", "tau_norm", run_dir=str(tmp_path), **settings))
    run(spec)
    assert [step for step, _ in chosen] == searches
    if steps:
        last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
        saved = last["state_dict"]["method_modules.tau_norm.label.tau"]
        assert float(saved) == chosen[-1][1]


def test_the_reported_network_is_the_one_that_is_normalised():
    config = run_of(
        "image", "tau_norm", "ema", **{"methods.tau_norm.tau": 1.0, "methods.ema.decay": 0.5}
    )
    recipe = parts(config)[1].eval()
    recipe.teacher.network.heads["label"].weight.data *= 3
    view = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        unit = recipe.predict_logits(view)["label"]
        plain = recipe.teacher.network(recipe.teacher.network.embed(view)).logits["label"]
    torch.testing.assert_close(
        unit, normalised(plain, recipe.teacher.network.heads["label"], 1.0, True)
    )
    assert EMA().declare().evaluates_teacher


def test_mistakes_are_reported():
    with pytest.raises(
        UserError, match=r"tau_norm\.tau: null chooses τ on the validation part, and there is none"
    ):
        build({"tau_norm": TauNorm()}, Setup())
    network = Setup().network()
    network.heads["label"] = nn.Sequential(nn.Linear(16, 3))
    with pytest.raises(UserError, match="head of task 'label' is not linear"):
        build({"tau_norm": TauNorm(tau=1.0)}, Setup(), network)
    with pytest.raises(UserError, match="both own the correction of the class prior"):
        build(
            {"tau_norm": TauNorm(tau=1.0), "posthoc_logit_adjustment": PosthocLogitAdjustment()},
            Setup(),
        )
