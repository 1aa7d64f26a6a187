"""What is printed says which seed it is about, and adds up."""

import json
from dataclasses import replace

from internlm2_operator.simulate import text
from internlm2_operator.simulate.account import Part
from internlm2_operator.simulate.advice import advise
from internlm2_operator.simulate.faults import LLAMA3
from internlm2_operator.simulate.result import run
from internlm2_operator.simulate.scenario import Scenario, setup
from internlm2_operator.simulate.times import Times

SCENARIO = Scenario(nodes=8, spares=1, days=2)
RESULTS = [run(setup(SCENARIO, Times(), seed)) for seed in range(3)]
ADVICE = advise(setup(SCENARIO, Times(), 0), RESULTS[0])
ALONE = text.Answer(SCENARIO, Times(), RESULTS, slow=[], against=0, advice=ADVICE)


def test_text_tells_ettr_of_all_seeds_and_the_control_beside_it() -> None:
    lines = list(text.lines(replace(ALONE, slow=RESULTS, against=10)))
    assert lines[0] == "64 GPUs on 8 nodes, 1 spares and 0 free nodes"
    assert LLAMA3.source in lines[1]
    assert [line for line in lines if line.startswith("ETTR")] == [
        text._ettr("ETTR with the recovery below", RESULTS),
        text._ettr("ETTR if every recovery took 10 min", RESULTS),
    ]
    assert not any("10 min" in line for line in text.lines(ALONE))


def test_document_is_json_whose_gpu_hours_add_up() -> None:
    told = json.loads(json.dumps(text.document(ALONE)))
    assert [one["seed"] for one in told["seeds"]] == [0, 1, 2]
    for one in told["seeds"]:
        assert sum(one["gpuHours"].values()) == 9 * 8 * 48
        assert set(one["gpuHours"]) == {part.value for part in Part}


def test_median_of_an_even_number_is_one_of_the_results() -> None:
    assert text.median(RESULTS[:2]) in RESULTS[:2]
    assert text.median(RESULTS).ettr == sorted(r.ettr for r in RESULTS)[1]
