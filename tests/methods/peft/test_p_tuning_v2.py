import copy
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from foundation.errors import UserError
from methods.peft.p_tuning_v2 import PTuningV2
from methods.peft.prefix_tuning import PrefixTuning
from methods.peft.prefixes import with_prefix
from tests.support.comparison import installed, same_gradients
from tests.support.small_networks import features, fill, network, operate


def library(name: str, hidden: int = 0) -> Any:
    backbone = copy.deepcopy(network(name).backbone).eval()
    # the library builds its masks for the stock implementation
    backbone.set_attn_implementation("sdpa")
    return prepared(installed("peft").get_peft_model(backbone, config(hidden))).eval()


def config(hidden: int) -> Any:
    return installed("peft").PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=3,
        prefix_projection=bool(hidden),
        encoder_hidden_size=hidden or None,
    )


def prepared(model: Any) -> Any:
    model.base_model.embeddings.token_type_ids.zero_()
    return model


def batch() -> dict[str, Any]:
    ids = torch.randint(5, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    return {"input_ids": ids.where(mask.bool(), 1), "attention_mask": mask}


def states(made: Any) -> torch.Tensor:
    """Of our network for the batch, from embeddings, as a run calls it."""
    made.eval()
    given = batch()
    words = made.backbone.get_input_embeddings()(given["input_ids"]).detach()
    output = made.backbone(inputs_embeds=words, attention_mask=given["attention_mask"])
    return output.last_hidden_state


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_shifted_positions_are_the_librarys(name):
    made = operate(PTuningV2(length=3, dropout=0.0, positions="shift"), network(name), "prefix")
    fill(made, "prefix", 0.3)
    model = library(name)
    table, theirs = made.deltas["prefix"].table, model.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        theirs.copy_(table.view_as(theirs))
    real = batch()["attention_mask"].bool()
    expected = model(**batch()).last_hidden_state
    same_gradients(states(made)[real], [table], expected[real], [theirs])
    assert made.max_length == network(name).max_length - 3


def test_every_sample_has_a_dropout_of_its_own():
    """On average the rows are those without; a sample's rows are zero or doubled."""
    made = operate(PTuningV2(length=4, dropout=0.5), network("bert"), "prefix")
    prefix = made.deltas["prefix"]
    rows = prefix.seen(1, torch.zeros(64, 5, 32))
    assert rows.shape == (64, 4, 2, 32)
    kept = rows / prefix.rows(1)
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(kept[0], kept[1])
    assert abs(float(kept.detach().mean()) - 1) < 0.05
    made.eval()
    assert prefix.seen(1, torch.zeros(64, 5, 32)).shape == (4, 2, 32)


def test_rows_by_sample_are_seen_by_their_sample():
    key, value = torch.randn(2, 4, 5, 3), torch.randn(2, 4, 5, 3)
    rows = torch.randn(2, 6, 2, 2 * 3)
    keys, values, _ = with_prefix(key, value, None, rows)
    for sample in range(2):
        one, other, _ = with_prefix(
            key[sample : sample + 1], value[sample : sample + 1], None, rows[sample]
        )
        assert torch.equal(keys[sample], one[0]) and torch.equal(values[sample], other[0])


def test_the_default_dropout_is_that_of_the_states():
    assert operate(PTuningV2(), network("bert"), "p").deltas["p"].dropout.p == 0.1
    assert operate(PTuningV2(), network("distilbert"), "p").deltas["p"].dropout.p == 0.1
    assert operate(PTuningV2(), network("vit"), "p").deltas["p"].dropout.p == 0.0
    assert operate(PrefixTuning(), network("bert"), "p").deltas["p"].dropout.p == 0.0


@pytest.mark.parametrize("hidden", [0, 8])
def test_the_librarys_folder_both_ways(hidden, tmp_path):
    method = PTuningV2(length=3, hidden=hidden, positions="shift")
    made = operate(method, network("bert"), "prefix")
    fill(made, "prefix", 0.3)
    method.save_artifacts(
        tmp_path, SimpleNamespace(network=made, teacher=None, reported=lambda: made)
    )
    backbone = copy.deepcopy(network("bert").backbone)
    backbone.set_attn_implementation("sdpa")
    folder = tmp_path / "prefix_peft"
    model = prepared(installed("peft").PeftModel.from_pretrained(backbone, folder)).eval()
    real = batch()["attention_mask"].bool()
    with torch.no_grad():
        theirs = model(**batch()).last_hidden_state
        torch.testing.assert_close(theirs[real], states(made)[real], atol=1e-6, rtol=1e-6)
    again = PTuningV2(length=3, positions="shift", load=str(folder))
    read = operate(again, network("bert"), "prefix")
    torch.testing.assert_close(features(read), features(made), atol=1e-6, rtol=0)
    library("bert", hidden).save_pretrained(tmp_path / "theirs")
    operate(PrefixTuning(length=3, load=str(tmp_path / "theirs")), network("bert"), "prefix")


def test_kept_positions_leave_no_folder_of_the_library(tmp_path):
    method = PTuningV2(length=3)
    made = operate(method, network("bert"), "prefix")
    method.save_artifacts(
        tmp_path, SimpleNamespace(network=made, teacher=None, reported=lambda: made)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["delta.safetensors"]


@pytest.mark.parametrize("name", ["vit", "eva"])
def test_positions_of_pictures_cannot_shift(name):
    words = r"methods.prefix.positions=shift: \w+ takes no positions; use keep"
    with pytest.raises(UserError, match=words):
        operate(PTuningV2(positions="shift"), network(name), "prefix")


def test_rows_for_an_mlp_are_refused(tmp_path):
    method = PTuningV2(length=3, positions="shift")
    made = operate(method, network("bert"), "prefix")
    method.save_artifacts(
        tmp_path, SimpleNamespace(network=made, teacher=None, reported=lambda: made)
    )
    folder = str(tmp_path / "prefix_peft")
    words = "has the rows, not the MLP that makes them; set methods.prefix.hidden=0"
    with pytest.raises(UserError, match=re.escape(words)):
        operate(PTuningV2(length=3, hidden=8, load=folder), network("bert"), "prefix")
    with pytest.raises(UserError, match=re.escape("rows [3, 128], expected [5, 128]; set len")):
        operate(PTuningV2(length=5, load=folder), network("bert"), "prefix")
