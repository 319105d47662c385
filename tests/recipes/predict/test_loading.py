"""`recipes.load`: finds the run, needs nothing but it, runs no stranger's code."""

import json
import shutil

import pytest
import torch

import recipes
from datamodules.sources import Digits, ImageFolder
from foundation.errors import UserError
from foundation.tensor_files import read_tensors
from tests.support.command import write_pictures
from tests.support.predict_runs import BATCH, no_data, run


def test_two_tasks_are_told_apart(pictures_run):
    with no_data():
        model = recipes.load(pictures_run.folder)
    assert model.classes == {"label": [str(i) for i in range(10)], "parity": ["even", "odd"]}
    test = Digits(("label", "parity")).load().test
    for task, logits in model.predict(test.pixels, "logits", batch_size=BATCH).items():
        torch.testing.assert_close(logits, pictures_run.said.logits[task], atol=1e-6, rtol=1e-6)
    final = json.loads((pictures_run.folder / "metrics.json").read_text())
    for task, labels in model.predict(test.pixels).items():
        right = sum(
            label == model.classes[task][t]
            for label, t in zip(labels, test.targets[task], strict=True)
        )
        assert right / 500 == pytest.approx(final[f"test/{task}/accuracy"])


@pytest.mark.parametrize(
    "override",
    [
        "data.sources.other={_target_: datamodules.sources.Digits}",
        "data.sources.other={source: {_target_: datamodules.sources.Digits}}",
        "trainer.profiler={_target_: pytorch_lightning.profilers.SimpleProfiler}",
        "+logger.csv={_target_: pytorch_lightning.loggers.CSVLogger, save_dir: csv}",
    ],
    ids=["a further set", "one with a root", "a profiler", "a logger"],
)
def test_what_only_training_calls_is_not_in_the_way(place, override):
    run(place / "run", "data=digits", "network.name=digits_cnn", override)
    with no_data():
        assert len(recipes.load("run").classes) == 10


def test_texts_without_their_file(texts_run):
    model = recipes.load(str(texts_run.folder))
    found = model.predict(texts_run.inputs, "logits", batch_size=BATCH)
    torch.testing.assert_close(found, texts_run.said.logits["label"], atol=1e-6, rtol=1e-6)
    alone = torch.stack([model.predict(text, "logits") for text in texts_run.inputs])
    torch.testing.assert_close(alone, found, atol=1e-5, rtol=1e-5)


def test_pictures_from_files_after_the_data_are_deleted(place):
    for name in ("cat", "mouse"):
        write_pictures(place / "data" / name, 20, side=17)
    said = run(
        place / "run",
        "data=image_folder",
        "data.root=data",
        "data.source.size=12",
        "data.num_workers=0",
        "network.name=digits_cnn",
        "+network.options.width=8",
        "data.labels_per_class=null",
    )
    paths = [str(path) for path in ImageFolder(size=12).load("data").test.paths]
    shutil.move(place / "data", place / "elsewhere")
    shutil.move(place / "run" / "checkpoints" / "last.ckpt", place / "alone.ckpt")
    shutil.rmtree(place / "run")
    model = recipes.load("alone.ckpt")
    moved = [path.replace("data/", "elsewhere/", 1) for path in paths]
    found = model.predict(moved, "logits", batch_size=BATCH)
    torch.testing.assert_close(found, said.logits["label"], atol=1e-6, rtol=1e-6)
    assert set(model.predict(moved)) <= {"cat", "mouse"}


def test_random_numbers_of_the_caller_are_left_alone(texts_run):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    recipes.load(texts_run.folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_best_checkpoint_is_another(pictures_run, place):
    folder = pictures_run.copied(place / "run")
    best = folder / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    for name in content["state_dict"]:
        if name.endswith("heads.parity.bias"):
            content["state_dict"][name] = torch.tensor([50.0, -50.0])
    torch.save(content, best)
    pixels = torch.randint(0, 255, (4, 1, 8, 8), dtype=torch.uint8)
    assert recipes.load("run", which="best").predict(pixels)["parity"] == ["even"] * 4
    best.unlink()
    with pytest.raises(UserError, match=r"'run' has no best\.ckpt.*which=last"):
        recipes.load("run", which="best")


def test_what_is_no_run_is_one_line(place, texts_run):
    (place / "empty").mkdir()
    (place / "sweep" / "0" / "checkpoints").mkdir(parents=True)
    (place / "broken.ckpt").write_text("nothing")
    (place / "staged").mkdir()
    (place / "staged" / "config.yaml").write_text("stages: {first: {}, second: {}}")
    for what, words in {
        "emtpy": "there is no 'emtpy'; did you mean 'empty'",
        "empty": "is no run; expected a folder of train.py with checkpoints/last.ckpt",
        "sweep": r"contains several runs \(0\); choose one, e.g. sweep/0",
        "broken.ckpt": "'broken.ckpt' is no checkpoint",
        "staged": "is not finished, its last stage 'second' has not started",
    }.items():
        with pytest.raises(UserError, match=f"^run: .*{words}") as caught:
            recipes.load(what)
        assert "\n" not in str(caught.value)


def altered(texts_run, path, change):
    content = read_tensors(texts_run.folder / "checkpoints" / "last.ckpt")
    change(content)
    torch.save(content, path)
    return path


def test_the_last_stage_is_what_is_meant(texts_run, place):
    (place / "staged").mkdir()
    (place / "staged" / "config.yaml").write_text("stages: {first: {}, second: {}}")
    texts_run.copied(place / "staged" / "second")
    assert recipes.load("staged").predict([]) == []


def test_a_checkpoint_that_does_not_say_what_it_is_made_of(texts_run, place):
    path = altered(texts_run, place / "old.ckpt", lambda content: content.pop("provenance"))
    with pytest.raises(UserError, match="has no provenance"):
        recipes.load(path)
