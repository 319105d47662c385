import pytest
import torch

from foundation import devices
from foundation.errors import UserError
from methods.multi_task import gram, rows
from methods.multi_task.gram import (
    GramProvider,
    gram_of_parameters,
    gram_of_representations,
    last_shared,
)
from methods.multi_task.losses import normalized, task_losses
from methods.multi_task.mgda import MGDA
from recipes.step.terms import Term
from tests.support.harness import Setup, build, fit, step_with, train
from tests.support.lab import parts
from tests.support.tiny_runs import quiet_run_of
from tests.support.worked_multi_task import TASKS, Watch


def watched(method, **settings):
    setup = Setup(tasks=TASKS, steps=1, **settings)
    recipe, watch = build({method.key or "mgda": method}, setup), Watch()
    watch.watch(recipe)
    return fit(recipe, setup), watch


def gram_by_hand(watch, of) -> torch.Tensor:
    rows = [torch.cat([g[name].flatten().double() for name in of]) for g in watch.tasks.values()]
    return torch.stack(rows) @ torch.stack(rows).T


# -- losses by task --------------------------------------------------------------------------------
def test_terms_of_a_task_are_summed_with_their_weights_and_those_of_none_stand_apart():
    step = step_with({})
    step.tasks = ("a", "b")
    one = torch.ones((), requires_grad=True)
    step.terms = {
        "supervised/a": Term("supervised/a", one * 2, task="a"),
        "fixmatch/a": Term("fixmatch/a", one * 3, weight=0.5, task="a"),
        "supervised/b": Term(
            "supervised/b", one * torch.tensor([4.0, 8.0]), mask=torch.zeros(2), task="b"
        ),
        "penalty": Term("penalty", one * 7, weight=2.0),
    }
    step.losses = {name: term.reduced() for name, term in step.terms.items()}
    found = task_losses(step)
    assert [float(loss.detach()) for loss in found.by_task] == [3.5, 0.0]
    assert found.present.tolist() == [True, False]
    assert float(found.rest.detach()) == 14
    assert float(found.weighted_sum().detach()) == 17.5
    assert float(found.weighted_sum(torch.tensor([2.0, 9.0])).detach()) == 21


@pytest.mark.parametrize(
    ("how", "expected"), [("none", [1, 2, 3]), ("one", [0.25, 0.5, 0.75]), ("tasks", [0.5, 1, 1.5])]
)
def test_sums_are_over_the_tasks_that_are_present(how, expected):
    present = torch.tensor([True, False, True])
    assert normalized(torch.tensor([1.0, 2.0, 3.0]), present, how).tolist() == expected


# -- the matrix ------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", ["shared", "last_shared", "rep"])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_gram_against_gradients_taken_one_by_one(source, kind, monkeypatch):
    seen = []
    original = GramProvider.__call__

    def spy(self, losses, representations, recipe):
        if source == "rep":
            rows = [
                torch.autograd.grad(loss, representations, retain_graph=True)[0].flatten()
                for loss in losses
            ]
            seen.append(torch.stack(rows) @ torch.stack(rows).T)
        seen.insert(0, original(self, losses, representations, recipe))
        return seen[0]

    monkeypatch.setattr(GramProvider, "__call__", spy)
    _, watch = watched(MGDA(grad_source=source), kind=kind)
    if source == "rep":
        expected = seen[1]
    else:
        shared = [name for name in watch.update if not name.startswith("heads.")]
        last = [name for name in shared if watch.update[name].ndim > 1][-1:]
        expected = gram_by_hand(watch, shared if source == "shared" else last).float()
    assert float(expected.diagonal().min()) > 0
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("width", [1, 4, 100])
def test_blocks_make_up_the_matrix(width, monkeypatch):
    monkeypatch.setattr(rows, "CACHED", 3 * width)
    monkeypatch.setattr(rows, "NARROW", 1)
    of = [torch.zeros(2, 3), torch.zeros(4), torch.zeros(5)]
    source = torch.Generator().manual_seed(0)
    gradients = [[torch.randn(x.shape, generator=source) for x in of] for _ in range(3)]
    gradients[1][1] = None
    blocks = list(rows.blocks(gradients, of))
    assert [block.shape[1] for block in blocks] == [
        min(width, 15 - start) for start in range(0, 15, width)
    ]
    j = torch.cat(blocks, 1)
    assert j.shape == (3, 15) and (j[1, 6:10] == 0).all()
    torch.testing.assert_close(j[0], torch.cat([gradient.flatten() for gradient in gradients[0]]))
    torch.testing.assert_close(gram_of_parameters(gradients, of), j @ j.T)
    assert (next(rows.blocks([gradients[0], []], of))[1] == 0).all(), "a task that reaches nothing"


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_weighted_sum_of_rows(readable, dtype, monkeypatch):
    monkeypatch.setattr(devices, "readable", lambda tensor: readable)
    source = torch.Generator().manual_seed(0)
    j = [
        [torch.randn(2, 3, generator=source).to(dtype), torch.randn(4, generator=source).to(dtype)]
        for _ in range(3)
    ]
    weights = torch.tensor([2.0, -1.0, 0.5])
    expected = [
        sum(w * row[i].double() for w, row in zip(weights, j, strict=True)) for i in range(2)
    ]
    given = [j[0], [], j[1], j[2]]
    found = rows.weighted(given, torch.cat([weights[:1], torch.tensor([9.0]), weights[1:]]))
    for mine, yours in zip(found, expected, strict=True):
        assert mine.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        torch.testing.assert_close(mine.double(), yours, rtol=1e-6, atol=1e-6)
    assert given == [[]] * 4, "let go"


