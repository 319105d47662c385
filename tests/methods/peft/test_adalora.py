"""AdaLoRA: the budget, the scores and the pruning, against the peft library's allocator and its
layers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from methods.peft.adalora import (
    AdaLoRA,
    Allocation,
    Triplets,
    budget,
    lowest,
    orthogonality,
    smoothed_importance,
    triplet_scores,
)
from methods.peft.adalora_format import write_adalora
from methods.peft.sites import Site
from methods.peft.weights import connect, merge
from recipes.step.step import Progress
from tests.support.comparison import in_double, installed, same_gradients
from tests.support.peft_library import said
from tests.support.small_networks import IMAGE, TEXT, features, fill, network, operate

EVERY = [*IMAGE, *TEXT]
BERT_LAYERS = r".*layer\.\d+\.(attention\.self\.(query|key|value)|.*dense)"


def library_model(name, targets, **settings):
    peft = installed("peft")
    backbone = network(name).backbone.eval()
    torch.manual_seed(3)
    config = peft.AdaLoraConfig(
        target_modules=targets, init_r=4, lora_alpha=6, total_step=100, **settings
    )
    model = peft.get_peft_model(backbone, config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.normal_(std=0.1)
    return model


# -- mathematics -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("step", "left"), [(100, 120), (101, 119), (300, 94), (450, 85), (799, 80), (801, 80)]
)
def test_worked_budget(step, left):
    assert budget(step, total=1000, first=120, last=80, start=100, final=200) == left


def test_worked_importance():
    mean, spread = torch.zeros(1), torch.zeros(1)
    found = []
    for product in (-0.4, 0.2):
        mean, spread = smoothed_importance(torch.tensor([product]), mean, spread, 0.85, 0.85)
        found.append((float(mean), float(spread), float(mean * spread)))
    assert found[0] == pytest.approx((0.06, 0.051, 0.00306), abs=1e-8)
    assert found[1] == pytest.approx((0.081, 0.0612, 0.0049572), abs=1e-8)


def test_gradients_that_are_not_finite_are_left_out():
    before = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4])
    after = smoothed_importance(torch.tensor([1.0, float("inf")]), *before, 0.85, 0.85)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_score_of_a_triplet_is_that_of_its_value_and_the_means_over_its_vectors():
    a, e = torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.tensor([[0.5], [1.0]])
    b = torch.tensor([[2.0, 0.0], [4.0, 6.0], [0.0, 3.0]])
    assert triplet_scores(a, e, b).tolist() == [0.5 + 2 + 2, 1 + 1 + 3]


def test_equal_scores_lose_no_more_than_the_budget_says():
    assert lowest(torch.zeros(5), 2).sum() == 2
    assert lowest(torch.tensor([3.0, 1.0, 2.0]), 2).tolist() == [False, True, True]
    assert not lowest(torch.zeros(5), 0).any()


def test_orthogonality_is_the_librarys_mean_of_norms():
    torch.manual_seed(0)
    factors = [torch.randn(3, width) for width in (5, 7, 5)]
    by_hand = [(f @ f.T - torch.eye(3)).norm("fro") for f in factors]
    assert float(orthogonality(factors)) == pytest.approx(float(sum(by_hand) / 3), abs=1e-6)
    assert float(orthogonality([torch.eye(3, 6)])) == 0


class Small(nn.Module):
    """Two layers, which the library and ours change alike."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 5)
        self.two = nn.Linear(5, 4)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


def test_every_pruning_of_a_run_is_that_of_the_librarys_allocator():
    """Twelve steps of SGD with both at once: E is equal after each, zeros included."""
    peft = installed("peft")
    torch.manual_seed(0)
    ours, theirs = Small(), Small()
    theirs.load_state_dict(ours.state_dict())
    settings = {"tinit": 2, "tfinal": 4, "deltaT": 2, "total_step": 12}
    config = peft.AdaLoraConfig(
        target_modules=["one", "two"], init_r=4, target_r=2, lora_alpha=8, **settings
    )
    model = peft.get_peft_model(theirs, config)
    method = AdaLoRA(4, 2, 8.0, start=2, final=4, every=2)
    method.key = "adalora"
    sites = [Site(name, "linear", ours.get_submodule(name)) for name in ("one", "two")]
    deltas = [Triplets(site, 4, method.scale, 0.0) for site in sites]
    layers = [model.base_model.model.get_submodule(site.name) for site in sites]
    with torch.no_grad():
        for delta, layer in zip(deltas, layers, strict=True):
            delta.a.copy_(layer.lora_A["default"]), delta.b.copy_(layer.lora_B["default"])
        for delta, site in zip(deltas, sites, strict=True):
            connect([delta], site.module, parametrised=False)
    context = SimpleNamespace(
        method_modules={"adalora": Allocation(deltas)},
        network=SimpleNamespace(deltas={"adalora": nn.ModuleList(deltas)}),
        total_steps=12,
    )
    mine = [p for delta in deltas for p in delta.parameters()]
    yours = [p for p in model.parameters() if p.requires_grad]
    optimizers = [torch.optim.SGD(parameters, lr=0.5) for parameters in (mine, yours)]
    pruned = []
    for done in range(1, 13):
        x, y = torch.randn(8, 6), torch.randn(8, 4)
        for said_here, optimizer in zip((ours(x), model(x)), optimizers, strict=True):
            optimizer.zero_grad()
            (said_here - y).pow(2).mean().backward()
            optimizer.step()
        method.after_step(SimpleNamespace(progress=Progress(done - 1, 12)), context)
        model.base_model.update_and_allocate(done)
        for delta, layer in zip(deltas, layers, strict=True):
            torch.testing.assert_close(delta.e, layer.lora_E["default"], atol=1e-6, rtol=1e-5)
            assert torch.equal(delta.e == 0, layer.lora_E["default"] == 0)
        pruned.append(sum(int((delta.e == 0).sum()) for delta in deltas))
    assert pruned[-5:] == [4] * 5
    assert any(0 < count < 4 for count in pruned)


