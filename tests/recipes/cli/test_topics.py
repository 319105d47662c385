"""`--help NAME`: every choice in full, a wrong name in one line; `--version`."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from foundation.errors import UserError
from recipes.cli.main import main
from recipes.cli.topics import topic_text, topics
from recipes.config.groups import CONFIGS, description, families

TOPICS = topics()


def shown_settings(text: str) -> list[str]:
    """The names of the settings listed, in order, over all sections."""
    return re.findall(r"^    (\w+)(?:=|$|  )", text, re.MULTILINE)


def test_every_method_recipe_and_data_set_is_a_topic():
    methods = {p.stem for f in families() for p in (CONFIGS / f).glob("*.yaml")} - {"none"}
    assert {f"methods.{name}" for name in methods} <= TOPICS.keys()
    assert {"data.digits", "recipe.fixmatch", "optimizer.sgd", "trainer.default"} <= TOPICS.keys()
    assert {"evaluate.attack.pgd", "logger.wandb", "hydra.sweeper.roux_optuna"} <= TOPICS.keys()
    assert not [name for name in TOPICS if name.split(".")[-1].startswith("_")]


@pytest.mark.parametrize("name", TOPICS)
def test_every_topic_is_shown_with_its_settings(name):
    text = topic_text(name)
    path = TOPICS[name]
    assert text.startswith(f"{name}: {description(path)}\n")
    assert "\n\n\n" not in text
    node = OmegaConf.load(path)
    if "_target_" in node:
        names = [str(key) for key in node if not str(key).startswith("_")]
        assert shown_settings(text)[: len(names)] == names
    body = [line for line in text.splitlines()[1:] if " = " not in line]
    assert max(map(len, body)) <= 100 or name.startswith(("recipe.", "tuned."))


def test_a_method_says_what_it_computes_takes_and_refuses():
    lines = topic_text("methods.cutmix").splitlines()
    assert any(line.startswith("  CutMix. Yun et al., CutMix: Regularization") for line in lines)
    assert any("λ' = 1 - |box| / HW" in line for line in lines)
    assert (
        "    alpha=1.0         α of λ ~ Beta(α, α), whose box covers 1 - λ, above 0; 1 (paper)."
        in lines
    )
    takes, refuses = lines.index("  Takes"), lines.index("  Refuses")
    assert lines[takes + 1 : takes + 4] == [
        "    data: image",
        "    slot mixer: the mixing of labeled inputs",
        "    tags: mixes_inputs, soft_targets",
    ]
    assert lines[refuses + 1 : refuses + 3] == [
        "    data of texts",
        "    another method with the slot mixer",
    ]
    assert lines[-2:] == ["Command", "  python train.py regularization=cutmix"]


def test_a_data_set_shows_its_own_defaults_source_first():
    lines = topic_text("data.digits").splitlines()
    heads = [line.split()[0] for line in lines if re.match(r"data\S* = ", line)]
    assert heads[:2] == ["data.source", "data"]
    assert any(line.startswith("    batch_size=32 ") for line in lines)
    assert any(line.startswith("    cutout=0.65 ") for line in lines)


@pytest.mark.parametrize("name", ["semi_supervised/fixmatch", "semi_supervised.fixmatch"])
def test_a_method_may_be_named_by_its_family(name):
    assert topic_text(name) == topic_text("methods.fixmatch")


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("methods.fixmach", "did you mean 'methods.fixmatch'?"),
        ("fixmatch", "did you mean 'recipe.fixmatch'?"),
        ("data.cifar", "did you mean 'data.cifar10'?"),
        ("zzz", "python train.py --help lists all"),
    ],
)
def test_an_unknown_name_is_one_line(name, rest, capsys):
    with pytest.raises(UserError):
        topic_text(name)
    assert main(["--help", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: --help {name}: there is no such name; {rest}\n"


def test_overrides_and_flags_are_no_topics(capsys):
    assert main(["recipe=fixmatch", "-m", "--help"]) == 0
    general = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == general
    assert "--help methods.NAME" in general


def test_several_topics_follow_each_other(capsys):
    assert main(["methods.sam", "--help", "scheduler.cosine"]) == 0
    out = capsys.readouterr().out
    assert out == f"{topic_text('methods.sam')}\n\n{topic_text('scheduler.cosine')}\n"


def test_a_method_of_ones_own(tmp_path, monkeypatch):
    module = tmp_path / "own_entropy.py"
    module.write_text(
        '"""Entropy. Somebody, 2020."""\n'
        "from recipes.contract import Method\n"
        "class Entropy(Method):\n"
        '    """L = H(p).\n\n    weight: factor of the loss; 1.\n    """\n'
        "    def __init__(self, weight: float = 1.0, other: int = 2):\n"
        "        self.weight, self.other = weight, other\n"
    )
    file = tmp_path / "configs" / "semi_supervised" / "entropy.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# Low entropy\n_target_: own_entropy.Entropy\nweight: 1.0\nother: 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = topic_text("methods.entropy", tmp_path / "configs")
    assert shown_settings(text) == ["weight", "other"]
    assert "    weight=1.0  factor of the loss; 1." in text
    assert "    other=2\n" in text


def test_version_needs_no_torch():
    code = (
        "import sys; from recipes.cli.main import main; main(['--version']); "
        "print('LOADED', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(CONFIGS).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    text, _, loaded = done.stdout.partition("LOADED")
    assert not {"torch", "hydra", "pytorch_lightning", "pydantic"} & set(loaded.split())
    assert re.fullmatch(r"roux \d+\.\d+\.\d+\S*, torch \S+, pytorch-lightning \S+\n", text)
    assert metadata.version("torch") in text
