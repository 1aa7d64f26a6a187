"""The denominator of MFU."""

import json

import pytest
import torch

from internlm2_trainer.compute.peak import peak_flops, published


def test_a_known_device_has_the_peak_of_its_data_sheet(capsys: pytest.CaptureFixture[str]) -> None:
    assert published("NVIDIA H100 80GB HBM3", warn=True) == 989e12
    assert capsys.readouterr().out == ""


def test_an_unknown_device_has_none_and_one_rank_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert [published("NVIDIA GeForce RTX 4090", warn=rank == 0) for rank in range(3)] == [None] * 3

    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "mfu-unknown"
    assert json.loads(line)["device"] == "NVIDIA GeForce RTX 4090"


def test_a_cpu_s_peak_is_measured() -> None:
    peak = peak_flops(torch.device("cpu"), warn=True)
    assert peak is not None
    assert 1e9 < peak < 1e13
