"""Settings one a line: every argument of every class that a config names is documented, nothing
else is, and the comments of the config files are the same text."""

import re

import pytest
import yaml
from omegaconf import OmegaConf

from recipes.config.comments import WIDTH, commented, documented_mappings, main, stale_files
from recipes.config.docstrings import (
    brief,
    own_docstring,
    parse_settings,
    prose,
    settings,
)
from recipes.config.groups import CONFIGS
from recipes.config.signatures import find_target, signature

FILES = sorted(CONFIGS.rglob("*.yaml"))


def targets(node):
    """The values of `_target_` at a node of YAML and below it."""
    if isinstance(node, dict):
        yield from [node["_target_"]] if "_target_" in node else []
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from targets(child)


TARGETS = sorted({t for path in FILES for t in targets(yaml.safe_load(path.read_text()))})


def test_the_targets_are_found():
    assert "methods.semi_supervised.fixmatch.FixMatch" in TARGETS
    assert "recipes.engine.trainer.TrainerSettings" in TARGETS
    assert "recipes.networks.build_network" in TARGETS
    assert "datamodules.views.image.Weak" in TARGETS
    assert len(TARGETS) > 100


@pytest.mark.parametrize("path", TARGETS)
def test_every_argument_is_documented_and_nothing_else(path):
    target = find_target(path)
    arguments = signature(target).arguments
    assert list(settings(target)) == list(arguments)
    assert parse_settings(own_docstring(target)).keys() <= arguments.keys()


@pytest.mark.parametrize("path", TARGETS)
def test_the_docstring_begins_with_what_it_computes(path):
    target = find_target(path)
    if not prose(target):  # two plugins that only give Hydra's name to a class of ours
        target = target.__mro__[1]
    first = prose(target)[0]
    assert len(first) >= 20
    assert not parse_settings(first)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_comments_are_those_of_the_docstrings(path):
    source = path.read_text(encoding="utf-8")
    fresh = commented(source)
    assert fresh == source, "stale: python -m recipes.config.comments --write"
    assert commented(fresh) == fresh
    written = [
        fresh.splitlines()[key.line]
        for keys in documented_mappings(yaml.compose(fresh))
        for key in keys
    ]
    assert [line for line in written if len(line) > WIDTH] == []


def test_only_comments_are_written(tmp_path):
    source = (
        "# @package methods.fixmatch\n"
        "# A header # with two marks\n"
        "_target_: methods.semi_supervised.fixmatch.FixMatch\n"
        "threshold: 0.5   # an old comment\n"
        "# a line of its own\n"
        "weight: ${seed}\n"
        "mask_reduction: 'all # of them'  # old\n"
        "other: 1  # no argument: left alone\n"
        "inner:\n"
        "  flip: true  # no target: left alone\n"
        "  weak:\n"
        "    _target_: datamodules.views.image.Weak\n"
        "    shift: 0.1\n"
    )
    fresh = commented(source)
    assert OmegaConf.create(fresh) == OmegaConf.create(source)
    lines = fresh.splitlines()
    untouched = [0, 1, 2, 4, 7, 8, 9, 10, 11]
    assert [lines[i] for i in untouched] == [source.splitlines()[i] for i in untouched]
    assert lines[3].startswith("threshold: 0.5  ") and "# confidence τ" in lines[3]
    assert lines[5].startswith("weight: ${seed}  ") and "# factor λ_u" in lines[5]
    assert lines[6].startswith("mask_reduction: 'all # of them'  # denominator")
    assert lines[12].startswith("    shift: 0.1  # largest shift")


def test_the_command_checks_and_writes(tmp_path, monkeypatch, capsys):
    root = tmp_path / "configs"
    root.mkdir()
    file = root / "a.yaml"
    file.write_text("_target_: datamodules.views.image.Weak\nflip: true\n")
    monkeypatch.setattr("recipes.config.comments.CONFIGS", root)
    monkeypatch.setattr("recipes.config.comments.stale_files", lambda: stale_files(root))
    assert main([]) == 2
    assert main(["--check"]) == 1
    assert capsys.readouterr().out == "configs/a.yaml: comments differ from the docstrings\n"
    assert main(["--write"]) == 0
    assert main(["--check"]) == 0
    assert re.search(r"flip: true  # \w+", file.read_text())


class Base:
    """What all share.

    size: a number of the base; 3.
    rate: of the base.
    """

    def __init__(self, size: int = 3, rate: float = 0.1):
        self.size, self.rate = size, rate


class Child(Base):
    """y = size · x.

    Note: this paragraph has a line
    without a name, so it is prose.

    rate: of the child, a text that
        continues in the next line.
    gone: no argument.
    """


def test_bases_come_first_and_the_nearest_class_wins():
    assert settings(Child) == {
        "size": "a number of the base; 3.",
        "rate": "of the child, a text that continues in the next line.",
    }
    assert prose(Child) == [
        "y = size · x.",
        "Note: this paragraph has a line without a name, so it is prose.",
    ]


def test_a_short_form_is_whole_clauses_of_the_first_sentence():
    text = "share, e.g. half; null: all (paper; code: none); 0: none. More of it."
    assert brief(text, 100) == "share, e.g. half; null: all (paper; code: none); 0: none"
    assert brief(text, 50) == "share, e.g. half; null: all (paper; code: none)"
    assert brief(text, 5) == "share, e.g. half"
