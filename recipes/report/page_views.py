"""The views of unlabeled samples in the report: weak and strong view, pseudo-label, confidence."""

import base64
import difflib
import io
from collections.abc import Sequence
from html import escape

import numpy as np

from recipes.report.record import Gallery, Sample, ViewRow, picture, png
from recipes.report.style import name_html, short

MOST = 12  # samples: full rows of two, three, four and six
SIDE = 112  # pixels; larger images are scaled down
BUDGET = 700_000  # characters of HTML; `MOST` photographs of `SIDE` need a third
WORDS = 90  # shown of a text
STATES = {True: "in the loss", False: "not in the loss", None: ""}


# what the page calls a view; others have their own names
VIEWS = {"raw": "stored sample", "weak": "weak view", "strong": "strong view"}


def views_note(rows: Sequence[ViewRow], names: Sequence[str]) -> str:
    """What the views are."""
    where = "beside" if rows[0].kind == "image" else "above"
    first, second = (view_title(name) for name in names)
    note = f"Samples of the last step: {first} {where} {second}."
    if any(row.pseudo_label is not None for row in rows):
        note = note.removesuffix(".") + ", with pseudo-label and confidence."
    if any(row.kept is False for row in rows):
        note += " Dashed: not in the loss."
    return note


def view_title(name: str) -> str:
    return VIEWS.get(name, f"view {name}")


def views_html(rows: Sequence[ViewRow], names: Sequence[str] = ("weak", "strong")) -> str:
    """A grid of cards for the first samples, limited by `MOST` and `BUDGET`."""
    texts = rows[0].kind == "text"
    cards = []
    size = 0
    for row in rows[:MOST]:
        cards.append(_card(row, names))
        size += len(cards[-1])
        if size > BUDGET:
            break
    return f'<div class="sheet{" texts" if texts else ""}">' + "\n".join(cards) + "</div>"


def _card(row: ViewRow, names: Sequence[str]) -> str:
    body = _images(row, names) if row.kind == "image" else _texts(row, names)
    dropped = " dropped" if row.kept is False else ""
    return f'<div class="view{dropped}">{body}{_labels(row)}</div>'


def _labels(row: ViewRow) -> str:
    if row.pseudo_label is None:
        return "" if row.true is None else _truth(f"true: {name_html(row.true)}")
    notes = [_verdict(row), STATES[row.kept]]
    truth = " · ".join(note for note in notes if note)
    sure = ""
    bar = ""
    if row.confidence is not None:
        sure = f"{100 * row.confidence:.0f} %"
        width = 100 * min(max(row.confidence, 0.0), 1.0)
        bar = f'<div class="bar"><i style="width:{width:.0f}%"></i></div>'
    return (
        f'<div class="label"><b>{name_html(row.pseudo_label)}</b><span>{sure}</span></div>'
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
    return f'<span class="wrong">✗</span> true: {name_html(row.true)}'


def _images(row: ViewRow, names: Sequence[str]) -> str:
    name = name_html(row.pseudo_label or row.true or "sample")
    titles = [escape(view_title(view), quote=True) for view in names]
    pictures = zip((np.asarray(row.weak), np.asarray(row.strong)), titles, strict=True)
    return (
        '<div class="pair">'
        + "".join(_image(pixels, f"{kind}, {name}") for pixels, kind in pictures)
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


def _texts(row: ViewRow, names: Sequence[str]) -> str:
    """The first view, and the second one with its changes marked."""
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
    first, second = (escape(view_title(name)) for name in names)
    return (
        f"<p><small>{first}</small>{escape(' '.join(old))}</p>"
        f"<p><small>{second}</small>{' '.join(shown)}</p>"
    )


def _words(text: str) -> list[str]:
    words = text.split()
    return words if len(words) <= WORDS else [*words[:WORDS], "…"]


def gallery_html(gallery: Gallery) -> str:
    """Rows of samples, each with its caption and mark."""
    rows = []
    size = 0
    for samples in gallery.rows:
        rows.append("".join(map(_sample, samples)))
        size += len(rows[-1])
        if size > BUDGET:
            break
    columns = max(map(len, gallery.rows), default=1)
    style = f' style="--columns:{columns}"'
    return "".join(f'<div class="gallery"{style}>{row}</div>' for row in rows)


def _sample(sample: Sample) -> str:
    mark = {True: '<span class="right">✓</span> ', False: '<span class="wrong">✗</span> ', None: ""}
    state = {True: " is-right", False: " is-wrong", None: ""}[sample.right]
    caption = escape(short(sample.caption, 60), quote=True)
    if isinstance(sample.view, str):
        body = f"<p>{escape(' '.join(_words(sample.view)))}</p>"
    else:
        body = _image(np.asarray(sample.view), caption or "sample")
    return f'<div class="view{state}">{body}<div class="truth">{mark[sample.right]}{caption}</div></div>'
