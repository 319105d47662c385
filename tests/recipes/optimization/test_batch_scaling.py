"""The learning rate by batch size: what the optimizer gets, and what the plan says."""

import pytest

from recipes.config.resolve import resolve_command
from recipes.optimization.build import build_optimizer
from recipes.optimization.optimizers import SGD, AdamW
from recipes.runs.plan import describe
from recipes.setup.assemble import assemble


@pytest.mark.parametrize(
    ("settings", "samples", "rate"),
    [
        (SGD(lr=0.1), 512, 0.1),
        (SGD(lr=0.1, base_batch_size=256), 512, 0.2),
        (SGD(lr=0.1, base_batch_size=256), 64, 0.025),
        (AdamW(lr=0.1, base_batch_size=256, lr_scaling="sqrt"), 1024, 0.2),
    ],
)
def test_the_rate_follows_the_batch(settings, samples, rate):
    assert settings.for_batch(samples).lr == pytest.approx(rate)


def test_every_micro_batch_counts_and_the_plan_says_the_rate():
    command = ["data=digits", "data.batch_size=64", "trainer.accumulate_grad_batches=2"]
    scaled = [*command, "optimizer.lr=0.03", "optimizer.base_batch_size=32"]
    assembly = assemble(resolve_command(scaled).config)
    network = assembly.meta_network()
    groups = build_optimizer(network, assembly.optimizer).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.12] * len(groups))
    line = "learning rate 0.12 for 128 labeled samples a step: 0.03 for 32, linear"
    assert line in describe(assembly, network)
    plain = assemble(resolve_command(command).config)
    assert "labeled samples a step" not in describe(plain, plain.meta_network())
