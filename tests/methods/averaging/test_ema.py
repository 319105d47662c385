import inspect
import typing

import pytest
import torch
from pytorch_lightning import Callback
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from methods.averaging.ema import EMA
from methods.regularization.sam import SAM
from tests.support.harness import Setup, build, fit, train


class Oracle(Callback):
    """torch's averaged model beside ours; its first update is a copy."""

    def __init__(self, decay: float):
        self.decay, self.seen = decay, 0

    def on_train_start(self, trainer, recipe):
        self.average = AveragedModel(recipe.network, multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        self.average.update_parameters(recipe.network)

    def on_train_batch_end(self, trainer, recipe, *rest):
        if trainer.global_step > self.seen:
            self.seen = trainer.global_step
            self.average.update_parameters(recipe.network)


@pytest.mark.parametrize(
    ("settings", "others"),
    [
        ({}, {}),
        ({"kind": "text"}, {}),
        ({"accumulate": 2}, {}),
        ({}, {"sam": SAM}),
        ({"kind": "text"}, {"sam": SAM}),
    ],
)
def test_equals_torchs_averaged_model_after_real_steps(settings, others):
    """Once a real optimizer step: not for each micro-batch, and not between the two passes of
    SAM."""
    setup, oracle = Setup(steps=4, **settings), Oracle(0.8)
    methods = {"ema": EMA(decay=0.8, horizon=None)} | {
        key: method() for key, method in others.items()
    }
    result = fit(build(methods, setup), setup, oracle)
    ours = dict(result.recipe.teacher.network.named_parameters())
    for name, expected in oracle.average.module.named_parameters():
        torch.testing.assert_close(ours[name], expected, atol=1e-6, rtol=0)
        assert not torch.equal(ours[name], result.parameters[name])


def test_training_is_untouched_by_the_average():
    plain, averaged = train(steps=3, norm=True), train({"ema": EMA()}, steps=3, norm=True)
    assert plain.losses == averaged.losses
    for name, value in plain.parameters.items():
        assert torch.equal(averaged.parameters[name], value)


def test_buffers_are_copied_or_averaged_but_never_initial():
    name = "body.1.running_mean"
    copied = train({"ema": EMA(decay=0.9)}, steps=3, norm=True)
    assert torch.equal(copied.recipe.teacher.network.state_dict()[name], copied.parameters[name])
    one = train({"ema": EMA(decay=0.9, buffers="ema", horizon=None)}, steps=1, norm=True)
    torch.testing.assert_close(
        one.recipe.teacher.network.state_dict()[name], 0.1 * one.parameters[name]
    )
    offered = typing.get_args(inspect.signature(EMA).parameters["buffers"].annotation)
    assert set(offered) == {"copy", "ema"}


def test_the_shadow_stays_float32_under_bfloat16():
    result = train({"ema": EMA(decay=0.999, horizon=None)}, steps=2, precision="bf16-mixed")
    start = dict(Setup().network().named_parameters())
    for name, value in result.recipe.teacher.network.named_parameters():
        assert value.dtype == torch.float32
        assert not torch.equal(value, start[name]), "an average in half precision freezes"


def test_the_average_lies_in_the_checkpoint_and_resumes_bit_equal(tmp_path):
    setup = Setup(steps=4, norm=True)
    whole = fit(build({"ema": EMA(decay=0.6, warmup=True, horizon=None)}, setup), setup)
    half = Setup(steps=2, total=4, norm=True)
    first = fit(build({"ema": EMA(decay=0.6, warmup=True, horizon=None)}, half), half)
    first.trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = build({"ema": EMA(decay=0.6, warmup=True, horizon=None)}, setup)
    result = fit(resumed, setup, ckpt_path=tmp_path / "half.ckpt", start=2)
    assert result.losses == whole.losses[2:]
    for name, value in whole.recipe.state_dict().items():
        assert torch.equal(result.recipe.state_dict()[name], value), name
