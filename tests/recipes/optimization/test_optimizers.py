"""Optimizers: three steps on given gradients against worked numbers, groups, flags, every name
reachable.

The worked numbers: w = (1, 2), gradients (1, -2), (0.5, 1), (0.25, 0.5), learning rate 0.1, no
decay.
"""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from timm.optim import create_optimizer_v2
from torch import nn

from foundation.errors import UserError
from recipes.config.groups import CONFIGS
from recipes.optimization import optimizers as o
from recipes.optimization.build import build_optimizer, chosen_impl
from recipes.optimization.factory import FROM_TORCH, optimizer_names

GRADIENTS = ((1.0, -2.0), (0.5, 1.0), (0.25, 0.5))
WORKED = {
    "sgd": (
        o.SGD(lr=0.1, weight_decay=0, nesterov=False),
        (0.9, 2.2),
        (0.76, 2.28),
        (0.609, 2.302),
    ),
    "nesterov": (
        o.SGD(lr=0.1, weight_decay=0, nesterov=True),
        (0.81, 2.38),
        (0.634, 2.352),
        (0.4731, 2.3218),
    ),
    "rprop": (o.NamedOptimizer(name="rprop", lr=0.1), (0.9, 2.1), (0.78, 2.1), (0.636, 2.05)),
    "adagrad": (o.Adagrad(lr=0.1), (0.9, 2.1), (0.855279, 2.055278), (0.833457, 2.033457)),
    "adam": (o.Adam(lr=0.1), (0.9, 2.1), (0.806782, 2.126634), (0.722512, 2.132773)),
    "adamw": (
        o.AdamW(lr=0.1, weight_decay=0),
        (0.9, 2.1),
        (0.806782, 2.126634),
        (0.722512, 2.132773),
    ),
    "amsgrad": (
        o.Adam(lr=0.1, amsgrad=True),
        (0.9, 2.1),
        (0.806782, 2.126634),
        (0.722512, 2.132773),
    ),
    "adamax": (
        o.NamedOptimizer(name="adamax", lr=0.1),
        (0.9, 2.1),
        (0.826242, 2.121074),
        (0.770411, 2.125141),
    ),
    "nadam": (
        o.NamedOptimizer(name="nadam", lr=0.1),
        (0.894355, 2.105645),
        (0.841962, 2.064534),
        (0.808365, 2.042442),
    ),
    "radam": (o.RAdam(lr=0.1), (0.9, 2.2), (0.826316, 2.242105), (0.770596, 2.250224)),
    "lion": (o.Lion(lr=0.1, weight_decay=0), (0.9, 2.1), (0.8, 2.0), (0.7, 1.9)),
    "lars": (
        o.LARS(lr=0.1, weight_decay=0, trust_coeff=1.0),
        (0.9, 2.2),
        (0.703698, 2.167397),
        (0.425117, 1.934235),
    ),
    "lamb": (
        o.LAMB(lr=0.1, weight_decay=0),
        (0.841886, 2.158114),
        (0.619148, 2.221754),
        (0.389116, 2.238511),
    ),
    "novograd": (
        o.NovoGrad(lr=0.1, betas=(0.9, 0.25)),
        (0.955279, 2.089443),
        (0.881223, 2.102329),
        (0.786289, 2.057358),
    ),
}


class Vector(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0]))


def walk(module, optimizer, gradients):
    """The iterates of `module.w` under given gradients."""
    path = []
    for gradient in gradients:
        module.w.grad = torch.tensor(gradient)
        optimizer.step()
        path.append(module.w.detach().clone())
    return path


@pytest.mark.parametrize("name", WORKED)
def test_iterates_equal_the_worked_numbers(name):
    settings, *expected = WORKED[name]
    module = Vector()
    path = walk(module, build_optimizer(module, settings), GRADIENTS)
    for got, want in zip(path, expected, strict=True):
        torch.testing.assert_close(got, torch.tensor(want), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(set(FROM_TORCH) - {"rprop", "asgd"}))
def test_what_is_made_here_is_what_timm_would_make(name):
    module = Vector()
    ours = build_optimizer(module, o.NamedOptimizer(name=name, lr=0.1, weight_decay=0.2))
    theirs = create_optimizer_v2([module.w], opt=name, lr=0.1, weight_decay=0.2)
    assert type(ours) is type(theirs) and ours.defaults == theirs.defaults | {
        "foreach": ours.defaults["foreach"]
    }


def test_rmsprop_has_alpha_099_and_no_momentum():
    module, g = Vector(), torch.tensor(GRADIENTS)
    path = walk(module, build_optimizer(module, o.RMSprop(lr=0.1)), GRADIENTS)
    w, v = torch.tensor([1.0, 2.0]), torch.zeros(2)
    for got, gradient in zip(path, g, strict=True):
        v = 0.99 * v + 0.01 * gradient**2
        w = w - 0.1 * gradient / (v.sqrt() + 1e-8)
        torch.testing.assert_close(got, w, atol=1e-5, rtol=0)


def test_adafactor_steps_by_the_learning_rate_not_by_the_rms_of_the_weights():
    # first step on a vector: v = g², the update g/|g| has RMS 1 and is not clipped
    module = Vector()
    (got,) = walk(module, build_optimizer(module, o.Adafactor(lr=0.1)), GRADIENTS[:1])
    torch.testing.assert_close(got, torch.tensor([0.9, 2.1]), atol=1e-5, rtol=0)


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def decay_of(optimizer):
    return {
        id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }


