"""Pages as documents: readable by keyboard and ear, nothing from elsewhere, nothing of theirs is markup."""

import re
from typing import Any

import pytest

from internlm2_operator.api.status import FaultTimes
from internlm2_operator.cli.ui import html, pages
from tests.unit.cli.ui.cases import CLOSED, CORDONED, NOW, PAST, UNSEEN, of_each_kind, rendered, running
from tests.unit.cli.ui.structure import Document, wrong
from tests.unit.plan.world import after


@pytest.mark.parametrize(("name", "page"), of_each_kind().items(), ids=of_each_kind())
def test_a_page_has_nothing_that_a_checker_of_accessibility_finds(name: str, page: pages.Page) -> None:
    assert wrong(rendered(page)) == [], name


SPOILT = {
    'scope="col"': ("", "a heading of a table has no scope"),
    "<main": ("<main><h1>two</h1", "2 elements h1"),
    '<label for="namespace"': ("<label", "an input has no label"),
    "<figcaption>": ('<img src="https://elsewhere.example/a.png"><figcaption>', "img leads elsewhere"),
    "</main>": ("<script>1</script></main>", "script is not allowed"),
    'lang="en"': ("", "the document has no language"),
    'id="life"': ('id="death"', "svg is named by an element that is not there: life"),
}


@pytest.mark.parametrize(("old", "new", "found"), [(old, *rest) for old, rest in SPOILT.items()], ids=SPOILT)
def test_the_checker_finds_what_is_spoilt(old: str, new: str, found: str) -> None:
    good = rendered(pages.job(running(), NOW))
    assert old in good
    assert any(said.startswith(found) for said in wrong(good.replace(old, new)))


HOSTILE = "</code><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def hostile() -> dict[str, pages.Page]:
    """Every text that a stranger can have a hand in, with markup in it."""
    fault = CLOSED.model_copy(
        update={"cause": HOSTILE, "node": HOSTILE, "gpu": HOSTILE, "evidence": (HOSTILE,), "verdict": HOSTILE,
                "action": HOSTILE, "id": HOSTILE, "times": FaultTimes(signal=after(1), verdict=after(2))}
    )  # fmt: skip
    one = running(name=HOSTILE, namespace=HOSTILE)
    status = one.status.model_copy(
        update={"stage": HOSTILE, "faults": (fault,),
                "conditions": tuple(c.model_copy(update={"message": HOSTILE}) for c in one.status.conditions)}
    )  # fmt: skip
    one = one.model_copy(update={"status": status})
    node = type(CORDONED)(HOSTILE, True, NOW, True, 8, notice=HOSTILE, fault=CORDONED.fault)
    broken = pages.fault(one, HOSTILE)
    assert broken is not None
    return {
        "jobs": pages.jobs([one], NOW, namespace=HOSTILE, notes=[HOSTILE], unreadable=[HOSTILE]),
        "job": pages.job(one, NOW),
        "fault": broken,
        "nodes": pages.all_nodes([node], NOW),
        "node": pages.node(node, [one], NOW),
        "problem": pages.Problem(HOSTILE, HOSTILE, HOSTILE),
    }


@pytest.mark.parametrize(("name", "page"), hostile().items(), ids=hostile())
def test_what_a_stranger_wrote_is_text(name: str, page: pages.Page) -> None:
    document = Document(rendered(page))
    assert wrong(rendered(page)) == [], name
    assert (document.all("script"), document.all("img")) == ([], [])
    assert HOSTILE in document.text


def test_a_job_page_says_where_it_stands_and_why() -> None:
    document = Document(rendered(pages.job(running(), NOW)))
    assert document.texts("h1") == ["Job default/demo"]
    assert document.texts("p")[1].startswith("default/demo trains stage stage-1 on 2 nodes at step 25. A fault is open")
    assert document.all("progress")[1] == {"max": "100", "value": "25", "aria-labelledby": "stage-2"}
    assert {"33.1%", "1.9312"} <= {*document.texts("dd")}
    assert [a["href"] for a in document.all("a") if "faults/" in a["href"]] == [
        "../jobs/default/demo/faults/abc123", "../jobs/default/demo/faults/def456",
    ]  # fmt: skip


def test_a_job_page_draws_what_prometheus_kept_or_says_why_not() -> None:
    drawn, empty, silent, unasked = (
        Document(rendered(pages.job(running(), NOW, *past)))
        for past in ((PAST,), (UNSEEN,), (None, "Prometheus does not answer."), ())
    )
    assert drawn.texts("figcaption")[1:] == [
        "Loss: 7.5000 at first, 1.9312 last, between 1.9312 and 7.5000",
        "MFU, causal: 33.1% at first, 33.1% last, between 33.1% and 33.1%",
    ]
    assert "Prometheus has no figures of this job." in empty.texts("p")
    assert "Prometheus does not answer." in silent.texts("p")
    assert ["Loss and MFU" in page.texts("h2") for page in (drawn, empty, silent, unasked)] == [True] * 3 + [False]


def test_a_page_reloads_only_when_its_reader_asked_for_it() -> None:
    page = pages.jobs([running()], NOW, namespace="a&b")
    still, reloading = Document(rendered(page)), Document(rendered(page, reloads=True))
    assert [a for a in still.all("meta") if "http-equiv" in a] == []
    assert {"http-equiv": "refresh", "content": "30"} in reloading.all("meta")
    assert "?namespace=a%26b&reload=1" in [a["href"] for a in still.all("a")]
    assert "?namespace=a%26b" in [a["href"] for a in reloading.all("a")]


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def palettes() -> list[Any]:
    found = [dict(re.findall(r"--(\w+): (#\w{6});", part)) for part in html.STYLE.split("prefers-color-scheme: dark")]
    return [pytest.param(found[0], id="light"), pytest.param(found[1], id="dark")]


@pytest.mark.parametrize("palette", palettes())
def test_text_and_pictures_stand_out_in_light_and_dark(palette: dict[str, str]) -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for what is drawn; the stripe is behind every second row."""
    for ground in ("paper", "stripe"):
        assert min(contrast(palette[name], palette[ground]) for name in ("ink", "quiet", "link")) >= 4.5
    assert min(contrast(palette[name], palette["paper"]) for name in ("run", "open", "closed", "mark")) >= 3


def test_contrast_is_what_its_definition_says() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") < 4.5
