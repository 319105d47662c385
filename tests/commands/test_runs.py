"""Whole runs, a few steps long, as a user starts them; and the files in their folder afterwards."""

import json
import math
import re

import pytest
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from tests.support.command import QUIET, read_metrics, roux, train, write_csv, write_pictures

STEPS = ("trainer.max_steps=4", "trainer.log_every=2", "trainer.val_every=2")
COMBINATION = (
    "recipe=fixmatch",
    "long_tail=logit_adjustment",
    "regularization=sam",
    "data.imbalance_factor=20",
)
FILES = {"config.yaml", "plan.txt", "metrics.csv", "metrics.json", "report.html", "checkpoints"}
# what makes a browser fetch something: an address in an attribute, a style or a script
LOADS = re.compile(
    r"""(?:src|href)\s*=\s*["']?(?!#|data:)[^"'#>]|@import|url\(\s*["']?(?!#|data:)|fetch\("""
)


def final(folder):
    return json.loads((folder / "metrics.json").read_text())


def check_folder(folder, more=()):
    """A finished run's folder: complete, of a piece, and readable by itself."""
    assert {p.name for p in folder.iterdir()} == FILES | set(more)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    values = final(folder)
    assert {
        "test/accuracy",
        "test/balanced_accuracy",
        "test/loss",
        "val/accuracy",
        "train/loss",
    } <= values.keys()
    assert 0 <= values["test/accuracy"] <= 1 and values["train_seconds"] > 0
    assert all(value is not None and math.isfinite(value) for value in values.values())

    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == [2, 4]
    assert all({"train/loss", "train/lr", "val/accuracy"} <= row.keys() for row in rows)

    config = OmegaConf.load(folder / "config.yaml")
    text = (folder / "config.yaml").read_text()
    assert config.trainer.max_steps == 4 and "${" not in text and "???" not in text

    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") + page.count("data:image/") >= 2 and not LOADS.search(page)
    return values


def plan(folder):
    return (folder / "plan.txt").read_text(encoding="utf-8")


def test_supervised(place):
    train(place / "run", "recipe=supervised", *STEPS)
    check_folder(place / "run")
    assert "none: cross-entropy on the labeled stream" in plan(place / "run")


def test_a_run_of_no_steps_measures_the_network_it_is_given(place):
    train(place / "trained", "recipe=supervised", *STEPS)
    start = "network.checkpoint=trained/checkpoints/last.ckpt"
    train(
        place / "again",
        "trainer.max_steps=0",
        start,
        "evaluate.attack=fgsm",
        "evaluate.attack.samples=40",
    )
    before, after = final(place / "trained"), final(place / "again")
    assert (
        after["test/accuracy"] == before["test/accuracy"]
        and after["test/loss"] == before["test/loss"]
    )
    assert after["test/robust_accuracy"] <= after["test/clean_accuracy"]
    assert not any(key.startswith(("train/", "val/")) for key in after)
    assert not (
        place / "again" / "checkpoints"
    ).exists() and "none: the network is evaluated" in plan(place / "again")


def test_fixmatch(place):
    train(place / "run", "recipe=fixmatch", *STEPS)
    values = check_folder(place / "run")
    assert {
        "train/fixmatch",
        "train/mask_rate",
        "train/confidence",
        "test/raw/accuracy",
    } <= values.keys()
    said = plan(place / "run")
    assert (
        "fixmatch: FixMatch(threshold=0.95" in said
        and "unlabeled: batch of 96, views weak, strong" in said
    )
    assert "the pseudo-labels of the unlabeled stream: fixmatch" in said


def check_combination(folder):
    values = check_folder(folder)
    assert {"train/supervised", "train/fixmatch", "train/mask_rate"} <= values.keys()
    said = plan(folder)
    for method in (
        "fixmatch: FixMatch(",
        "logit_adjustment: LogitAdjustment(",
        "sam: SAM(",
        "ema: EMA(",
    ):
        assert method in said
    assert "the correction of the class prior: logit_adjustment" in said
    assert "imbalance_factor=20" in said


@pytest.mark.parametrize(
    ("method", "name"), [("long_tail=tau_norm", "reported"), ("averaging=ema", "averaged")]
)
def test_the_final_table_says_what_stands_beside_the_raw_network(place, method, name):
    outcome = train(place / "run", method, "trainer.max_steps=2")
    (header,) = [line for line in outcome.out.splitlines() if "metric" in line and "raw" in line]
    assert {"reported", "averaged"} & set(header.replace("┃", " ").split()) == {name}


def test_three_families_on_digits(place):
    train(place / "run", *COMBINATION, *STEPS)
    check_combination(place / "run")


