"""The data module: what it delivers, and that a stopped and resumed run sees what an uninterrupted
one sees."""

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from datamodules.clock import Clock
from datamodules.datamodule import StreamDataModule
from datamodules.source import ArraySource, DataInfo, Splits
from datamodules.sources import Digits
from datamodules.streams import moved
from foundation.errors import UserError
from foundation.randomness import Randomness


def ready(rank: int = 0, world: int = 1, total: int = 12, **settings) -> StreamDataModule:
    data = StreamDataModule(source=Digits(), **{"batch_size": 8, "unlabeled_ratio": 3} | settings)
    data.request({"labeled", "unlabeled"})
    data.place(rank, world, total)
    data.setup()
    return data


class Backwards:
    """The samples from the last to the first."""

    def __init__(self, count: int):
        self.count = count

    def take(self, start: int, stop: int) -> torch.Tensor:
        return self.count - 1 - torch.arange(start, stop)


def test_what_is_known_before_reading_is_true_after_reading():
    data = StreamDataModule(source=Digits(tasks=["label", "parity"]))
    assert data.info == DataInfo("image", {"label": 10, "parity": 2}, (1, 8, 8), 1297)
    assert not data.parts
    data.setup()
    assert data.tasks == data.info.tasks and data.kind == "image"
    assert data.sizes["labeled"] + data.sizes["val"] == data.info.train_size
    assert data.classes["parity"] == ["even", "odd"]


def test_batches_have_the_promised_form_and_true_content():
    data = ready(labels_per_class=4)
    source = data.parts["labeled"].source
    batches = list(data.train_dataloader())
    assert [batch["position"] for batch in batches] == list(range(12)) and len(
        data.train_dataloader()
    ) == 12
    for batch in batches:
        for stream, size in (("labeled", 8), ("unlabeled", 24)):
            part = batch[stream]
            assert part["data"].shape == (size, 1, 8, 8) and part["data"].dtype == torch.uint8
            rows = data.parts["unlabeled"].rows[part["index"]]
            assert part["data"].equal(source.pixels[rows])
            assert part["targets"]["label"].equal(source.targets["label"][rows])


def test_index_names_one_sample_whatever_the_stream():
    data = ready(labels_per_class=4)
    pool = data.parts["unlabeled"]
    assert pool.index.equal(torch.arange(data.sizes["unlabeled"]))
    labeled = data.parts["labeled"]
    assert labeled.rows.equal(pool.rows[labeled.index])
    assert set(labeled.rows.tolist()) <= set(pool.rows.tolist())


def test_only_requested_streams_are_loaded():
    data = StreamDataModule(source=Digits(), batch_size=8)
    data.place(0, 1, 3)
    data.setup()
    assert set(next(iter(data.train_dataloader()))) == {"position", "labeled"}
    with pytest.raises(UserError, match="no stream 'unlabelled'; did you mean 'unlabeled'"):
        data.request({"unlabelled"})


def test_ranks_share_the_global_batch():
    whole = list(ready().train_dataloader())
    halves = [list(ready(rank, 2).train_dataloader()) for rank in range(2)]
    for one, first, second in zip(whole, *halves, strict=True):
        for stream in ("labeled", "unlabeled"):
            assert torch.cat([first[stream]["index"], second[stream]["index"]]).equal(
                one[stream]["index"]
            )


def test_workers_change_nothing():
    here, there = (
        list(ready(total=5).train_dataloader()),
        list(ready(total=5, num_workers=2).train_dataloader()),
    )
    for a, b in zip(here, there, strict=True):
        assert a["position"] == b["position"]
        assert a["unlabeled"]["index"].equal(b["unlabeled"]["index"])
        assert a["labeled"]["data"].equal(b["labeled"]["data"])


def test_evaluation_delivers_every_sample_once_over_ranks():
    for name, size in (("test", 500), ("val", 130)):
        seen = []
        for rank in range(3):
            data = ready(rank, 3, eval_batch_size=64, batch_size=9)
            loader = data.evaluation_loader(name)
            batches = list(loader)
            assert all(set(batch) == {"data", "targets", "index"} for batch in batches)
            seen += [batch["index"] for batch in batches]
        assert torch.cat(seen).sort().values.equal(torch.arange(size))


def test_no_validation_part_where_none_is_asked_for():
    data = ready(val_fraction=0.0)
    assert (
        "val" not in data.sizes and data.val_dataloader() == [] and data.sizes["unlabeled"] == 1297
    )


