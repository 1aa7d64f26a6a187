"""Every query of the dashboards against a real Prometheus, and what is drawn of its answers, value for value."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from dashboards import draw, shown, snapshot
from dashboards.ask import Answer, Prometheus
from tests.api import story
from tests.api.story import CLOSED, FAULT, JOB, NAMESPACE, START, WINDOW

pytestmark = pytest.mark.api

BOARDS: Final = snapshot.boards()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with story.told_to_prometheus(tmp_path_factory.mktemp("story")) as url:
        yield Prometheus(url)


@pytest.fixture(scope="module")
def found(prometheus: Prometheus) -> dict[str, list[Answer]]:
    return snapshot.asked(prometheus, NAMESPACE, JOB, WINDOW)


@pytest.fixture(scope="module")
def figures(found: dict[str, list[Answer]]) -> dict[str, Figure]:
    return {name: draw.picture(BOARDS[name], panels, WINDOW) for name, panels in found.items()}


def panel(figures: dict[str, Figure], board: str, title: str) -> Any:  # matplotlib's own types are unions of arrays
    (axes,) = (axes for axes in figures[board].axes if axes.get_label() == title)
    return axes


def words(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_every_query_of_every_panel_has_data(prometheus: Prometheus) -> None:
    assert len(BOARDS) == 4
    assert snapshot.silent(prometheus, NAMESPACE, JOB, WINDOW) == []


def test_a_query_without_data_is_listed_with_its_panel(prometheus: Prometheus) -> None:
    """Of a job that there is not only what the operator says of itself is known, and that nothing happened."""
    lines = snapshot.silent(prometheus, NAMESPACE, "nobody", WINDOW)
    assert "InternLM2 / Job: Step: max(internlm2_operator_job_step{" in "\n".join(lines)
    assert len(lines) > 30
    assert not [line for line in lines if line.startswith("InternLM2 / Operator")]


def test_a_query_that_prometheus_cannot_read_is_an_error(prometheus: Prometheus) -> None:
    with pytest.raises(OSError, match="400"):
        prometheus.instant("sum by (", WINDOW.end)


@pytest.mark.parametrize(
    ("board", "title", "text"),
    [
        ("fleet", "ETTR", "97.5%"),  # 3,600 s less 60 s of the fault and 30 s of steps done twice
        ("fleet", "GPU-hours lost", "0.40"),  # 16 GPUs for 90 s
        ("fleet", "Jobs that train", "1"),
        ("fleet", "Open faults", "0"),
        ("fleet", "Nodes cordoned", "1"),
        ("fleet", "MFU, mean of all jobs", "42.0%"),
        ("job", "Phase", "Running"),
        ("job", "Step", "360"),
        ("job", "Loss", "3.000"),
        ("job", "ETTR", "97.5%"),
        ("job", "Tokens per second", "52 K"),
        ("job", "Checkpoint age", "0 s"),
        ("faults", "Faults", "1"),
        ("faults", "GPU-hours lost", "0.40"),
        ("faults", "Steps done twice", "3"),
        ("faults", "Signal to next step, mean", "1.0 min"),
        ("operator", "Leads", "yes"),
    ],
)  # fmt: skip
def test_a_stat_shows_the_value(board: str, title: str, text: str, figures: dict[str, Figure]) -> None:
    there = [axes for axes in figures[board].axes if axes.get_label() == title]
    assert [text] in [words(axes) for axes in there]


def test_increase_would_have_counted_none_of_it(prometheus: Prometheus) -> None:
    """The control of `grown`: the first fault of a cause comes with the series."""
    increase = f"sum(increase(internlm2_operator_faults_total[{WINDOW.seconds}s]))"
    assert [one.last for one in prometheus.instant(increase, WINDOW.end)] == [0]


def test_mfu_is_none_while_the_job_recovers_though_its_pods_repeat_their_last(figures: dict[str, Figure]) -> None:
    (line,) = (line for line in panel(figures, "job", "MFU, both conventions").lines if line.get_label() == "_causal")
    values = {round(at - START): value for at, value in zip(*line.get_data(), strict=True)}
    assert {at for at, value in values.items() if value == 0} == set(range(FAULT, CLOSED, story.SCRAPE))
    assert {value for value in values.values() if value} == {0.42}
    assert len(values) == 241


def test_parts_of_a_step_are_stacked_to_the_whole(figures: dict[str, Figure]) -> None:
    axes = panel(figures, "job", "Parts of a step")
    assert axes.get_ylim() == (0, 1)
    tops = {c.get_label(): max(y for path in c.get_paths() for _, y in path.vertices) for c in axes.collections}
    assert max(tops.values()) == pytest.approx(1.0)
    assert tops["_checkpoint_stall"] == pytest.approx(0.02)
    assert tops["_communication"] == pytest.approx(0.08)


def test_the_timeline_shows_the_fault_when_it_was_open(figures: dict[str, Figure]) -> None:
    axes = panel(figures, "faults", "Faults as they happened")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["demo Xid79 n1", "none"]
    bar, *_ = axes.collections
    (path,) = bar.get_paths()
    left, right = (edge(x for x, _ in path.vertices) for edge in (min, max))
    assert (left - START, right - START) == (FAULT, CLOSED)
    assert to_hex(bar.get_facecolor()[0]) == draw.hue("red")


def test_the_phases_of_a_job_are_in_their_colours(figures: dict[str, Figure]) -> None:
    drawn = panel(figures, "fleet", "Phases").collections
    colors = [to_hex(bar.get_facecolor()[0]) for bar in drawn]
    assert colors == [draw.hue("green"), draw.hue("orange"), draw.hue("green")]
    legend = panel(figures, "fleet", "Phases").get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["Running", "Recovering"]


def test_arrows_are_bars_as_long_as_they_took(figures: dict[str, Figure]) -> None:
    axes = panel(figures, "faults", "Latency of each arrow, mean")
    bars = {bars.get_label(): bars.patches[0] for bars in axes.containers if bars.get_label().startswith("_")}
    assert {label.lstrip("_"): bar.get_width() for label, bar in bars.items() if label[1:] in story.ARROWS} == (
        story.ARROWS
    )
    assert {"total", "1.0 min", "replacement", "32.0 s"} <= set(words(axes))
    assert to_hex(bars["_total"].get_facecolor()) == draw.hue("orange")


def test_lost_gpu_hours_are_told_by_cause(figures: dict[str, Figure]) -> None:
    assert words(panel(figures, "faults", "GPU-hours lost by cause")) == ["Xid79", "0.400"]


def test_a_table_has_a_line_for_a_job(found: dict[str, list[Answer]], figures: dict[str, Figure]) -> None:
    (jobs,) = (answer for answer in found["fleet"] if answer.panel["title"] == "All jobs")
    heads, rows = shown.table(jobs)
    assert heads == ["namespace", "training_job", "Phase", "Step", "Nodes", "Loss", "MFU", "ETTR", "Checkpoint age"]
    assert rows == [["training", "demo", "Running", "360", "2", "3.000", "42.0%", "97.5%", "0 s"]]
    (drawn,) = panel(figures, "fleet", "All jobs").tables
    assert [drawn[1, column].get_text().get_text() for column in range(len(heads))] == rows[0]


def test_what_is_drawn_can_be_seen(figures: dict[str, Figure]) -> None:
    """Pixels of the colour of an open fault inside its panel; the control is the same panel without the fault."""

    def red(figure: Figure) -> int:
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        box = panel({"f": figure}, "f", "Faults as they happened").get_window_extent()
        height = canvas.get_width_height()[1]
        rows, columns = slice(height - round(box.y1), height - round(box.y0)), slice(round(box.x0), round(box.x1))
        pixels = numpy.asarray(canvas.buffer_rgba())[rows, columns, :3]
        wanted = numpy.array([int(draw.hue("red")[i : i + 2], 16) for i in (1, 3, 5)])
        return int((abs(pixels.astype(int) - wanted).max(axis=2) <= 2).sum())

    quiet = [Answer(p, ((),) * len(p["targets"])) for p in BOARDS["faults"]["panels"] if "targets" in p]
    assert red(figures["faults"]) > 200
    assert red(draw.picture(BOARDS["faults"], quiet, WINDOW)) == 0


def test_pictures_are_written_and_what_has_no_data_is_told(
    prometheus: Prometheus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The story is long ago, so the last minute holds none of it."""
    argv = [f"--prometheus={prometheus.url}", f"--out={tmp_path}", "--minutes=1", "--job=demo"]
    assert snapshot.main(argv) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"dashboard-{name}.png" for name in sorted(BOARDS)]
    assert "no data: job: Step: max(" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["", "prometheus:9090", "http://127.0.0.1:9"])
def test_a_prometheus_that_is_none_is_a_users_mistake(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert snapshot.main([f"--prometheus={url}"]) == 2
    assert capsys.readouterr().err.startswith("--prometheus: ")


def test_what_a_panel_without_data_says_is_drawn(found: dict[str, list[Answer]]) -> None:
    empty = [replace(answer, series=((),) * len(answer.series)) for answer in found["faults"]]
    figure = draw.picture(BOARDS["faults"], empty, WINDOW)
    assert words(panel({"faults": figure}, "faults", "Cordoned nodes")) == ["no node is cordoned"]
