"""What Grafana would put into a query."""

import pytest

from dashboards.ask import Answer, Series, Window, resolve, unanswered


@pytest.mark.parametrize(("step", "rate"), [(10, "60s"), (120, "120s")])
def test_a_rate_looks_over_four_scrapes_or_one_step(step: float, rate: str) -> None:
    window = Window(0, 3600, step, 15)
    expr = 'rate(x{n=~"$namespace", j="$job"}[$__rate_interval]) + y offset $__range'
    assert resolve(expr, {"namespace": "a|b", "job": "c"}, window) == (
        f'rate(x{{n=~"a|b", j="c"}}[{rate}]) + y offset 3600s'
    )


def test_a_query_without_series_is_told_by_its_panel() -> None:
    panel = {"title": "Loss", "targets": [{"expr": "a"}, {"expr": "b"}]}
    some = (Series({}, ((0.0, 1.0),)),)
    assert unanswered([Answer(panel, (some, ())), Answer(panel, (some, some))]) == ["Loss: b"]
