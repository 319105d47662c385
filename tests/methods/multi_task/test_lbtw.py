from types import SimpleNamespace

import pytest
import torch

from foundation.errors import UserError
from methods.multi_task.dwa import DWA
from methods.multi_task.epochs import ONE_PASS, ends, epoch_steps
from methods.multi_task.lbtw import LBTW, balanced_weights
from methods.multi_task.losses import normalized
from methods.regularization.sam import SAM
from recipes.step import Progress
from tests.support.harness import Setup, build, train
from tests.support.worked_multi_task import TASKS

EPOCH = 4  # steps: 24 labeled samples, 6 in a batch


def test_worked_example():
    w = balanced_weights(torch.tensor([0.5, 1.8]), torch.tensor([1.0, 2.0]), 0.5)
    assert w.tolist() == pytest.approx([0.707107, 0.948683], abs=1e-6)
    scaled = normalized(w, torch.ones(2, dtype=torch.bool), "tasks")
    assert scaled.tolist() == pytest.approx([0.854102, 1.145898], abs=1e-6)
    assert balanced_weights(torch.tensor([0.5]), torch.tensor([0.0]), 0.5).isfinite().all()
    assert LBTW(alpha=0.0).idle_settings() == ["alpha"]


def losses_and_weights(method, steps, **settings):
    rows = train({"lbtw": method}, tasks=TASKS, steps=steps, **settings).history
    losses = torch.tensor([[row[f"train/supervised/{task}"] for task in TASKS] for row in rows])
    return losses, torch.tensor([[row[f"train/weight/{task}"] for task in TASKS] for row in rows])


@pytest.mark.parametrize("reference", ["epoch_first", "train_first", "epoch_mean"])
@pytest.mark.parametrize("how", ["tasks", "none"])
def test_references_in_the_engine(reference, how):
    method = LBTW(0.7, reference, how)
    losses, weights = losses_and_weights(method, 2 * EPOCH + 2)
    for step in range(len(losses)):
        epoch = step // EPOCH
        before = losses[(epoch - 1) * EPOCH : epoch * EPOCH]
        start = {
            "epoch_first": losses[epoch * EPOCH],
            "train_first": losses[0],
            "epoch_mean": before.mean(0) if epoch else losses[0],
        }[reference]
        expected = (losses[step] / start) ** 0.7
        if how == "tasks":
            expected = 3 * expected / expected.sum()
        torch.testing.assert_close(weights[step], expected, rtol=1e-4, atol=1e-5)
    assert weights[0].tolist() == pytest.approx([1, 1, 1])


def test_the_loss_is_the_weighted_sum():
    rows = train({"lbtw": LBTW(2.0)}, tasks=TASKS, steps=3).history
    for row in rows:
        terms = [row[f"train/weight/{t}"] * row[f"train/supervised/{t}"] for t in TASKS]
        assert row["train/loss"] == pytest.approx(sum(terms), rel=1e-5)


def test_an_epoch_has_fewer_steps_with_accumulation():
    context = SimpleNamespace(
        sizes={"labeled": 24}, trainer=SimpleNamespace(accumulate_grad_batches=2)
    )
    step = SimpleNamespace(streams={"labeled": SimpleNamespace(size=6)})
    assert epoch_steps(step, context) == 2
    step.streams["labeled"].size = 100
    assert epoch_steps(step, context) == 0.12


def test_epochs_are_whole_passes_over_the_samples():
    """38 samples in batches of 5 are read 7.6 steps: an epoch ends where its pass does."""
    context = SimpleNamespace(
        sizes={"labeled": 38}, trainer=SimpleNamespace(accumulate_grad_batches=1)
    )
    streams = {"labeled": SimpleNamespace(size=5)}
    found = []
    for done in range(1, 40):
        step = SimpleNamespace(streams=streams, progress=Progress(done - 1, 40))
        if ends(ONE_PASS, step, context):
            found.append(done)
    assert found == [8, 16, 23, 31, 38]


def test_an_epoch_of_one_step_is_refused():
    with pytest.raises(UserError, match=r"an epoch has one step here, .*set it to train_first"):
        train({"lbtw": LBTW()}, tasks=TASKS, steps=1, labeled=24)
    rows = train({"lbtw": LBTW(reference="train_first")}, tasks=TASKS, steps=2, labeled=24).history
    assert rows[1]["train/weight/shape"] != 1


def test_a_second_pass_is_not_counted():
    result = train({"lbtw": LBTW(), "sam": SAM()}, tasks=TASKS, steps=3)
    assert result.recipe.method_modules["lbtw"].count.tolist() == [3, 3, 3]


def test_a_task_waits_for_its_first_labels():
    recipe = build({"lbtw": LBTW()}, Setup(tasks=TASKS))
    method, state = recipe.composition.methods["lbtw"], recipe.method_modules["lbtw"]
    step = SimpleNamespace(progress=Progress(0, 10), streams={"labeled": SimpleNamespace(size=6)})
    recipe.trainer = SimpleNamespace(accumulate_grad_batches=1)

    def weights(losses, present):
        whole = torch.tensor(losses)
        found = SimpleNamespace(whole=lambda: whole, present=torch.tensor(present))
        return method.task_weights(found, step, recipe).tolist()

    weights([1.0, 0.0, 2.0], [True, False, True])
    assert state.waiting.tolist() == [False, True, False]
    assert weights([0.25, 3.0, 2.0], [True, True, True]) == pytest.approx([0.5, 1, 1])
    assert state.reference.tolist() == [1, 3, 2]


def test_dwa_and_lbtw_have_the_same_epochs():
    """DWA's weights change first after two epochs, LBTW's are 1 at the start of each."""
    rows = train({"dwa": DWA(0.3)}, tasks=TASKS, steps=2 * EPOCH + 1).history
    ones = [all(row[f"train/weight/{t}"] == 1 for t in TASKS) for row in rows]
    assert ones == [True] * 2 * EPOCH + [False]
    weights = losses_and_weights(LBTW(), 2 * EPOCH + 1)[1]
    starts = [step for step, w in enumerate(weights) if w.tolist() == pytest.approx([1, 1, 1])]
    assert starts == [0, EPOCH, 2 * EPOCH]
