"""The plan's memory of weights, gradients and optimizer state is what a run allocates."""

import pytest
import torch

from foundation.errors import UserError
from recipes.engine.trainer import TrainerSettings
from recipes.optimization.optimizers import NamedOptimizer
from recipes.setup.assemble import assemble
from recipes.setup.weights_memory import GIB, check_weights_memory, state_share, weights_memory
from tests.support.command import QUIET, roux
from tests.support.lab import trial
from tests.support.tiny_runs import run_of

CASES = {
    "a network alone": (),
    "a teacher": ("mean_teacher",),
    "a second network that trains": ("dividemix",),
    "frozen weights": ("lora",),
}
OF_METHODS = ("method_modules.", "statistics.")  # tables of samples and classes
NO_MOMENTUM = {"momentum": 0.0, "nesterov": False}


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
@pytest.mark.parametrize("methods", CASES.values(), ids=CASES)
def test_it_is_what_the_run_takes(methods, optimizer):
    config = run_of("image", *methods)
    target = f"recipes.optimization.optimizers.{optimizer}"
    config.optimizer = {"_target_": target, "lr": 0.01, "weight_decay": 0.0}
    assembly = assemble(config)
    planned = sum(assembly.weights_memory(assembly.meta_network()).values())
    outcome = trial(config)
    named = [*outcome.recipe.named_parameters(), *outcome.recipe.named_buffers()]
    tensors = [tensor for name, tensor in named if not name.startswith(OF_METHODS)]
    trained = {p for group in outcome.trainer.optimizers[0].param_groups for p in group["params"]}
    state = [
        value
        for values in outcome.trainer.optimizers[0].state.values()
        for value in values.values()
        if torch.is_tensor(value) and value.ndim  # no counts of steps
    ]
    held = {id(t): t.numel() * t.element_size() for t in [*tensors, *state]}
    gradients = sum(p.numel() * p.element_size() for p in trained)
    assert planned == pytest.approx(sum(held.values()) + gradients, rel=0.02)


@pytest.mark.parametrize(
    ("name", "options", "share"),
    [("adamw", {}, 2), ("sgd", {"momentum": 0.9}, 1), ("sgd", NO_MOMENTUM, 0)],
)
def test_the_state_of_an_optimizer(name, options, share):
    settings = NamedOptimizer(name=name, lr=0.1, weight_decay=0.0, options=options)
    assert state_share(settings) == pytest.approx(share, abs=1e-3)


def test_counting_draws_no_random_number():
    before = torch.random.get_rng_state()
    state_share(NamedOptimizer(name="adamw", lr=0.1, weight_decay=0.0))
    assert torch.random.get_rng_state().equal(before)


def test_weights_of_two_bytes():
    assembly = assemble(run_of("image", "dividemix"))
    network = assembly.meta_network()
    rest = (network, assembly.composition, assembly.optimizer)
    whole = sum(weights_memory(*rest, "32-true").values())
    assert sum(weights_memory(*rest, "bf16-true").values()) == pytest.approx(whole / 2, abs=2)
    assert weights_memory(*rest, "bf16-mixed") == weights_memory(*rest, "32-true")


def test_what_does_not_fit_is_one_line():
    sizes = {"network": 3 * GIB, "second": 3 * GIB}
    check_weights_memory(sizes, TrainerSettings(memory=6))
    with pytest.raises(UserError) as caught:
        check_weights_memory(sizes, TrainerSettings(memory=5.5))
    assert str(caught.value) == (
        "trainer.memory=5.5: weights, gradients and optimizer state take 6 GiB (network 3, second "
        "3); take a smaller network, fewer trained weights (peft=lora), or a method without a "
        "second network"
    )
    check_weights_memory(sizes, TrainerSettings(memory=5.5, strategy="fsdp"))


def test_nor_does_what_no_machine_has():
    with pytest.raises(
        UserError, match=r"the memory of a device: .* GiB, but weights, .* 1e\+06 GiB"
    ):
        check_weights_memory({"network": 10**6 * GIB}, TrainerSettings(accelerator="cpu"))


def test_a_command_is_refused_before_data_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = (*QUIET, "recipe=dividemix", "run_dir=run", "trainer.memory=0.001", "data.root=nowhere")
    outcome = roux(*run)
    assert outcome.code == 2 and not (tmp_path / "run").exists()
    (line,) = [line for line in outcome.lines if line.startswith("error:")]
    assert line.startswith("error: trainer.memory=0.001: weights") and "second" in line
