"""GLoRA's supernet and its search: forms that are drawn, what they share, evolution under a limit,
and the recipe."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from foundation.errors import UserError
from foundation.tensor_files import read_tensors
from methods.peft.glora import GLoRA
from methods.peft.glora_forms import (
    ORDERS,
    SUPPORTS,
    cost,
    drawn_forms,
    options,
    part,
    read_forms,
    write_forms,
)
from methods.peft.glora_layer import General
from methods.peft.glora_search import Search, Space, evolve
from methods.peft.glora_supernet import Draw, Shared, shared_layers, taken_forms
from methods.peft.sites import Site
from recipes.step.step import Progress
from tests.support.command import train
from tests.support.killed_runs import begin, differences, finish, state
from tests.support.small_networks import features, network, operate

LARGEST = {name: order[0] for name, order in ORDERS.items()}


# -- forms -----------------------------------------------------------------------------------------
def test_there_are_432_forms_of_a_layer():
    counts = [len(own) for own in options(LARGEST).values()]
    assert counts == [4, 4, 3, 3, 3] and torch.tensor(counts).prod() == 432
    few = options(LARGEST | {"a": "scalar", "e": "none"})
    assert few["a"] == ("scalar", "none") and few["e"] == ("none",)


def test_drawn_forms_are_a_function_of_the_key_and_uniform():
    assert drawn_forms(LARGEST, 0, 1) == drawn_forms(LARGEST, 0, 1)
    drawn = [drawn_forms(LARGEST, 0, step) for step in range(4000)]
    for name, order in ORDERS.items():
        shares = [sum(forms[name] == kind for forms in drawn) / len(drawn) for kind in order]
        assert shares == pytest.approx([1 / len(order)] * len(order), abs=0.03)
    pairs = sum(forms["a"] == "lora" and forms["b"] == "lora" for forms in drawn) / len(drawn)
    assert pairs == pytest.approx(1 / 16, abs=0.015)


@pytest.mark.parametrize("bias", [True, False])
def test_the_cost_is_the_number_of_parameters(bias):
    layer = nn.Linear(5, 7, bias=bias)
    for step in range(40):
        forms = drawn_forms(LARGEST, step)
        delta = General(Site("l", "linear", layer), 2, forms)
        found = sum(parameter.numel() for parameter in delta.parameters())
        assert cost(forms, 7, 5, 2, bias) == found


def test_a_smaller_form_has_the_first_entries_of_a_larger_one():
    down = torch.arange(6.0).view(3, 2)
    assert part(down, "vector").tolist() == [[0.0], [2.0], [4.0]]
    assert part(down, "scalar").tolist() == [[0.0]]
    assert part(torch.tensor([3.0, 4.0]), "scalar").tolist() == [3.0]
    assert part(torch.tensor([3.0, 4.0]), "vector").tolist() == [3.0, 4.0]


def test_files_of_forms(tmp_path):
    path, forms = tmp_path / "forms.json", [drawn_forms(LARGEST, i) for i in range(2)]
    write_forms(path, ["a", "b[0:4]"], forms)
    assert read_forms(str(path), ["a", "b[0:4]"], "o") == forms
    with pytest.raises(UserError, match=r"is of 2 layers, a, b\[0:4\] …; this run has 1, c …"):
        read_forms(str(path), ["c"], "o")
    wrong = [{"site": "a", **forms[0], "c": "scalar"}]
    path.write_text(json.dumps(wrong))
    with pytest.raises(UserError, match="a: c is 'scalar'; expected one of: lora, vector, none"):
        read_forms(str(path), ["a"], "o")
    path.write_text("[3]")
    with pytest.raises(UserError, match=r"o=.*: holds no forms; expected the forms\.json"):
        read_forms(str(path), ["a"], "o")
    with pytest.raises(UserError, match="cannot be read"):
        read_forms("nowhere", ["a"], "o")


# -- the supernet ----------------------------------------------------------------------------------
def supernet(name="vit", **settings):
    """A network whose supports are random, with its layers."""
    made = operate(GLoRA(mode="supernet", rank=2, **settings), network(name), "glora")
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.deltas.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=source))
    return made, shared_layers(made.deltas["glora"])


@pytest.mark.parametrize("name", ["vit", "bert", "resnet"])
def test_chosen_forms_are_those_of_a_fixed_network_with_these_weights(name, tmp_path):
    made, layers = supernet(name)
    for seed in range(3):
        forms = [drawn_forms(LARGEST, seed, i) for i in range(len(layers))]
        layers[0].draw.chosen = forms
        expected = features(made)
        layers[0].draw.chosen = None
        method = GLoRA(rank=2)
        method.key = "glora"
        from methods.peft.glora import place_name

        sites = [place_name(site) for site in method.sites(network(name))]
        write_forms(tmp_path / "forms.json", sites, forms)
        fixed = operate(GLoRA(rank=2, forms=str(tmp_path / "forms.json")), network(name), "glora")
        state_of = taken_forms(made.state_dict(), "deltas.glora.", layers, forms)
        fixed.load_state_dict(state_of)
        torch.testing.assert_close(features(fixed), expected, atol=1e-5, rtol=1e-5)
        total = sum(layer.cost(own) for layer, own in zip(layers, forms, strict=True))
        assert total == sum(p.numel() for p in fixed.deltas.parameters())


def test_every_step_draws_forms_and_leaves_the_others_without_a_gradient():
    made, layers = supernet()
    method = GLoRA(mode="supernet", rank=2)
    method.key = "glora"
    context = SimpleNamespace(network=made, seed=0)
    seen = set()
    for step in range(6):
        method.prepare(SimpleNamespace(progress=Progress(step, 6)), context)
        made.train()
        forms = [layer.forms() for layer in layers]
        assert forms == [layer.forms() for layer in layers], "equal in all forwards of a step"
        seen.add(json.dumps(forms))

        def closure():
            for parameter in made.parameters():
                parameter.grad = torch.ones_like(parameter)

        method.wrap_step(closure, None, context)
        for layer, own in zip(layers, forms, strict=True):
            for name in SUPPORTS:
                support = getattr(layer, name)
                if isinstance(support, nn.Parameter):
                    assert (support.grad is None) == (own[name] == "none")
                elif support is not None:
                    assert (support.down.grad is None) == (own[name] == "none")
                    assert (support.up.grad is None) == (own[name] != "lora")
    assert len(seen) == 6
    made.eval()
    assert [layer.forms() for layer in layers] == [LARGEST] * len(layers)


def test_supernet_and_forms_do_not_go_together():
    method = GLoRA(mode="supernet", forms="x")
    method.key = "glora"
    with pytest.raises(UserError, match=r"methods\.glora\.forms: a supernet draws its forms"):
        method.declare()


# -- the search ------------------------------------------------------------------------------------
class Table:
    """Accuracies without a network: most are the number of supports, weighted."""

    def __init__(self):
        self.known = {}

    def __call__(self, candidate):
        points = {"lora": 3, "vector": 4, "scalar": 1, "none": 0}
        total = sum(points[kind] for forms in candidate for kind in forms.values())
        self.known[json.dumps(candidate)] = total
        return total / 100

    def save(self):
        pass


def small_space(limit):
    layers = [
        Shared(Site("l", "linear", nn.Linear(3, 4)), 2, {**LARGEST, "c": "none"}, i, Draw())
        for i in range(2)
    ]
    return Space(layers, limit)


@pytest.mark.parametrize("limit", [12, 40])
def test_evolution_finds_the_best_of_all_candidates_within_the_limit(limit):
    space = small_space(limit)
    of_layer = [
        dict(zip(SUPPORTS, kinds, strict=True))
        for kinds in itertools.product(*options({**LARGEST, "c": "none"}).values())
    ]
    everything = [(a, b) for a in of_layer for b in of_layer]
    table = Table()
    best = max(table(c) for c in everything if space.cost(c) <= limit)
    search = Search("run", generations=12, population=40, parents=8)
    found = evolve(search, space, Table(), seed=0)
    assert space.cost(found) <= limit
    assert table(found) == pytest.approx(best)
    assert evolve(search, space, Table(), seed=0) == found


@pytest.mark.parametrize("limit", [1, 5, 20])
def test_a_candidate_is_fitted_to_the_limit_by_smaller_forms(limit):
    space = small_space(limit)
    large = tuple(dict(layer.kinds) for layer in space.layers)
    assert space.cost(large) > limit
    for key in range(5):
        fitted = space.fitted(large, key)
        assert space.cost(fitted) <= limit
        for name, order in ORDERS.items():
            sizes = [order.index(own[name]) for own in (*large, *fitted)]
            assert sizes[2] >= sizes[0] and sizes[3] >= sizes[1]


def test_a_limit_below_every_form_is_one_line():
    space = small_space(0.5)
    with pytest.raises(UserError, match=r"program\.parameters: no forms .* as few as 0\.5"):
        evolve(Search("run", population=4), space, Table(), seed=0)


# -- the recipe ------------------------------------------------------------------------------------
RECIPE = (
    "recipe=glora_search",
    "network.name=digits_cnn",
    "+network.options.width=4",
    "trainer.val_every=6",
    "trainer.log_every=2",
    "checkpoint.every_n_steps=3",
    "data.batch_size=16",
    "optimizer.lr=0.01",
    "stages.supernet.trainer.max_steps=12",
    "stages.search.program.generations=2",
    "stages.search.program.population=6",
    "stages.search.program.parents=3",
    "stages.search.program.parameters=150",
    "stages.fixed.trainer.max_steps=1",
    "stages.fixed.optimizer.lr=1e-12",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glora") / "run"
    train(folder, *RECIPE)
    return folder


def test_the_fixed_network_is_the_one_that_was_found(finished):
    done = json.loads((finished / "stages.json").read_text())
    found = done["search"]
    assert found["parameters"] <= 150 and found["candidates"] >= 6
    evaluated = json.loads((finished / "search" / "evaluated.json").read_text())
    assert found["val/accuracy"] == max(evaluated.values())
    # it begins with the weights of the search, whose accuracy is its own
    assert done["fixed"]["val/accuracy"] == pytest.approx(found["val/accuracy"])
    kept = read_tensors(finished / "fixed/checkpoints/last.ckpt")["state_dict"]
    for name, value in load_file(finished / "search" / "weights.safetensors").items():
        torch.testing.assert_close(kept[f"network.{name}"], value, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_killed_in_the_search_it_ends_with_the_same_bits(tmp_path):
    own = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.progress_bar=false")
    command = [*RECIPE, *own]
    finish(command, tmp_path / "whole")
    process = begin(command, tmp_path / "cut")
    evaluated = tmp_path / "cut" / "search" / "evaluated.json"
    while process.is_alive() and not evaluated.is_file():
        process.join(0.002)
    process.kill()
    process.join()
    finish(command, tmp_path / "cut")
    assert differences(state(tmp_path / "whole"), state(tmp_path / "cut")) == set()
    texts = [
        json.loads((tmp_path / run / "search" / "evaluated.json").read_text())
        for run in ("whole", "cut")
    ]
    assert texts[0] == texts[1]
