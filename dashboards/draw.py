"""A picture of a dashboard by matplotlib, from its JSON and what Prometheus answered, for pages without a Grafana."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from dashboards import shown
from dashboards.ask import Answer, Json, Window

COLUMNS: Final = 24
INCH_A_COLUMN, INCH_A_LINE, INCH_OF_HEAD = 0.75, 0.40, 0.7
FEWEST_BARS: Final = 5  # one bar alone is no thicker than one of so many
LINE: Final = 0.26  # inches of a line of a table
# The parts of a panel that its title, its ticks and its legend take, in inches.
LEFT, RIGHT, TOP, BOTTOM = 0.85, 0.15, 0.42, 0.62
BACK, CARD, EDGE, INK, FAINT = "#f4f5f5", "#ffffff", "#d8d9da", "#24292e", "#6e7079"
NAMED: Final = {
    "green": "#56a64b", "dark-green": "#37872d", "orange": "#ff780a", "red": "#e02f44", "blue": "#3274d9",
    "purple": "#a352cc", "light-purple": "#ca95e5", "gray": "#a7a8a9", "text": INK,
}  # fmt: skip
PALETTE: Final = ("#56a64b", "#f2cc0c", "#3274d9", "#ff780a", "#e02f44", "#a352cc", "#37872d", "#1f60c4", "#8ab8ff",
                  "#fa6400", "#c4162a", "#ca95e5")  # fmt: skip


def picture(board: Json, answers: Iterable[Answer], window: Window) -> Figure:
    """Return the dashboard as a figure, each panel where its grid position says. Times are UTC."""
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    width, height = COLUMNS * INCH_A_COLUMN, lines * INCH_A_LINE + INCH_OF_HEAD
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 8, "svg.hashsalt": "internlm2"}):
        figure = Figure(figsize=(width, height), facecolor=BACK)
        began = f"{shown.clock(window.start)} to {shown.clock(window.end)} UTC"
        figure.text(0.2 / width, 1 - 0.35 / height, board["title"], fontsize=15, color=INK, va="center", weight="bold")
        figure.text(1 - 0.2 / width, 1 - 0.35 / height, began, fontsize=10, color=FAINT, va="center", ha="right")
        for panel in board["panels"]:
            if panel["type"] == "row":
                _row(figure, panel, width, height)
        for answer in answers:
            _panel(figure, answer, window)
        return figure


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, metadata={"Software": None} if path.suffix == ".png" else None)


def _box(figure: Figure, grid: Json) -> tuple[float, float, float, float]:
    """Return left, bottom, width and height of a panel in inches."""
    top = figure.get_figheight() - INCH_OF_HEAD - grid["y"] * INCH_A_LINE
    high = grid["h"] * INCH_A_LINE
    return grid["x"] * INCH_A_COLUMN, top - high, grid["w"] * INCH_A_COLUMN, high


def _row(figure: Figure, panel: Json, width: float, height: float) -> None:
    left, bottom, _, high = _box(figure, panel["gridPos"])
    place = ((left + 0.2) / width, (bottom + high / 2) / height)
    figure.text(*place, panel["title"], fontsize=11, color=INK, va="center", weight="bold")


def _panel(figure: Figure, answer: Answer, window: Window) -> None:
    panel, (width, height) = answer.panel, figure.get_size_inches()
    left, bottom, wide, high = _box(figure, panel["gridPos"])
    gap = 0.06
    card = FancyBboxPatch(
        ((left + gap) / width, (bottom + gap) / height), (wide - 2 * gap) / width, (high - 2 * gap) / height,
        boxstyle="round,pad=0,rounding_size=0.002", transform=figure.transFigure, facecolor=CARD, edgecolor=EDGE,
        zorder=-1,
    )  # fmt: skip
    figure.add_artist(card)
    title = ((left + 0.18) / width, (bottom + high - 0.24) / height)
    figure.text(*title, panel["title"], fontsize=9, color=INK, va="center", weight="bold")
    kind = panel["type"]
    sides = (LEFT, BOTTOM) if kind == "timeseries" else (1.6, BOTTOM) if kind == "state-timeline" else (0.25, 0.2)
    axes = figure.add_axes(
        ((left + sides[0]) / width, (bottom + sides[1]) / height,
         (wide - sides[0] - RIGHT - 0.1) / width, (high - sides[1] - TOP) / height),
        label=panel["title"],
    )  # fmt: skip
    if any(answer.series):
        _KINDS[kind](axes, answer, window)
    else:
        _bare(axes)
        words = shown.defaults(panel)["noValue"]
        axes.text(0.5, 0.5, words, ha="center", va="center", color=FAINT, wrap=True, transform=axes.transAxes)


def hue(name: str) -> str:
    """Return a colour of Grafana's by its name."""
    return NAMED.get(name, name)


def _bare(axes: Axes) -> None:
    axes.set_axis_off()


def _time_axis(axes: Axes, window: Window) -> None:
    axes.set_xlim(window.start, window.end)
    axes.xaxis.set_major_locator(FixedLocator(shown.ticks(window)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: shown.clock(at)))
    axes.tick_params(colors=FAINT, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(color=EDGE, linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(axes: Axes, handles: list[Any]) -> None:
    if handles:
        columns = max(1, min(len(handles), 6))
        axes.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.11), ncols=columns, frameon=False,
            fontsize=7, handlelength=1.2, columnspacing=1.0, borderaxespad=0.0, labelcolor=INK,
        )  # fmt: skip