def test_class_counts_are_those_of_the_labels_training_sees():
    data = ready(labels_per_class=4, label_noise=0.5)
    seen = torch.bincount(data.parts["labeled"].targets["label"], minlength=10)
    assert data.class_counts("label").equal(seen) and seen.sum() == 40
    labeled = data.parts["labeled"]
    true = labeled.source.targets["label"][labeled.rows]
    assert (true != labeled.targets["label"]).sum() == 20
    # the unlabeled stream carries true labels: they measure pseudo-labels
    rows = data.parts["unlabeled"].rows
    assert (
        data.parts["unlabeled"]
        .targets["label"]
        .equal(data.parts["labeled"].source.targets["label"][rows])
    )


def test_split_seed_and_order_seed_are_separate():
    base, order, split = ready(), ready(seed=1), ready(split_seed=1)
    first = [next(iter(data.train_dataloader()))["labeled"]["index"] for data in (base, order)]
    assert base.parts["val"].rows.equal(order.parts["val"].rows) and not first[0].equal(first[1])
    assert not base.parts["val"].rows.equal(split.parts["val"].rows)


def test_an_own_validation_part_is_used_whole():
    def part(size: int) -> ArraySource:
        labels = torch.arange(size) % 3
        pixels = torch.zeros(size, 1, 2, 2, dtype=torch.uint8)
        return ArraySource(pixels, {"label": labels}, {"label": ["a", "b", "c"]})

    class WithVal:
        def info(self):
            return DataInfo("image", {"label": 3}, (1, 2, 2), 30)

        def load(self, root):
            return Splits(part(30), part(9), val=part(12))

    data = StreamDataModule(source=WithVal(), val_fraction=0.5)
    data.setup()
    assert data.sizes == {"labeled": 30, "unlabeled": 30, "val": 12, "test": 9}


def test_batches_of_reference_do_not_follow_an_order_that_changes():
    """A run that resumes after a change estimates on the same samples."""

    def backwards(targets, batch_size, total, seed, stream):
        return Backwards(len(targets["label"]))

    plain, live = ready(), StreamDataModule(source=Digits(), batch_size=8, unlabeled_ratio=3)
    changing = {"unlabeled": [Clock.every_pass("unlabeled")]}
    live.request({"labeled", "unlabeled"}, {"unlabeled": backwards}, live=changing)
    live.place(0, 1, 12)
    live.setup()
    pairs = zip(plain.reference_batches(), live.reference_batches(), strict=True)
    assert all(a[name]["index"].equal(b[name]["index"]) for a, b in pairs for name in a)


def test_indivisible_batch_names_the_key():
    with pytest.raises(UserError, match=r"data\.batch_size=7 .* divide by their number, 2"):
        ready(0, 2, batch_size=7).train_dataloader()


class Noise:
    """A view that adds one drawn number to each picture."""

    def __call__(self, pixels, draw_for):
        return pixels.float() / 255 + draw_for("amount").uniform()[:, None, None, None]


def test_views_with_a_digit_are_other_draws_of_the_same_transform():
    data = ready(views={"weak": Noise(), "raw": lambda pixels, draw_for: pixels.float() / 255})
    batch = next(iter(data.train_dataloader()))["labeled"]
    draw_for = lambda purpose: Randomness(0, 5).draw(f"labeled/{purpose}", 8)  # noqa: E731
    weak, again, other = (
        data.make_view(batch, name, draw_for) for name in ("weak", "weak", "weak2")
    )
    assert weak.equal(again) and not weak.equal(other)
    assert data.make_view(batch["data"], "weak", draw_for).equal(weak)
    assert data.make_view(batch, "raw").equal(batch["data"].float() / 255)
    assert data.view_names() == {"weak", "raw"}
    with pytest.raises(UserError, match="no view 'wek2'"):
        data.make_view(batch, "wek2", draw_for)


class Recorder(LightningModule):
    """Learns nothing much, and keeps what it saw."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(64, 10), []
        nn.init.zeros_(self.layer.weight), nn.init.zeros_(self.layer.bias)

    def training_step(self, batch, batch_index):
        indices = tuple(
            tuple(batch[stream]["index"].tolist()) for stream in ("labeled", "unlabeled")
        )
        self.seen.append((batch["position"], *indices))
        logits = self.layer(batch["labeled"]["data"].flatten(1).float() / 255)
        return nn.functional.cross_entropy(logits, batch["labeled"]["targets"]["label"])

    def validation_step(self, batch, batch_index):
        self.log("size", float(len(batch["index"])))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves after optimizer step `step`, and stops there if asked to."""

    def __init__(self, step: int, path, stop: bool):
        self.step, self.path, self.stop = step, path, stop

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)
            trainer.should_stop = self.stop


