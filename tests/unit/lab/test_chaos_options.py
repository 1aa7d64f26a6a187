"""A mistake in the command line of a run is one line, before anything is started."""

from pathlib import Path

import pytest

from lab.chaos.options import parse

MISTAKES = {
    "no fault": (["--faults", "0"], "--faults: 0 is too few; write 1 or more"),
    "no steps": (["--steps-per-fault", "0"], "--steps-per-fault: 0 is too few"),
    "one file for two runs": (
        ["--seed", "1", "2", "-o", "r.json"],
        "--output: r.json is one file for 2 seeds; write SEED into its name",
    ),
    "a kind that is not there": (["--kinds", "meteor"], "--kinds: 'meteor' is not known; use some of"),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_ends_with_2_and_says_what_is_right(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_run_is_long_enough_for_its_faults_and_its_files_are_named_after_the_seed() -> None:
    options = parse(["--faults", "30", "--seed", "7", "8", "--picture", "SEED.png"])
    assert [(run.seed, len(run.plan)) for run in options.runs] == [(7, 30), (8, 30)]
    assert options.runs[0].plan != options.runs[1].plan
    assert options.steps == 30 * 25 + 20
    assert options.runs[0].output == Path("bench/results/chaos-7.json")
    assert [run.picture for run in options.runs] == [Path("7.png"), Path("8.png")]
