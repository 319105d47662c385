"""The data of a finished run in one object: collected by `runs.collect`, shown by the report and
the loggers."""

import base64
import io
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foundation.files import jsonable, printable

if TYPE_CHECKING:
    from PIL.Image import Image

View = np.ndarray | str


@dataclass
class ViewRow:
    """One unlabeled sample of the report's views.

    weak, strong: uint8 pixels [H, W, C] with C 1 or 3 (or [H, W]) for `image`, the words for
        `text`.
    pseudo_label, true: class names.
    confidence: of the pseudo-label, in [0, 1].
    kept: whether the sample entered the loss; None where no method selects samples.
    """

    kind: Literal["image", "text"]
    weak: View
    strong: View
    pseudo_label: str | None = None
    confidence: float | None = None
    true: str | None = None
    kept: bool | None = None


@dataclass
class Sample:
    """One sample of a measurement's picture in the report.

    view: uint8 pixels [H, W, C], or a text.
    caption: text below it.
    right: whether it is marked as right or wrong; None: no mark.
    """

    view: View
    caption: str = ""
    right: bool | None = None


@dataclass
class Gallery:
    """Rows of samples that a measurement shows: a retrieval, an attack."""

    title: str
    note: str
    rows: list[list[Sample]]


@dataclass
class RunRecord:
    """What the report and the loggers show of a run.

    title: heading of the report.
    command, plan, config: shown as they are.
    history: one row per logged step, {"step": int, name: float}; a row may lack names.
    final: last values by logged name, e.g. `test/accuracy`.
    reported: label of the reported metrics where the raw weights' metrics are listed too:
        `averaged` with EMA weights, `reported` where evaluation only changes inputs or logits.
    classes: class names [C] by task.
    train_counts: numbers of training labels [C] by task.
    confusion: confusion matrix [C, C] by task, rows are true classes; not of tasks with more than
        1,000 classes.
    class_results: by task, three lists [C]: test samples, correct ones, predictions of each class.
    views: unlabeled samples as the network sees them.
    seconds: wall time by phase, e.g. {"train": 31.0}.
    versions: version by package.
    hardware: the devices, one line.
    terms: names of the logged loss terms, e.g. `train/unlabeled`; empty: all `train/` names that
        are not diagnostics.
    changes: settings changed when the run was resumed, one line each.
    lost: parts that could not be made, one line each.
    monitor: the metric that judges the run, e.g. `val/accuracy`.
    view_names: what `weak` and `strong` of the views are; `raw` is the sample as it is stored.
    measured: how each measurement was made, by its name under `evaluate`.
    galleries: samples that measurements show.
    warnings: what is wrong with the result, one line each.
    remarks: of the values that methods give for each test sample, by name, what the report shows
        (`mean`, `5 %`, `median`, `95 %`, `largest`).
    """

    title: str
    command: str = ""
    plan: str = ""
    config: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)
    reported: str = "reported"
    classes: dict[str, list[str]] = field(default_factory=dict)
    train_counts: dict[str, list[int]] = field(default_factory=dict)
    confusion: dict[str, Any] = field(default_factory=dict)
    class_results: dict[str, list[list[int]]] = field(default_factory=dict)
    views: list[ViewRow] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: str = ""
    terms: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    monitor: str = "val/accuracy"
    view_names: tuple[str, str] = ("weak", "strong")
    measured: dict[str, str] = field(default_factory=dict)
    galleries: list[Gallery] = field(default_factory=list)
    remarks: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in _shallow(self).items():
            setattr(self, name, _valid(value))

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one logged name, finite values only, in order of steps."""
        points = [(row["step"], row[name]) for row in self.history if row.get(name) is not None]
        steps, values = (
            np.array(column, dtype=float)
            for column in (zip(*points, strict=True) if points else ([], []))
        )
        keep = np.isfinite(values)
        order = np.argsort(steps[keep], kind="stable")
        return steps[keep][order], values[keep][order]

    def names(self) -> list[str]:
        """All names in the history, in order of first appearance."""
        names: dict[str, None] = {}
        for row in self.history:
            names.update(dict.fromkeys(row))
        names.pop("step", None)
        return list(names)

    def to_json(self) -> dict[str, Any]:
        """The record in JSON's types; images as base64 PNG."""
        values = _shallow(self)
        values["views"] = [
            {**_shallow(row), "weak": _pack(row.weak), "strong": _pack(row.strong)}
            for row in self.views
        ]
        values["galleries"] = []  # pictures of the page alone
        return jsonable(values)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunRecord":
        """The inverse of `to_json` (NaN values come back as None)."""
        views = [
            ViewRow(**{**row, "weak": _unpack(row["weak"]), "strong": _unpack(row["strong"])})
            for row in values["views"]
        ]
        names = tuple(values.get("view_names", cls.view_names))
        return cls(**{**values, "views": views, "view_names": names})


def _valid(value: Any) -> Any:
    """The value with its texts as `printable`: names of files and classes may hold any bytes."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, ViewRow):
        texts = {name: _valid(text) for name, text in _shallow(value).items()}
        return replace(value, **texts)
    if isinstance(value, list) and value and isinstance(value[0], str | ViewRow):
        return list(map(_valid, value))
    if isinstance(value, dict):
        return {_valid(key): _valid(entry) for key, entry in value.items()}
    return value


def _shallow(entry: "RunRecord | ViewRow") -> dict[str, Any]:
    """The fields by name; `asdict` would copy every array."""
    return {field.name: getattr(entry, field.name) for field in fields(entry)}


def matrix(values: Any) -> np.ndarray:
    """A confusion matrix (lists, array or tensor) as float64 [C, C]."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values, dtype=float)


def recalls(confusion: Any) -> np.ndarray:
    """Accuracy of each true class [C] in [0, 1]: n_cc / Σ_j n_cj; NaN for a class without test
    samples."""
    counts = matrix(confusion)
    totals = counts.sum(axis=1)
    return np.divide(counts.diagonal(), totals, out=np.full(len(counts), np.nan), where=totals > 0)


def png(pixels: np.ndarray) -> bytes:
    """uint8 pixels [H, W, 3], [H, W, 1] or [H, W] as a PNG file."""
    buffer = io.BytesIO()
    picture(pixels).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def picture(pixels: np.ndarray) -> "Image":
    """uint8 pixels [H, W, 3], [H, W, 1] or [H, W] as a PIL image."""
    from PIL import Image

    grey = pixels.ndim == 3 and pixels.shape[-1] == 1
    return Image.fromarray(pixels.squeeze(-1) if grey else pixels)


def _pack(view: View) -> Any:
    if isinstance(view, str):
        return view
    return {"png": base64.b64encode(png(np.asarray(view))).decode()}


def _unpack(view: Any) -> View:
    if isinstance(view, str):
        return view
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(view["png"]))))
    return pixels[..., None] if pixels.ndim == 2 else pixels
