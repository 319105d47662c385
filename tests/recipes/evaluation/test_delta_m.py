import json

import pytest

from recipes.delta_m import delta_m, main


def test_worked_example():
    """Task A: accuracy .90 -> .92; task B: loss .50 -> .45 and accuracy .20 -> .22."""
    run = {"a": {"accuracy": 0.92}, "b": {"loss": 0.45, "accuracy": 0.22}}
    alone = {"a": {"accuracy": 0.90}, "b": {"loss": 0.50, "accuracy": 0.20}}
    assert delta_m(run, alone) == pytest.approx((6.1111, 7.4074), abs=1e-4)
    assert delta_m(alone, alone) == (0, 0)


def test_both_forms_can_differ_in_sign():
    names = ("miou", "acc", "abs", "rel", "mean", "median", "w11", "w22", "w30")
    base = dict(
        zip(
            names,
            (0.3830, 0.6376, 0.6754, 0.2780, 25.01, 19.21, 0.3014, 0.5720, 0.6915),
            strict=True,
        )
    )
    mine = dict(zip(names, (0.39, 0.65, 0.54, 0.22, 28, 23, 0.22, 0.48, 0.61), strict=True))
    tasks = {"seg": names[:2], "depth": names[2:4], "normal": names[4:]}

    def by_task(values):
        return {task: {n: values[n] for n in of} for task, of in tasks.items()}

    found = delta_m(by_task(mine), by_task(base), frozenset(("abs", "rel", "mean", "median")))
    assert found == pytest.approx((1.68, -4.65), abs=0.01)


def runs(tmp_path, **metrics):
    for name, values in metrics.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(values))
    return [str(tmp_path / name) for name in metrics]


def test_folders_of_runs(tmp_path, capsys):
    a, b, left, right = runs(
        tmp_path,
        a={"test/left/accuracy": 0.95, "test/right/accuracy": 0.81, "test/accuracy": 0.9},
        b={"test/left/accuracy": 0.97, "test/right/accuracy": 0.83, "test/accuracy": 0.9},
        left={"test/accuracy": 0.96, "train/loss": 1},
        right={"test/accuracy": 0.80},
    )
    assert main([f"{a},{b}", f"left={left}", f"right={right}"]) == 0
    said = capsys.readouterr().out
    assert "Δm per task, positive is better: +1.25 %" in said
    assert "0.9600    0.9600    +0.00%" in said and "0.8000    0.8200    +2.50%" in said


def test_a_folder_may_have_a_comma_in_its_name(tmp_path, capsys):
    (several,) = runs(tmp_path, **{"several,0": {"test/left/accuracy": 0.9}})
    (left,) = runs(tmp_path, **{"left,0": {"test/accuracy": 0.8}})
    assert main([several, f"left={left}"]) == 0
    assert "0.8000    0.9000   +12.50%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a", "left"], "'left': expected TASK=FOLDER"),
        (["a", "left=nowhere"], "nowhere: holds no metrics.json"),
        (["a", "middle=left"], "a: has no test/middle/accuracy; did you mean"),
        (
            ["a", "left=left", "--metric", "acuracy"],
            "has no test/left/acuracy; did you mean 'test/left/accuracy'",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch, arguments, line):
    runs(
        tmp_path,
        a={"test/left/accuracy": 0.9, "test/right/accuracy": 0.8},
        left={"test/accuracy": 0.9},
    )
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
