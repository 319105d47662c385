"""Every command of a page can be pasted: it composes as it stands. The slow test runs those whose
data are there for three steps.

The commands of the README are composed in tests/test_readme.py, the rows of docs/results.md in
tests/benchmarks/pages/test_results.py; of these here only those that the page completes."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.cli.main import main
from recipes.config.resolve import resolve_command

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
FOLDERS = {
    "clinc150": "CLINC150",
    "fashion_mnist": "FashionMNIST",
    "mnist": "MNIST",
    "omniglot": "Omniglot",
}
PAGES = sorted((ROOT / "docs").glob("*.md"))
COMMAND = re.compile(r"(?<!\$ )(?:python |=2 )train\.py ([^`\n]+)")
LEFT_OUT = (
    "--",  # help and versions
    "recipe=NAME",  # says that any recipe is run so
    "searchpath",  # with a method of the reader's own
    "birds.Birds",  # a class of the reader's own
    "long_tail=[balanced_softmax,logit_adjustment]",  # shown because it is refused
)


def pasted(text: str) -> list[list[str]]:
    """The arguments of the commands of a page, without comments."""
    found = []
    for command in COMMAND.findall(text.replace("\\\n", " ")):
        if not any(words in command for words in LEFT_OUT):
            found.append(shlex.split(command, comments=True))
    return found


def single(words: list[str]) -> list[str]:
    """One run of a command: of a sweep that of the first values."""
    kept = []
    for word in words:
        key, _, value = word.partition("=")
        if word == "-m" or "(" in value or key.startswith("hydra"):
            continue
        if words[0] == "-m" and "[" not in value:
            word = f"{key}={value.split(',')[0]}"
        kept.append(re.sub(r"\$\w+", "FOLDER", word))
    return [word for word in kept if not word.startswith("resume=")]


def commands() -> dict[str, list[str]]:
    every = {}
    for page in PAGES:
        for words in pasted(page.read_text(encoding="utf-8")):
            completed = {"run_dir", "network.name"} & {word.split("=")[0] for word in words}
            if page.name != "results.md" or completed:
                every[f"{page.name}: {' '.join(words)}"] = single(words)
    return every


COMMANDS = commands()


def test_the_commands_are_found():
    pages = {name.partition(":")[0] for name in COMMANDS}
    assert len(COMMANDS) > 20
    assert pages > {"long_tail.md", "peft.md", "reliability.md", "results.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_has_a_gap(page):
    for words in pasted(page.read_text(encoding="utf-8")):
        assert not [word for word in words if "…" in word or ("=" not in word and word != "-m")]
        assert not [word for word in words if re.search(r"\{\w+/", word)], words


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_composes(name):
    assert resolve_command(COMMANDS[name]).config.trainer.max_steps >= 0


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_runs_three_steps(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # loggers of a command write beside the reader
    words = COMMANDS[name]
    config = resolve_command(words).config
    if any("FOLDER" in word for word in words if not word.startswith("data.root=")):
        pytest.skip("names a pretrained encoder")
    if any("OTHER_RUN" in word for word in words):
        pytest.skip("names another run of the reader's")
    if config.network.pretrained:
        pytest.skip("downloads weights")
    if "checkpoints/last.ckpt" in str(config.network.get("checkpoint")):
        pytest.skip("begins with the weights of another command")
    changes = ["trainer.max_steps=3", "trainer.val_every=3", f"run_dir={tmp_path / 'run'}"]
    data = str(config.chosen.data)
    if data not in ("digits", "digits_parity", "docstrings"):
        root = DATA / FOLDERS.get(data, data)
        if not root.is_dir():
            pytest.skip(f"there is no {root.name} beside the repository")
        changes.append(f"data.root={root}")
    words = [*words, *changes, "trainer.accelerator=cpu", "logger=none"]
    if config.trainer.devices == 2:  # Lightning starts the second rank with this process's command
        command = [sys.executable, str(ROOT / "train.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    else:
        assert main(words) == 0
