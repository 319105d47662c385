"""Runs that evaluate further sets: names, numbers, monitor; a method with a stream of its own."""

import os

import pytest
import torch

from datamodules.source import ArraySource, DataInfo, Splits
from datamodules.sources.digits import Digits
from foundation.errors import UserError
from recipes.contract import Declaration, Method, StreamRequest
from tests.support.lab import trial
from tests.support.processes import on_two_ranks
from tests.support.tiny_runs import quiet_run_of, run_of

HERE = "tests.recipes.runs.test_further_sets"


class Dark:
    """The digits at half their brightness, with a validation part."""

    def info(self) -> DataInfo:
        return Digits().info()

    def load(self, root=None) -> Splits:
        splits = Digits().load(root)
        dark = {}
        for part in ("train", "test"):
            source = getattr(splits, part)
            dark[part] = ArraySource(source.pixels // 2, source.targets, source.classes)
        rows = torch.arange(100)
        targets = {task: values[rows] for task, values in dark["test"].targets.items()}
        val = ArraySource(dark["test"].pixels[rows], targets, dark["test"].classes)
        return Splits(dark["train"], dark["test"], val)


class Pull(Method):
    """Draws the mean of the features of another set towards that of the labeled samples."""

    def __init__(self, part: str = "dark"):
        self.part = part

    def declare(self) -> Declaration:
        own = {"target": StreamRequest(self.part, per_labeled=2)}
        return Declaration(views={"target": ("weak",)}, streams=own)

    def prepare(self, step, context):
        step.request("target", "weak")

    def terms(self, step, context):
        means = [step.outputs[name].features.mean(0) for name in ("target/weak", "labeled")]
        step.term("pull", (means[0] - means[1]).square().mean())


SOURCES = {"dark": {"_target_": f"{HERE}.Dark"}}


def run(**changes):
    return run_of("image", **{"data.sources": SOURCES} | changes)


def test_every_part_has_its_numbers():
    """Those of the set itself are as without the other one, and those of the other are computed
    from the network's predictions for its samples."""
    outcome, alone = trial(run()), trial(run_of("image"))
    last = outcome.history[3]
    assert {"dark_val/accuracy", "dark_val/loss", "val/accuracy"} <= last.keys()
    for name, value in alone.history[3].items():
        if name.startswith("val/"):
            assert last[name] == value
    pixels = Dark().load().val
    outcome.recipe.eval()
    network = outcome.recipe.network
    with torch.no_grad():
        logits = network(network.embed(pixels.pixels / 255)).logits["label"]
    right = (logits.argmax(1) == pixels.targets["label"]).double().mean()
    assert last["dark_val/accuracy"] == pytest.approx(float(right))
    # the report shows the set itself
    assert outcome.recipe.evaluator.class_counts["label"].equal(
        alone.recipe.evaluator.class_counts["label"]
    )


def test_a_further_part_may_judge():
    config = run(monitor="dark_val/accuracy")
    assert trial(config).recipe.monitor == "dark_val/accuracy"
    with pytest.raises(UserError, match=r"monitor=dork_val/accuracy: .*'dark_val/accuracy'"):
        trial(run(monitor="dork_val/accuracy"))


def test_a_method_with_a_stream_of_its_own():
    methods = {"methods.pull": {"_target_": f"{HERE}.Pull"}}
    outcome = trial(run(**methods))
    assert "pull" in outcome.terms
    assert outcome.recipe.last_step.streams["target"].size == 2 * run().data.batch_size


def test_a_stream_of_a_set_that_is_not_there():
    methods = {"methods.pull": {"_target_": f"{HERE}.Pull", "part": "darc"}}
    with pytest.raises(UserError, match=r"needs the set 'darc' for its stream 'target'"):
        trial(run(**methods))


def seen_by(rank: int, world: int) -> dict[str, float]:
    """What a rank of two logs; `place` of its launcher stands in the environment."""
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    ranks = {"trainer.devices": world, "trainer.strategy": "ddp"}
    return trial(quiet_run_of("image", **{"data.sources": SOURCES} | ranks)).history[3]


@pytest.mark.slow
def test_two_ranks_evaluate_as_one():
    whole = trial(quiet_run_of("image", **{"data.sources": SOURCES})).history[3]
    for seen in on_two_ranks(seen_by):
        for name in ("dark_val/accuracy", "dark_val/loss", "val/accuracy"):
            assert seen[name] == pytest.approx(whole[name], rel=1e-4)