def _times(axes: Axes, answer: Answer, window: Window) -> None:
    field = shown.defaults(answer.panel)
    stacked = field.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    handles = _stack(axes, answer) if stacked else _lines(axes, answer, window)
    _time_axis(axes, window)
    low, high = axes.get_ylim()
    high = high if any(point[1] for _, series in shown.named(answer) for point in series.points) else 1.0
    axes.set_ylim(field.get("min", low), field.get("max", high))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    unit = field.get("unit", "none")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown.words(value, unit)))
    for step in field["thresholds"]["steps"]:
        if step["value"] is not None:
            axes.axhline(step["value"], color=hue(step["color"]), linestyle="--", linewidth=1.0, label="_threshold")
    _legend(axes, handles)


def _lines(axes: Axes, answer: Answer, window: Window) -> list[Any]:
    handles = []
    for number, (name, series) in enumerate(shown.named(answer)):
        color = _of_series(answer.panel, name, number)
        for part in shown.parts(series, window.step):
            times, values = zip(*part, strict=True)
            alone = "." if len(part) == 1 else None
            axes.plot(times, values, color=color, linewidth=1.6, marker=alone, label=f"_{name}")
        handles.append(Patch(color=color, label=name))
    return handles


def _of_series(panel: Json, name: str, number: int) -> str:
    """Return the colour that a series has for its name, else for its place."""
    fixed = shown.field_of(panel, name).get("color", {}).get("fixedColor")
    return hue(fixed) if fixed else PALETTE[number % len(PALETTE)]


def _stack(axes: Axes, answer: Answer) -> list[Any]:
    """Lay the series on each other; a value that is missing adds nothing."""
    every = shown.named(answer)
    times = sorted({time for _, series in every for time, _ in series.points})
    below, handles = [0.0] * len(times), []
    for number, (name, series) in enumerate(every):
        found = {time: value for time, value in series.points if math.isfinite(value)}
        above = [low + found.get(time, 0.0) for low, time in zip(below, times, strict=True)]
        color = _of_series(answer.panel, name, number)
        axes.fill_between(times, below, above, color=color, alpha=0.75, linewidth=0, label=f"_{name}")
        handles.append(Patch(color=color, label=name))
        below = above
    return handles


def _stat(axes: Axes, answer: Answer, _window: Window) -> None:
    _bare(axes)
    field = shown.defaults(answer.panel)
    value = next(series for group in answer.series for series in group).last
    text = shown.text_of(value, field)
    axes.text(
        0.5, 0.5, text, ha="center", va="center", fontsize=24 if len(text) < 9 else 18, weight="bold",
        color=hue(shown.color_of(value, field)), transform=axes.transAxes,
    )  # fmt: skip


def _bars(axes: Axes, answer: Answer, _window: Window) -> None:
    _bare(axes)
    field, every = shown.defaults(answer.panel), [(n, s) for n, s in shown.named(answer) if math.isfinite(s.last)]
    most = max([series.last for _, series in every] + [1e-12])
    axes.set(xlim=(0, 2.3 * most), ylim=(max(len(every), FEWEST_BARS) - 0.4, -0.6))
    for line, (name, series) in enumerate(every):
        value = series.last
        left = 0.9 * most
        axes.barh(line, most, left=left, height=0.62, color=BACK)
        axes.barh(line, value, left=left, height=0.62, color=hue(shown.color_of(value, field)), label=f"_{name}")
        axes.text(left - 0.02 * most, line, name, ha="right", va="center", fontsize=8, color=INK)
        axes.text(left + 1.02 * most, line, shown.text_of(value, field), ha="left", va="center", color=INK, fontsize=8)


def _table(axes: Axes, answer: Answer, _window: Window) -> None:
    _bare(axes)
    heads, rows = shown.table(answer)
    high = axes.bbox.height / axes.figure.dpi
    rows = rows[: max(1, int(high / LINE) - 1)]
    share = (len(rows) + 1) * LINE / high
    box = Bbox.from_bounds(0.0, 1 - share, 1.0, share)
    drawn = axes.table(cellText=rows, colLabels=heads, cellLoc="left", colLoc="left", edges="horizontal", bbox=box)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    for (line, _), cell in drawn.get_celld().items():
        cell.set_edgecolor(EDGE)
        cell.get_text().set_color(INK)
        cell.get_text().set_fontweight("bold" if line == 0 else "normal")


def _states(axes: Axes, answer: Answer, window: Window) -> None:
    field, every = shown.defaults(answer.panel), shown.named(answer)
    seen: dict[str, str] = {}
    for line, (_, series) in enumerate(every):
        for part in shown.segments(series, window.step):
            color = hue(shown.color_of(part.value, field))
            seen.setdefault(shown.text_of(part.value, field), color)
            axes.broken_barh([(part.start, part.end - part.start)], (line - 0.4, 0.8), facecolor=color)
    _time_axis(axes, window)
    axes.set_ylim(len(every) - 0.4, -0.6)
    axes.set_yticks(range(len(every)), [name for name, _ in every])
    _legend(axes, [Patch(color=color, label=text) for text, color in seen.items()])


_KINDS: Final[Mapping[str, Callable[[Axes, Answer, Window], None]]] = {
    "timeseries": _times,
    "stat": _stat,
    "bargauge": _bars,
    "table": _table,
    "state-timeline": _states,
}
