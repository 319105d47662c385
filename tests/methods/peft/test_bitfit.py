from types import SimpleNamespace

import pytest
import torch

from foundation.errors import UserError
from methods.peft.bitfit import BitFit
from methods.peft.lora import LoRA
from recipes.networks import build_network
from tests.support.harness import Setup, build, fit
from tests.support.small_networks import counts, network, operate


def test_parameters_of_vit_base():
    with torch.device("meta"):
        info = SimpleNamespace(kind="image", shape=(3, 224, 224))
        vit = operate(
            BitFit(), build_network(info, {"label": 10}, name="vit_base_patch16_224"), "bitfit"
        )
    assert counts(vit)[0] == 102_912


@pytest.mark.parametrize(
    "name", ["vit", "beit", "swinv2", "convnext", "resnet", "bert", "distilbert"]
)
def test_exactly_the_biases_are_trained(name):
    made = operate(BitFit(), network(name), "bitfit")
    trained = {n for n, p in made.backbone.named_parameters() if p.requires_grad}
    assert trained
    assert all(n.rpartition(".")[2] in ("bias", "q_bias", "v_bias") for n in trained)
    assert not any("cpb_mlp" in n for n in trained)
    left = {
        n
        for n, p in made.backbone.named_parameters()
        if n.rpartition(".")[2] == "bias" and not p.requires_grad
    }
    assert all("cpb_mlp" in n for n in left)


def test_one_step_moves_biases_and_heads_alone():
    setup = Setup(steps=1, lr=1.0)
    recipe = build({"bitfit": BitFit()}, setup, network("vit", {"label": 3}))
    before = {n: v.clone() for n, v in recipe.network.state_dict().items()}
    shape = recipe.network.input_size
    assert shape == (32, 32), "pictures of 8 pixels are resized"
    moved = {n for n, v in fit(recipe, setup).parameters.items() if not torch.equal(v, before[n])}
    assert moved == {
        n
        for n, _ in recipe.network.named_parameters()
        if n.endswith("bias") or n.startswith("heads.")
    }


def test_query_and_middle():
    made = operate(BitFit(which="query_and_middle"), network("bert"), "bitfit")
    trained = [n for n, p in made.backbone.named_parameters() if p.requires_grad]
    assert trained == [
        f"encoder.layer.{i}.{name}.bias"
        for i in (0, 1)
        for name in ("attention.self.query", "intermediate.dense")
    ]
    separate = operate(BitFit(which="query_and_middle"), network("beit"), "bitfit")
    assert sum(p.requires_grad for p in separate.backbone.parameters()) == 4
    with pytest.raises(
        UserError, match=r"which=query_and_middle: the queries of VisionTransformer have no bias"
    ):
        operate(BitFit(which="query_and_middle"), network("vit"), "bitfit")


def test_a_network_without_biases_is_refused():
    with pytest.raises(
        UserError, match=r"methods.bitfit: ModernBertModel has no biases to train; use peft=lora"
    ):
        operate(BitFit(), network("modernbert"), "bitfit")


def test_beside_lora_in_either_order():
    for first, second in ((LoRA(), BitFit()), (BitFit(), LoRA())):
        made = network("vit")
        for method in (first, second):
            operate(method, made, type(method).__name__.lower())
        trained = {n for n, p in made.named_parameters() if p.requires_grad}
        assert {n for n in trained if n.startswith("deltas.lora.")}
        assert "backbone.blocks.0.norm1.bias" in trained
        assert "backbone.blocks.0.norm1.weight" not in trained


def test_saved_and_loaded(tmp_path):
    from methods.peft.store import save_delta

    made = operate(BitFit(), network("bert"), "bitfit")
    with torch.no_grad():
        made.backbone.encoder.layer[0].output.dense.bias.fill_(3.0)
    save_delta(tmp_path / "delta.safetensors", made)
    again = operate(BitFit(load=str(tmp_path)), network("bert"), "bitfit")
    assert again.backbone.encoder.layer[0].output.dense.bias.eq(3.0).all()
