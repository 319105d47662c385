"""python -m recipes.export run=RUN [format=all] [output=FOLDER]

Export a finished run to other formats, each in its own folder, each checked against the run.

  run=RUN          folder of a run of train.py, or one of its checkpoints
  format=all       all            those of the following that are possible
                   safetensors    weights under Roux's names with config.json; a file for
                                  network.checkpoint
                   onnx           the whole prediction in one graph: pictures or token ids in,
                                  logits out
                   timm           pictures:
                                  timm.create_model("local-dir:FOLDER", pretrained=True)
                   huggingface    texts: AutoModel or
                                  AutoModelForSequenceClassification.from_pretrained(FOLDER)
  output=FOLDER    default: the folder `export` next to the run's checkpoints
  which=last       last | best checkpoint of the folder
  overwrite=true   replace existing folders
  trust=true       the run may call code of other packages (your own methods)

Averaged weights, merged deltas and corrections of logits are included. A line is printed for
whatever a format cannot represent.

Example
  python -m recipes.export run=outputs/fixmatch/2026-01-31_12-00-00 format=onnx
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foundation.errors import UserError, raise_all
from foundation.fast_imports import gc_paused
from recipes.config.options import run_command

if TYPE_CHECKING:
    from recipes.predict.predictor import Predictor

Format = Literal["all", "safetensors", "onnx", "timm", "huggingface"]
KINDS = {"image": ("onnx", "safetensors", "timm"), "text": ("onnx", "safetensors", "huggingface")}


def export(
    run: str,
    format: Format = "all",
    output: str | None = None,
    which: Literal["last", "best"] = "last",
    overwrite: bool = False,
    trust: bool = False,
) -> dict[str, float]:
    """Write the formats and print a line for each.

    Returns the largest difference from the run's outputs by format, relative to the largest output.
    Raises UserError if a requested format cannot be written.
    """
    with gc_paused():
        from recipes.predict.loading import find_run, load

    checkpoint = find_run(run, which)
    home = checkpoint.parent
    if home.name == "checkpoints":
        home = home.parent
    target = Path(output).expanduser() if output else home / "export"
    if format != "all":
        check_output(target / format, overwrite)
    predictor = load(checkpoint, trust=trust)
    formats = KINDS[predictor.kind] if format == "all" else (format,)
    for name in formats:
        check_output(target / name, overwrite)
    return write_all(predictor, formats, target, lenient=format == "all")


def write_all(
    predictor: "Predictor", formats: tuple[str, ...], target: Path, lenient: bool
) -> dict[str, float]:
    """Write formats. lenient: report formats that cannot be written, and write the others."""
    from recipes.engine.committee import members_of
    from recipes.export.folding import folded, merged

    for key in merged(predictor):
        print(f"{key}: merged into the weights")
    for method in predictor.recipe.methods_at["remark"]:
        print(f"{method.key}: what it says about each sample is not exported", file=sys.stderr)
    worst: dict[str, float] = {}
    # first, because the graph needs the run's own prediction, and `folded` changes the network
    writers: dict[str, Callable[[Path], float]] = {}
    if "onnx" in formats:
        from recipes.export.onnx_graph import write_onnx

        writers["onnx"] = lambda folder: write_onnx(predictor, folder)
        write_one("onnx", writers["onnx"], target, lenient, worst)
    others = [name for name in formats if name != "onnx"]
    if others and len(members_of(predictor.network)) > 1:
        for name in others:
            write_one(name, partial(one_network_only, name), target, lenient, worst)
    elif others:
        plain = folded(predictor)
        for key in plain.done:
            print(f"{key}: folded into the head")
        for name in others:
            write_one(name, writer_of(name, predictor, plain), target, lenient, worst)
            if name == "safetensors" and name in worst:
                for line in plain.left:
                    print(f"safetensors: holds the weights alone: {line}", file=sys.stderr)
    return worst


def one_network_only(name: str, folder: Path) -> float:
    """Refuse a format that holds the weights of one network."""
    problem = "holds one network, but several answer as one in this run"
    raise UserError(f"format={name}", problem, "use format=onnx, which holds them all")


def writer_of(name: str, predictor: "Predictor", plain: Any) -> Callable[[Path], float]:
    if name == "safetensors":
        from recipes.export.weights import write_weights as write
    elif name == "timm":
        from recipes.export.timm_folder import write_timm as write
    else:
        from recipes.export.huggingface import write_huggingface as write
    return lambda folder: write(predictor, plain, folder)


def write_one(
    name: str, write: Callable[[Path], float], target: Path, lenient: bool, worst: dict[str, float]
) -> None:
    """Write a format to a temporary folder, then move it to its place: no partial format
    remains."""
    started = time.monotonic()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=f".{name}.") as made:
            place = Path(made) / name
            place.mkdir()
            worst[name] = write(place)
            size = sum(p.stat().st_size for p in place.rglob("*") if p.is_file()) / 2**20
            if (target / name).exists():
                shutil.rmtree(target / name)
            place.rename(target / name)
    except UserError as error:
        if not lenient:
            raise
        worst.pop(name, None)
        reason = error.about("") if error.key == f"format={name}" else error
        print(f"{name}: not written: {reason}", file=sys.stderr)
        return
    apart = f", at most {worst[name]:.1e} from the run" if name != "safetensors" else ""
    print(f"{name}: {target / name}, {size:.1f} MB{apart}, {time.monotonic() - started:.1f} s")


def check_output(folder: Path, overwrite: bool) -> None:
    """Raises UserError if the folder exists, without overwrite, or cannot be written."""
    if folder.exists() and not overwrite:
        raise UserError(
            f"output: '{folder}' exists already; name another folder, or add overwrite=true"
        )
    from recipes.checkpointing.files import run_dir_errors

    raise_all([error.about("output") for error in run_dir_errors(str(folder), reading=True)])


def main(argv: list[str]) -> int:
    return run_command(argv, export, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
