"""Sets with tasks of their own: labels, parts, batches, forms, and what is refused."""

import pytest
import torch

from datamodules.datamodule import StreamDataModule
from datamodules.further_sets import Further
from datamodules.own_tasks import SetsInTurn, in_form, join_sets, resized, set_lines
from datamodules.picture_form import PictureForm
from datamodules.source import ArraySource, DataInfo, Roles, Splits
from datamodules.sources.text_file import TextFile
from datamodules.splits import SplitSettings, split_training, strata
from foundation.errors import UserError


class Fixed:
    """A set of grey pictures that all have one value."""

    def __init__(self, value, train=20, test=6, side=4, tasks=("label",), classes=2, **more):
        self.value, self.sizes, self.side = value, {"train": train, "test": test}, side
        self.tasks, self.classes, self.more = tasks, classes, more

    def info(self):
        shape = (self.more.get("channels", 1), self.side, self.side)
        tasks = dict.fromkeys(self.tasks, self.classes)
        size = self.sizes["train"]
        return DataInfo("image", tasks, shape, size, disjoint=self.more.get("disjoint", False))

    def load(self, root):
        parts = {part: self.part(size) for part, size in self.sizes.items()}
        if self.more.get("val"):
            parts["val"] = self.part(self.more["val"])
        roles = (
            {"test": Roles(torch.arange(2), torch.arange(2, 4))} if self.more.get("roles") else {}
        )
        return Splits(parts["train"], parts["test"], parts.get("val"), roles)

    def part(self, size):
        pixels = torch.full((size, *self.info().shape), self.value, dtype=torch.uint8)
        targets = {task: torch.arange(size) % self.classes for task in self.tasks}
        names = [f"c{i}" for i in range(self.classes)]
        return ArraySource(pixels, targets, dict.fromkeys(self.tasks, names))


def module(*others, main=None, **settings):
    sources = {f"s{i}": {"source": other, "tasks": "own"} for i, other in enumerate(others)}
    settings = {"batch_size": 8, "val_fraction": 0.2} | settings
    data = StreamDataModule(main or Fixed(10), sources=sources, **settings)
    data.place(0, 1, 4)
    return data


def test_a_sample_has_labels_of_the_tasks_of_its_set_alone():
    data = module(Fixed(20, classes=3), Fixed(30, tasks=("a", "b")))
    data.setup()
    assert data.tasks == {"label": 2, "s0": 3, "s1_a": 2, "s1_b": 2} == data.info.tasks
    part = data.parts["labeled"]
    values = part.source.fetch(part.rows)[:, 0, 0, 0]
    for task, value in {"label": 10, "s0": 20, "s1_a": 30, "s1_b": 30}.items():
        assert torch.equal(part.targets[task] >= 0, values == value)
    assert data.facts().missing == list(data.tasks)
    assert data.sizes == {"labeled": 49, "unlabeled": 49, "test": 18, "val": 11}


def test_validation_and_few_labels_are_of_every_class_of_every_set():
    data = module(Fixed(20, classes=5), labels_per_class=2)
    data.setup()
    for name in ("label", "s0"):
        labels = data.parts["labeled"].targets[name]
        assert labels[labels >= 0].bincount().tolist() == [2] * data.tasks[name]
        assert (data.parts["val"].targets[name] >= 0).sum() in (4, 5)


def test_metrics_of_a_part_are_of_the_tasks_that_it_has():
    data = module(Fixed(20))
    data.setup()
    (batch,) = data.evaluation_loader("test")
    assert batch["targets"]["s0"].tolist() == [-1] * 6 + [0, 1] * 3
    assert batch["targets"]["label"].tolist() == [0, 1] * 3 + [-1] * 6


def test_equal_batches_have_as_many_samples_of_each_set():
    data = module(Fixed(20, train=200), Fixed(30, train=50), batch_size=9)
    data.setup()
    for batch in data.train_dataloader():
        values = batch["labeled"]["data"][:, 0, 0, 0]
        assert sorted(values.tolist()) == [10] * 3 + [20] * 3 + [30] * 3
    data = module(Fixed(20, train=2000), mix="proportional", batch_size=64)
    data.setup()
    values = next(iter(data.train_dataloader()))["labeled"]["data"][:, 0, 0, 0]
    assert (values == 20).sum() > 55