def test_decay_follows_the_number_of_dimensions_not_the_name():
    module = network()
    found = decay_of(build_optimizer(module, o.SGD(lr=0.5, weight_decay=0.25)))
    assert found == {id(p): (0.5, 0.25 if p.ndim > 1 else 0.0) for p in module.parameters()}


def test_frozen_parameters_are_left_out():
    module = network()
    module[0].requires_grad_(False)
    found = decay_of(build_optimizer(module, o.SGD()))
    assert found.keys() == {id(p) for p in module.parameters() if p.requires_grad}


def test_nothing_to_train_is_a_mistake():
    with pytest.raises(UserError, match="every parameter is frozen"):
        build_optimizer(network().requires_grad_(False), o.SGD())


def test_flags_of_a_parameter_win():
    module = network()
    module[3].weight._lr_scale = 0.1
    module[3].bias._weight_decay = 0.7
    found = decay_of(build_optimizer(module, o.SGD(lr=1.0, weight_decay=0.25)))
    assert found[id(module[3].weight)] == (pytest.approx(0.1), 0.25)
    assert found[id(module[3].bias)] == (1.0, 0.7)


def test_groups_of_a_method_win_over_the_settings_and_are_not_counted_twice():
    module, proxies = network(), nn.Parameter(torch.ones(3, 2))
    extra = [
        {"params": [proxies], "lr": 10.0},
        {"params": list(module[3].parameters()), "weight_decay": 0.0},
    ]
    optimizer = build_optimizer(module, o.SGD(lr=1.0, weight_decay=0.25), extra)
    found = decay_of(optimizer)
    assert found[id(proxies)] == (10.0, 0.25)
    assert found[id(module[3].weight)] == (1.0, 0.0)
    assert (
        sum(len(g["params"]) for g in optimizer.param_groups) == len(list(module.parameters())) + 1
    )


def names():
    """All names but those of packages that need not be installed; kron compiles its kernels for a
    while."""
    found = (n for n in optimizer_names() if not n.startswith(("bnb", "fused")))
    return [pytest.param(n, marks=pytest.mark.slow) if n.startswith("kron") else n for n in found]


@pytest.mark.parametrize("name", names())
def test_every_name_makes_an_optimizer_that_moves_the_weights(name):
    torch.manual_seed(0)
    module = network()
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = build_optimizer(module, o.NamedOptimizer(name=name, lr=0.01))
    for _ in range(2):
        optimizer.zero_grad()
        module(torch.randn(4, 1, 3, 3)).square().sum().backward()
        optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]
    assert moved[0] and moved[4]
    assert all(torch.isfinite(p).all() for p in module.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (o.NamedOptimizer(name="adamv"), "did you mean 'adam"),
        (o.NamedOptimizer(name="adahessian"), "not offered"),
        (o.NamedOptimizer(name="lookahead_adam"), "there is no 'lookahead_adam'"),
        (o.SGD(options={"dampenin": 0.1}), "did you mean 'dampening'"),
        (o.NamedOptimizer(name="rprop", weight_decay=0.1), "no weight decay"),
        (o.SGD(momentum=0.0, nesterov=True), "momentum"),
    ],
)
def test_mistakes_are_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        build_optimizer(network(), settings)
    assert "\n" not in str(caught.value)


def test_options_reach_the_optimizer():
    optimizer = build_optimizer(network(), o.SGD(nesterov=False, options={"dampening": 0.5}))
    assert optimizer.defaults["dampening"] == 0.5


def test_the_state_of_an_optimizer_made_from_a_config_is_plain(tmp_path):
    settings = instantiate(
        OmegaConf.load(CONFIGS / "optimizer" / "adamw.yaml"), options={"amsgrad": True}
    )
    optimizer = build_optimizer(network(), settings)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    loaded = torch.load(tmp_path / "state", weights_only=True)
    assert (
        loaded["param_groups"][0]["betas"] == (0.9, 0.999)
        and loaded["param_groups"][0]["amsgrad"] is True
    )


@pytest.mark.parametrize(
    "settings", [o.SGD(), o.SGD(nesterov=False), o.Adam(), o.AdamW(amsgrad=True), o.RMSprop()]
)
def test_on_lists_of_tensors_to_the_bit_what_it_is_tensor_by_tensor(settings):
    """So that `auto`, which takes lists on a CPU, changes no number."""
    ends = []
    for update in ("loop", "auto"):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.Linear(33, 17))
        optimizer = build_optimizer(module, settings, impl=update)
        assert optimizer.param_groups[0]["foreach"] is (update == "auto")
        for _ in range(5):
            for parameter in module.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        ends.append([p.detach() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("update", "device", "precision", "form"),
    [
        ("auto", "cpu", "32-true", "foreach"),
        ("auto", "cuda", "bf16-mixed", "fused"),
        ("auto", "cuda", "16-mixed", "foreach"),
        ("fused", "cpu", "32-true", "fused"),
        ("foreach", "cuda", "32-true", "foreach"),
        ("loop", "cuda", "32-true", "loop"),
    ],
)
def test_what_runs_on_the_tensors(update, device, precision, form):
    assert chosen_impl(o.SGD(), update, device, precision) == form
    assert (
        chosen_impl(o.SGD(options={"fused": True}), update, device, precision) == "fused"
    )  # the user's word
    # rmsprop has no fused form: the next slower one
    assert chosen_impl(o.RMSprop(), update, device, precision) == (
        "loop" if form == "loop" else "foreach"
    )
    assert (
        chosen_impl(o.RAdam(), "auto", "cpu", precision) == "own"
    )  # on lists it differs in the last bit
