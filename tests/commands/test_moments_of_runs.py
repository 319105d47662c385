"""BatchNorm moments of an averaged network in whole runs: in every checkpoint, on two ranks, and
after a resume."""

import os
import subprocess
import sys

import pytest
import torch

from recipes.runs.run import set_up
from recipes.runs.start import ready
from recipes.services.moments import Moments
from recipes.setup.assemble import assemble
from tests.commands.test_resume import same, weights
from tests.commands.test_several_ranks import TWO
from tests.support.command import REPOSITORY, roux

SETTINGS = (
    *("recipe=fixmatch", "data.labels_per_class=4", "data.batch_size=8", "data.unlabeled_ratio=2"),
    *(
        "trainer.max_steps=6",
        "trainer.val_every=3",
        "trainer.accelerator=cpu",
        "trainer.progress_bar=false",
    ),
)


def reestimated(folder):
    """The moments of a checkpoint's averaged weights, found by one process from the weights and the
    config alone."""
    assembly = assemble(ready([*SETTINGS, f"run_dir={folder}"]))
    recipe = set_up(assembly)
    network = recipe.teacher.network.train()
    recipe.load_state_dict(weights(folder)["state_dict"])
    moments = Moments(network)
    batches = enumerate(assembly.datamodule.reference_batches())
    moments.estimate(
        network, [recipe.reported.reference_inputs(network, batch, i) for i, batch in batches]
    )
    return dict(moments.named_buffers())


def held(folder):
    prefix = "teacher.moments."
    state = weights(folder)["state_dict"]
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def check(folder):
    expected, found = reestimated(folder), held(folder)
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, msg=lambda text, name=name: f"{name}: {text}"
        )
    layers = weights(folder)["state_dict"]
    first = next(
        name
        for name in layers
        if name.startswith("teacher.network") and name.endswith("running_mean")
    )
    assert not torch.equal(found["mean_0"], layers[first]), (
        "the network's own buffers are another thing"
    )


def test_the_checkpoint_of_a_run_and_of_one_that_resumed(tmp_path):
    """Also where it was written between two validations; and a resumed run has the same bits."""
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    assert roux(*SETTINGS, f"run_dir={whole}").code == 0
    check(whole)
    assert roux(*SETTINGS, "trainer.max_steps=4", "trainer.val_every=3", f"run_dir={cut}").code == 0
    assert held(cut).keys() == held(whole).keys()
    (cut / "metrics.json").unlink()
    assert roux(*SETTINGS, f"run_dir={cut}", f"resume={cut}").code == 0
    # the ramps of four steps were others, so the weights differ; their moments are their own
    check(cut)


@pytest.mark.slow
def test_two_ranks_hold_what_one_process_finds(tmp_path):
    for folder in (tmp_path / "two", tmp_path / "again"):
        command = [
            sys.executable,
            str(REPOSITORY / "train.py"),
            *SETTINGS,
            *TWO,
            f"run_dir={folder}",
        ]
        subprocess.run(
            command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    check(folder)
    assert same(held(tmp_path / "two"), held(folder))
