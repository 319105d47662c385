"""`resume=RUN`: an interrupted run that is resumed ends as if nothing had happened."""

import pytest
import torch

from recipes.engine.recipe import Recipe
from tests.support.command import QUIET, read_metrics, roux, snapshot, train

TWELVE = (
    "trainer.max_steps=12",
    "trainer.val_every=6",
    "trainer.log_every=1",
    "data.labels_per_class=4",
)
RECIPES = {
    "supervised": ("recipe=supervised", "optimizer=adamw", "scheduler=cosine", "averaging=ema"),
    "three families": (
        "recipe=fixmatch",
        "long_tail=logit_adjustment",
        "regularization=sam",
        "data.imbalance_factor=20",
    ),
    # its perturbation has the shape of the batch
    "free_at": ("adversarial=free_at", "methods.free_at.replays=2", "data.batch_size=8"),
}


def interrupt_at(step, monkeypatch):
    """Ctrl-C once `step` optimizer steps are done."""
    publish = Recipe.publish

    def stop(self, done, lr):
        publish(self, done, lr)
        if done == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recipe, "publish", stop)


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("name", RECIPES)
def test_an_interrupted_run_ends_bit_equal_to_an_uninterrupted_one(name, place, monkeypatch):
    command = (*RECIPES[name], *TWELVE)
    train(place / "whole", *command)
    with monkeypatch.context() as patch:
        interrupt_at(9, patch)
        outcome = roux(*QUIET, *command, "run_dir=cut")
    assert (outcome.code, outcome.lines[-1]) == (130, "interrupted")
    assert weights(place / "cut")["global_step"] == 6
    assert [row["step"] for row in read_metrics(place / "cut")] == list(range(1, 10))

    train(place / "cut", *command, "resume=cut")
    whole, cut = weights(place / "whole"), weights(place / "cut")
    assert whole["global_step"] == cut["global_step"] == 12
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(whole[part], cut[part]), part
    assert read_metrics(place / "whole") == read_metrics(place / "cut")


def test_a_wandb_run_continues_under_its_id(place, monkeypatch):
    command = (*TWELVE, "logger=wandb", "logger.wandb.mode=offline", "logger.wandb.plots=false")
    with monkeypatch.context() as patch:
        interrupt_at(7, patch)
        assert roux(*QUIET, *command, "run_dir=cut").code == 130
    identity = (place / "cut" / "wandb_id").read_text()
    train(place / "cut", *command, "resume=cut")
    assert (place / "cut" / "wandb_id").read_text() == identity
    runs = {
        path.name.split("-")[3]
        for path in (place / "cut" / "wandb").glob(  # two in a second have a number behind
            "offline-run-*"
        )
    }
    assert runs == {identity.strip()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, "trainer.max_steps=2")
    return folder


REFUSED = {
    "another recipe": (
        ["recipe=fixmatch"],
        "made with methods: none, but this run has ema, fixmatch",
    ),
    "another optimizer": (["optimizer=adamw"], "made with optimizer: SGD, but this run has AdamW"),
    "another network": (
        ["network.name=resnet20_cifar"],
        "made with network.name: auto, but this run has resnet20_cifar",
    ),
    "another width": (
        ["+network.options.width=8"],
        "settings differ from the checkpoint's: network.options.width unset -> 8;",
    ),
    "another width that is meant": (
        ["+network.options.width=8", "accept_changes=true"],
        "does not fit this run, 'network.",
    ),
    "other tasks": (
        ["data.source.tasks=[label,parity]"],
        "data.source.tasks [label] -> [label,parity]: cannot change on the way",
    ),
    "nothing left": (
        ["trainer.max_steps=2"],
        "has done 2 steps and trainer.max_steps=2, so nothing is left",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_checkpoint_that_does_not_fit_is_refused_and_its_run_untouched(kind, finished):
    arguments, line = REFUSED[kind]
    before = snapshot(finished.parent)
    outcome = roux(
        *QUIET, "trainer.max_steps=4", *arguments, f"run_dir={finished}", f"resume={finished}"
    )
    assert outcome.code == 2
    assert len(outcome.lines) == 1 and outcome.err.startswith(
        f"error: resume={finished}: {line}"
    ), outcome.err
    assert snapshot(finished.parent) == before


def test_a_finished_run_can_be_made_longer(finished, place):
    train(place / "longer", "trainer.max_steps=4", f"resume={finished}")
    assert weights(place / "longer")["global_step"] == 4
