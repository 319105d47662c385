"""Nothing from a file executes: a checkpoint of a stranger is refused in one line, before anything
is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import recipes
from foundation.errors import UserError
from recipes.predict.places import PLACES, place_of
from tests.recipes.predict.hostile import (
    SECRET,
    altered,
    guarded,
    listing,
    put,
    set_traps,
    with_config,
    with_text,
)
from tests.recipes.predict.hostile_cases import (
    CONFIGS,
    ENCODERS,
    HARMLESS,
    IMPORTS,
    ORIGINS,
    TEXTS,
    UNUSED,
)
from tests.support.command import REPOSITORY, write_csv
from tests.support.predict_runs import digits, texts
from tests.support.processes import python
from tests.support.settings import SHARED


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """The checkpoint of an honest run of pictures with a method, a logger and a measurement."""
    folder = tmp_path_factory.mktemp("honest") / "run"
    digits(folder, "recipe=fixmatch", "evaluate/attack=fgsm", "logger=tensorboard")
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """The checkpoint of an honest run of texts."""
    home = tmp_path_factory.mktemp("words")
    texts(home / "run", write_csv(home / "texts.csv", ["red", "blue", "green"] * 20), *SHARED[:1])
    return home / "run" / "checkpoints" / "last.ckpt"


@pytest.fixture
def trapped(place, monkeypatch):
    """The current folder, first on the path as with `python -m`, full of modules that must not be
    imported."""
    set_traps(place)
    monkeypatch.setenv("ROUX_CANARY", SECRET)
    # the guards forbid the network, and the hub must not be kept away by a variable
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.syspath_prepend(str(place))
    return place


def refused(path: Path, place: Path, capfd, key: str, trust: bool = False) -> str:
    """Load, which must be refused in one line with the file and the key, and must leave no
    trace."""
    with guarded(place) as seen, pytest.raises(UserError) as caught:
        recipes.load(path, trust=trust)
    message, printed = str(caught.value), "".join(capfd.readouterr())
    assert not seen, seen
    assert "\n" not in message and str(path) in message and key in message, message
    assert SECRET not in message + printed
    return message


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config(pictures, trapped, capfd, name):
    change, key = CONFIGS[name]
    path = altered(pictures, trapped / "strange.ckpt", with_config(change))
    refused(path, trapped, capfd, key)


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_yaml(pictures, trapped, capfd, name):
    old, new, words = TEXTS[name]
    path = altered(pictures, trapped / "strange.ckpt", with_text(old, new))
    refused(path, trapped, capfd, words)


@pytest.mark.parametrize("name", ORIGINS)
def test_a_provenance_of_another_form(pictures, trapped, capfd, name):
    change, words = ORIGINS[name]
    refused(altered(pictures, trapped / "strange.ckpt", change), trapped, capfd, words)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_hostile_encoder(words, trapped, capfd, name):
    change, key = ENCODERS[name]
    path = altered(words, trapped / "strange.ckpt", change)
    if not key:  # the name alone leads nowhere: the checkpoint holds the architecture
        with guarded(trapped) as seen:
            recipes.load(path).predict(["a red thing"])
        assert not seen
    else:
        refused(path, trapped, capfd, key)


@pytest.mark.parametrize("name", HARMLESS)
def test_files_and_hubs_are_left_alone(words, trapped, name):
    """Names that training would follow are not followed by a run that holds its weights."""
    path = altered(words, trapped / "strange.ckpt", with_config(HARMLESS[name]))
    with guarded(trapped) as seen:
        try:
            assert recipes.load(path).predict(["a red thing"])[0] in ("red", "blue", "green")
        except UserError as error:
            assert name == "delta_of_a_file" and "weights do not fit" in str(error)
    assert not seen


def test_a_teacher_is_not_opened(pictures, trapped):
    node = {
        "_target_": "methods.semi_supervised.noisy_student.NoisyStudent",
        "teacher": "forbidden.ckpt",
    }
    path = altered(
        pictures, trapped / "strange.ckpt", with_config(put("methods.noisy_student", node))
    )
    with guarded(trapped) as seen, pytest.raises(UserError):
        recipes.load(path)
    assert not seen


# -- what stays possible ---------------------------------------------------------------------------
def test_honest_runs_are_loaded_without_a_request(pictures, words, trapped, capfd):
    with guarded(trapped) as seen:
        assert len(recipes.load(pictures).predict(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))) == 2
        assert len(recipes.load(words).predict(["a red thing"])) == 1
    assert not seen and not (trapped / "RAN").exists()
    assert "trusted" not in capfd.readouterr().err


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("name", UNUSED)
def test_what_only_training_calls_is_left_out(pictures, trapped, capfd, name, trust):
    path = altered(pictures, trapped / "own.ckpt", with_config(UNUSED[name]))
    with guarded(trapped) as seen:
        predictor = recipes.load(path, trust=trust)
        assert len(predictor.predict(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))) == 2
    assert not seen and not (trapped / "RAN").exists()
    assert "imports" not in capfd.readouterr().err


def test_interpolations_are_refused_with_trust(pictures, trapped, capfd):
    path = altered(
        pictures,
        trapped / "strange.ckpt",
        with_config(put("network.name", "${oc.env:ROUX_CANARY}")),
    )
    refused(path, trapped, capfd, "network.name: found the interpolation", trust=True)


def test_a_method_of_ones_own_needs_trust(pictures, trapped, capfd, monkeypatch):
    change = with_config(put("methods.mine", {"_target_": "mine.Mine"}))
    path = altered(pictures, trapped / "own.ckpt", change)
    message = refused(path, trapped, capfd, "methods.mine._target_ calls 'mine.Mine'")
    assert "trust=true" in message and not (trapped / "RAN").exists()
    try:
        predictor = recipes.load(path, trust=True)
    finally:
        sys.modules.pop("mine", None)
    assert (
        type(predictor.recipe.composition.methods["mine"]).__name__ == "Mine"
        and (trapped / "RAN").exists()
    )
    lines = capfd.readouterr().err.splitlines()
    assert lines == [f"run: '{path}' is trusted and imports mine.Mine (methods.mine)"]


def test_every_target_of_the_configs_has_its_place():
    """The table is complete: each class that a config of Roux names may stand somewhere."""
    for file in sorted((REPOSITORY / "configs").rglob("*.yaml")):
        if "hydra" in file.parts:
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            key, _, target = line.partition("_target_: ")
            if target and not key.strip():
                assert any(place.names(target.strip()) for place in PLACES), f"{file}: {target}"


def test_places_are_told_apart():
    assert (
        place_of("data.views.strong.weak") is not None
        and place_of("data.views.a.views[0].weak") is not None
    )
    for key in (
        "",
        "data.root",
        "methods",
        "methods.a.b",
        "data.source.first",
        "network.options",
        "stages.a",
    ):
        assert place_of(key) is None


# -- the commands ----------------------------------------------------------------------------------
def command(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "ROUX_CANARY": SECRET,
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("module", ["recipes.predict", "recipes.export"])
def test_a_command_refuses_in_one_line(words, place, module):
    set_traps(place)
    altered(words, place / "strange.ckpt", with_config(put("scheduler", IMPORTS)))
    (place / "in.txt").write_text("a red thing\n")
    before = listing(place)
    more = (
        ["input=in.txt", "output=out.csv"]
        if module == "recipes.predict"
        else ["format=safetensors", "output=out"]
    )
    code, said = python(["-m", module, "run=strange.ckpt", *more], place)
    assert code == 2 and said.startswith("error: run: 'strange.ckpt': scheduler._target_ calls ")
    assert said.count("\n") == 1 and listing(place) == before


def test_the_current_folder_does_not_shadow_roux(pictures, place):
    """`python -m` puts the current folder first on the path: modules of Roux's names that lie there
    are not taken."""
    set_traps(place)
    (place / "timm.py").write_text((place / "evil.py").read_text())
    (place / "in").mkdir()
    done = command(place, "-m", "recipes.predict", f"run={pictures}", "input=in", "output=out.csv")
    assert (
        done.returncode == 2
        and "has nothing to predict" in done.stderr
        and not (place / "RAN").exists()
    )


def test_a_shadow_of_methods_is_refused(pictures, place):
    """Where a script or a prompt puts the current folder first, Roux's own methods cannot be
    had."""
    set_traps(place)
    done = command(place, "-c", f"import recipes; recipes.load({str(pictures)!r})")
    last = done.stderr.splitlines()[-1]
    assert (
        "'methods.semi_supervised.fixmatch' is no module of Roux" in last
        and not (place / "RAN").exists()
    )


# -- other files of a run --------------------------------------------------------------------------
def test_the_config_of_a_folder_is_read_as_plain_values(trapped, capfd):
    for name, text in {
        "env": "stages: ${oc.env:ROUX_CANARY}",
        "tag": "stages: !!python/object/apply:os.system ['touch RAN']",
        "outside": "stages: {'../..': {}}",
    }.items():
        folder = trapped / name
        folder.mkdir()
        (folder / "config.yaml").write_text(text)
        refused(folder, trapped, capfd, "stages")


def test_a_strange_config_beside_a_run_is_no_run_of_ours(trapped):
    from omegaconf import OmegaConf

    from recipes.runs.run_folder import newest_unfinished

    config = OmegaConf.create({"run_dir": "runs/new", "seed": 0})
    for name, text in {
        "a": "seed: 0",
        "b": "seed: ${oc.env:ROUX_CANARY}",
        "c": "seed: !!python/name:evil.run",
    }.items():
        (trapped / "runs" / name).mkdir(parents=True)
        (trapped / "runs" / name / "config.yaml").write_text(text)
    with guarded(trapped) as seen:
        assert newest_unfinished(config) == Path("runs/a")
    assert not seen


def test_what_the_checkpoint_of_these_tests_holds(pictures, words):
    """The variants above change what is there, else they would show nothing."""
    tree = yaml.safe_load(torch.load(pictures, weights_only=True)["provenance"]["config"])
    assert {"fixmatch", "ema"} <= set(tree["methods"]) and tree["logger"] and tree["evaluate"]
    assert (
        json.loads(torch.load(words, weights_only=True)["provenance"]["encoder"])["model_type"]
        == "bert"
    )
