"""One look for all figures: colours, type, and the two ways out, SVG that follows the page's theme
and PNG.

matplotlib is imported when the first figure is drawn: a dry run need not pay for it.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, CARD = "#1b2431", "#5f6b7a", "#dfe4ea", "#ffffff"
BAD = "#d4532a"
SERIES = ("#2f6bd8", "#d9822b", "#17936c", "#9a4cc2", "#c93468", "#8a7714", "#1f8fae", "#6c7683")
WIDTH = 5.3  # inches; a card of the page is a little wider on a desk, a little narrower on a phone

# the page replaces these colours by CSS variables, so that inline figures follow light and dark
THEMED = {INK: "--ink", MUTED: "--muted", LINE: "--line", CARD: "--card", BAD: "--bad"}
THEMED |= {colour: f"--c{number}" for number, colour in enumerate(SERIES, start=1)}

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def look() -> Iterator[None]:
    """matplotlib's settings for our figures; leaves the process's own as they were."""
    import matplotlib

    settings: dict[str, Any] = {
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
        "figure.facecolor": CARD,
        "axes.facecolor": "none",
        "svg.fonttype": "none",  # real text: small, selectable, in the page's font
        "svg.hashsalt": "roux",
        "path.simplify_threshold": 0.4,
    }
    with matplotlib.rc_context(cast(Any, settings)), warnings.catch_warnings():
        # names in scripts that DejaVu lacks: the page shows them in the reader's fonts
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def styled(function: F) -> F:
    """Draw a figure under our settings."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with look():
            return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def new_figure(width: float = WIDTH, height: float = 3.0) -> "Figure":
    """A figure that belongs to nobody: no pyplot, nothing to close."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: "Figure", dpi: int = 140) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    with look():
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def to_svg(figure: "Figure", prefix: str) -> str:
    """A figure as an inline SVG element whose colours are the page's CSS variables.

    prefix: makes the ids inside unique within the page.
    """
    buffer = io.StringIO()
    with look():
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
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
    # the page's own font, so that figures and text are of one piece
    text = re.sub(r"'DejaVu Sans'", "var(--sans)", style[0])
    for colour, variable in THEMED.items():
        text = text.replace(colour, f"var({variable})")
    return text


def short(text: str, length: int = 18) -> str:
    """One line of at most `length` characters."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def percent(value: float, digits: int = 1) -> str:
    """A share in [0, 1] as text, `96.1 %`; a dash where there is none."""
    return f"{100 * value:.{digits}f} %" if np.isfinite(value) else "–"


def percent_axis(axis: Any) -> None:
    """Ticks of an axis that runs over shares in [0, 1]."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def log_axis(axis: Any) -> None:
    """Plain numbers on a logarithmic axis: matplotlib's own labels are mathematics, which we have
    turned off."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value < 1e4 else f"{value / 1000:g}k")
    )
    axis.set_minor_formatter(NullFormatter())


def step_axis(axes: "Axes") -> None:
    """Ticks of the shared axis of optimizer steps."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if axes.get_xlim()[1] >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
