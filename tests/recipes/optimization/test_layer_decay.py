"""Layer-wise rates: those of timm, blocks of text encoders, refusals."""

import pytest
import timm
import torch
from timm.optim._param_groups import param_groups_layer_decay

from foundation.errors import UserError
from recipes.networks.encoders import make_encoder
from recipes.networks.own import OWN
from recipes.optimization.build import parameter_groups
from recipes.optimization.layer_decay import layer_depths, scale_layers
from recipes.optimization.optimizers import AdamW
from tests.support.tiny_encoders import tiny_config


def rates(module):
    groups = parameter_groups(module, AdamW(lr=1.0))
    by_id = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {name: by_id[id(p)] for name, p in module.named_parameters()}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_the_same_rates_as_timms(name):
    model = timm.create_model(name, num_classes=0)
    theirs = {
        id(p): group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=0.7)
        for p in group["params"]
    }
    top = max(theirs.values())  # of its last layer, where a head would follow
    scale_layers(model, 0.7)
    ours = rates(model)
    expected = {name: theirs[id(p)] / top for name, p in model.named_parameters()}
    assert ours == pytest.approx(expected) and max(ours.values()) == 1.0


@pytest.mark.parametrize("kind", ["bert", "distilbert", "t5", "modernbert"])
def test_blocks_of_text_encoders(kind):
    encoder = make_encoder(tiny_config(kind))
    depths = layer_depths(encoder)
    words = next(
        name for name, p in encoder.named_parameters() if p is encoder.get_input_embeddings().weight
    )
    assert depths[words] == 0
    last = max(depths.values())
    assert last >= 1
    scale_layers(encoder, 0.5)
    found = rates(encoder)
    assert found[words] == 0.5**last and 1.0 in found.values()


def test_a_network_without_layers_is_refused():
    shared = make_encoder(tiny_config("albert"))  # one layer that is applied several times
    own = OWN["digits_cnn"].create("digits_cnn", num_classes=0, in_chans=1)
    for network in (torch.nn.Linear(2, 2), own, shared):
        with pytest.raises(UserError, match=r"optimizer\.layer_decay=0\.65: .* does not say"):
            scale_layers(network, 0.65)


def test_scaling_twice_is_scaling_once():
    model = timm.create_model("test_vit", num_classes=0)
    scale_layers(model, 0.7)
    once = rates(model)
    scale_layers(model, 0.7)
    assert rates(model) == once
    assert all(torch.isfinite(torch.tensor(list(once.values()))))
