"""Wrong input of every kind: one line that names what, where and what to write instead; and nothing
has happened."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from recipes.engine.recipe import Recipe
from tests.commands.mistakes import FILE, MISTAKES, TEXT, TWO_STEPS
from tests.support.command import (
    QUIET,
    REPOSITORY,
    after_first_line,
    roux,
    snapshot,
    train,
    write_csv,
    write_pictures,
)


@pytest.fixture(autouse=True)
def files(place):
    """The files in the current folder."""
    (place / "empty.csv").write_text("")
    (place / "header.csv").write_text("text,label\n")
    write_csv(place / "one_class.csv", ["a"] * 9)
    (place / "unlabeled.csv").write_text("text,label\nsome words,a\nmore words,\nother words,b\n")
    (place / "columns.csv").write_text("txt,label\nsome words,a\nmore words,b\n")
    (place / "file").write_text("a file, where a folder is asked for")
    (place / "false.ckpt").write_bytes(b"no checkpoint")
    torch.save({"a": 1}, place / "dict.ckpt")
    (place / "nothing").mkdir()
    write_pictures(place / "single" / "cat", 4)
    for part, name in (("train", "cat"), ("test", "cat"), ("test", "mouse")):
        write_pictures(place / "gap" / part / name, 4)
    (place / "gap" / "train" / "mouse").mkdir()
    for name in ("cat", "mouse"):
        (place / "broken" / name).mkdir(parents=True)
        for i in range(4):
            (place / "broken" / name / f"{i}.png").write_bytes(b"no picture")


def contents(place):
    """A snapshot without the place itself, whose time a folder that came and went has changed."""
    return {name: found for name, found in snapshot(place).items() if name != str(place)}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_the_disk_as_it_was(kind, place):
    arguments, line = MISTAKES[kind]
    before = contents(place)
    outcome = roux(*arguments)
    assert outcome.lines == [f"error: {line.format(place=place)}"]
    assert outcome.code == 2 and outcome.out == ""
    assert contents(place) == before


STARTS = {
    "a picture that cannot be read": (
        ["data=image_folder", "data.root=broken", "data.num_workers=0", TWO_STEPS],
        "broken/",
        "repair or remove the file",
    ),
    "a set that is not there": (
        ["data=mnist", "data.root=nothing"],
        "data.root=nothing: no MNIST there",
        "set data.root to a folder that contains it",
    ),
    "devices that are not there": (
        ["trainer.accelerator=tpu", TWO_STEPS],
        "trainer.accelerator=tpu: ",
        "as trainer.accelerator=auto finds it",
    ),
    "a picture too small for the network": (
        ["network.name=vit_tiny_patch16_224"],
        "network.name='vit_tiny_patch16_224' does not accept images of 1x8x8",
        "set network.input_size to a size that it accepts, or use another network",
    ),
    "weights that are none": (
        ["network.checkpoint=false.ckpt"],
        "network.checkpoint=false.ckpt: not a file of weights",
        "",
    ),
    "a pretrained encoder without a name": (
        ["recipe=text_fixmatch"],
        "network.name: 'roux_text_small' has no pretrained weights",
        "network.name=NAME",
    ),
    "an option that the network lacks": (
        ["+network.options.foo=1"],
        "network.name='digits_cnn' with network.options={'foo': 1}",
        "'foo'",
    ),
    "an interpolation into nothing": (
        ["optimizer.lr=${trainer.lr}"],
        "optimizer.lr: '${trainer.lr}' does not resolve",
        "",
    ),
    "a view that others are made of": (
        ["data.views.weak=null"],
        "data.views.weak: is null, and data.views.strong.weak takes its",
        "a mapping",
    ),
    "wandb without a key": (
        ["logger=wandb", "logger.wandb.mode=online", TWO_STEPS],
        "logger=wandb: ",
        "logger.wandb.mode=offline needs none)",
    ),
}


@pytest.mark.parametrize("kind", STARTS)
def test_other_peoples_words_become_one_line_too(kind, place, monkeypatch):
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(place))
    monkeypatch.setenv("NETRC", str(place / "file"))
    monkeypatch.setattr("datamodules.sources.standard.CONNECT_SECONDS", 0.5)
    arguments, start, end = STARTS[kind]
    before = snapshot(place)
    outcome = roux("trainer.progress_bar=false", *arguments)
    lines = [line for line in outcome.lines if not line.startswith("wandb: ")]
    assert len(lines) == 1 and lines[0].startswith(f"error: {start}") and lines[0].endswith(end), (
        outcome.err
    )
    assert outcome.code == 2
    assert snapshot(place).keys() == before.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
def test_two_gpus_on_a_machine_without(place):
    outcome = roux("trainer.accelerator=gpu", "trainer.devices=2")
    assert outcome.lines == [
        "error: trainer.accelerator=gpu, trainer.devices=2: No supported gpu backend found; "
        "expected what this machine has, as trainer.accelerator=auto finds it"
    ]
    assert not (place / "outputs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
@pytest.mark.parametrize("start", [TWO_STEPS, "dry_run=true"])
@pytest.mark.parametrize(
    ("precision", "other"),
    [("16-mixed", "bf16-mixed"), ("16", "bf16-mixed"), ("16-true", "bf16-true")],
)
def test_half_precision_that_the_processor_lacks(place, precision, other, start):
    outcome = roux(*QUIET, start, f"trainer.precision={precision}")
    assert outcome.lines == [
        f"error: trainer.precision={precision}: a CPU has no fp16 training; "
        f"write trainer.precision={other}, or 32-true"
    ]
    assert not (place / "outputs").exists()


def test_weights_of_another_network(place):
    train(place / "run", TWO_STEPS)
    before = contents(place)
    outcome = roux("network.name=resnet20_cifar", "network.checkpoint=run/checkpoints/last.ckpt")
    assert outcome.code == 2 and len(outcome.lines) == 1
    assert "not weights of this network; missing: backbone.conv1.weight" in outcome.err
    assert contents(place) == before


def test_a_run_is_never_overwritten(place):
    train(place / "run", TWO_STEPS)
    before = snapshot(place)
    outcome = roux(*QUIET, TWO_STEPS, "run_dir=run")
    assert outcome.lines == [
        "error: run_dir: 'run' holds a run already; name another folder, or add resume=run"
    ]
    assert outcome.code == 2 and snapshot(place) == before


def test_what_lay_in_the_folder_stays_when_a_run_is_refused(place):
    (place / "nothing" / "notes.txt").write_text("mine")
    arguments, _, _ = STARTS["a picture that cannot be read"]
    assert roux(*arguments, "trainer.progress_bar=false", "run_dir=nothing").code == 2
    assert [p.name for p in (place / "nothing").iterdir()] == ["notes.txt"]


def test_all_mistakes_come_at_once(place):
    outcome = roux("recipe=fixmtch", "sed=1", "trainer.max_steps=-1", "optimizer.lr=fast")
    starts = [line.removeprefix("error: ").split(":")[0] for line in outcome.lines]
    assert starts == [
        "recipe=fixmtch",
        "sed",
        "optimizer.lr",
        "trainer.max_steps",
    ]  # the order of the config
    assert outcome.code == 2


def test_an_interruption_is_no_traceback_and_ctrl_c_works_afterwards(place, monkeypatch):
    def interrupt(self, batch, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recipe, "training_step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    outcome = roux(*QUIET, TWO_STEPS, "run_dir=run")
    assert (
        outcome.code == 130
        and outcome.lines[-1] == "interrupted"
        and "Traceback" not in outcome.err
    )
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_bug_in_a_method_keeps_its_traceback(place, monkeypatch):
    def fail(self, batch, batch_idx):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Recipe, "training_step", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        roux(*QUIET, TWO_STEPS, "run_dir=run")


def test_the_program_itself_says_the_same(place):
    arguments = [TEXT, f"{FILE}=empty.csv"]
    before = contents(place)
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2
    assert after_first_line(done.stderr) == roux(*arguments).lines
    assert contents(place) == before
