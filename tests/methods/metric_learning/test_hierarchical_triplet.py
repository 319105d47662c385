from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from foundation.errors import UserError
from methods.metric_learning.hierarchical_triplet import ClassTree, HierarchicalTriplet
from methods.metric_learning.triplet import Triplet
from tests.support.comparison import same
from tests.support.lab import trial
from tests.support.metric_batches import X, Y, batch, of
from tests.support.tiny_runs import run_of


def with_tree(method: HierarchicalTriplet, tree: ClassTree, x, labels) -> torch.Tensor:
    method.key = "hierarchical_triplet"
    context = SimpleNamespace(method_modules={"hierarchical_triplet": {"label": tree}})
    return method.loss(x, labels, "label", context)[0]


def grown(x, labels, classes=3, levels=16) -> ClassTree:
    tree = ClassTree(classes, levels, x.shape[1]).double()
    tree.grow(x, labels)
    return tree


def test_margins_of_the_fixture():
    classes = torch.arange(3)
    found = grown(X, Y).margins(classes, classes, 0.1, 0.2)
    expected = {(0, 1): 0.43784388, (0, 2): 1.22321891, (1, 0): 0.15484363, (1, 2): 0.94021866}
    for pair, margin in expected.items():
        assert float(found[pair]) == pytest.approx(margin, abs=1e-8)


@pytest.mark.parametrize(
    ("squared", "expected", "active"), [(True, 0.2242836097, 13), (False, 0.2167013904, 17)]
)
def test_worked_numbers(squared, expected, active):
    method = HierarchicalTriplet(squared=squared)
    method.key = "hierarchical_triplet"
    context = SimpleNamespace(method_modules={"hierarchical_triplet": {"label": grown(X, Y)}})
    loss, scores = method.loss(X, Y, "label", context)
    assert float(loss) == pytest.approx(expected, abs=1e-9)
    assert float(scores["active"]) == pytest.approx(active / 26)


def test_before_the_first_tree_it_is_half_of_plain_triplets():
    tree = ClassTree(3, 16, 2).double()
    found = with_tree(HierarchicalTriplet(margin=0.2), tree, X, Y)
    assert float(found) == pytest.approx(0.3422718733 / 2, abs=1e-9)
    x, labels = batch(1)
    tree = ClassTree(5, 16, 6).double()
    plain = of(Triplet(0.3, reduction="mean_all"), torch.nn.functional.normalize(x, dim=1), labels)
    torch.testing.assert_close(
        with_tree(HierarchicalTriplet(margin=0.3), tree, x, labels), plain / 2
    )


@pytest.mark.parametrize("squared", [True, False])
def test_it_is_the_mean_over_all_triplets(squared):
    """Against a loop, values and gradients; the tree is of other embeddings than the batch, as
    between surveys."""
    tree = grown(*batch(3, rows=40, classes=4), classes=4)
    x, labels = batch(4, rows=12, classes=4)
    labels[5] = -1
    margins = tree.margins(torch.arange(4), torch.arange(4), 0.1, 0.2)

    def expected(z: torch.Tensor) -> torch.Tensor:
        unit = torch.nn.functional.normalize(z, dim=1)
        terms = []
        for a in range(12):
            for p in range(12):
                for n in range(12):
                    positive = a != p and labels[a] == labels[p] >= 0
                    if not positive or labels[n] < 0 or labels[n] == labels[a]:
                        continue
                    d_ap, d_an = ((unit[a] - unit[i]).square().sum() for i in (p, n))
                    if not squared:
                        d_ap, d_an = d_ap.sqrt(), d_an.sqrt()
                    terms.append((d_ap - d_an + margins[labels[a], labels[n]]).clamp_min(0))
        return torch.stack(terms).mean() / 2

    same(lambda z: with_tree(HierarchicalTriplet(squared=squared), tree, z, labels), expected, x)


