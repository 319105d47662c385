"""Colours and fonts of all figures, and their export: PNG, or SVG that follows the page's theme.

matplotlib is imported when the first figure is drawn, so that a dry run starts fast.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from foundation.exit_codes import for_terminal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b2431"
MUTED = "#5f6b7a"
LINE = "#dfe4ea"
CARD = "#ffffff"
BAD = "#d4532a"
SERIES = ("#2f6bd8", "#d9822b", "#17936c", "#9a4cc2", "#c93468", "#8a7714", "#1f8fae", "#6c7683")
WIDTH = 5.3  # inches, between the width of a card on a desktop and on a phone

# the page replaces these colours by CSS variables, so that inline figures follow the theme
THEMED = {INK: "--ink", MUTED: "--muted", LINE: "--line", CARD: "--card", BAD: "--bad"}
THEMED |= {colour: f"--c{number}" for number, colour in enumerate(SERIES, start=1)}

RC_PARAMS: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.01,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $x
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "figure.autolayout": False,  # figures are laid out once, in `arrange`
    "figure.constrained_layout.use": False,
    "figure.facecolor": CARD,
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # real text: small, selectable, in the page's font
    "svg.hashsalt": "roux",
    "path.simplify_threshold": 0.4,
}

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def look() -> Iterator[None]:
    """matplotlib's settings for our figures; the settings of the process are restored on exit."""
    import matplotlib

    with matplotlib.rc_context(cast(Any, RC_PARAMS)), warnings.catch_warnings():
        # DejaVu lacks some scripts; the page shows such names in the reader's fonts
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def styled(function: F) -> F:
    """Decorator: draw a figure with `look`'s settings."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with look():
            return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def new_figure(width: float = WIDTH, height: float = 3.0) -> "Figure":
    """A figure outside pyplot, which keeps no reference to it: nothing has to be closed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def arrange(figure: "Figure") -> None:
    """Lay a figure out for good. With a layout engine `savefig` draws a figure twice, and the first
    drawing is thrown away."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def to_png(figure: "Figure", dpi: int = 140) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    with look():
        arrange(figure)
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def to_svg(figure: "Figure", prefix: str) -> str:
    """A figure as an inline SVG element whose colours are the page's CSS variables.

    prefix: prepended to the ids inside, so that they are unique within the page.
    """
    buffer = io.StringIO()
    with look():
        arrange(figure)
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # drop what HTML does not need, and cut path coordinates to one digit: less than half the size
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(\sid="|url\(#|href="#)', lambda match: match[1] + prefix + "-", text)
    text = re.sub(r'style="[^"]*"', _theme, text)
    text = re.sub(r'\sd="[^"]*"', lambda match: re.sub(r"(\d+\.\d)\d+", r"\1", match[0]), text)
    text = re.sub(
        r'<svg[^>]*?(viewBox="[^"]*")[^>]*>',
        r'<svg \1 role="img" xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    )
    return re.sub(r"\n\s*", "\n", text).strip()


def _theme(style: re.Match[str]) -> str:
    # figures use the font of the page's text
    text = re.sub(r"'DejaVu Sans'", "var(--sans)", style[0])
    for colour, variable in THEMED.items():
        text = text.replace(colour, f"var({variable})")
    return text


def short(text: str, length: int = 18) -> str:
    r"""One line of at most `length` characters; what is not printable is an escape, `\x1b`."""
    text = for_terminal(" ".join(str(text).split()))
    return text if len(text) <= length else text[: length - 1] + "…"


def name_html(name: str) -> str:
    """The name of a class, a file or a sample as HTML: short and on one line, whoever gave it."""
    return escape(short(name, 40), quote=True)


def percent(value: float, digits: int = 1) -> str:
    """A share in [0, 1] as text, `96.1 %`; a dash for NaN."""
    return f"{100 * value:.{digits}f} %" if np.isfinite(value) else "–"


def percent_axis(axis: Any) -> None:
    """Set percent ticks on an axis of shares in [0, 1]."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def log_axis(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers: matplotlib's default labels need math text,
    which is off here (`text.parse_math`)."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value < 1e4 else f"{value / 1000:g}k")
    )
    axis.set_minor_formatter(NullFormatter())


def step_axis(axes: "Axes") -> None:
    """Set label and ticks of the axis of optimizer steps."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if axes.get_xlim()[1] >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
