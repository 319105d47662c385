"""Child-Tuning: the worked AdamW step, the moments of the masked gradient, one mask a step."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foundation.randomness import generator
from methods.peft.child_tuning import ChildTuning, mask_gradients, top_entries
from methods.regularization.sam import SAM
from recipes.contract.composition import Environment, compose
from tests.support.lab import trial
from tests.support.tiny_runs import run_of


def parameter(values, gradient):
    made = nn.Parameter(torch.tensor(values))
    made.grad = torch.tensor(gradient)
    return made


def masked(keep, seed=0, size=4):
    made = parameter([1.0] * size, [1.0] * size)
    mask_gradients([made], keep, generator(seed))
    return made.grad


@pytest.mark.parametrize(
    ("decay", "expected"),
    [(0.0, (1.0, 2.0, 2.9, 3.9)), (0.01, (0.9990, 1.9980, 2.8970, 3.8960))],
)
def test_worked_step_of_adamw(decay, expected):
    """The specification's mask (0, 0, 1, 1): the first seed that draws it."""
    wanted = [False, False, True, True]
    seed = next(seed for seed in range(1000) if (masked(0.5, seed) > 0).tolist() == wanted)
    made = parameter([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4])
    mask_gradients([made], 0.5, generator(seed))
    torch.testing.assert_close(made.grad, torch.tensor([0.0, 0.0, 0.6, 0.8]))
    torch.optim.AdamW([made], lr=0.1, weight_decay=decay).step()
    torch.testing.assert_close(made.detach(), torch.tensor(expected), atol=1e-5, rtol=0)


def test_expectation_and_variance_of_the_masked_gradient():
    """μ = 0.5, σ² = 0.04, p = 0.3: E[g'] = μ, variance σ² + (1-p)/p (σ² + μ²) = 0.716667."""
    source = torch.Generator().manual_seed(0)
    made = nn.Parameter(torch.zeros(2_000_000))
    made.grad = 0.5 + 0.2 * torch.randn(2_000_000, generator=source)
    mask_gradients([made], 0.3, generator(1))
    assert float(made.grad.mean()) == pytest.approx(0.5, abs=3e-3)
    assert float(made.grad.var()) == pytest.approx(0.716667, abs=5e-3)


def test_half_precision_and_missing_gradients():
    made = nn.Parameter(torch.ones(100, dtype=torch.bfloat16))
    made.grad = torch.ones(100, dtype=torch.bfloat16)
    mask_gradients([nn.Parameter(torch.ones(3)), made], 0.5, generator(0))
    assert set(made.grad.tolist()) == {0.0, 2.0}


def step(method, made, number, closure=lambda: 7):
    optimizer = torch.optim.SGD([made], lr=1.0)
    context = SimpleNamespace(seed=3, trainer=SimpleNamespace(global_step=number))
    return method.wrap_step(closure, optimizer, context)


def test_every_step_has_a_mask_of_its_own_and_1_changes_nothing():
    method = ChildTuning(0.5)
    method.key = "child_tuning"
    found = []
    for number in (0, 1, 0):
        made = parameter([0.0] * 64, [1.0] * 64)
        assert step(method, made, number) == 7
        found.append(made.grad)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    made = parameter([0.0] * 4, [1.0] * 4)
    step(ChildTuning(1.0), made, 0)
    assert made.grad.tolist() == [1.0] * 4
    assert ChildTuning(1.0).idle_settings() == ["keep"]


def test_it_masks_what_both_passes_of_sam_have_left():
    for methods in ({"sam": SAM(), "child": ChildTuning()}, {"child": ChildTuning(), "sam": SAM()}):
        composed = compose(methods, Environment("image", frozenset({"weak"})))
        assert list(composed.methods) == ["child", "sam"]


# -- by Fisher information -------------------------------------------------------------------------
def test_the_child_is_the_largest_share_of_all_entries_together():
    fisher = {"a": torch.tensor([[5.0, 0.0], [1.0, 0.5]]), "b": torch.tensor([3.0, 0.1, 2.0, 0.0])}
    masks = top_entries(fisher, 0.375)
    assert masks["a"].tolist() == [[True, False], [False, False]]
    assert masks["b"].tolist() == [True, False, True, False]
    # equal to the smallest that is in, and nothing without information
    tied = top_entries({"a": torch.tensor([2.0, 1.0, 1.0, 0.0])}, 0.5)
    assert tied["a"].tolist() == [True, True, True, False]
    assert top_entries({"a": torch.tensor([2.0, 0.0, 0.0, 0.0])}, 0.5)["a"].sum() == 1
    assert top_entries({"a": torch.arange(10.0)}, 0.01)["a"].tolist() == [False] * 9 + [True]


