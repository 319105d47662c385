"""Δm: what learning tasks together gained or lost against learning each alone, from the folders of
finished runs.

    python -m recipes.delta_m RUN left=RUN_OF_LEFT right=RUN_OF_RIGHT --metric accuracy

Several runs, of other seeds say, are joined by commas and averaged. Baselines are to be trained by
the same recipe.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from foundation.errors import UserError, nearest
from recipes.report.numbers import LOWER_IS_BETTER

Figures = Mapping[str, Mapping[str, float]]  # task -> metric -> value


def relative_gain(value: float, baseline: float, lower_is_better: bool) -> float:
    """(-1)^l (N - B) / B in percent, positive where `value` is the better one."""
    gain = 100 * (value - baseline) / baseline
    return -gain if lower_is_better else gain


def delta_m(
    run: Figures, baselines: Figures, lower_is_better: frozenset[str] = LOWER_IS_BETTER
) -> tuple[float, float]:
    """(per task, flat) in percent, positive is better: 100/T Σ_t 1/M_t Σ_m (-1)^l (N - B)/B, and
    the plain mean over all metrics. They can differ in sign."""
    gains = {
        task: [
            relative_gain(run[task][name], base, name in lower_is_better)
            for name, base in metrics.items()
        ]
        for task, metrics in baselines.items()
    }
    every = [gain for of_task in gains.values() for gain in of_task]
    return sum(sum(g) / len(g) for g in gains.values()) / len(gains), sum(every) / len(every)


def read(folder: str) -> dict[str, float]:
    """The final metrics of a run."""
    path = Path(folder).expanduser() / "metrics.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{folder}: holds no metrics.json; expected the folder of a finished run"
        ) from None


def listed(folders: str) -> list[str]:
    """Folders joined by commas; a folder whose own name has a comma is one."""
    return [folders] if Path(folders).expanduser().is_dir() else folders.split(",")


def figure(folders: str, task: str, metric: str) -> float:
    """A test metric of a task, averaged over runs; a run of one task does not say the task's
    name."""
    values = []
    for folder in listed(folders):
        found, name = read(folder), f"test/{task}/{metric}"
        several = any(
            key.startswith("test/") and key.count("/") == 2 and "/raw/" not in key for key in found
        )
        name = name if several else f"test/{metric}"
        if found.get(name) is None:
            raise UserError(
                f"{folder}: has no {name}; "
                f"{nearest(name, [k for k in found if k.startswith('test/')])}"
            )
        values.append(float(found[name]))
    return sum(values) / len(values)


def table(run: str, baselines: Mapping[str, str], metrics: Sequence[str]) -> str:
    """The figures, line by line, and Δm in both forms."""
    mine = {task: {m: figure(run, task, m) for m in metrics} for task in baselines}
    alone = {
        task: {m: figure(folder, task, m) for m in metrics} for task, folder in baselines.items()
    }
    lines = [f"{'task':<12} {'metric':<18} {'alone':>9} {'together':>9} {'gain':>9}"]
    for task, values in alone.items():
        for name, base in values.items():
            gain = relative_gain(mine[task][name], base, name in LOWER_IS_BETTER)
            lines.append(f"{task:<12} {name:<18} {base:9.4f} {mine[task][name]:9.4f} {gain:+8.2f}%")
    per_task, flat = delta_m(mine, alone)
    lines.append(f"Δm per task, positive is better: {per_task:+.2f} %")
    lines.append(
        f"Δm flat, positive is better: {flat:+.2f} % (with the opposite sign in CAGrad, Nash-MTL, "
        "FAMO)"
    )
    return "\n".join(lines)


def pair(argument: str) -> tuple[str, str]:
    task, sign, folder = argument.partition("=")
    if not sign or not task or not folder:
        raise UserError(f"'{argument}': expected TASK=FOLDER of a run on that task alone")
    return task, folder


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.delta_m", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "run", help="folder of the run on several tasks; several folders joined by commas"
    )
    parser.add_argument("baseline", nargs="+", help="TASK=FOLDER of the run on this task alone")
    parser.add_argument(
        "--metric", nargs="+", default=["accuracy"], help="accuracy, balanced_accuracy, loss"
    )
    chosen = parser.parse_args(arguments)
    try:
        print(table(chosen.run, dict(pair(b) for b in chosen.baseline), chosen.metric))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
