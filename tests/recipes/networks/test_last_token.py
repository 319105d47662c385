"""The last token of decoders: the right one whatever the side of the padding, and a remark where
the mean is taken."""

from types import SimpleNamespace

import pytest
import torch

from recipes.networks.encoders import make_encoder
from recipes.networks.text import TextNetwork, last_state
from recipes.setup.remarks import early_tokens
from recipes.step.step import Embedded
from tests.support.tiny_encoders import tiny_config


@pytest.mark.parametrize(
    ("mask", "last"),
    [([1, 1, 1, 1], 3), ([1, 1, 0, 0], 1), ([0, 0, 1, 1], 3), ([0, 1, 1, 0], 2), ([1, 0, 0, 0], 0)],
)
def test_the_last_real_token(mask, last):
    hidden = torch.arange(8.0).view(1, 4, 2)
    assert torch.equal(last_state(hidden, torch.tensor([mask]))[0], hidden[0, last])


def decoder(pooling):
    torch.manual_seed(0)
    return TextNetwork(make_encoder(tiny_config("gpt2")), {"label": 3}, pooling=pooling).eval()


@torch.no_grad()
def test_the_last_token_of_a_decoder_is_that_of_the_text_alone():
    network = decoder("last")
    words = network.embed({"ids": torch.tensor([[5, 6, 7]]), "mask": torch.ones(1, 3).bool()}).x
    padded = torch.cat([words, torch.ones(1, 2, words.shape[2])], 1)
    mask = torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(
        network.features(Embedded(padded, mask)),
        network.features(Embedded(words, mask[:, :3])),
        atol=1e-5,
        rtol=1e-5,
    )
    # the first token has seen nothing else, so the mean has less of the text
    other = padded.clone()
    other[:, 0] = other[:, 0].flip(-1)  # a constant would be normalized away
    changed = network.features(Embedded(other, mask)) - network.features(Embedded(padded, mask))
    assert changed.abs().max() > 1e-4


def test_the_mean_of_a_decoder_is_remarked():
    (line,) = early_tokens(decoder("mean"))
    assert line.startswith("network.pooling=mean: tokens of GPT2Model see only those before them")
    assert list(early_tokens(decoder("last"))) == []
    assert list(early_tokens(SimpleNamespace(pooling="mean", causal=False))) == []
