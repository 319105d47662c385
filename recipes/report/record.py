"""Everything a run has to tell, in one plain object: filled by the engine, drawn by the page and
the loggers."""

import base64
import io
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from foundation.files import jsonable

View = np.ndarray | str


@dataclass
class ViewRow:
    """One unlabeled sample on the sheet of views.

    weak, strong: uint8 pixels [H, W, C] with C 1 or 3 (or [H, W]) for `image`, the words for
        `text`.
    pseudo_label, true: class names. confidence: in [0, 1]. kept: whether the sample entered the
        loss.
    """

    kind: Literal["image", "text"]
    weak: View
    strong: View
    pseudo_label: str | None = None
    confidence: float | None = None
    true: str | None = None
    kept: bool | None = None


@dataclass
class RunRecord:
    """What happened in a run.

    history: one row a logged step, {"step": int, name: float}; names may be missing from a row.
    final: last values under the names logged, `test/accuracy` among them. reported: what the
    network is called whose values they are where the raw one's stand beside them: `averaged`, or
    `reported` where evaluation changes inputs or logits alone.
    classes, train_counts, confusion: by task. confusion: [C, C], rows are the true classes.
        train_counts: [C].
    terms: names of the logged loss terms, e.g. `train/unlabeled`; empty: every `train/` name that
        is no diagnostic.
    changes: settings that were changed when the run was resumed, a line each.
    seconds: wall time by phase, e.g. {"train": 31.0}. versions: by package.
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
    views: list[ViewRow] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: str = ""
    terms: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

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
        return [
            name
            for name in dict.fromkeys(name for row in self.history for name in row)
            if name != "step"
        ]

    def to_json(self) -> dict[str, Any]:
        """The record in JSON's types; images as base64 PNG."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain["views"] = [
            {
                **{entry.name: getattr(row, entry.name) for entry in fields(row)},
                "weak": _pack(row.weak),
                "strong": _pack(row.strong),
            }
            for row in self.views
        ]
        return jsonable(plain)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "RunRecord":
        """The inverse of `to_json` (NaN values come back as None)."""
        views = [
            ViewRow(**{**row, "weak": _unpack(row["weak"]), "strong": _unpack(row["strong"])})
            for row in plain["views"]
        ]
        return cls(**{**plain, "views": views})


def matrix(values: Any) -> np.ndarray:
    """A confusion matrix given as lists, array or tensor, as float64 [C, C]."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)


def recalls(confusion: Any) -> np.ndarray:
    """Accuracy of each true class [C] in [0, 1]: n_cc / Σ_j n_cj; NaN for a class without test
    samples."""
    counts = matrix(confusion)
    totals = counts.sum(axis=1)
    return np.divide(counts.diagonal(), totals, out=np.full(len(counts), np.nan), where=totals > 0)


def png(pixels: np.ndarray) -> bytes:
    """uint8 pixels [H, W, 3], [H, W, 1] or [H, W] as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(
        pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    ).save(buffer, "png", optimize=True)
    return buffer.getvalue()


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