@pytest.mark.parametrize("starts", [[0, 7, 10], [0, 3, 9, 20]])
def test_an_order_in_turn_is_a_pure_function_of_the_place(starts):
    rows = torch.randperm(starts[-1], generator=torch.Generator().manual_seed(0))
    order = SetsInTurn(rows, starts, 0, "labeled")
    whole = order.take(0, 200)
    pieces = [SetsInTurn(rows, starts, 0, "labeled").take(a, a + 13) for a in range(0, 200, 13)]
    assert torch.equal(torch.cat(pieces)[:200], whole)
    sets = torch.bucketize(rows[whole], torch.tensor(starts[1:]), right=True)
    assert torch.equal(sets, torch.arange(200) % (len(starts) - 1))
    # each set in passes of its own
    first = whole[:: len(starts) - 1][: starts[1]]
    assert len(first.unique()) == starts[1]


def test_two_ranks_share_the_batches_of_one():
    def batches(rank, world):
        data = module(Fixed(20))
        data.place(rank, world, 4)
        data.setup()
        return [batch["labeled"]["index"] for batch in data.train_dataloader()]

    halves = zip(batches(0, 2), batches(1, 2), strict=True)
    for whole, two in zip(batches(0, 1), halves, strict=True):
        assert torch.equal(whole, torch.cat(two))


# -- forms -----------------------------------------------------------------------------------------
def test_pictures_are_brought_to_the_form_of_the_first_set():
    data = module(Fixed(20, side=9), Fixed(30, channels=3, side=4))
    data.setup()
    source = data.splits.train
    assert source.fetch(torch.arange(len(source))).shape == (60, 1, 4, 4)
    assert source.fetch(torch.tensor([0, 25, 45]))[:, 0, 1, 1].tolist() == [10, 20, 30]
    colored = module(Fixed(20), main=Fixed(10, channels=3))
    colored.setup()
    assert colored.splits.test.fetch(torch.tensor([0, 7])).shape == (2, 3, 4, 4)


def test_resizing_equals_that_of_single_pictures():
    pixels = torch.randint(256, (5, 1, 28, 28), dtype=torch.uint8)
    form = PictureForm(1, 8, 8)
    alone = torch.cat([resized(one[None], form) for one in pixels])
    assert torch.equal(resized(pixels, form), alone)
    assert torch.equal(resized(pixels, PictureForm(1, 28, 28)), pixels)


def test_pictures_that_cannot_be_brought_are_refused():
    with pytest.raises(
        UserError, match=r"data\.sources\.s0: its pictures cannot be brought to 1×4"
    ):
        module(Fixed(20, channels=5)).setup()
    with pytest.raises(UserError, match="cannot be brought"):
        in_form(object(), PictureForm(1, 4, 4), "x")


# -- validation parts, shared sets -----------------------------------------------------------------
def test_the_validation_part_of_one_set_is_used_alone():
    data = module(Fixed(20, val=4))
    data.setup()
    targets = data.parts["val"].targets
    assert (targets["s0"] >= 0).sum() == 4 and (targets["label"] < 0).all()
    assert data.sizes["labeled"] == 40


def test_a_set_with_the_tasks_of_the_first_stays_beside_them():
    sources = {
        "own": {"source": Fixed(20), "tasks": "own"},
        "other": {"source": Fixed(30), "tasks": None},
    }
    data = StreamDataModule(Fixed(10), sources=sources, val_fraction=0)
    data.place(0, 1, 4)
    data.setup()
    assert data.evaluated("test") == ["other_test", "test"]
    (batch,) = data.evaluation_loader("other_test")
    assert (batch["targets"]["own"] < 0).all() and (batch["targets"]["label"] >= 0).all()


