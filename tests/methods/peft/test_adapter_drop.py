import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from foundation.errors import UserError
from methods.peft import adapter_drop
from methods.peft.adapter import Adapter
from methods.peft.adapter_drop import AdapterDrop, bottlenecks, drawn_blocks
from methods.peft.mam_adapter import MAMAdapter
from recipes.services.teacher import copy_sharing_frozen
from tests.support.harness import Setup, build, fit
from tests.support.small_networks import features, fill, network, operate


def operated(name, variant="houlsby", **settings):
    """A network with filled adapters, some of them left out, and the method."""
    made = operate(Adapter(variant, bottleneck=8, train_norms=False), network(name), "adapter")
    fill(made, "adapter", 0.3)
    return operate(AdapterDrop(**settings), made, "drop")


def in_training(made, blocks):
    """Features and gradients of the adapters with so many blocks left out."""
    made.deltas["drop"].training_blocks = blocks
    found = made.features(made.example())
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    return found


VARIANTS = ["houlsby", "pfeiffer", "parallel"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_left_out_adapters_are_as_if_they_were_zero(name, variant):
    """Evaluated with n = 1: the adapters of the first block change nothing; by an adapter that adds
    0 there."""
    made = operated(name, variant, blocks=1)
    plain = operate(Adapter(variant, bottleneck=8, train_norms=False), network(name), "adapter")
    plain.deltas["adapter"].load_state_dict(made.deltas["adapter"].state_dict())
    first = [adapter for adapter in bottlenecks(plain) if re.search(r"\.0\.", adapter.site)]
    assert len(first) == (2 if variant == "houlsby" else 1)
    full = features(plain)
    if (name, variant) == ("bert", "pfeiffer"):
        for adapter in first:
            adapter.within_norm = None
        norm = plain.backbone.encoder.layer[0].output.LayerNorm
        norm._forward_hooks.clear()  # LN(u + 0) of LN(u) would still be a second norm
    for adapter in first:
        torch.nn.init.zeros_(adapter.up.weight)
        torch.nn.init.zeros_(adapter.up.bias)
    torch.testing.assert_close(features(made), features(plain), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(features(made), full, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_or_none(variant):
    made = operated("bert", variant)
    made.eval()
    full = features(operate_without(variant, made))
    torch.testing.assert_close(features(made), full)
    made.deltas["drop"].evaluation_blocks = 2
    assert torch.equal(features(made), features(network("bert")))


def operate_without(variant, made):
    plain = operate(Adapter(variant, bottleneck=8, train_norms=False), network("bert"), "adapter")
    plain.deltas["adapter"].load_state_dict(made.deltas["adapter"].state_dict())
    return plain


@pytest.mark.parametrize("ranks", [False, True])
def test_left_out_adapters_get_no_gradient(ranks, monkeypatch):
    """With several ranks they are in the graph, and their zeros are taken away after it."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: ranks)
    made = operated("vit")
    in_training(made, 1)
    first, second = bottlenecks(made)[:2], bottlenecks(made)[2:]
    gradients = [parameter.grad for adapter in first for parameter in adapter.parameters()]
    if ranks:
        assert all(gradient is not None and not gradient.any() for gradient in gradients)
        AdapterDrop().wrap_step(lambda: None, None, SimpleNamespace(network=made))
    assert all(parameter.grad is None for adapter in first for parameter in adapter.parameters())
    assert all(p.grad.any() for adapter in second for p in adapter.parameters())
    made.deltas["drop"].training_blocks = 0
    assert AdapterDrop().wrap_step(lambda: 3, None, SimpleNamespace(network=made)) == 3
    assert all(p.grad is not None for adapter in second for p in adapter.parameters())


def test_the_touch_does_not_change_the_output(monkeypatch):
    found = []
    for ranks in (False, True):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda ranks=ranks: ranks)
        found.append(in_training(operated("vit"), 1))
    assert torch.equal(*found)


def test_draws_are_uniform_and_of_the_step_alone():
    draws = Counter(drawn_blocks(0, step, 4) for step in range(2000))
    assert sorted(draws) == [0, 1, 2, 3]
    assert all(420 < count < 580 for count in draws.values())
    assert drawn_blocks(0, 7, 4) == drawn_blocks(0, 7, 4)
    other = [drawn_blocks(1, step, 4) for step in range(50)]
    assert other != [drawn_blocks(0, step, 4) for step in range(50)]


def test_every_step_of_a_run_draws_anew(monkeypatch):
    """One draw for all micro-batches of a step."""
    asked = []

    def draw(seed, step, blocks):
        asked.append((step, blocks))
        return step % 2

    monkeypatch.setattr(adapter_drop, "drawn_blocks", draw)
    methods = {"adapter": Adapter(bottleneck=8, train_norms=False), "drop": AdapterDrop()}
    setup = Setup(kind="text", tasks={"label": 5}, steps=2, accumulate=2)
    recipe = build(methods, setup, network("bert"))
    start = {name: p.detach().clone() for name, p in recipe.named_parameters()}
    fit(recipe, setup, *methods.values())
    assert asked == [(0, 2), (0, 2), (1, 2), (1, 2)]
    moved = {name for name, p in recipe.named_parameters() if not torch.equal(p, start[name])}
    assert {"network.deltas.adapter.0.up.bias", "network.deltas.adapter.3.up.bias"} <= moved


def test_specialized_never_trains_the_first_adapters():
    made = operated("bert", mode="specialized", blocks=1)
    first, second = bottlenecks(made)[:2], bottlenecks(made)[2:]
    assert not any(p.requires_grad for adapter in first for p in adapter.parameters())
    assert all(p.requires_grad for adapter in second for p in adapter.parameters())
    made.backbone.eval()
    torch.testing.assert_close(made.features(made.example()), features(made))
    assert AdapterDrop("specialized").idle_settings() == ["blocks"]


def test_the_adapters_of_a_mixture_are_left_out_too():
    made = operate(MAMAdapter(length=2, hidden=0, bottleneck=8), network("bert"), "mam")
    fill(made, "mam", 0.3)
    before = features(made)
    operate(AdapterDrop(blocks=1), made, "drop")
    assert [adapter.block for adapter in bottlenecks(made)] == [0, 1]
    assert not torch.allclose(features(made), before, atol=1e-4)


def test_an_averaged_copy_drops_by_itself():
    made = operated("bert")
    twin = copy_sharing_frozen(made)
    made.deltas["drop"].training_blocks = 1
    assert [adapter.dropped for adapter in bottlenecks(made)] == [True, True, False, False]
    assert not any(adapter.dropped for adapter in bottlenecks(twin))
    twin.deltas["drop"].training_blocks = 2
    assert all(adapter.dropped for adapter in bottlenecks(twin))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("bert", {"blocks": 2}, "methods.drop.blocks=2: BertModel has 2 block(s) with adapters, "),
        ("bert", {"blocks": 2}, "and the last must keep them; set it below 2"),
        ("albert", {}, "AlbertModel has 1 block(s) with adapters, and the last must keep them"),
    ],
)
def test_refusals(name, settings, words):
    with pytest.raises(UserError, match=re.escape(words)):
        operated(name, **settings)
