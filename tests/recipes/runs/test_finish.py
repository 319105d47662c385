"""The point `finish`: after the last step, before anything of the finished run is saved."""

import pytest
import torch

from methods.averaging.ema import EMA
from recipes.runs.run import run
from recipes.setup.spec import spec_of
from tests.support.tiny_runs import run_of


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_what_finish_changes_is_saved_and_tested(steps, tmp_path, monkeypatch):
    calls: list[bool] = []

    def finish(self, context):
        calls.append(context.network.training)
        with torch.no_grad():
            for network in (context.network, context.teacher.network):
                head = network.heads["label"]
                head.weight.zero_()
                head.bias.copy_(torch.arange(len(head.bias), dtype=torch.float))

    monkeypatch.setattr(EMA, "finish", finish)
    settings = {"trainer.max_steps": steps, "trainer.val_every": 4}
    metrics = run(spec_of(run_of("image", "ema", run_dir=str(tmp_path), **settings))).metrics
    assert calls == [False]
    # a network that always answers the last class
    classes = 10
    assert metrics["test/balanced_accuracy"] == pytest.approx(1 / classes, abs=1e-6)
    if steps:
        state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert not state["network.heads.label.weight"].any()
        # it is sure of its answer, and mostly wrong
        assert metrics["val/loss"] > 3
