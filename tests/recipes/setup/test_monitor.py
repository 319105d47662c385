"""Which metric a run is judged by, and evaluation on classes that training does not have."""

import pytest
from omegaconf import OmegaConf

from foundation.errors import UserError
from recipes.config.resolve import resolve_command
from recipes.report.numbers import lower_is_better
from recipes.runs.run import checkpoints
from recipes.setup.assemble import assemble
from recipes.setup.monitor import head_metrics, objective
from tests.support.lab import trial
from tests.support.tiny_runs import tiny

RETRIEVAL = "evaluate/retrieval=default"


def config(*overrides):
    return resolve_command([*tiny("image"), *overrides]).config


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "val/accuracy"),
        ((RETRIEVAL,), "val/accuracy"),
        ((RETRIEVAL, "supervised_weight=0", "metric_learning=triplet"), "val/recall@1"),
        ((RETRIEVAL, "monitor=val/map@r"), "val/map@r"),
    ],
)
def test_accuracy_unless_no_head_is_taught_or_the_user_says_otherwise(
    overrides, expected, tmp_path
):
    assembly = assemble(config(*overrides))
    assert assembly.config.monitor == expected
    assembly.datamodule.setup()
    best, _ = checkpoints(assembly, tmp_path)
    assert (best.monitor, best.mode) == (expected, "max")


SCORES = "evaluate/scores=default"


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [
        (("monitor=val/loss",), "min"),
        ((SCORES, "monitor=val/ece"), "min"),
        *(
            ((SCORES, f"monitor=val/{name}"), "max")
            for name in ("f1", "precision", "auroc", "average_precision", "top5")
        ),
        (("monitor=val/balanced_accuracy",), "max"),
    ],
)
def test_losses_and_calibration_errors_are_to_be_small(overrides, mode, tmp_path):
    assembly = assemble(config(*overrides))
    assembly.datamodule.setup()
    assert checkpoints(assembly, tmp_path)[0].mode == mode
    assert lower_is_better(assembly.monitor) == (mode == "min")


@pytest.mark.parametrize(
    ("monitor", "remedy"),
    [
        ("val/recall", "write val/balanced_accuracy, which is the same"),
        ("val/nll", "write val/loss, which is the same"),
        ("val/macro_f1", "add evaluate/scores=default, which measures it"),
        ("val/top5", "add evaluate/scores=default, which measures it"),
    ],
)
def test_the_names_of_others_are_understood(monitor, remedy):
    with pytest.raises(UserError, match=remedy):
        assemble(config(f"monitor={monitor}"))


def test_a_metric_that_does_not_come_is_said_in_one_line():
    with pytest.raises(
        UserError,
        match=r"monitor=val/acuracy: validation has no such metric; did you mean 'val/acc",
    ):
        assemble(config("monitor=val/acuracy"))


@pytest.mark.parametrize(
    ("monitor", "near"),
    [
        ("val/foo", ""),
        ("''", ""),
        ("test/accuracy", "did you mean 'val/accuracy'?"),
        ("train/loss", "did you mean 'val/loss'?"),
        ("val/raw/accuracy", "did you mean 'val/accuracy'?"),
        ("val/recall@1", ""),
        ("val/label/accuracy", ""),
    ],
)
def test_a_metric_that_validation_lacks_is_known_at_composition(monitor, near):
    with pytest.raises(UserError, match="validation has no such metric") as refusal:
        assemble(config(f"monitor={monitor}"))
    assert near in str(refusal.value) and len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("averaging=ema",),
        (RETRIEVAL, "evaluate.retrieval.ks=[1,3]"),
        ("data.source.tasks=[label,parity]", RETRIEVAL, "averaging=ema"),
        ("metric_learning=triplet", "supervised_weight=0", RETRIEVAL),
    ],
)
def test_every_metric_of_a_validation_may_judge_and_no_other(overrides):
    """The names at composition are those that a run then logs."""
    run = config(*overrides)
    assembly = assemble(run)
    info = assembly.datamodule.info
    known = {f"val/{name}" for name in head_metrics(run, info, assembly.composition)}
    for probe in assembly.probes.values():
        known |= {f"val/{name}" for name in probe.metric_names(list(info.tasks))}
    logged = {name for name in trial(run).history[3] if name.startswith("val/")}
    assert logged <= known
    assert {name for name in known - logged if "accuracy_" not in name} == set()
    for name in logged:
        assert assemble(config(*overrides, f"monitor='{name}'")).monitor == name


def test_classes_that_training_lacks_are_judged_by_retrieval_alone():
    omniglot = resolve_command(["data=omniglot", "run_dir=unused"]).config
    assert assemble(omniglot).config.monitor == "val/recall@1"
    without = OmegaConf.merge(omniglot, {"evaluate": {"retrieval": None}, "monitor": None})
    with pytest.raises(
        UserError, match=r"data=omniglot: is evaluated on classes .*add evaluate/retrieval=default"
    ):
        objective(without, {}, True)


def test_heads_that_nobody_teaches_are_not_asked():
    with pytest.raises(
        UserError, match=r"supervised_weight=0: no head is taught.*add evaluate/retrieval=default"
    ):
        assemble(config("metric_learning=triplet", "supervised_weight=0"))
    outcome = trial(config("metric_learning=triplet", "supervised_weight=0", RETRIEVAL))
    assert "val/recall@1" in outcome.history[3] and "val/accuracy" not in outcome.history[3]


def test_retrieval_is_measured_beside_accuracy_in_a_run():
    outcome = trial(config(RETRIEVAL, "metric_learning=multi_similarity"))
    row = outcome.history[3]
    assert {
        "val/accuracy",
        "val/recall@1",
        "val/recall@8",
        "val/map@r",
        "val/r_precision",
        "val/nmi",
    } <= row.keys()
    assert (
        0 <= row["val/map@r"] <= row["val/r_precision"] <= 1
        and row["val/recall@1"] <= row["val/recall@2"]
    )


class Disjoint:
    """The digits, evaluated on ten other classes, whose numbers no head has."""

    def __init__(self):
        from datamodules.sources import Digits

        self.inner = Digits()

    def info(self):
        from dataclasses import replace

        return replace(self.inner.info(), tasks={"label": None}, disjoint=True)

    def load(self, root=None):
        splits = self.inner.load(root)
        known = splits.test.classes["label"]
        splits.test.classes = {"label": [*known, *(f"other {name}" for name in known)]}
        splits.test.targets = {"label": splits.test.targets["label"] + len(known)}
        return splits


def test_heads_are_not_evaluated_on_other_classes():
    node = {"_target_": "tests.recipes.setup.test_monitor.Disjoint"}
    changed = OmegaConf.merge(config(RETRIEVAL), {"data": {"source": None}})
    changed.data.source, changed.monitor = node, None
    outcome = trial(changed)
    assert {name for name in outcome.history[3] if name.startswith("val/")} >= {
        "val/recall@1",
        "val/map@r",
    }
    assert not [name for name in outcome.history[3] if "accuracy" in name or name == "val/loss"]
    assert outcome.recipe.evaluator.confusion == {}
