import pytest
import torch

from datamodules.neighbor_order import ClassPlaces, MakeNeighborOrder, NeighborOrder
from foundation.errors import UserError

# classes 0, 2, 3, 5, 7, 8 with ten samples each
CLASSES = torch.tensor([0, 2, 3, 5, 7, 8])
LABELS = CLASSES.repeat(10)


def places(node=None) -> ClassPlaces:
    """Classes at angles: 0, 2 and 3 are near each other, and so are 5, 7 and 8."""
    degrees = torch.zeros(9)
    degrees[CLASSES] = torch.tensor([0.0, 10, 25, 90, 105, 110])
    angle = torch.deg2rad(degrees)
    means = 0.9 * torch.stack([angle.cos(), angle.sin()], 1)
    return ClassPlaces(means, torch.arange(9) if node is None else torch.tensor(node))


def order(given=None, anchors=2, neighbors=2, per_class=3, seed=0) -> NeighborOrder:
    made = NeighborOrder(LABELS, anchors, neighbors, per_class, seed, "order", "labeled")
    if given is not None:
        made.renew(given)
    return made


def of_batches(made: NeighborOrder, number: int) -> torch.Tensor:
    """[number, anchors, neighbors] classes; every one has all its samples in a row."""
    labels = LABELS[made.take(0, number * made.length)]
    labels = labels.view(number, made.anchors, made.neighbors, made.per_class)
    assert torch.equal(labels[..., 0], labels[..., -1])
    return labels[..., 0]


@pytest.mark.parametrize("given", [None, places()], ids=["before", "after"])
def test_a_batch_has_different_classes_of_different_samples(given):
    for row in of_batches(order(given), 50):
        assert len(row.unique()) == 4
    for row in order(given).take(0, 600).view(50, 12):
        assert len(row.unique()) == 12


def test_an_anchor_is_followed_by_its_nearest_class():
    nearest = {0: 2, 2: 0, 3: 2, 5: 7, 7: 8, 8: 7}
    for row in of_batches(order(places(), anchors=1), 50)[:, 0].tolist():
        assert row[1] == nearest[row[0]]


def test_classes_that_are_taken_are_passed_over():
    found = of_batches(order(places()), 200).tolist()
    beside = {tuple(row[0]) for row in found if row[1][0] == 2 and row[0][0] == 0}
    assert beside == {(0, 3)}
    after = {tuple(row[1]) for row in found if row[0] == [0, 2] and row[1][0] == 3}
    assert after == {(3, 5)}


def test_anchors_are_of_different_nodes_where_there_are_enough():
    two_nodes = places([0, 9, 0, 0, 9, 5, 9, 5, 5])
    for row in of_batches(order(two_nodes), 50)[:, :, 0]:
        assert (row <= 3).sum() == 1
    one_node = places([4] * 9)
    anchors = of_batches(order(one_node), 300)[:, :, 0]
    assert all(len(row.unique()) == 2 for row in anchors)
    assert torch.bincount(anchors.flatten(), minlength=9)[CLASSES].min() > 60


def test_before_places_are_known_all_classes_come():
    counts = torch.bincount(of_batches(order(), 300).flatten(), minlength=9)[CLASSES]
    assert counts.min() > 150


def test_a_batch_depends_on_its_number_and_the_places_alone():
    whole = order(places()).take(0, 240)
    for start, stop in ((120, 144), (5, 17), (228, 240), (30, 30)):
        assert torch.equal(order(places()).take(start, stop), whole[start:stop])
    assert not torch.equal(order(places(), seed=1).take(0, 240), whole)
    made = order()
    assert not torch.equal(made.take(0, 12), whole[:12])
    made.renew(places())
    assert torch.equal(made.take(0, 240), whole), "what was read before leaves nothing"


def test_few_samples_repeat_and_missing_labels_come_in_no_batch():
    labels = LABELS.clone()
    labels[::5] = -1
    made = NeighborOrder(labels, 2, 2, 12, 0, "order", "labeled")
    for row in made.take(0, 480).view(40, 12):
        assert (labels[row] >= 0).all()
        assert len(row.unique()) == int((labels == labels[row[0]]).sum())


def make(batch_size=12, **settings):
    maker = MakeNeighborOrder(**{"anchors": 2, "neighbors": 2} | settings, per_class=3)
    return maker({"label": LABELS}, batch_size, 100, 0, "labeled")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 16},
            "data.batch_size=16: a batch has methods.hierarchical_triplet.anchors=2 classes and "
            "their nearest, methods.hierarchical_triplet.neighbors=2 in all, with "
            "methods.hierarchical_triplet.samples_per_class=3 samples each; "
            "expected data.batch_size=12",
        ),
        (
            {"anchors": 4, "batch_size": 24},
            "methods.hierarchical_triplet.anchors=4: with methods.hierarchical_triplet.neighbors=2 "
            "a batch has 8 classes, the labeled data has 6; expected e.g. "
            "methods.hierarchical_triplet.anchors=3 methods.hierarchical_triplet.neighbors=2 "
            "data.batch_size=18",
        ),
        (
            {"task": "lable"},
            "methods.hierarchical_triplet.task=lable: there is no such task; did you mean 'label'?",
        ),
    ],
    ids=["batch", "classes", "task"],
)
def test_what_cannot_be_is_said_in_one_line(settings, message):
    with pytest.raises(UserError) as refusal:
        make(**settings)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
