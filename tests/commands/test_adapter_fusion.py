"""AdapterFusion as users run it: its recipe of stages, loading without the runs it fused, finished
runs by folder, wrong input."""

import json

import pytest
import torch

import recipes
from tests.support.command import QUIET, roux, train
from tests.support.tiny_runs import tiny

TEXT = (
    *(setting for setting in tiny("text") if not setting.startswith(("run_dir", "trainer."))),
    "network.name=auto",
    "network.pretrained=false",
    "trainer.max_steps=3",
    "trainer.val_every=3",
    "methods.adapter.bottleneck=4",
    "methods.adapter_fusion.bottleneck=4",
)
ADAPTERS = ("first", "second", "third")
KEY = "network.deltas.adapter_fusion.0.adapters"


SLOW = pytest.mark.slow  # four runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusion") / "whole"
    train(folder, "recipe=adapter_fusion", "data=text_file", *TEXT)
    return folder


def state(folder, stage):
    path = folder / stage / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


@SLOW
def test_every_adapter_is_trained_from_the_start_and_fused_as_it_is(whole):
    assert list(json.loads((whole / "stages.json").read_text())) == [*ADAPTERS, "fusion"]
    fused = state(whole, "fusion")
    seen = []
    for number, stage in enumerate(ADAPTERS):
        own = state(whole, stage)
        for part in ("down.weight", "down.bias", "up.weight", "up.bias"):
            name = f"network.deltas.adapter.0.{part}"
            assert torch.equal(fused[f"{KEY}.{number}.{part}"], own[name])
        seen.append(own["network.deltas.adapter.0.down.weight"])
        plan = (whole / stage / "plan.txt").read_text()
        assert "begins with the weights" not in plan
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


@SLOW
def test_a_fused_run_predicts_without_the_runs_it_fused(whole, place):
    texts = ["Return a list of the words", "Raise an exception"]
    expected = recipes.load(whole / "fusion").predict(texts, "probabilities")
    for stage in ADAPTERS:
        (whole / stage).rename(place / stage)
    try:
        found = recipes.load(whole).predict(texts, "probabilities")
    finally:
        for stage in ADAPTERS:
            (place / stage).rename(whole / stage)
    assert torch.equal(found, expected)


@SLOW
def test_finished_runs_are_fused_by_their_folders(whole, place):
    runs = ",".join(str(whole / stage) for stage in ADAPTERS)
    own = [setting for setting in TEXT if "methods.adapter." not in setting]
    chosen = ("data=text_file", "peft=adapter_fusion", f"methods.adapter_fusion.adapters=[{runs}]")
    train(place / "again", *chosen, *own, "data.labels_per_class=10", "optimizer=adamw")
    again = torch.load(place / "again" / "checkpoints" / "last.ckpt", weights_only=True)
    assert torch.equal(
        again["state_dict"][f"{KEY}.2.up.weight"],
        state(whole, "third")["network.deltas.adapter.0.up.weight"],
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["methods.adapter_fusion.adapters=null"], "adapters: names no runs; give two or more"),
        (["stages.fusion.methods.adapter_fusion.adapters=['{frist}','{second}']"],
         "names no stage before it; did you mean 'first'?"),
        pytest.param(["methods.adapter_fusion.bottleneck=8"],
                     "bottleneck=4, and this run has bottleneck=8", marks=SLOW),
        pytest.param(["methods.adapter.variant=houlsby"],
                     "variant=houlsby; only those with variant=pfeiffer", marks=SLOW),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(changes, words, place):
    asked = ["recipe=adapter_fusion", "data=text_file", *TEXT, *changes]
    outcome = roux(*QUIET, f"run_dir={place}/run", *asked)
    assert outcome.code == 2
    (line,) = (line for line in outcome.lines if not line.startswith(("note", "warning")))
    assert words in line