def test_three_families_on_a_text_of_ones_own(place):
    labels = ["news"] * 60 + ["sport"] * 60 + ["law"] * 60
    write_csv(place / "texts.csv", labels)
    train(
        place / "run",
        *COMBINATION,
        *STEPS,
        "data=text_file",
        "data.source.train_file=texts.csv",
        "data.labels_per_class=2",
        "data.batch_size=4",
        "data.text.vocab_size=200",
    )
    check_combination(place / "run")


@pytest.mark.slow
def test_three_families_on_docstrings(place):
    train(place / "run", *COMBINATION, *STEPS, "data=docstrings", "data.source.per_library=200")
    check_combination(place / "run")


def test_a_folder_of_pictures(place):
    for name in ("cat", "mouse"):
        write_pictures(place / "pictures" / name, 20)
    train(
        place / "run",
        *STEPS,
        "recipe=fixmatch",
        "data=image_folder",
        "data.root=pictures",
        "data.source.size=12",
        "data.num_workers=0",
        "data.batch_size=4",
        "data.unlabeled_ratio=2",
    )
    check_folder(place / "run")
    config = OmegaConf.load(place / "run" / "config.yaml")
    assert config.data.root == "pictures" and "cat" in (place / "run" / "report.html").read_text()


def test_noisy_labels_hurt(place):
    steps = ("trainer.max_steps=40", "trainer.val_every=40", "optimizer=adamw")
    train(place / "clean", *steps)
    train(place / "noisy", *steps, "data.label_noise=0.8")
    assert "label_noise=0.8" in plan(place / "noisy")
    assert final(place / "clean")["test/accuracy"] > final(place / "noisy")["test/accuracy"] + 0.05


def test_two_tasks(place):
    train(place / "run", "recipe=fixmatch", *STEPS, "data.source.tasks=[label,parity]")
    values = check_folder(place / "run")
    per_task = [values[f"test/{task}/accuracy"] for task in ("label", "parity")]
    assert values["test/accuracy"] == pytest.approx(sum(per_task) / 2)
    assert {"train/supervised/label", "train/fixmatch/parity"} <= values.keys()
    assert "label (10 classes), parity (2 classes)" in plan(place / "run")


def test_tensorboard_and_wandb_together(place):
    train(place / "run", *STEPS, "logger=[tensorboard,wandb]", "logger.wandb.mode=offline")
    check_folder(place / "run", more={"tensorboard", "wandb", "wandb_id"})
    assert list((place / "run" / "tensorboard").glob("events.*"))
    identity = (place / "run" / "wandb_id").read_text().strip()
    assert list((place / "run" / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))


def test_wandb_alone(place):
    train(
        place / "run",
        *STEPS,
        "logger=wandb",
        "logger.wandb.mode=offline",
        "logger.wandb.plots=false",
    )
    check_folder(place / "run", more={"wandb", "wandb_id"})


def as_overrides(node, key):
    """Every value at or below a node of a config as KEY=VALUE."""
    if isinstance(node, DictConfig):
        return [
            line
            for name in node
            if name != "_target_"
            for line in as_overrides(node[name], f"{key}.{name}")
        ]
    value = OmegaConf.to_container(node) if isinstance(node, ListConfig) else node
    return [f"{key}={json.dumps(value).replace(' ', '')}"]


def test_the_config_left_behind_makes_the_same_run(place):
    """Every value of config.yaml given back as overrides of a plain command gives the same
    numbers."""
    train(place / "first", "recipe=fixmatch", *STEPS, "seed=3")
    config = OmegaConf.load(place / "first" / "config.yaml")
    sections = ("seed", "data", "network", "optimizer", "scheduler", "trainer", "methods")
    values = [line for section in sections for line in as_overrides(config[section], section)]
    assert "methods.fixmatch.threshold=0.95" in values and "data.views.strong.pool=null" in values
    train(place / "second", "recipe=fixmatch", *values)
    assert read_metrics(place / "first") == read_metrics(place / "second")


def test_without_a_name_a_run_gets_a_folder_by_recipe_and_time(place):
    assert roux(*QUIET, *STEPS).code == 0
    (folder,) = (place / "outputs" / "supervised").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)
    check_folder(folder)


def test_a_dry_run_prints_the_plan_and_touches_nothing(place):
    outcome = roux(
        *COMBINATION, "data=cifar10", "data.root=nowhere", "trainer.max_steps=800", "dry_run=true"
    )
    assert outcome.code == 0 and outcome.err == "" and list(place.iterdir()) == []
    for title in ("streams and views", "network", "methods, in order", "slots", "optimization"):
        assert f"\n{title}\n" in outcome.out
    assert "trainable parameters, 0 frozen" in outcome.out and "800 steps" in outcome.out
