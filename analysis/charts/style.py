"""How charts look: colours that colour-blind readers tell apart, on light and on dark ground, and the theme."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

BLUE = "#0083c2"
ORANGE = "#e69f00"
VERMILION = "#d9580d"
GREEN = "#009e73"
PURPLE = "#cc79a7"
SKY = "#56b4e9"
GREY = "#8a929c"
"""The palette of Okabe and Ito, with blue and vermilion a shade lighter so that they keep their contrast on dark."""

FAINT = "#b1b8bf"
"""What stands back: seen on light and on dark, and no series' colour."""

SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY)
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 3], [4, 1], [1, 3])
"""Line patterns beside the colours: a second way to tell series apart, in print as well."""

HEIGHT = 340
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

OF_ATTACKS = {
    "lira": BLUE,
    "rmia": VERMILION,
    "calibrated": GREEN,
    "lira[mode=offline]": SKY,
    "loss": PURPLE,
    "attack-r": ORANGE,
    "LiRA": BLUE,
    "RMIA": VERMILION,
    "calibrated loss": GREEN,
    "LiRA offline": SKY,
    "loss attack": PURPLE,
    "attack R": ORANGE,
}
"""Colours that attacks have in every chart, whatever stands beside them; by their names for commands and for people."""

Rows = Sequence[Mapping[str, Any]]


def theme(ink: str = "currentColor", font: str = FONT) -> dict[str, Any]:
    """Vega-Lite configuration with every text and rule in one colour.

    ``currentColor`` lets an SVG inside a page take the page's own, so that light, dark and print need no redrawing.
    """
    words = {
        "labelColor": ink,
        "titleColor": ink,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    return {
        "background": "transparent",
        "font": font,
        "view": {"stroke": None},
        "axis": {
            **words,
            "gridColor": ink,
            "gridOpacity": 0.1,
            "domainColor": ink,
            "domainOpacity": 0.4,
            "tickColor": ink,
            "tickOpacity": 0.4,
            "titlePadding": 8,
            "labelOverlap": "greedy",
            "labelSeparation": 6,
            "labelFlush": False,
        },
        "legend": {
            **words,
            "orient": "bottom",
            "title": None,
            "labelLimit": 340,
            "symbolOpacity": 1,
            "columnPadding": 18,
            "layout": {"bottom": {"margin": 24}},
        },
        "title": {
            "color": ink,
            "subtitleColor": ink,
            "anchor": "start",
            "fontSize": 14,
            "subtitleFontSize": 12,
            "fontWeight": 600,
            "offset": 12,
        },
        "text": {"color": ink, "fontSize": 12},
    }


def inline(rows: Rows) -> alt.InlineData:
    """Rows as data of a chart. Field names are fixed by the charts; nothing from the lake becomes one.

    They go in as one JSON text: Altair checks and copies an object a row at a cost of seconds. Raises ValueError for
    a number that is not finite.
    """
    import altair as alt

    text = json.dumps(list(rows), allow_nan=False, separators=(",", ":"))
    return alt.InlineData(values=text, format=alt.JsonDataFormat(type="json"))


def layered(*charts: Any) -> alt.LayerChart:
    """Charts on top of each other, the first at the back."""
    import altair as alt

    drawn = alt.layer(*charts)
    assert isinstance(drawn, alt.LayerChart)  # another kind comes of facets only, which no chart here has
    return drawn


def interval(form: str) -> list[alt.Tooltip]:
    """Tooltips of the fields low and high: the ends of a 95% interval."""
    import altair as alt

    return [
        alt.Tooltip("low:Q", title="95% from", format=form),
        alt.Tooltip("high:Q", title="to", format=form),
    ]


def line_at(x: float, colour: str = GREY) -> alt.Chart:
    """A dashed upright line."""
    import altair as alt

    return alt.Chart(inline([{"at": x}])).mark_rule(color=colour, strokeDash=[4, 3]).encode(x=alt.X("at:Q"))


def matrix(base: alt.Chart, shade: alt.Color, size: Any = None, **cell: Any) -> alt.LayerChart:
    """Shaded cells, each with the field text in it, at a font size.

    The cells have their own ground, so their text has its own colour on light pages and on dark ones.
    """
    import altair as alt

    words = base.mark_text(color="#111111", fontSize=size or alt.Undefined)
    return layered(base.mark_rect().encode(color=shade, **cell), words.encode(text=alt.Text("text:N")))


def finish(
    chart: alt.Chart | alt.LayerChart,
    title: str,
    description: str,
    *,
    subtitle: Sequence[str] = (),
    height: int = HEIGHT,
) -> alt.Chart | alt.LayerChart:
    """Give a chart its title, alternative text and size; its width follows the page."""
    import altair as alt

    # Given to the chart itself, which is new: `properties` would copy it as a whole, and once more what it is made of.
    chart.title = alt.TitleParams(text=title, subtitle=list(subtitle) or alt.Undefined)
    chart.description, chart.width, chart.height = description, "container", height
    return chart


def colours(names: Sequence[str], chosen: Sequence[str] = SERIES) -> alt.Scale:
    """A colour for each name: an attack's own, the others' in order; they repeat only past the end of the palette."""
    import altair as alt

    fixed = OF_ATTACKS if chosen is SERIES else {}
    taken = {fixed[name] for name in names if name in fixed}
    free = [colour for colour in chosen if colour not in taken] or list(chosen)
    others = [name for name in names if name not in fixed]
    given = {name: free[i % len(free)] for i, name in enumerate(others)}
    return alt.Scale(domain=list(names), range=[fixed.get(name) or given[name] for name in names])


def dashes(names: Sequence[str]) -> alt.Scale:
    """A line pattern for each name, in order. Where the colours repeat, the patterns are others than the first time."""
    import altair as alt

    turn = [i + i // len(SERIES) for i in range(len(names))]
    return alt.Scale(domain=list(names), range=[DASHES[i % len(DASHES)] for i in turn])
