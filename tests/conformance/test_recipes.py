"""Every recipe of `configs/recipe` plans without data, and trains three steps on images and on
text."""

import math
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from recipes.config.groups import CONFIGS, options
from recipes.config.resolve import resolve_command
from recipes.runs.plan import describe
from recipes.setup.assemble import assemble
from tests.support.lab import trial
from tests.support.tiny_runs import KINDS, METHODS, circumstances, tiny

RECIPES = list(options("recipe"))
# what a recipe for pictures says about texts, which it refuses otherwise
ON_TEXT = {"remixmatch": ["methods.remixmatch.augmentation=strong"]}


def choices(recipe: str) -> list[tuple[str, Any]]:
    """(group, choice) of the entries of a recipe's file."""
    content = yaml.safe_load((CONFIGS / "recipe" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    return [choice for entry in content.get("defaults") or [] for choice in entry.items()]


def methods_of(recipe: str) -> list[str]:
    """The methods that a recipe's file chooses."""
    chosen = [value for _, value in choices(recipe)]
    flat = [name for value in chosen for name in (value if isinstance(value, list) else [value])]
    return [name for name in flat if name in METHODS]


def is_of_texts(recipe: str) -> bool:
    """Whether a recipe's file chooses a set of texts."""
    chosen = [data for group, data in choices(recipe) if group == "override /data"]
    files = [CONFIGS / "data" / f"{data}.yaml" for data in chosen]
    return any("- _text\n" in file.read_text(encoding="utf-8") for file in files)


def command(recipe: str, kind: str) -> list[str]:
    """The tiny run with a recipe in it; a recipe may want a pretrained network, which no test
    downloads."""
    small = [f"recipe={recipe}", *tiny(kind)]
    needed = circumstances(kind, *methods_of(recipe))
    small += [
        f"{n}=[{','.join(v)}]" if isinstance(v, list) else f"{n}={v}" for n, v in needed.items()
    ]
    small += ON_TEXT.get(recipe, []) if kind == "text" else []
    return [*small, "network.pretrained=false", *(["network.name=auto"] if kind == "text" else [])]


def params() -> list[Any]:
    """Recipes with both kinds of data; with the one that a recipe is not for as a slow trial."""
    return [
        pytest.param(
            recipe, kind, id=f"{recipe}-{kind}", marks=(pytest.mark.slow,) if later else ()
        )
        for recipe in RECIPES
        for kind in KINDS
        for later in [(kind == "text") != is_of_texts(recipe)]
    ]


@pytest.mark.parametrize(("recipe", "kind"), params())
def test_recipe(recipe, kind):
    resolved = resolve_command(command(recipe, kind))
    config = resolved.config
    assert config.recipe == recipe and resolved.dropped == []
    assembly = assemble(config)
    plan = describe(assembly, assembly.meta_network())
    assert assembly.datamodule.parts == {}, "planning read data"
    assert plan.splitlines()[1].strip() == recipe
    for key in config.get("methods") or {}:
        assert f"  {key}: " in plan
    outcome = trial(config)
    assert outcome.trainer.global_step == 3
    assert all(math.isfinite(value) for row in outcome.history.values() for value in row.values())
    assert {f"train/{term}" for term in outcome.terms} <= outcome.history[3].keys()


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe in METHODS])
def test_a_recipe_named_after_a_method_uses_it(recipe):
    if recipe in methods_of(recipe):
        return
    # a recipe of several runs chooses it in one of them
    stages = resolve_command([f"recipe={recipe}", "run_dir=unused"]).config.stages
    assert any(recipe in run.methods for run in stages.values())


JOINED = {  # recipes that join two, and the command that says the same
    "fixmatch_logit_adjustment": (
        "recipe=fixmatch long_tail=logit_adjustment data.imbalance_factor=20"
    ),
    "fixmatch_lora": "recipe=text_fixmatch peft=lora optimizer.lr=1e-3",
    "trades_balanced_softmax": "recipe=trades long_tail=balanced_softmax data.imbalance_factor=20",
    "proxy_anchor_classifier": (
        "recipe=proxy_anchor supervised_weight=1.0 methods.proxy_anchor.weight=0.1"
    ),
}


@pytest.mark.parametrize("recipe", JOINED)
def test_a_recipe_that_joins_two_is_the_command_that_says_so(recipe):
    """Settings tuned for a recipe on a data set included."""
    name = ["network.name=unused"] if "lora" in recipe else []
    joined, said = (
        OmegaConf.to_container(
            resolve_command([*words, *name, "run_dir=unused"]).config, resolve=True
        )
        for words in ([f"recipe={recipe}"], JOINED[recipe].split())
    )
    for config in (joined, said):
        del config["recipe"], config["chosen"]["recipe"]
    assert joined == said
