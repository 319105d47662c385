"""Wrong input of every kind: one line that names what, where and what to write instead; and nothing
has happened."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from recipes.engine.recipe import Recipe
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

TEXT = "data=text_file"
FILE = "data.source.train_file"
TWO_STEPS = "trainer.max_steps=2"


@pytest.fixture(autouse=True)
def files(place):
    """What lies where the user stands."""
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


MISTAKES = {
    # the fifteen kinds
    "unknown recipe": (
        ["recipe=fixmtch"],
        "recipe=fixmtch: there is no recipe 'fixmtch'; did you mean 'fixmatch'?",
    ),
    "unknown method": (
        ["regularization=mixp"],
        "regularization=mixp: there is no regularization 'mixp'; did you mean 'mixup'?",
    ),
    "unknown key": (["sed=1"], "sed: unknown key; did you mean 'seed'?"),
    "key of another tool": (
        ["epochs=3"],
        "epochs: unknown key; write trainer.max_epochs=…",
    ),
    "key of another tool in a section": (
        ["trainer.num_epochs=3"],
        "trainer.num_epochs: unknown key; write trainer.max_epochs=…",
    ),
    "key without its section": (
        ["batch_size=8"],
        "batch_size: unknown key; did you mean 'data.batch_size'?",
    ),
    "usual name of a choice": (["model=resnet18"], "model: unknown key; write network.name=…"),
    "recipe that is like none": (
        ["recipe=zzz"],
        "recipe=zzz: there is no recipe 'zzz'; known: adapter_fusion, balanced_softmax, circle and 39 more",
    ),
    "optimizer of timm's that is like none": (
        ["optimizer=named", "optimizer.name=zzz"],
        "optimizer.name: there is no 'zzz'; known: adabelief, adadelta, adafactor and 99 more",
    ),
    "value that three settings take": (
        ["seed=abc"],
        "seed: got 'abc', expected a whole number between 0 and 4294967295",
    ),
    "value that a second view takes": (
        ["data.views.weak.shift=5"],
        "data.views.weak.shift: got 5, expected a number between 0 and 0.5",
    ),
    "target that is a list": (
        ["trainer._target_=[a,b]"],
        "trainer._target_: got ['a', 'b'], expected the dotted path of a class or function",
    ),
    "key under a method that is not there": (
        ["methods.mixup.alpha=2"],
        "methods.mixup.alpha: method 'mixup' is not part of this run; add regularization=mixup",
    ),
    "wrong type": (
        ["trainer.max_steps=many"],
        "trainer.max_steps: got 'many', expected a whole number at least 0",
    ),
    "out of range": (
        ["recipe=fixmatch", "methods.fixmatch.threshold=-1"],
        "methods.fixmatch.threshold: got -1, expected a number at least 0",
    ),
    "two owners of a slot": (
        ["long_tail=[balanced_softmax,logit_adjustment]"],
        "long_tail=balanced_softmax and long_tail=logit_adjustment both own the correction of the "
        "class prior, "
        "which only one method can: leave one out",
    ),
    "need unmet": (
        ["recipe=fixmatch", "data.views.strong=null"],
        "semi_supervised=fixmatch needs the view 'strong' of the unlabeled stream, data=digits "
        "makes raw, weak: "
        "give it a data.views.strong",
    ),
    "unreadable data folder": (
        ["data=image_folder", "data.root=nowhere"],
        "data.root=nowhere does not exist; give the folder that contains the set, or one to "
        "download it to",
    ),
    "empty csv": (
        [TEXT, f"{FILE}=empty.csv"],
        "empty.csv: the file is empty; expected texts with labels",
    ),
    "labels missing from a class": (
        ["data=image_folder", "data.root=gap"],
        "data: no training sample of class 'mouse' of task 'label'",
    ),
    "one class only": (
        [TEXT, f"{FILE}=one_class.csv"],
        "one_class.csv: every label is 'a'; expected two or more classes",
    ),
    "text with a method for images": (
        ["data=docstrings", "regularization=cutmix"],
        "regularization=cutmix works on image data, but data=docstrings is text: leave one out",
    ),
    "output folder not writable": (
        ["run_dir=file/run"],
        "run_dir: 'file/run' cannot be a folder: '{place}/file' is a file",
    ),
    "resume from no checkpoint": (
        ["resume=false.ckpt"],
        "resume: 'false.ckpt' is no checkpoint: it holds Python objects, or is damaged; expected "
        "tensors, numbers and texts alone, which are read without running code",
    ),
    # and more of them
    "resume from another file of torch": (
        ["resume=dict.ckpt"],
        "resume: 'dict.ckpt' is no checkpoint of a run: it holds no state_dict, global_step, "
        "pytorch-lightning_version, numbers; expected a .ckpt of a run of train.py",
    ),
    "resume from nothing": (
        ["resume=gone"],
        "resume: there is no 'gone'; name a run's folder or a .ckpt",
    ),
    "resume nearly auto": (["resume=aut"], "resume: there is no 'aut'; did you mean 'auto'?"),
    "resume from a folder without a run": (
        ["resume=nothing"],
        "resume: the folder 'nothing' holds no checkpoints/last.ckpt; name a run or a .ckpt",
    ),
    "a folder of the system": (
        ["run_dir=/proc/roux/run"],
        "run_dir: '/proc/roux/run' cannot be written: No such file or directory in '/proc'",
    ),
    "csv without rows": (
        [TEXT, f"{FILE}=header.csv"],
        "header.csv: no rows; expected texts with labels",
    ),
    "csv without a label": (
        [TEXT, f"{FILE}=unlabeled.csv", "data.source.unlabeled=false"],
        "unlabeled.csv:3: label missing (column 'label' is empty); expected one in every row, "
        "or data.source.unlabeled=true",
    ),
    "csv without the column": (
        [TEXT, f"{FILE}=columns.csv"],
        "columns.csv:2: no column 'text' for the text; did you mean 'txt'?",
    ),
    "no csv": ([TEXT, f"{FILE}=emty.csv"], "emty.csv: no such file; did you mean 'empty.csv'?"),
    "no csv named": ([TEXT], f"{FILE}: has no value yet; give one: {FILE}=…"),
    "pictures of one class": (
        ["data=image_folder", "data.root=single"],
        "data: task 'label' has only the class 'cat'; training needs at least two classes",
    ),
    "no folder of pictures named": (
        ["data=image_folder"],
        "data.root=null: data=image_folder needs the folder of the pictures, data.root=FOLDER",
    ),
    "a file as data folder": (
        ["data=mnist", "data.root=file"],
        "data.root=file is not a folder; give the folder that contains the set, or one to "
        "download it to",
    ),
    "more labels than there are": (
        ["data.labels_per_class=500"],
        "data.labels_per_class=500: class '8' has 113 training samples; expected at most 113",
    ),
    "too long a tail": (
        ["data.imbalance_factor=1000"],
        "data.imbalance_factor=1000 leaves no training sample of class '7'; expected at most 128, "
        "the number of samples of the head",
    ),
    "unknown optimizer": (
        ["optimizer=sdg"],
        "optimizer=sdg: there is no optimizer 'sdg'; did you mean 'sgd'?; "
        "any other of timm's: optimizer=named optimizer.name=NAME",
    ),
    "unknown optimizer of timm's": (
        ["optimizer=named", "optimizer.name=adamm"],
        "optimizer.name: there is no 'adamm'; did you mean 'adam'?",
    ),
    "unknown option of an optimizer": (
        ["optimizer=adamw", "+optimizer.options.fusd=true"],
        "optimizer.options.fusd: 'adamw' has no such argument; did you mean 'fused'?",
    ),
    "unknown scheduler": (
        ["scheduler=cosin"],
        "scheduler=cosin: there is no scheduler 'cosin'; did you mean 'cosine'?",
    ),
    "unknown logger": (
        ["logger=wndb"],
        "logger=wndb: there is no logger 'wndb'; did you mean 'wandb'?",
    ),
    "unknown logger in a list": (
        ["logger=[tensorboard,wndb]"],
        "logger=wndb: there is no logger 'wndb'; did you mean 'wandb'?",
    ),
    "key of a logger that is not there": (
        ["logger.wandb.mode=offline"],
        "logger.wandb.mode: logger 'wandb' is not part of this run; add logger=wandb",
    ),
    "wrong word": (
        ["logger=wandb", "logger.wandb.mode=offlin"],
        "logger.wandb.mode: got 'offlin', expected one of: online, offline, disabled or null; did "
        "you mean 'offline'?",
    ),
    "unknown network": (
        ["network.name=resnet5O"],
        "network.name='resnet5O': timm has no such model; did you mean 'resnet50'?",
    ),
    "no weights": (["network.checkpoint=gone.pt"], "network.checkpoint=gone.pt: no such file"),
    "unknown task": (
        ["data.source.tasks=[label,parrity]"],
        "data.source.tasks: got ['label', 'parrity'], expected a list, each one of: label, parity",
    ),
    "no task": (
        ["data.source.tasks=[]"],
        "data.source.tasks=[]: name each task once, and at least one",
    ),
    "batch not divisible": (
        ["data.batch_size=33", "trainer.devices=2"],
        "data.batch_size=33: is the batch over all 2 devices and must divide by their number; "
        "expected e.g. 32 or 34",
    ),
    "evaluation without a view": (
        ["data.views.raw=null"],
        "data.views.raw: is null, and it is what evaluation sees; expected a view (there are: "
        "strong, weak)",
    ),
    "unknown strategy": (
        ["trainer.strategy=dpp"],
        "trainer.strategy=dpp: Lightning has no such strategy; did you mean 'ddp'?",
    ),
    "a flag": (
        ["--recipe=fixmatch"],
        "--recipe=fixmatch: unrecognized arguments: --recipe=fixmatch; "
        "keys are written KEY=VALUE without dashes, see --help",
    ),
}


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
