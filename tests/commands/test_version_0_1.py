"""Runs that were made by version 0.1, before files moved into rooms: they load, and they resume.

`fixtures/version_0_1` holds a run that was stopped after 4 of 8 steps (`half`), what version 0.1 made of it when it
resumed (`whole_…`), and a run with a method of a user's own in `entropy.py`.
"""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import recipes
from foundation.errors import UserError
from foundation.moved import MOVED, RENAMED, current_name, with_current_names
from recipes.config.signatures import find_target
from tests.commands.test_resume import weights
from tests.support.command import REPOSITORY, roux

OLD = REPOSITORY / "tests" / "fixtures" / "version_0_1"
COMMAND = (
    *("recipe=fixmatch", "long_tail=logit_adjustment", "regularization=sam", "data=digits"),
    *("data.imbalance_factor=4", "data.labels_per_class=4", "data.batch_size=8"),
    *(
        "data.unlabeled_ratio=2",
        "trainer.max_steps=8",
        "trainer.val_every=4",
        "trainer.log_every=2",
    ),
    *("trainer.accelerator=cpu", "trainer.devices=1", "trainer.progress_bar=false"),
    *("network.name=vit_tiny_patch16_224", "+network.options.patch_size=4", "network.input_size=8"),
    *("+network.options.embed_dim=16", "+network.options.depth=1", "+network.options.num_heads=2"),
)
# what version 0.1 did, which had no settings for it
AS_BEFORE = (
    *("methods.ema.decay=0.99", "methods.ema.horizon=null", "methods.ema.moments=kept"),
    "methods.fixmatch.align=0",
)


@pytest.fixture
def half(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD / "half", tmp_path / "half")
    return tmp_path / "half"


def test_every_old_path_gives_the_module_of_today():
    """In a process of its own, old paths first: no second copy of a class."""
    code = "import importlib, recipes\n"
    for old, new in MOVED.items():
        code += f"old = importlib.import_module({old!r})\n"
        code += f"assert old is importlib.import_module({new!r}), {old!r}\n"
        code += f"assert old.__name__ == old.__spec__.name == {new!r}, old.__spec__\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_a_users_method_of_version_0_1_is_one_of_todays():
    code = "from recipes.method import Method\nfrom datamodules.errors import UserError\n"
    code += "import recipes.contract, foundation.errors\n"
    code += "assert Method is recipes.contract.Method\n"
    code += "assert UserError is foundation.errors.UserError\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_names_in_configs_are_translated_once():
    for old, new in MOVED.items():
        assert current_name(f"{old}.Thing") == f"{new}.Thing"
        assert current_name(f"{new}.Thing") == f"{new}.Thing"
    settings = find_target("recipes.settings.TrainerSettings")
    assert settings is find_target("recipes.engine.trainer.TrainerSettings")


@pytest.mark.parametrize("module", RENAMED)
def test_former_names_of_classes_give_the_present_class(module):
    for former, present in RENAMED[module].items():
        assert current_name(f"{module}.{former}") == f"{module}.{present}"
        assert current_name(f"{module}.{present}") == f"{module}.{present}"
        assert find_target(f"{module}.{former}") is find_target(f"{module}.{present}")
    with pytest.raises(AttributeError, match="has no attribute 'Unheard'"):
        importlib.import_module(module).Unheard  # noqa: B018


def test_former_names_in_a_config_are_translated():
    attack = {"_target_": "methods.adversarial.robustness.UnderPGD", "steps": 3}
    found = with_current_names({"evaluate": {"attack": attack}})["evaluate"]["attack"]
    assert found == attack | {"_target_": "methods.adversarial.robustness.PGDRobustness"}


def test_a_run_resumes_as_version_0_1_did(half):
    outcome = roux(*COMMAND, *AS_BEFORE, "run_dir=half", "resume=auto")
    assert outcome.code == 0, outcome.err
    # its config says trainer.update and mask_reduction, which is translated without a word
    assert "is called" not in outcome.err
    assert "  update:" in (OLD / "half" / "config.yaml").read_text()
    assert "  optimizer_impl: auto" in (half / "config.yaml").read_text()
    expected, found = load_file(OLD / "whole_weights.safetensors"), weights(half)["state_dict"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # equal in every bit on the machine that made them; another's kernels may round otherwise
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
    before = json.loads((OLD / "whole_metrics.json").read_text())
    now = json.loads((half / "metrics.json").read_text())
    kept = [name for name in before if name.startswith(("test/", "val/", "train/"))]
    assert {name: now[name] for name in kept} == pytest.approx(
        {name: before[name] for name in kept}, abs=1e-4
    )


def test_settings_that_it_did_not_have_are_named(half):
    outcome = roux(*COMMAND, "run_dir=half", "resume=auto")
    assert outcome.code == 2 and len(outcome.lines) == 1
    for change in ("decay 0.99 -> 0.999", "horizon null -> 0.05", "moments kept -> estimated"):
        assert f"methods.ema.{change}" in outcome.lines[0]
    assert "methods.fixmatch.align 0 -> 32" in outcome.lines[0]


def test_a_run_loads():
    model = recipes.load(OLD / "half" / "checkpoints" / "last.ckpt")
    picture = torch.zeros(1, 8, 8, dtype=torch.uint8)
    assert model.predict(picture) in model.classes["label"]


def test_a_method_of_a_users_own_loads_when_trusted(monkeypatch, capsys):
    with pytest.raises(UserError, match="trust=true"):
        recipes.load(OLD / "own")
    monkeypatch.syspath_prepend(str(OLD))
    monkeypatch.delitem(sys.modules, "entropy", raising=False)
    model = recipes.load(OLD / "own", trust=True)
    assert "entropy.EntropyMinimization" in capsys.readouterr().err
    assert Path(sys.modules["entropy"].__file__).parent == OLD
    assert model.predict(torch.zeros(1, 8, 8, dtype=torch.uint8)) in model.classes["label"]
