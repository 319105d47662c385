"""The modules of a method start from the same numbers whichever other methods there are."""

import pytest
import torch
from torch import Tensor

from foundation.randomness import own_draws
from methods.metric_learning.proxy_anchor import ProxyAnchor
from methods.peft.adapter import Adapter
from methods.peft.lora import LoRA
from methods.peft.prefix_tuning import PrefixTuning
from recipes.contract import Method
from tests.support.harness import Setup, build
from tests.support.small_networks import network

SETUP = Setup(kind="text", tasks={"label": 5})


def starts(methods: dict[str, Method], seed: int = 0) -> dict[str, Tensor]:
    """The parameters of the methods at the start, by name."""
    setup = Setup(kind="text", tasks={"label": 5}, seed=seed)
    recipe = build(methods, setup, network("bert"))
    named = recipe.named_parameters()
    return {name: p.detach() for name, p in named if "deltas" in name or "method_modules" in name}


def test_the_order_of_methods_and_other_methods_do_not_matter():
    adapter = {"adapter": Adapter()}
    lora = {"lora": LoRA()}
    prefix = {"prefix_tuning": PrefixTuning()}
    together = starts(adapter | lora | prefix)
    reversed_order = starts(prefix | lora | adapter)
    alone = starts(adapter) | starts(lora) | starts(prefix)
    assert together.keys() == reversed_order.keys() == alone.keys() and len(together) > 10
    for name, value in together.items():
        assert torch.equal(value, reversed_order[name]), name
        assert torch.equal(value, alone[name]), name


def test_they_depend_on_the_seed_and_the_method():
    first = starts({"lora": LoRA()})
    other_seed = starts({"lora": LoRA()}, seed=1)
    other_name = starts({"again": LoRA()})
    drawn = [name for name in first if name.endswith(".a")]
    assert drawn
    for name in drawn:
        assert not torch.equal(first[name], other_seed[name])
        assert not torch.equal(first[name], other_name[name.replace("lora", "again", 1)])


def test_proxies_and_embeddings_keep_their_start_beside_a_delta():
    alone = build({"proxy_anchor": ProxyAnchor(dim=4)}, SETUP, network("bert"))
    methods = {"lora": LoRA(), "proxy_anchor": ProxyAnchor(dim=4)}
    both = build(methods, SETUP, network("bert"))
    for name in ("network.heads.embedding.project.weight", *proxies(alone)):
        assert torch.equal(alone.get_parameter(name), both.get_parameter(name)), name


def proxies(recipe: torch.nn.Module) -> list[str]:
    names = [name for name, _ in recipe.named_parameters() if "method_modules" in name]
    assert names
    return names


@pytest.mark.parametrize("key", [("a",), ("a", 1)])
def test_draws_of_a_key_leave_the_others_alone(key):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with own_draws(*key, device=torch.device("cpu")):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected) and not torch.equal(inside, expected)
    with own_draws(*key, device=torch.device("cpu")):
        assert torch.equal(torch.rand(3), inside)
