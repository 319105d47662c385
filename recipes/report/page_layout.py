"""What pages are made of: header, headline numbers, a grid of cards in two columns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

from recipes.report.numbers import Tile
from recipes.report.page_css import CSS
from recipes.report.style import to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Card:
    """A titled section. body: HTML. wide: over both columns of the grid. first: of a row, beside the
    card that follows."""

    title: str
    note: str
    body: str
    wide: bool = False
    first: bool = False

    def html(self) -> str:
        title = f"<h2>{escape(self.title)}</h2>" if self.title else ""
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        style = "card wide" if self.wide else "card"
        return f'<section class="{style}">{title}{note}\n{self.body}</section>'


def figure_card(key: str, title: str, note: str, figure: "Figure | None") -> list[Card]:
    """A section with a figure; none without one. key: prefix of the figure's ids."""
    return [] if figure is None else [Card(title, note, to_svg(figure, key))]


def lost_card(title: str, line: str) -> Card:
    """In the place of a section that could not be made: a line that says why."""
    return Card(title, "", f'<p class="wrong">{escape(line)}</p>', wide=True)


def filled_rows(cards: Sequence[Card]) -> list[Card]:
    """The cards with every row of two columns full: a narrow one without a neighbor becomes
    wide."""
    filled: list[Card] = []
    waiting = False  # whether the last card fills the left half of a row
    for card in cards:
        if (card.wide or card.first) and waiting:
            filled[-1] = replace(filled[-1], wide=True)
            waiting = False
        waiting = not card.wide and not waiting
        filled.append(card)
    if waiting:
        filled[-1] = replace(filled[-1], wide=True)
    return filled


def document(title: str, header: str, cards: Sequence[Card], footer: str) -> str:
    """A complete page: a header, a grid of cards, a footer line."""
    body = "\n".join(card.html() for card in filled_rows(cards))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>{CSS}</style>\n</head>\n"
        f'<body>\n<main>\n{header}\n<div class="grid">\n{body}'
        f"\n</div>\n<footer>{escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def header(title: str, facts: str, tiles: str) -> str:
    """The top of a page: its title, a line of facts and the headline numbers."""
    return (
        f'<header><div class="brand">Roux</div>\n<h1>{escape(title)}</h1>\n'
        + (f'<p class="facts">{facts}</p>\n' if facts else "")
        + (f'<div class="tiles">{tiles}</div>\n' if tiles else "<br>")
        + "</header>"
    )


def tile(number: Tile, first: bool) -> str:
    """A headline number; the first one is larger."""
    beside = f'<div class="beside">{escape(number.beside)}</div>' if number.beside else ""
    return (
        f'<div class="tile{" first" if first else ""}">'
        f'<div class="name">{escape(number.name)}</div>'
        f'<div class="value">{escape(number.value)}</div>{beside}</div>'
    )
