"""From a board to the JSON that Grafana imports, by its own SDK."""

import itertools
import json
from collections.abc import Iterator
from typing import Any, Final

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.panel import OF_SERIES, Board, Look, Panel, Query, Variable

UID: Final = "internlm2-{}"
SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Labels whose values OF_SERIES gives their colours.
_COLORED: Final = ("{{spent_on}}", "{{state}}", "{{cause}}")
_BUILDERS: Final[dict[Look, Any]] = {
    Look.TIMES: timeseries.Panel,
    Look.STAT: stat.Panel,
    Look.BARS: bargauge.Panel,
    Look.TABLE: table.Panel,
    Look.STATES: statetimeline.Panel,
}


def text(board: Board) -> str:
    """Return the JSON of a dashboard; the same board is always the same text."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(UID.format(board.name))
        .description(board.purpose)
        .tags(["internlm2"])
        .time("now-3h", "now")
        .timezone("browser")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            dashboard.DashboardLink("InternLM2")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["internlm2"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in board.variables:
        built = built.with_variable(_variable(variable))
    number = itertools.count(1)
    for row in board.rows:
        built = built.with_row(dashboard.Row(row.title).id(next(number)))
        for panel in row.panels:
            built = built.with_panel(_panel(panel).id(next(number)))
    return json.dumps(json.loads(JSONEncoder().encode(built.build())), indent=1, sort_keys=True) + "\n"


def _variable(variable: Variable) -> Any:
    made = (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(SOURCE)
        .query(variable.query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )
    if variable.several:
        everything = model.VariableOption(text="All", value="$__all", selected=True)
        return made.multi(True).include_all(True).all_value(".*").current(everything)
    return made


def _panel(panel: Panel) -> Any:
    made = (
        _BUILDERS[panel.look]()
        .title(panel.title)
        .description(panel.question)
        .datasource(SOURCE)
        .unit(panel.unit)
        .no_value(panel.empty)
        .span(panel.width)
        .height(panel.height)
        .thresholds(dashboard.ThresholdsConfig().steps(list(_steps(panel))))
        .color_scheme(dashboard.FieldColor().mode(_scheme(panel.look)))
    )
    if panel.words and panel.look is not Look.TABLE:
        made = made.mappings([_words(panel)])
    for limit, value in (("min", panel.least), ("max", panel.most), ("decimals", panel.decimals)):
        made = getattr(made, limit)(value) if value is not None else made
    for number, query in enumerate(panel.queries):
        made = made.with_target(_target(panel.look, query, chr(ord("A") + number)))
    return _LOOKS[panel.look](made, panel)


def _scheme(look: Look) -> model.FieldColorModeId:
    """Lines have a colour each; a value has that of its threshold."""
    return model.FieldColorModeId.PALETTE_CLASSIC if look is Look.TIMES else model.FieldColorModeId.THRESHOLDS


def _words(panel: Panel) -> model.ValueMap:
    results = {str(k): model.ValueMappingResult(text=w, color=c) for k, (w, c) in panel.words.items()}
    return model.ValueMap(options=results)


def _steps(panel: Panel) -> Iterator[model.Threshold]:
    yield model.Threshold(value=None, color=panel.base)
    for value, color in panel.steps:
        yield model.Threshold(value=value, color=color)


def _target(look: Look, query: Query, ref: str) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).ref_id(ref).datasource(SOURCE)
    if look in (Look.TIMES, Look.STATES):
        return made.range().legend_format(query.legend)
    made = made.instant().legend_format(query.legend)
    return made.format(PromQueryFormat.TABLE) if look is Look.TABLE else made


def _times(made: Any, panel: Panel) -> Any:
    legend = common.VizLegendOptions().show_legend(True).placement(shapes.LegendPlacement.BOTTOM)
    made = made.legend(legend.display_mode(shapes.LegendDisplayMode.LIST)).line_width(2).fill_opacity(10)
    made = made.show_points(shapes.VisibilityMode.NEVER).tooltip(
        common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI)
    )
    if panel.steps:
        dashed = common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
        made = made.thresholds_style(dashed)
    if any(query.legend in _COLORED for query in panel.queries):
        for name, color in OF_SERIES.items():
            fixed = model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})
            made = made.override_by_name(name, [fixed])
    if panel.stacked:
        made = made.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL)).fill_opacity(60)
    return made


def _stat(made: Any, panel: Panel) -> Any:
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"])
    color = shapes.BigValueColorMode.VALUE if panel.steps or panel.words else shapes.BigValueColorMode.NONE
    return made.reduce_options(reduced).color_mode(color).graph_mode(shapes.BigValueGraphMode.NONE)


def _bars(made: Any, _panel: Panel) -> Any:
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"])
    made = made.reduce_options(reduced).orientation(shapes.VizOrientation.HORIZONTAL)
    return made.display_mode(shapes.BarGaugeDisplayMode.BASIC).value_mode(shapes.BarGaugeValueMode.TEXT)


def value_field(panel: Panel, number: int) -> str:
    """Return the name that Grafana gives the values of a table's query."""
    return f"Value #{chr(ord('A') + number)}" if len(panel.queries) > 1 else "Value"


def _table(made: Any, panel: Panel) -> Any:
    """One line for each set of labels, and a column for each query."""
    names = {value_field(panel, number): query.legend for number, query in enumerate(panel.queries)}
    hidden = dict.fromkeys(("Time", *panel.hidden), True)
    merge = model.DataTransformerConfig(id_val="merge", options={})
    organize = model.DataTransformerConfig(
        id_val="organize", options={"excludeByName": hidden, "indexByName": {}, "renameByName": names}
    )
    made = made.transformations([merge, organize])
    for number, query in enumerate(panel.queries):
        properties = {"unit": query.unit, "decimals": query.decimals}
        if panel.words and number == 0:
            properties["mappings"] = [_words(panel)]
        values = [model.DynamicConfigValue(id_val=name, value=value) for name, value in properties.items()]
        made = made.override_by_name(query.legend, values)
    return made


def _states(made: Any, _panel: Panel) -> Any:
    legend = common.VizLegendOptions().show_legend(True).placement(shapes.LegendPlacement.BOTTOM)
    made = made.legend(legend.display_mode(shapes.LegendDisplayMode.LIST)).merge_values(True).row_height(0.8)
    return made.show_value(shapes.VisibilityMode.NEVER).fill_opacity(80)


_LOOKS: Final = {
    Look.TIMES: _times,
    Look.STAT: _stat,
    Look.BARS: _bars,
    Look.TABLE: _table,
    Look.STATES: _states,
}
