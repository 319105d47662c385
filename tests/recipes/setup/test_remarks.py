"""The plan, the start of a run and its page name what a user may not have meant."""

import pytest
import yaml
from hydra.utils import instantiate

from recipes.config.groups import CONFIGS, families
from recipes.config.resolve import resolve_command
from recipes.config.signatures import find_target, fits, signature
from recipes.config.validation import targets
from recipes.contract import Method
from recipes.setup.title import own_choices, recipe_title
from tests.support.command import roux, train

SAID = {
    ("recipe=fixmatch", "semi_supervised=uda"): "semi_supervised=uda replaces fixmatch of "
    "recipe=fixmatch",
    ("recipe=fixmatch", "averaging=none"): "averaging=none leaves out ema of recipe=fixmatch",
    (
        "recipe=fixmatch",
        "methods.fixmatch.threshold=1.7",
    ): "methods.fixmatch.threshold=1.7: with this value methods.fixmatch changes nothing",
    ("recipe=uda", "methods.uda.weight=0"): "methods.uda.weight=0: with this value methods.uda "
    "changes nothing",
    ("adversarial=pgd_at", "methods.pgd_at.eps=0/255"): "methods.pgd_at.eps=0/255: with this value "
    "methods.pgd_at changes nothing",
    ("scheduler.warmup_steps=5000",): "scheduler.warmup_steps=5000: the run has 1200 steps, so the "
    "learning rate never reaches optimizer.lr",
    ("recipe=fixmatch", "peft=lora"): "65,184 weights of the network are frozen at random values: "
    "load some by network.pretrained=true or network.checkpoint=FILE",
}


def remarks_of(plan: str) -> list[str]:
    lines = plan.splitlines()
    if "remarks" not in lines:
        return []
    rest = lines[lines.index("remarks") + 1 :]
    return [line.strip() for line in rest[: rest.index("") if "" in rest else None]]


@pytest.mark.parametrize("overrides", SAID)
def test_the_plan_says_it(overrides):
    outcome = roux(*overrides, "dry_run=true")
    assert outcome.code == 0 and remarks_of(outcome.out) == [SAID[overrides]]


def test_the_run_and_its_page_say_it(tmp_path):
    overrides = ("recipe=fixmatch", "semi_supervised=uda", "methods.uda.weight=0")
    sizes = ("trainer.max_steps=1", "data.batch_size=8", "data.unlabeled_ratio=1")
    outcome = train(tmp_path / "run", *overrides, *sizes)
    lines = [line for line in outcome.lines if line.startswith("note: ")]
    assert lines == [
        "note: semi_supervised=uda replaces fixmatch of recipe=fixmatch",
        "note: methods.uda.weight=0: with this value methods.uda changes nothing",
    ]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<title>fixmatch, semi_supervised=uda on digits</title>" in page
    assert all(line.removeprefix("note: ") in page for line in lines)


@pytest.mark.parametrize("recipe", sorted(p.stem for p in (CONFIGS / "recipe").glob("*.yaml")))
def test_a_recipe_as_it_is_has_its_name_and_no_remark(recipe):
    name = ["network.name=unused", "+data.root=unused"]
    config = resolve_command([f"recipe={recipe}", *name[:1], "run_dir=unused"]).config
    assert recipe_title(config) == recipe
    for node in (config.get("methods") or {}).values():
        assert instantiate(node, _convert_="all").idle_settings() == []


def test_a_stage_and_an_addition_are_in_the_title():
    config = resolve_command(["averaging=ema", "regularization=[mixup,sam]", "run_dir=x"]).config
    assert recipe_title(config) == "supervised, regularization=[mixup,sam], averaging=ema"
    assert own_choices("a_recipe_of_the_user") is None


def settings_that_may_be_zero() -> dict[type, set[str]]:
    """The numbers of each method that may be 0, by class."""
    found: dict[type, set[str]] = {}
    for family in families(CONFIGS):
        for file in (CONFIGS / family).glob("*.yaml"):
            tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            for _, node in targets(tree, family):
                target = find_target(node["_target_"])
                arguments = signature(target).arguments.items()
                names = {
                    name
                    for name, entry in arguments
                    if not isinstance(entry.default, bool) and fits(0, entry.annotation)
                }
                found[target] = found.get(target, set()) | names
    return {kind: names for kind, names in found.items() if issubclass(kind, Method)}


def neutral(kind: type) -> dict[str, float]:
    """By setting, the value with which a method changes nothing."""
    own = dict(kind.neutral)
    one_weight = "weight" in signature(kind).arguments and kind.__name__ not in SEVERAL_WEIGHTS
    return own | ({"weight": 0} if one_weight else {})


# of several terms or factors: without one the others are left
SEVERAL_WEIGHTS = {"ReMixMatch", "LabelPropagation"}
# 0 is a sound value of these: a part of the method is off, or nothing is
SOUND = {
    "align", "alpha", "base", "delta", "dropout", "ema_decay", "entropy_weight", "epsilon",
    "exclusivity_weight", "hidden", "init", "iterations",
    "l2", "margin", "margin_other", "max_norm", "memory_weight", "momentum", "neg_weight",
    "negative_margin", "p", "pad_value", "per_class", "pos_margin", "pos_temperature",
    "pos_weight", "positive_margin", "prior_momentum", "q", "ramp_end", "ramp_start", "smoothing",
    "split_stage", "start", "step_size", "sweeps", "temperature", "threshold", "warmup",
}  # fmt: skip
# and of one class alone
SOUND_IN = {
    "AdaLoRA": {"beta1", "beta2", "final", "orthogonality"},
    "AdapterFusion": {"regularisation"},
    "AdapterDrop": {"blocks"},  # idle with mode=specialized alone
    "Clustering": {"gamma"},  # leaves its distances
    "CostSensitiveCE": {"gamma"},  # idle without costs of the user's
    "ConfirmationBias": {"balance_weight"},
    "DivideMix": {"penalty", "ramp", "warmup_penalty"},
    "DTP": {"example_gamma", "gamma"},
    "DiffPruning": {"fixed", "penalty"},
    "EqualizationLossV2": {"mu"},
    "FlexMatch": {"lowest"},
    "HierarchicalTriplet": {"beta"},
    "LabelPropagation": {"weight"},  # the weights of classes remain
    "LadderSideTuning": {"drop_every"},
    "MRN": {"shrinkage"},
    "MetaPseudoLabels": {"baseline", "label_weight", "student_start", "uda_ramp", "uda_weight"},
    "MetaSampler": {"init_pow"},  # starts at natural rates
    "ReMixMatch": {"anchor_weight", "rotation_weight", "weight"},
    "Sluice": {"penalty"},
    "UniPELT": {"bottleneck", "length", "rank"},
}


def test_of_every_setting_that_may_be_zero_it_is_known_what_that_means():
    for kind, names in settings_that_may_be_zero().items():
        unknown = names - neutral(kind).keys() - SOUND - SOUND_IN.get(kind.__name__, set())
        assert not unknown, (kind, unknown)


def test_a_method_names_the_settings_that_leave_it_without_effect():
    silent = []
    for kind in settings_that_may_be_zero():
        arguments = signature(kind).arguments
        for name, value in neutral(kind).items():
            assert fits(value, arguments[name].annotation), (kind, name)
            if name not in kind(**{name: value}).idle_settings():
                silent.append((kind.__name__, name))
    assert not silent
