"""What a run makes of its machine: choices that follow from the device, the methods and the
network."""

import subprocess
import sys

import pytest
import torch

from foundation.errors import UserError
from recipes.config.resolve import resolve_command
from recipes.contract import Declaration, Method
from recipes.engine.hardware import (
    backend_of,
    check_compiler,
    convolutional,
    peak_memory,
    resident_memory,
    use_channels_last,
)
from recipes.engine.trainer import TrainerSettings
from recipes.runs.plan import describe
from recipes.setup.assemble import assemble
from recipes.setup.precision import chosen_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Full(Method):
    declaration = Declaration(precisions=("32-true",))


def machine(monkeypatch, capability):
    """As if there were a GPU of this capability; None: none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


@pytest.mark.parametrize(
    ("capability", "settings", "methods", "chosen"),
    [
        (None, {}, [], "32-true"),
        ((7, 5), {}, [], "32-true"),
        ((8, 0), {}, [], "bf16-mixed"),
        ((9, 0), {}, [Method()], "bf16-mixed"),
        ((9, 0), {}, [Method(), Full()], "32-true"),
        ((9, 0), {"accelerator": "cpu"}, [], "32-true"),
        ((9, 0), {"precision": "16-mixed"}, [], "16-mixed"),
        (None, {"precision": 64}, [], "64"),
    ],
)
def test_precision(monkeypatch, capability, settings, methods, chosen):
    machine(monkeypatch, capability)
    assert chosen_precision(TrainerSettings(**settings), methods) == chosen


def sketch(*overrides):
    return assemble(resolve_command(["data=digits", *overrides, "run_dir=unused"]).config)


def test_kernels_lie_channels_last_where_a_gpu_wants_them_so():
    cnn = sketch("network.name=wrn_28_2").meta_network()
    vit = sketch("network.name=vit_tiny_patch16_224", "network.input_size=32").meta_network()
    assert convolutional(cnn) and not convolutional(vit)
    assert use_channels_last("auto", cnn, GPU)
    assert not use_channels_last("auto", vit, GPU) and not use_channels_last("auto", cnn, CPU)
    assert use_channels_last(True, vit, CPU) and not use_channels_last(False, cnn, GPU)


def test_the_plan_says_what_was_chosen(monkeypatch):
    here = sketch("trainer.accelerator=cpu")
    said = describe(here, here.meta_network())
    assert "precision 32-true" in said and "network not compiled, memory contiguous" in said
    assert (
        "SGD(lr=0.03, weight_decay=0.0005, momentum=0.9, nesterov=True, layer_decay=1.0, lr_scaling=linear, options={}), on lists of "
        "tensors" in said
    )
    machine(monkeypatch, (9, 0))
    there = sketch("trainer.compile=true")
    said = describe(there, there.meta_network())
    assert "precision bf16-mixed" in said
    assert (
        "network compiled by inductor before its heads, memory channels-last" in said
        and ", fused" in said
    )


def test_a_compiler_is_looked_for_before_the_run(monkeypatch):
    assert [backend_of(wanted) for wanted in (False, True, "eager")] == [None, "inductor", "eager"]
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_compiler(TrainerSettings(compile="aot_eager"))
    with pytest.raises(
        UserError,
        match=r"trainer.compile=true: needs a C\+\+ compiler \(no-such-compiler\), which is",
    ):
        sketch("trainer.compile=true", "trainer.accelerator=cpu")


def test_the_most_memory_of_this_process():
    before = peak_memory(CPU)
    assert 50 * 2**20 < before < 64 * 2**30
    held = torch.ones(before // 4 + 2**26)  # four bytes each: more than was held at any time
    assert peak_memory(CPU) > before
    del held
    assert peak_memory(CPU) > before  # the most, not the present
    assert resident_memory(most=False) < resident_memory(most=True)


def test_the_memory_of_a_run_is_not_that_of_the_process_that_starts_it():
    held = torch.ones(2**29)  # 2 GiB, more than the imports of a run
    code = (
        "import sys; from recipes.engine.hardware import resident_memory as used; print(used(True))"
    )
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(started.stdout) < held.nbytes