def test_what_one_task_alone_reaches_is_not_shared():
    of = [torch.zeros(1), torch.zeros(1)]
    two = torch.full((1,), 2.0)
    assert gram_of_parameters([[two, two], [two, None]], of).tolist() == [[4, 4], [4, 4]]


# -- what the weights do ---------------------------------------------------------------------------
@pytest.mark.parametrize("norm", [False, True])
def test_the_update_is_the_weighted_sum_and_heads_keep_their_own_gradient(norm):
    result, watch = watched(MGDA(), norm=norm)
    weights = [result.history[0][f"train/weight/{task}"] for task in TASKS]
    assert sum(weights) == pytest.approx(1, abs=1e-6) and len({round(w, 4) for w in weights}) == 3
    for name, gradient in watch.update.items():
        own = [g[name] for g in watch.tasks.values()]
        if name.startswith("heads."):
            (expected,) = [g for g in own if g is not None]
        else:
            expected = sum(w * g for w, g in zip(weights, own, strict=True))
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7, msg=name)


def test_scaled_heads_give_shared_layers_the_same_update():
    gated, scaled = watched(MGDA())[1].update, watched(MGDA(scale_heads=True))[1].update
    for name in gated:
        same = torch.allclose(gated[name], scaled[name], rtol=1e-5, atol=1e-7)
        assert same != name.startswith("heads."), name


def test_weights_are_reused_between_updates_and_in_a_second_pass():
    every = [
        row["train/weight/shape"]
        for row in train({"mgda": MGDA(update_every=2)}, tasks=TASKS, steps=4).history
    ]
    assert every[0] == every[1] != every[2] == every[3]

    from methods.regularization.sam import SAM

    calls = []

    class Counted(MGDA):
        def solve(self, gram, found, step):
            calls.append(step.replay)
            return super().solve(gram, found, step)

    train({"mgda": Counted(), "sam": SAM()}, tasks=TASKS, steps=2)
    assert calls == [False, False]


def test_an_absent_task_weighs_nothing_and_leaves_the_others_alone():
    from methods.multi_task.mgda import min_norm
    from tests.support.worked_multi_task import G

    there = torch.tensor([True, True, False])
    expected = torch.cat([min_norm(G[:2, :2]), torch.zeros(1, dtype=G.dtype)])
    torch.testing.assert_close(min_norm(G, there), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_missing_labels_and_a_second_loss_train(kind):
    from methods.semi_supervised.fixmatch import FixMatch

    methods = {"fixmatch": FixMatch(threshold=0.0), "mgda": MGDA(grad_source="rep")}
    result = train(methods, kind=kind, tasks=TASKS, missing=True, steps=3)
    assert all(torch.isfinite(value).all() for value in result.parameters.values())
    assert all(0 <= row[f"train/weight/{task}"] <= 1 for row in result.history for task in TASKS)


def test_accumulation_weighs_every_micro_batch():
    result = train({"mgda": MGDA()}, tasks=TASKS, steps=2, accumulate=2)
    assert result.trainer.global_step == 2


# -- refusals --------------------------------------------------------------------------------------
def test_one_task_is_refused_in_one_line():
    with pytest.raises(
        UserError, match=r"^methods.mgda needs 2 tasks or more, data=fake has 1: choose .*tasks=\["
    ):
        train({"mgda": MGDA()})


def test_float16_is_refused():
    with pytest.raises(UserError, match=r"mgda does not work in trainer.precision=16-mixed"):
        train({"mgda": MGDA()}, tasks=TASKS, precision="16-mixed")


def test_a_frozen_backbone_leaves_nothing_to_share():
    setup = Setup(tasks=TASKS, steps=1)
    for source in ("shared", "last_shared", "rep"):
        network = setup.network()
        network.body.requires_grad_(False)
        with pytest.raises(UserError, match=r"unfreeze"):
            fit(build({"mgda": MGDA(grad_source=source)}, setup, network), setup)


def test_a_named_layer():
    network = Setup(tasks=TASKS).network()
    assert last_shared(network) is network.body[2].weight
    assert last_shared(network, "body.0.weight") is network.body[0].weight
    with pytest.raises(UserError, match=r"layer='body.0.wieght': .*body.0.weight"):
        last_shared(network, "body.0.wieght")


@pytest.mark.parametrize("name", ["diff_pruning", "unipelt"])
def test_gates_are_not_the_last_shared_layer(name):
    """Their gradient vanishes with the change that they gate."""
    _, recipe = parts(quiet_run_of("image", "gradnorm", name))
    chosen = last_shared(recipe.network)
    (found,) = (key for key, p in recipe.network.named_parameters() if p is chosen)
    assert "alpha" not in found and "gate" not in found
    assert found.startswith(f"deltas.{name}.")


def slopes(z, heads):
    """The gradients at z of one loss per head, a mean over the rows of z."""
    return [torch.autograd.grad((z @ head).tanh().mean(), z) for head in heads]


def test_representations_of_two_ranks_give_the_matrix_of_the_global_batch(monkeypatch):
    """A rank's losses are means over its own rows: the gradient of the global mean is half of it."""
    source = torch.Generator().manual_seed(2)
    whole = torch.randn(8, 3, generator=source, requires_grad=True)
    heads = torch.randn(2, 3, generator=source)
    expected = gram_of_representations(slopes(whole, heads), [whole])
    halves = [part.detach().requires_grad_() for part in whole.chunk(2)]
    by_rank = [gram_of_representations(slopes(z, heads), [z]) for z in halves]
    monkeypatch.setattr(gram, "world_size", lambda: 2)
    monkeypatch.setattr(gram, "global_sum", lambda value: sum(by_rank))
    found = gram_of_representations(slopes(halves[0], heads), [halves[0]])
    torch.testing.assert_close(found, expected)
