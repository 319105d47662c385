"""The page of results says what the kept numbers say, and every row is a command that composes."""

import json
import shlex
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.pages import results
from benchmarks.pages.results import filled, page, sets, summary, table, words
from recipes.config.groups import CONFIGS
from recipes.config.resolve import resolve_command
from tests.support.command import train
from tests.support.pages import check_fresh

PAGE = Path(__file__).parents[3] / "docs" / "results.md"
# sets that a program computes from the networks of another set have no commands of their own
TRAINED = {name: entry for name, entry in sets().items() if "program" not in entry}
ROWS = [(name, row) for name, entry in TRAINED.items() for row in entry["rows"]]
# the first row of each set; of the others, which differ in a few words, the slow trial
FIRST = {name: next(iter(entry["rows"])) for name, entry in TRAINED.items()}


def test_the_page_is_fresh():
    check_fresh(PAGE, page(), "python benchmarks/pages/results.py --page > docs/results.md")


def param(name: str, row: str):
    marks = () if FIRST[name] == row else (pytest.mark.slow,)
    return pytest.param(name, row, id=f"{name}: {row}", marks=marks)


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_the_choices_of_a_row_exist(name, row):
    """Cheaper than to compose it: every file that a row chooses is there."""
    for word in words(sets()[name], row):
        group, _, choice = word.partition("=")
        if (CONFIGS / group).is_dir() and choice:
            for option in choice.strip("[]").split(","):
                assert option == "none" or (CONFIGS / group / f"{option}.yaml").exists(), word


@pytest.mark.parametrize(("name", "row"), [param(*case) for case in ROWS])
def test_every_row_composes(name, row):
    config = resolve_command(
        [*(filled(word, 0) for word in words(sets()[name], row)), "run_dir=unused"]
    ).config
    asked = dict(word.split("=", 1) for word in words(sets()[name], row))
    assert {group: config.chosen[group] for group in asked if group in config.chosen} == {
        group: choice for group, choice in asked.items() if group in config.chosen
    }


def test_kept_numbers_are_of_rows_that_exist():
    for name, entry in sets().items():
        path = PAGE.parent / "results" / f"{name}.json"
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))["rows"]
            assert kept.keys() <= entry["rows"].keys()
            for row, line in kept.items():
                expected = words(entry, row) if name in TRAINED else [name]
                assert shlex.split(line["command"])[2:] == expected, f"{name}, {row}: other command"


def test_a_program_has_rows_of_attacks_and_of_networks_that_are_trained():
    computed = {name: entry for name, entry in sets().items() if "program" in entry}
    assert computed
    for name, entry in computed.items():
        program = import_module(entry["program"])
        networks = sets()[program.NETWORKS]["rows"].keys()
        for row in entry["rows"]:
            attack, _, source = row.partition(" on ")
            assert (source or row) in networks, (name, row)
            attacks = [attack] if source else entry["metrics"][1:]
            assert set(attacks) <= program.ATTACKS.keys()
            assert not source or set(entry["metrics"]) <= networks


def test_a_summary_is_the_mean_and_the_sample_deviation_in_percent():
    assert summary([0.90, 0.92, 0.94]) == "92.0 ± 2.0"
    assert summary([0.9125]) == "91.2"
    assert summary([]) == "–"


def test_of_stages_the_last_one_is_kept(tmp_path, monkeypatch):
    run = tmp_path / "run"
    overrides = ["recipe=crt", "trainer.max_steps=2", "trainer.accelerator=cpu"]
    stage = "stages.classifier=['long_tail=crt','trainer.max_steps=1']"
    train(run, *overrides, stage, "data.batch_size=8")
    monkeypatch.setattr(results, "KEPT", tmp_path)
    monkeypatch.setattr(results, "folder_of", lambda name, row, seed: run)
    monkeypatch.setattr(results, "train", lambda folder, arguments, timeout: None)
    results.measure("unseen_tail_300", "cRT", 0, SimpleNamespace(set=[], timeout=1))
    numbers = json.loads((tmp_path / "unseen_tail_300.json").read_text())["rows"]["cRT"]["seeds"]
    final = json.loads((run / "classifier" / "metrics.json").read_text())
    assert numbers["0"]["test/accuracy"] == final["test/accuracy"]
    last = run / "classifier" / "checkpoints" / "last.ckpt"
    assert numbers["0"]["checkpoint_bytes"] == last.stat().st_size


def test_a_row_is_asked_for_by_its_whole_name(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(results, "measure", lambda *case: asked.append(case[:3]))
    row = "supervised, EMA and cosine"
    assert results.main(["unseen_usps_300", "--rows", row, "VAT", "--seeds", "1,2"]) == 0
    assert asked == [("unseen_usps_300", r, seed) for seed in (1, 2) for r in (row, "VAT")]
    with pytest.raises(SystemExit):
        results.main(["unseen_usps_300", "--rows", "VAT,ICT"])
    assert "unseen_usps_300 has no row VAT,ICT" in capsys.readouterr().err


def test_rows_without_numbers_have_no_line():
    entry = {"rows": {"a": "", "b": ""}, "metrics": ["test/accuracy"]}
    kept = {"rows": {"b": {"command": "python train.py x", "seeds": {"0": {"test/accuracy": 0.5}}}}}
    text = "\n".join(table(entry, kept))
    assert "\n| b | 50.0 | 0 |\n" in text and "| a |" not in text
    assert "\n    python train.py x\n" in text


def test_sizes_are_columns_after_the_metrics():
    entry = {
        "rows": {"a": ""},
        "metrics": ["test/accuracy"],
        "sizes": ["trained parameters", "checkpoint MiB", "seconds"],
    }
    runs = {
        "0": {"test/accuracy": 0.5, "trained": 12000, "checkpoint_bytes": 3 * 2**19},
        "1": {"test/accuracy": 0.5, "trained": 14000, "checkpoint_bytes": 3 * 2**19},
    }
    text = "\n".join(table(entry, {"rows": {"a": {"command": "x", "seeds": runs}}}))
    assert "accuracy | trained parameters | checkpoint MiB | seconds | seeds" in text
    assert "\n| a | 50.0 ± 0.0 | 13,000 | 1.5 | – | 0, 1 |\n" in text
