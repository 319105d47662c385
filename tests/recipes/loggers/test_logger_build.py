"""From the logger group to loggers: composition, settings, refusals, and what is imported for
it."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf
from pytorch_lightning.loggers import CSVLogger

import configs
from foundation.errors import UserError
from recipes.loggers.build import (
    build_loggers,
    close_loggers,
    finish_loggers,
    metrics_files,
    start_loggers,
)
from recipes.loggers.files import MetricsFiles
from recipes.report.record import RunRecord

CONFIGS = Path(next(iter(configs.__path__)))


def composed(tmp_path, choice):
    (tmp_path / "root.yaml").write_text("defaults:\n  - logger: none\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        overrides = [f"hydra.searchpath=[file://{CONFIGS}]", f"logger={choice}"]
        return OmegaConf.to_container(compose("root", overrides=overrides))["logger"]


def test_loggers_compose(tmp_path):
    both = composed(tmp_path, "[tensorboard,wandb]")
    assert list(both) == ["tensorboard", "wandb"]
    names = [type(logger).__name__ for logger in build_loggers(both, tmp_path)]
    assert names == ["MetricsFiles", "TensorBoardRun", "WeightsAndBiasesRun"]
    assert composed(tmp_path, "none") == {}
    assert [type(logger) for logger in build_loggers({}, tmp_path)] == [MetricsFiles]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_config_shows_every_argument_with_its_default(tmp_path, name):
    node = composed(tmp_path, name)[name]
    target = get_class(node.pop("_target_"))
    assert node == {
        key: value.default for key, value in inspect.signature(target).parameters.items()
    }


def test_any_lightning_logger_is_taken_as_it_is(tmp_path):
    node = {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": str(tmp_path / "own")}
    loggers = build_loggers({"own": node}, tmp_path / "run")
    assert isinstance(loggers[1], CSVLogger) and metrics_files(loggers) is loggers[0]
    start_loggers(loggers, {"seed": 3}, "")
    loggers[1].log_metrics({"a": 1.0}, step=1)
    finish_loggers(loggers, RunRecord("t", final={"test/accuracy": 0.5}), {})
    assert (tmp_path / "run" / "metrics.json").is_file()
    loggers[1].save()
    assert "seed: 3" in (Path(loggers[1].log_dir) / "hparams.yaml").read_text()


def test_wrong_entries_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"logger\.x: found 3"):
        build_loggers({"x": 3}, tmp_path)
    with pytest.raises(UserError, match="is not a Lightning logger"):
        build_loggers({"x": {"_target_": "collections.OrderedDict"}}, tmp_path)


def test_closing_loggers_that_never_began_is_harmless(tmp_path):
    loggers = build_loggers(composed(tmp_path, "[tensorboard,wandb]"), tmp_path / "run")
    close_loggers(loggers, failed=True)
    assert not (tmp_path / "run").exists()


def test_heavy_packages_wait_until_they_are_used():
    code = """
import sys
import recipes.loggers.build, recipes.report.page, recipes.loggers.console
import recipes.loggers.tensorboard, recipes.loggers.weights_and_biases
import recipes.tasks.classification, recipes.engine.recipe
heavy = {"wandb", "matplotlib", "tensorboard", "torch.utils.tensorboard", "PIL.Image", "pandas"}
heavy |= {"scipy", "torchvision", "transformers", "sklearn", "timm"}
print(sorted(heavy & set(sys.modules)))

# torchmetrics is loaded in parts, and whole when a name is asked for that no part has
import pytorch_lightning.core.module as lightning
import torchmetrics
from torchmetrics.utilities.plot import plot_single_or_multi_val
print(torchmetrics.Metric is lightning.Metric, "torchmetrics.regression" in sys.modules)
print(torchmetrics.R2Score.__name__, torchmetrics.functional.r2_score.__name__)
figure, axes = torchmetrics.classification.MulticlassConfusionMatrix(2).plot(lightning.torch.eye(2))
print(type(figure).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "True False", "R2Score r2_score", "Figure"]


class Refusing(CSVLogger):
    def __init__(self, error: str):
        raise {"import": ModuleNotFoundError, "value": RuntimeError}[error](
            "no server\nsecond line"
        )


@pytest.mark.parametrize(
    ("error", "remedy"), [("import", "install its package"), ("value", "see its arguments")]
)
def test_what_a_constructor_raises_is_one_line(error, remedy, tmp_path):
    node = {"_target_": f"{__name__}.Refusing", "error": error}
    with pytest.raises(UserError, match=rf"^logger\.own: .*\(no server\); {remedy}$"):
        build_loggers({"own": node}, tmp_path / "run")
