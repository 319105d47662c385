"""Data workers under every start method of Python: `fork` was Linux's default, `forkserver` is it from
Python 3.14 on, `spawn` is that of other systems. Ranks and the jobs of a sweep are commands of their
own and do not depend on it.
"""

import multiprocessing

import pytest

from recipes.engine.recipe import Recipe
from tests.commands.test_resume import same, weights
from tests.support.command import QUIET, roux, write_csv, write_pictures

PICTURES = (
    *("data=image_folder", "data.root=set", "data.source.size=12", "network.name=digits_cnn"),
)
TEXTS = (
    *("data=text_file", "data.source.train_file=set.csv", "data.source.label_column=label"),
    *("network.name=roux_text_small", "network.pretrained=false", "data.text.vocab_size=100"),
)
RUN = (
    *("recipe=supervised", "data.batch_size=8", "trainer.max_steps=6", "trainer.val_every=3"),
    *("trainer.log_every=1", "checkpoint.every_n_steps=1", "resume=auto"),
)


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def start_method(request):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_workers_give_the_batches_of_the_process_itself(kind, start_method, place):
    for name in ("a", "bb"):
        write_pictures(place / "set" / name, 20)
    write_csv(place / "set.csv", ["a", "b"] * 20)
    run = (*QUIET, *RUN, *(PICTURES if kind == "pictures" else TEXTS))
    assert roux(*run, "run_dir=alone", "data.num_workers=0").code == 0
    assert roux(*run, "run_dir=workers", "data.num_workers=2").code == 0
    assert same(weights(place / "alone")["state_dict"], weights(place / "workers")["state_dict"])


@pytest.mark.slow
def test_a_killed_worker_is_one_line_and_the_run_continues(start_method, place, monkeypatch):
    for name in ("a", "bb"):
        write_pictures(place / "set" / name, 20)
    run = (*QUIET, *RUN, *PICTURES)
    assert roux(*run, "run_dir=alone", "data.num_workers=0").code == 0
    step = Recipe.training_step

    def kill_workers(self, *batch):
        if self.trainer.global_step == 3:
            for process in multiprocessing.active_children():
                process.kill()
                process.join()
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "training_step", kill_workers)
        outcome = roux(*run, "run_dir=cut", "data.num_workers=1")
    assert outcome.code == 71, outcome.err
    (line,) = [line for line in outcome.lines if line]
    assert line.startswith("error: a data worker (pid") and "resume=auto" in line
    assert roux(*run, "run_dir=cut", "data.num_workers=1").code == 0
    assert same(weights(place / "alone")["state_dict"], weights(place / "cut")["state_dict"])
