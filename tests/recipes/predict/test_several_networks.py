"""A run of two networks that answer as one: loaded, exported, planned."""

import json

import pytest
import torch

import recipes
from foundation.errors import UserError
from recipes.export.__main__ import export
from recipes.runs.plan import describe
from recipes.runs.start import ready, start
from recipes.setup.assemble import assemble

RUN = [
    "data=digits",
    "semi_supervised=dividemix",
    "methods.dividemix.warmup=0",
    "data.batch_size=8",
    "data.label_noise=0.3",
    "network.name=digits_cnn",
    "+network.options.width=8",
    "trainer.max_steps=3",
    "trainer.val_every=3",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    start(ready([*RUN, f"run_dir={folder}"]))
    return folder


def pictures(count=4):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_loaded_run_answers_with_both_networks(folder):
    model = recipes.load(folder)
    x = pictures()
    with torch.no_grad():
        answers = [net(net.embed(x)).logits["label"] for net in model.network.members]
        found = model(x)["label"]
    assert not torch.equal(*answers)
    torch.testing.assert_close(found, answers[0] + answers[1])
    values = json.loads((folder / "metrics.json").read_text())
    assert {"test/accuracy", "test/raw/accuracy"} <= values.keys()


def test_formats_of_one_network_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="holds one network, but several answer as one"):
        export(str(folder), "safetensors", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_holds_both(folder, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert export(str(folder), "onnx", str(tmp_path))["onnx"] < 1e-4
    card = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert card["reported"] == "joined"


def test_the_plan_names_both():
    assembly = assemble(ready([*RUN, "run_dir=unused"]).config)
    plan = describe(assembly, assembly.meta_network())
    trained = sum(p.numel() for p in assembly.meta_network().parameters())
    assert (
        f"second, for dividemix: a second network of {trained:,} trainable parameters, trained "
        "with the first, answers with it"
    ) in plan
    assert "surveys labeled samples by second" in plan
    assert "the network and second answer as one" in plan