def run(folder, callbacks=(), resume=None, steps=20, accumulate=1, workers=0, **trainer_settings):
    data = StreamDataModule(source=Digits(), batch_size=8, labels_per_class=1, num_workers=workers)
    data.request({"unlabeled"})
    module = Recorder()
    trainer = Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        **trainer_settings,
    )
    trainer.fit(module, data, ckpt_path=resume)
    return module, trainer, data


@pytest.mark.parametrize(("accumulate", "workers"), [(1, 0), (2, 0), (1, 2)])
def test_a_resumed_run_sees_what_the_uninterrupted_one_sees(tmp_path, accumulate, workers):
    whole, trainer, _ = run(tmp_path, accumulate=accumulate, workers=workers)
    assert [entry[0] for entry in whole.seen] == list(range(20 * accumulate))
    assert trainer.num_training_batches == 20 * accumulate and trainer.global_step == 20
    path = tmp_path / "stopped.ckpt"
    first, _, _ = run(
        tmp_path, [SaveAt(7, path, stop=True)], accumulate=accumulate, workers=workers
    )
    assert first.seen == whole.seen[: 7 * accumulate]
    assert torch.load(path, weights_only=True)["StreamDataModule"] == {"position": 7 * accumulate}
    rest, trainer, _ = run(tmp_path, resume=path, accumulate=accumulate, workers=workers)
    assert rest.seen == whole.seen[7 * accumulate :]
    assert trainer.global_step == 20
    assert rest.layer.weight.equal(whole.layer.weight)


def test_resuming_where_validation_runs_in_between(tmp_path):
    settings = {"val_check_interval": 5, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    whole, _, _ = run(tmp_path, **settings)
    for step in (5, 7, 10):  # at a validation, between two, at the next
        path = tmp_path / f"at{step}.ckpt"
        run(tmp_path, [SaveAt(step, path, stop=True)], **settings)
        rest, trainer, _ = run(tmp_path, resume=path, **settings)
        assert rest.seen == whole.seen[step:] and trainer.global_step == 20


def test_a_run_that_broke_in_a_step_takes_that_step_again(tmp_path):
    whole, _, _ = run(tmp_path)
    path = tmp_path / "broken.ckpt"

    class Break(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_index):
            if batch["position"] == 7:
                raise RuntimeError("power cut")

        def on_exception(self, trainer, module, exception):
            trainer.save_checkpoint(path)

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, [Break()])
    rest, trainer, _ = run(tmp_path, resume=path)
    assert rest.seen == whole.seen[7:] and trainer.global_step == 20


def test_a_finished_run_is_extended_where_it_ended(tmp_path):
    whole, _, _ = run(tmp_path, steps=20)
    short, trainer, _ = run(tmp_path, steps=12)
    trainer.save_checkpoint(tmp_path / "short.ckpt")
    assert short.seen == whole.seen[:12]
    rest, trainer, _ = run(tmp_path, resume=tmp_path / "short.ckpt", steps=20)
    assert rest.seen == whole.seen[12:] and trainer.global_step == 20


def test_the_next_stage_starts_its_streams_anew(tmp_path):
    path = tmp_path / "stage.ckpt"
    run(tmp_path, [SaveAt(7, path, stop=True)])
    _, _, data = run(tmp_path, resume=path)
    module = Recorder()
    trainer = Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data)
    assert [entry[0] for entry in module.seen] == [0, 1, 2]


def test_words_are_numbered_before_views_are_fitted_on_the_training_part():
    happened = []

    class Fitted:
        def fit(self, source):
            happened.append(("fit", len(source)))

    def text(splits):
        happened.append(("text", len(splits.train), len(splits.test)))
        return "the codec"

    data = StreamDataModule(source=Digits(), views={"weak": Fitted()}, text=text)
    data.setup("fit")
    data.setup("test")
    assert happened == [("text", 1297, 500), ("fit", 1297)] and data.codec == "the codec"
    with pytest.raises(ValueError, match="only texts"):
        StreamDataModule(source=Digits()).decode({})


def test_a_batch_moves_whole_and_keeps_what_is_no_tensor():
    batch = {
        "position": 3,
        "labeled": {"data": torch.ones(2, dtype=torch.uint8), "targets": {"label": torch.ones(2)}},
    }
    there = moved(batch, torch.device("meta"))
    assert there["position"] == 3
    assert (
        there["labeled"]["data"].device.type
        == there["labeled"]["targets"]["label"].device.type
        == "meta"
    )
    assert batch["labeled"]["data"].device.type == "cpu"