def test_texts(tmp_path):
    for name, words in (("a", ("good", "bad")), ("b", ("red", "blue", "green"))):
        rows = [f"a {words[i % len(words)]} thing {i},{words[i % len(words)]}" for i in range(40)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    main = TextFile(str(tmp_path / "a.csv"))
    place = str(tmp_path / "b.csv")
    data = StreamDataModule(main, sources={"color": {"place": place, "tasks": "own"}})
    data.look()
    assert data.info.tasks == {"label": 2, "color": 3} and data.info.train_size == 32 + 31
    splits = join_sets(main.load(None), data.info, data.own_tasks).splits
    assert len(splits.train) == 63 and len(splits.test) == 17
    rows = (splits.train.targets["color"] >= 0).nonzero().flatten().tolist()
    assert rows == list(range(32, 63))
    assert all("red" in t or "blue" in t or "green" in t for t in splits.train.texts[32:])


# -- cuts ------------------------------------------------------------------------------------------
def test_strata_of_tasks_that_meet_are_those_of_the_first():
    classes = {"a": ["x", "y"], "b": ["u", "v", "w"]}
    apart = {"a": torch.tensor([0, 1, -1, -1]), "b": torch.tensor([-1, -1, 2, 0])}
    assert strata(apart, classes)[0].tolist() == [0, 1, 4, 2]
    assert strata(apart, classes)[1] == ["x", "y", "u", "v", "w"]
    met = {"a": torch.tensor([0, 1, -1]), "b": torch.tensor([-1, 1, 0])}
    labels, names = strata(met, classes)
    assert labels.tolist() == [0, 1, -1] and names == ["x", "y"]


def test_samples_with_a_label_of_the_second_task_alone_are_labeled():
    targets = {"a": torch.tensor([0, 1, -1, -1]), "b": torch.tensor([0, 1, 1, -1])}
    classes = {"a": ["x", "y"], "b": ["u", "v"]}
    cut = split_training(targets, classes, SplitSettings(val_fraction=0))
    assert cut.pool[cut.labeled].tolist() == [0, 1, 2]


# -- what is refused -------------------------------------------------------------------------------
def with_sources(sources, main=None, **settings):
    return StreamDataModule(main or Fixed(10), sources=sources, **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: with_sources({"x": {"source": Fixed(1), "tasks": "mine"}}),
            r"data\.sources\.x\.tasks: found 'mine'; expected own",
        ),
        (
            lambda: with_sources({"x": {"source": Fixed(1), "task": "own"}}),
            r"data\.sources\.x\.task: no such setting.*tasks",
        ),
        (lambda: with_sources({"x": {"tasks": "own"}}), r"data\.sources\.x: found"),
        (
            lambda: with_sources({"label": {"source": Fixed(1), "tasks": "own"}}),
            "'label' is a task of another set already",
        ),
        (
            lambda: with_sources({"x": {"source": Fixed(1, disjoint=True), "tasks": "own"}}),
            r"tasks=own: it has other classes in evaluation",
        ),
        (lambda: with_sources({"x": {"source": TextFile("a.csv"), "tasks": "own"}}), "of texts"),
        (lambda: module(mix="proportional"), r"data\.mix=proportional: is for sets with tasks"),
        (lambda: module(Fixed(20, roles=True)).setup(), "queries and a gallery belong to one set"),
        (lambda: module(Fixed(20), unlabeled="s0"), "unlabeled=s0: is a set with tasks of its own"),
        (lambda: module(Fixed(20)).request({"unlabeled"}), "guess labels of one set"),
        (lambda: module(Fixed(20)).request(set(), {"labeled": None}), "orders the samples by"),
        (
            lambda: with_sources({"x": {"place": "p", "root": "r", "tasks": "own"}}),
            r"data\.sources\.x\.place=p: is read as the first set",
        ),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_set_without_a_test_part_is_refused():
    class Whole(Fixed):
        def load(self, root):
            part = self.part(8)
            return Splits(part, part)

    with pytest.raises(UserError, match="for training and for evaluation alike"):
        module(Whole(20)).setup()


def test_a_place_is_divided_as_the_first_set_is():
    data = StreamDataModule(
        TextFile("a.csv"), sources={"x": {"place": "b.csv", "tasks": "own"}, "y": "c.csv"}
    )
    assert isinstance(data.own_tasks["x"], Further) and data.own_tasks["x"].loader.divides
    assert not data.further["y"].loader.divides


def test_the_plan_says_what_each_set_brings():
    data = module(Fixed(20, side=9, tasks=("a", "b")))
    assert set_lines(data.own_tasks, data.info, []) == [
        "set s0: samples, from 9×9 pixels, with labels of s0_a, s0_b alone"
    ]
    data.setup()
    assert "set s0: 20 samples," in set_lines(data.own_tasks, data.info, data.set_starts)[0]
