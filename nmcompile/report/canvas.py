"""Boxes, ticks and notes in one row per layer -> an inline SVG in the page's own colours."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEAT_STEPS = 9

# matplotlib knows no CSS: it draws in stand-in colours, which become the page's variables, so
# that one picture suits both the light and the dark page.
_VARIABLES = (
    *("ink", "quiet", "line", "hole", "hatch", "dense", "accent", "card"),
    *(f"heat-{step}" for step in range(1, HEAT_STEPS + 1)),
)
_STAND_INS = [f"#0100{place:02x}" for place in range(len(_VARIABLES))]
INK, QUIET, LINE, HOLE, HATCH, DENSE, ACCENT, CARD, *HEAT = _STAND_INS

_LETTER = 0.61  # width of a monospaced letter / font size, with a little to spare
_FONT = 11.0
_HEAD = 62
_FOOT = 6
_LONGEST_NAME = 26
_SMALLEST = 0.75  # shrunk further to fit a narrow screen, letters could not be read: scroll instead


class Canvas:
    """A figure with one row per layer, its name on the left, measured in CSS pixels."""

    def __init__(self, names: Sequence[str], width: float, label: str) -> None:
        """Args: names of the rows; width right of the names; label for who cannot see it."""
        from matplotlib.figure import Figure

        self.pitch = 18 if len(names) <= 60 else 15
        shown = [_short(name) for name in names]
        self.left = max(map(len, shown), default=0) * _FONT * _LETTER + 10
        self.size = (self.left + width + 2, _HEAD + self.pitch * len(names) + _FOOT)
        self.label = label
        self.titles: list[str] = []
        # 72 dots per inch make matplotlib's unit the pixel that SVG knows.
        self.figure: Figure = Figure(figsize=(self.size[0] / 72, self.size[1] / 72), dpi=72)
        self.axes: Axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, self.size[0]), ylim=(self.size[1], 0))
        for row, (short, name) in enumerate(zip(shown, names, strict=True)):
            gid = self._gid(name)
            self._text(self.left - 8, self._middle(row), short, INK, gid=gid, ha="right")

    def box(self, row: int, x: float, width: float, words: str, **style: Any) -> None:
        """A filled rectangle, `x` pixels right of the names; `words` show under the pointer."""
        style = {"linewidth": 1.0 if "edgecolor" in style else 0.0, **style}
        self._rectangle(row, x, width, 1.5, gid=self._gid(words), **style)

    def frame(self, row: int, x: float, width: float) -> None:
        """Marks the box of that place as the chosen one."""
        self._rectangle(row, x - 0.5, width + 1, 1.0, fill=False, edgecolor=INK, linewidth=2.2)
        # Without a pale line inside, the frame would vanish on the strongest colours.
        self._rectangle(row, x + 1.1, width - 2.2, 2.6, fill=False, edgecolor=CARD, linewidth=1.2)

    def heading(self, x: float, text: str, width: float) -> None:
        """A column's name, turned if it is too long to lie."""
        turned = len(text) * _FONT * _LETTER > width
        style = {"rotation": 90, "va": "bottom"} if turned else {}
        self._text(self.left + x, _HEAD - (4 if turned else 12), text, INK, ha="center", **style)

    def tick(self, x: float, text: str) -> None:
        """A line from top to bottom with its number above."""
        ends = [_HEAD - 4, self.size[1] - _FOOT]
        self.axes.plot([self.left + x] * 2, ends, color=LINE, linewidth=1, zorder=0)
        self._text(self.left + x, _HEAD - 12, text, QUIET, ha="center" if x else "left")

    def note(self, row: int, x: float, text: str) -> None:
        """A remark in a row."""
        self._text(self.left + x, self._middle(row), text, QUIET)

    def svg(self) -> str:
        """The picture as an element of a page."""
        return svg(self.figure, self.size, self.label, self.titles)

    def _rectangle(self, row: int, x: float, width: float, inset: float, **style: Any) -> None:
        from matplotlib.patches import Rectangle

        corner = (self.left + x, self._middle(row) - self.pitch / 2 + inset)
        self.axes.add_patch(Rectangle(corner, width, self.pitch - 2 * inset, **style))

    def _text(self, x: float, y: float, text: str, color: str, **style: Any) -> None:
        style = {"va": "center_baseline", "fontsize": _FONT, "parse_math": False, **style}
        self.axes.text(x, y, text, color=color, **style)

    def _middle(self, row: int) -> float:
        return _HEAD + self.pitch * (row + 0.5)

    def _gid(self, words: str) -> str:
        self.titles.append(words)
        return f"tip-{len(self.titles) - 1}"


def svg(figure: Figure, size: tuple[float, float], label: str, titles: Sequence[str] = ()) -> str:
    """A figure drawn in the stand-in colours -> an element of a page, in the page's colours.

    Args:
        figure: at 72 dots per inch.
        size: (width, height) in pixels.
        label: for who cannot see it.
        titles: what the groups `tip-0`, `tip-1`... say under the pointer.
    """
    stream = io.StringIO()
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with _settings(label), warnings.catch_warnings():
        # The reader's font may well have the letter that matplotlib's lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(stream, format="svg", metadata=nothing, transparent=True)
    text = stream.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r'fill="(#0100[0-9a-f]{2})"', r'style="fill: \1"', body)
    body = re.sub(r"(?<=: )#0100([0-9a-f]{2})", _variable, body)
    body = re.sub(r"font-family: [^;]*; ", "", body)
    body = re.sub(
        r'<g id="tip-(\d+)">',
        lambda found: f"<g><title>{html.escape(titles[int(found[1])])}</title>",
        body,
    )
    body = re.sub(r'<g id="(figure|axes|patch|text|line2d)_\d+">', "<g>", body)
    width, height = (round(pixels, 1) for pixels in size)
    style = f"width: {width}px; min-width: {_SMALLEST * width:.0f}px"
    return (
        f'<svg viewBox="0 0 {width} {height}" style="{style}" role="img" '
        f'aria-label="{html.escape(label)}">{body}'
    )


def _settings(salt: str) -> Any:
    """Text stays text (searched, copied, in the page's font); equal figures give equal bytes."""
    import matplotlib as mpl

    return mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt})


def _variable(found: re.Match[str]) -> str:
    return f"var(--{_VARIABLES[int(found[1], 16)]})"


def _short(name: str) -> str:
    """A layer's name that fits beside a picture; the end tells more than the middle."""
    name = name.removesuffix(".weight") or name
    if len(name) <= _LONGEST_NAME:
        return name
    head = _LONGEST_NAME // 3
    return f"{name[:head]}…{name[head + 1 - _LONGEST_NAME :]}"
