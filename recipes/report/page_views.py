"""The views of unlabeled samples in the report: weak and strong view, pseudo-label, confidence."""

import base64
import difflib
import io
from collections.abc import Sequence
from html import escape

import numpy as np

from recipes.report.record import ViewRow, picture, png

MOST = 24  # samples
SIDE = 112  # pixels; larger images are scaled down
BUDGET = 700_000  # characters of HTML; `MOST` photographs of `SIDE` need a third
WORDS = 90  # shown of a text
STATES = {True: "in the loss", False: "not in the loss", None: ""}


def views_html(rows: Sequence[ViewRow]) -> str:
    """A grid of cards for the first samples, limited by `MOST` and `BUDGET`."""
    texts = rows[0].kind == "text"
    cards = []
    size = 0
    for row in rows[:MOST]:
        cards.append(_card(row))
        size += len(cards[-1])
        if size > BUDGET:
            break
    return f'<div class="sheet{" texts" if texts else ""}">' + "\n".join(cards) + "</div>"


def _card(row: ViewRow) -> str:
    body = _images(row) if row.kind == "image" else _texts(row)
    dropped = " dropped" if row.kept is False else ""
    return f'<div class="view{dropped}">{body}{_labels(row)}</div>'


def _labels(row: ViewRow) -> str:
    if row.pseudo_label is None:
        return "" if row.true is None else _truth(f"true: {escape(row.true)}")
    notes = [_verdict(row), STATES[row.kept]]
    truth = " · ".join(note for note in notes if note)
    sure = ""
    bar = ""
    if row.confidence is not None:
        sure = f"{100 * row.confidence:.0f} %"
        width = 100 * min(max(row.confidence, 0.0), 1.0)
        bar = f'<div class="bar"><i style="width:{width:.0f}%"></i></div>'
    return (
        f'<div class="label"><b>{escape(row.pseudo_label)}</b><span>{sure}</span></div>'
        + bar
        + (_truth(truth) if truth else "")
    )


def _truth(html: str) -> str:
    return f'<div class="truth">{html}</div>'


def _verdict(row: ViewRow) -> str:
    if row.true is None:
        return ""
    if row.true == row.pseudo_label:
        return '<span class="right">✓</span> right'
    return f'<span class="wrong">✗</span> true: {escape(str(row.true))}'


def _images(row: ViewRow) -> str:
    name = escape(row.pseudo_label or row.true or "sample", quote=True)
    pictures = [(np.asarray(row.weak), "weak"), (np.asarray(row.strong), "strong")]
    return (
        '<div class="pair">'
        + "".join(_image(pixels, f"{kind} view, {name}") for pixels, kind in pictures)
        + "</div>"
    )


def _image(pixels: np.ndarray, alt: str) -> str:
    small = max(pixels.shape[:2]) <= SIDE
    if small:
        kind = "png"
        data = png(pixels)
    else:
        reduced = picture(pixels)
        reduced.thumbnail((SIDE * 2, SIDE * 2))  # two pixels per CSS pixel, for dense screens
        buffer = io.BytesIO()
        reduced.convert("RGB").save(buffer, "jpeg", quality=80, optimize=True)
        kind = "jpeg"
        data = buffer.getvalue()
    crisp = ' class="small"' if small else ""
    return (
        f'<img{crisp} alt="{alt}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
    )


def _texts(row: ViewRow) -> str:
    """The weak view, and the strong view with its changes marked."""
    old = _words(str(row.weak))
    new = _words(str(row.strong))
    shown = []
    for change, i, j, k, l in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if change == "equal":
            shown.append(escape(" ".join(new[k:l])))
            continue
        if i < j:
            shown.append(f"<del>{escape(' '.join(old[i:j]))}</del>")
        if k < l:
            shown.append(f"<mark>{escape(' '.join(new[k:l]))}</mark>")
    return f"<p><small>weak</small>{escape(' '.join(old))}</p><p><small>strong</small>{' '.join(shown)}</p>"


def _words(text: str) -> list[str]:
    words = text.split()
    return words if len(words) <= WORDS else [*words[:WORDS], "…"]
