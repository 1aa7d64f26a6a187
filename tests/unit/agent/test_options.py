"""The agent's flags."""

import pytest

from internlm2_operator.agent.options import parse


def test_the_node_comes_from_the_pod() -> None:
    found = parse([], {"NODE_NAME": "n1"})
    assert (found.node, str(found.kmsg), found.disks, found.resource) == ("n1", "/dev/kmsg", (), "nvidia.com/gpu")


@pytest.mark.parametrize(
    ("flags", "want"),
    [
        ([], "--node: empty; give the name of this node"),
        (["--node=n", "--disk=data"], "--disk: data is relative; give an absolute path"),
        (["--node=n", "--link=a/b"], "--link: not an interface"),
        (["--node=n", "--writes-per-second=0"], "--writes-per-second: 0 is not a number from 0.001 to 86400"),
        (["--node=n", "--free-percent=nan"], "--free-percent: nan is not a number from 0 to 50"),
    ],
)
def test_a_wrong_flag_is_one_line(flags: list[str], want: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(flags, {})
    assert ended.value.code == 2
    assert want in capsys.readouterr().err.splitlines()[-1]


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    told = capsys.readouterr().out
    assert "GPUHealthy" in told
    assert "health-reset=" in told
