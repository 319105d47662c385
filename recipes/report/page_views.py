"""The sheet of views on the page: what the model saw of a sample, weak and strong, and what it
believed."""

import base64
import difflib
import io
from collections.abc import Sequence
from html import escape

import numpy as np

from recipes.report.record import ViewRow, png

MOST = 24  # samples on the sheet
SIDE = 112  # pixels; larger pictures are reduced to it
BUDGET = 700_000  # characters of the page; photographs at this size take a third of it
WORDS = 90  # of a text that are shown


def views_html(rows: Sequence[ViewRow]) -> str:
    """Up to `MOST` samples, and up to `BUDGET` characters, as a grid of cards."""
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
    body = _images(row) if row.kind == "image" else _texts(str(row.weak), str(row.strong))
    dropped = " dropped" if row.kept is False else ""
    return f'<div class="view{dropped}">{body}{_belief(row)}</div>'


def _belief(row: ViewRow) -> str:
    if row.pseudo_label is None:
        return f'<div class="truth">true: {escape(row.true)}</div>' if row.true is not None else ""
    sure = f"{100 * row.confidence:.0f} %" if row.confidence is not None else ""
    width = f"{100 * min(max(row.confidence or 0.0, 0.0), 1.0):.0f}%"
    known = row.true is not None
    right = known and row.true == row.pseudo_label
    sign = (
        f'<span class="{"right" if right else "wrong"}">{"✓" if right else "✗"}</span> '
        if known
        else ""
    )
    truth = (
        f'<div class="truth">{sign}{"right" if right else f"true: {escape(str(row.true))}"}'
        if known
        else ""
    )
    state = {True: "kept", False: "not kept", None: ""}[row.kept]
    if truth:
        truth += f"{' · ' + state if state else ''}</div>"
    elif state:
        truth = f'<div class="truth">{state}</div>'
    return (
        f'<div class="label"><b>{escape(row.pseudo_label)}</b><span>{sure}</span></div>'
        + (f'<div class="bar"><i style="width:{width}"></i></div>' if sure else "")
        + truth
    )


def _images(row: ViewRow) -> str:
    name = escape(row.pseudo_label or row.true or "sample", quote=True)
    pictures = [(np.asarray(row.weak), "weak"), (np.asarray(row.strong), "strong")]
    return (
        '<div class="pair">'
        + "".join(_image(pixels, f"{kind} view, {name}") for pixels, kind in pictures)
        + "</div>"
    )


def _image(pixels: np.ndarray, alt: str) -> str:
    from PIL import Image

    small = max(pixels.shape[:2]) <= SIDE
    if small:
        kind = "png"
        data = png(pixels)
    else:
        picture = Image.fromarray(
            pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
        )
        picture.thumbnail((SIDE * 2, SIDE * 2))  # twice the size on the page, for dense screens
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "jpeg", quality=80, optimize=True)
        kind = "jpeg"
        data = buffer.getvalue()
    crisp = ' class="small"' if small else ""
    return (
        f'<img{crisp} alt="{alt}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
    )


def _texts(weak: str, strong: str) -> str:
    old, new = _words(weak), _words(strong)
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