D = {"methods.child_tuning.mode": "D", "methods.child_tuning.keep": 0.3}


def run_d(**changes):
    return trial(run_of("image", "child_tuning", **D | changes))


def masks_of(outcome):
    masks = outcome.recipe.method_modules["child_tuning"]
    return {name: masks.get_buffer(buffer) for name, buffer in masks.buffer_of.items()}


def moved(outcome):
    """Entries of the network's trained parameters that are not where they were."""
    return {
        name: outcome.start[f"network.{name}"] != outcome.state[f"network.{name}"]
        for name in masks_of(outcome)
    }


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_what_is_not_of_the_child_stays_bit_for_bit(decay):
    """With decay, which would move it, too."""
    outcome = run_d(**{"optimizer.weight_decay": decay})
    masks, changed = masks_of(outcome), moved(outcome)
    share = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
    assert share == pytest.approx(0.3, abs=0.01)
    assert not any((changed[name] & ~mask).any() for name, mask in masks.items())
    assert all(changed[name].any() for name, mask in masks.items() if mask.any())


def test_the_rest_decays_if_it_is_told_to():
    settings = {"methods.child_tuning.decay_non_child": True, "optimizer.weight_decay": 0.5}
    outcome = run_d(**settings)
    masks, changed = masks_of(outcome), moved(outcome)
    kernels = [name for name, mask in masks.items() if mask.ndim > 1]
    assert all(changed[name][~masks[name]].any() for name in kernels)


def expected_fisher(outcome, batch):
    """mean over batches of (∂ mean loss / ∂w)², from the weights before the first step."""
    recipe, data = outcome.recipe, outcome.trainer.datamodule
    network = recipe.network
    names = list(masks_of(outcome))
    network.load_state_dict({n: outcome.start[f"network.{n}"] for n in network.state_dict()})
    network.eval()
    part = data.parts["labeled"]
    total = {name: torch.zeros_like(network.get_parameter(name)) for name in names}
    count = 0
    for rows in torch.arange(len(part)).tensor_split(-(-len(part) // batch)):
        found = part.fetch(rows)
        logits = network(network.embed(data.make_view(found, "raw"))).logits["label"]
        loss = nn.functional.cross_entropy(logits, found["targets"]["label"])
        gradients = torch.autograd.grad(loss, [network.get_parameter(name) for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            total[name] += gradient.square()
        count += 1
    return {name: value / count for name, value in total.items()}


@pytest.mark.parametrize("settings", [{"fisher": "per_sample"}, {"rescale_d": True}])
def test_the_masks_are_those_of_a_loop_over_the_labeled_samples(settings):
    outcome = run_d(**{f"methods.child_tuning.{name}": v for name, v in settings.items()})
    masks = masks_of(outcome)
    expected = top_entries(expected_fisher(outcome, 1 if "fisher" in settings else 64), 0.3)
    wrong = sum(int((mask != expected[name]).sum()) for name, mask in masks.items())
    # an entry at the threshold may be rounded to the other side
    assert wrong <= 2


def test_settings_of_d_take_effect():
    plain = run_d()
    for settings in ({"fisher": "per_sample"}, {"rescale_d": True}, {"keep": 0.1}):
        other = run_d(**{f"methods.child_tuning.{name}": v for name, v in settings.items()})
        assert any(not torch.equal(v, plain.state[n]) for n, v in other.state.items())


def test_the_authors_scope_is_the_blocks():
    changes = {"methods.child_tuning.authors_compat": True, **D}
    outcome = trial(run_of("text", "child_tuning", **changes))
    masks = masks_of(outcome)
    blocks = {name for name in masks if "layer" in name}
    assert blocks and all(mask.all() for name, mask in masks.items() if name not in blocks)
    inside = [masks[name] for name in blocks]
    share = sum(int(m.sum()) for m in inside) / sum(m.numel() for m in inside)
    assert share == pytest.approx(0.3, abs=0.01)


def test_it_declares_what_it_surveys():
    assert ChildTuning().declare().surveys == ()
    assert ChildTuning(1.0, "D").declare().surveys == ()
    (batches,) = ChildTuning(mode="D").declare().surveys
    assert (batches.part, batches.batch, batches.clip) == ("labeled", 64, None)
    assert not ChildTuning(mode="D").declare().ddp_exact
    (samples,) = ChildTuning(mode="D", fisher="per_sample").declare().surveys
    assert samples.batch == 1
    assert ChildTuning(mode="D", fisher="per_sample").declare().ddp_exact
    (authors,) = ChildTuning(mode="D", authors_compat=True).declare().surveys
    assert (authors.mode, authors.clip) == ("dropout", 1.0)