# -- in networks -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EVERY)
def test_every_network_starts_as_it_was_changes_with_the_deltas_and_merges(name):
    before = features(network(name))
    made = operate(AdaLoRA(4, 2), network(name), "adalora")
    torch.testing.assert_close(features(made), before, atol=1e-6, rtol=0)
    fill(made, "adalora", 0.3)
    changed = features(made)
    assert float((changed - before).abs().max()) > 1e-3
    merge(made)
    torch.testing.assert_close(features(made), changed, atol=1e-5, rtol=1e-5)
    assert made.state_dict().keys() == network(name).state_dict().keys()


@pytest.mark.parametrize(
    ("name", "targets", "ours"),
    [
        ("bert", BERT_LAYERS, {}),
        ("vit", ["qkv"], {"qkv": "shared", "targets": ["attn.qkv"]}),
        ("resnet", r"layer\d\.\d\..*(conv\d|downsample\.0)", {}),
    ],
)
def test_the_librarys_file_read_here_gives_its_outputs_and_gradients(name, targets, ours, tmp_path):
    model = library_model(name, targets)
    model.save_pretrained(tmp_path)
    made = operate(AdaLoRA(4, 2, 6.0, load=str(tmp_path), **ours), network(name), "adalora")
    mine, yours = [], []
    for delta in made.deltas["adalora"]:
        layer = model.base_model.model.get_submodule(delta.site)
        mine += delta.tensors()
        yours += [layer.lora_A["default"], layer.lora_E["default"], layer.lora_B["default"]]
    made.eval()
    same_gradients(made.features(made.example()), mine, said(model, made), yours)


@pytest.mark.parametrize(
    ("name", "ours"), [("bert", {}), ("vit", {}), ("vit", {"qkv": "shared"}), ("resnet", {})]
)
def test_the_library_reads_what_is_written_here(name, ours, tmp_path):
    """Pruned triplets are left out; parts of a fused layer become triplets of the whole one."""
    made = operate(AdaLoRA(4, 2, **ours), network(name), "adalora")
    fill(made, "adalora", 0.3)
    with torch.no_grad():
        for number, delta in enumerate(made.deltas["adalora"]):
            delta.e[number % 4] = 0
    write_adalora(tmp_path, list(made.deltas["adalora"]))
    model = installed("peft").PeftModel.from_pretrained(network(name).backbone, tmp_path).eval()
    again = operate(AdaLoRA(4, 2, alpha=3.0, load=str(tmp_path), **ours), network(name), "adalora")
    in_double(made, model, again)
    with torch.no_grad():
        torch.testing.assert_close(said(model, made), features(made), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(features(again), features(made), atol=1e-6, rtol=1e-5)
    if name != "vit" or ours:
        assert torch.equal(again.deltas["adalora"][1].e[1], torch.zeros(1))


def test_what_does_not_fit_is_refused(tmp_path):
    library_model("vit", ["qkv"]).save_pretrained(tmp_path)
    load = str(tmp_path)
    with pytest.raises(UserError, match=r"triplets that change rows of several parts.*qkv=shared"):
        operate(AdaLoRA(4, 2, targets=["attn.qkv"], load=load), network("vit"), "adalora")
    shared = {"qkv": "shared", "targets": ["attn.qkv"], "load": load}
    with pytest.raises(UserError, match="expected 2 at most; set rank_init=4"):
        operate(AdaLoRA(2, 2, **shared), network("vit"), "adalora")
    with pytest.raises(UserError, match="changes layers that are not targets here"):
        targets = [r"blocks\.0\.attn\.qkv"]
        operate(AdaLoRA(4, 2, **(shared | {"targets": targets})), network("vit"), "adalora")
    for settings, words in (
        ({"rank_init": 4, "rank_target": 8}, "rank_target=8: is above rank_init=4"),
        ({"start": 0.6, "final": 0.4}, "leave no steps between them"),
    ):
        with pytest.raises(UserError, match=words):
            AdaLoRA(**settings).declare()
