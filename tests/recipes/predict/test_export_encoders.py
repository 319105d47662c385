"""format=huggingface: every encoder becomes a folder that AutoModel reads with equal features, or
is refused with the reason."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel

from foundation.errors import UserError
from recipes.export.__main__ import main
from recipes.export.folding import Folded
from recipes.export.huggingface import (
    check_folder_is_known,
    quiet,
    saved,
    write_huggingface,
)
from recipes.networks import build_network
from tests.support.command import write_csv
from tests.support.predict_runs import run
from tests.support.tiny_encoders import texts, tiny_config

INFO = SimpleNamespace(kind="text", shape=None)


def encoder(kind, folder):
    tiny_config(kind).save_pretrained(folder)
    torch.manual_seed(0)
    return build_network(INFO, {"label": 3}, name=str(folder)).eval().backbone


def states(model):
    view = texts()
    with torch.no_grad():
        output = model(input_ids=view["ids"], attention_mask=view["mask"].long())
    return output.last_hidden_state[view["mask"]]


# longformer, luke and squeezebert have eager attention alone
@pytest.mark.parametrize("kind", ["bert", "gpt2", "longformer", "luke", "squeezebert", "xlnet"])
def test_auto_model_reads_the_folder_with_equal_features(kind, tmp_path):
    backbone = encoder(kind, tmp_path)
    attention = backbone.config._attn_implementation
    expected = states(backbone)
    with quiet():
        check_folder_is_known(backbone)
        saved(backbone, tmp_path / "out")
        found = states(AutoModel.from_pretrained(tmp_path / "out").eval())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # the model itself is as it was: it is compared with the folder
    assert torch.equal(states(backbone), expected)
    assert backbone.config._attn_implementation == attention


@pytest.mark.parametrize(
    ("kind", "part", "whole"),
    [
        ("t5", "T5Stack", "T5Model"),
        ("bart", "BartEncoder", "BartModel"),
        ("marian", "MarianEncoder", "MarianModel"),
    ],
)
def test_one_half_of_an_encoder_decoder_is_refused(kind, part, whole, tmp_path):
    with pytest.raises(UserError) as caught:
        check_folder_is_known(encoder(kind, tmp_path))
    assert str(caught.value) == (
        f"format=huggingface: {part} cannot be read back: AutoModel makes a {whole} of its "
        "configuration, of which the run has this part alone; use format=onnx or "
        "format=safetensors"
    )


def test_an_export_is_refused_before_a_file_is_written(tmp_path):
    tiny_config("t5").save_pretrained(tmp_path / "t5")
    network = build_network(INFO, {"label": 3}, name=str(tmp_path / "t5"))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="T5Stack cannot be read back"):
        write_huggingface(SimpleNamespace(kind="text"), Folded(network, [], []), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_the_export_of_a_t5_run_says_why_and_leaves_nothing(place, capsys):
    tiny_config("t5").save_pretrained(place / "t5")
    file = write_csv(place / "texts.csv", ["red", "blue", "green"] * 20)
    own = (f"network.name={place / 't5'}", "data.text.vocab_size=100", "data.text.max_length=16")
    run(place / "run", "data=text_file", f"data.source.train_file={file}", *own)
    assert main(["run=run", "format=huggingface"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: format=huggingface: T5Stack cannot be read back: AutoModel")
    assert list((place / "run" / "export").iterdir()) == []