def test_missing_labels_are_as_if_the_samples_were_not_there():
    tree = grown(*batch(3, rows=40), classes=5)
    x, labels = batch(2)
    labels[::3] = -1
    kept = labels >= 0
    method = HierarchicalTriplet()
    found = with_tree(method, tree, x, labels)
    torch.testing.assert_close(found, with_tree(method, tree, x[kept], labels[kept]))
    x.requires_grad_()
    nothing = with_tree(method, tree, x, torch.full_like(labels, -1))
    nothing.backward()
    assert nothing == 0 and not x.grad.any()


def test_margins_may_be_below_zero():
    """A class as wide as can be: 2 · 2 / 1 · (1 - 0) = 4, with β + 4 - 4."""
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, 1]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    margins = grown(x, labels, 2).margins(labels[:1], labels[2:3], 0.1, 0.2)
    # d(0, 1) = 2 = d_0, which does not link at level 0
    assert float(margins) == pytest.approx(0.1 + 2 + 2 / 16 - 4)


def test_classes_without_samples_leave_the_others_alone():
    x, labels = batch(5, rows=30, classes=4)
    apart = labels * 2
    few = grown(x, labels, 4).margins(torch.arange(4), torch.arange(4), 0.1, 0.2)
    many = grown(x, apart, 9).margins(2 * torch.arange(4), 2 * torch.arange(4), 0.1, 0.2)
    torch.testing.assert_close(few, many)


def test_free_embeddings_leave_other_classes():
    x, labels = batch(6)
    tree = grown(x, labels, 5)
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], 0.05)
    found = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = with_tree(HierarchicalTriplet(), tree, x, labels)
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.3 * found[0]
    unit = torch.nn.functional.normalize(x.detach(), dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-1).argmax(1)
    assert torch.equal(labels[nearest], labels)


# -- in a run --------------------------------------------------------------------------------------
class Batches(pl.Callback):
    """Of each batch whether there is a tree and its classes, anchors first, [anchors, neighbors],
    with the similarity of all classes."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, torch.Tensor, torch.Tensor]] = []

    def on_train_batch_start(self, trainer, recipe, batch, number) -> None:
        tree = recipe.method_modules["hierarchical_triplet"]["label"]
        classes = batch["labeled"]["targets"]["label"].view(2, 2, 4)
        assert torch.equal(classes.amin(2), classes.amax(2))
        self.seen.append((bool(tree.known), classes[..., 0], tree.means @ tree.means.T))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_have_the_nearest_classes_of_the_newest_tree(workers):
    batches = Batches()
    changes = {"trainer.max_steps": 8, "data.num_workers": workers}
    changes |= {"methods.hierarchical_triplet.warmup": 3, "methods.hierarchical_triplet.refresh": 2}
    trial(run_of("image", "hierarchical_triplet", **changes), [batches])
    assert [known for known, *_ in batches.seen] == [False] * 3 + [True] * 5
    for known, classes, similarity in batches.seen:
        if known:
            first, second = classes[0].tolist()
            others = [c for c in range(10) if c not in (first, int(classes[1, 0]))]
            assert second == max(others, key=lambda c: float(similarity[first, c]))


def test_a_share_of_the_run_is_a_warmup():
    batches = Batches()
    changes = {"trainer.max_steps": 4, "methods.hierarchical_triplet.warmup": 0.5}
    trial(run_of("image", "hierarchical_triplet", **changes), [batches])
    assert [known for known, *_ in batches.seen] == [False, False, True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.batch_size": 8},
            "data.batch_size=8: a batch has methods.hierarchical_triplet.anch",
        ),
        ({"anchors": 1, "neighbors": 1, "data.batch_size": 4}, "a batch of one class has no negat"),
        ({"anchors": 6, "data.batch_size": 48}, "a batch has 12 classes, the labeled data has 10"),
    ],
    ids=["batch", "one class", "classes"],
)
def test_what_cannot_be_is_said_in_one_line(changes, message):
    changes = {
        name if "." in name else f"methods.hierarchical_triplet.{name}": value
        for name, value in changes.items()
    }
    with pytest.raises(UserError) as refusal:
        trial(run_of("image", "hierarchical_triplet", **changes))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
