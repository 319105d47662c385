import pytest
import torch

from foundation.errors import UserError
from methods.peft.prompt_tuning import PromptTuning, insert, remove
from tests.support.small_networks import (
    features,
    fill,
    network,
    operate,
    says_the_same_whatever_is_padding,
)

ENCODERS = ["bert", "roberta", "electra", "distilbert", "albert", "modernbert", "deberta"]


def test_insert_and_remove():
    x, rows = torch.arange(6.0).view(1, 3, 2), torch.full((2, 2), 9.0)
    wide = insert(x, rows, 1)
    assert wide[0, :, 0].tolist() == [0, 9, 9, 2, 4]
    assert torch.equal(remove(wide, 2, 1), x)


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_changes_nothing(name):
    positions = "shift" if name == "deberta" else "keep"
    made = operate(PromptTuning(length=3, positions=positions), network(name), "prompt")
    fill(made, "prompt", 0.3)
    assert says_the_same_whatever_is_padding(made, network(name))


@pytest.mark.parametrize(("name", "first"), [("bert", 0), ("roberta", 2)])
def test_tokens_keep_their_positions(name, first):
    made = operate(PromptTuning(length=3), network(name), "prompt")
    seen = []
    made.backbone.embeddings.position_embeddings.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    features(made)
    # the first token, three rows at its position, the rest
    assert (seen[0][0] - first).tolist() == [0, 0, 0, 0, *range(1, 8)]


def test_where_positions_shift_texts_get_shorter():
    assert (
        operate(PromptTuning(length=3, positions="shift"), network("bert"), "prompt").max_length
        == 509
    )
    assert operate(PromptTuning(length=3), network("bert"), "prompt").max_length == 512


def test_initial_rows():
    made = operate(PromptTuning(length=4), network("electra"), "prompt")
    words = made.backbone.get_input_embeddings().weight
    rows = made.deltas["prompt"].rows
    assert rows.shape == (4, 16), "as wide as words, not as states"
    assert all(any(torch.equal(row, word) for word in words) for row in rows)
    uniform = (
        operate(PromptTuning(length=400, init="random_uniform"), network("bert"), "prompt")
        .deltas["prompt"]
        .rows
    )
    assert 0.49 < float(uniform.detach().abs().max()) <= 0.5


def test_pictures_are_referred_to_vpt():
    with pytest.raises(UserError, match=r"works on text encoders only; for images use peft=vpt"):
        operate(PromptTuning(), network("vit"), "prompt")
