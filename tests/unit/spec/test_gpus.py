"""GPU types by the names that drivers give them."""

import pytest

from internlm2_spec import gpus


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A800-SXM4-80GB", "A800-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("", None),
    ],
)
def test_a_device_is_known_by_whole_words_of_its_name(device: str, name: str | None) -> None:
    found = gpus.by_device(device)
    assert (found.name if found else None) == name


def test_names_are_unique_and_found_in_any_case() -> None:
    names = [gpu.name for gpu in gpus.GPUS]
    assert len(set(names)) == len(names)
    assert all(gpus.by_name(name.lower()) is gpu for name, gpu in zip(names, gpus.GPUS, strict=True))
    assert gpus.by_name("K80") is None


@pytest.mark.parametrize(
    ("device", "switched"),
    [
        ("NVIDIA A100-SXM4-80GB", True),
        ("NVIDIA A100-PCIE-40GB", False),
        ("NVIDIA H100 80GB HBM3", True),
        ("NVIDIA H200 NVL", False),
        ("NVIDIA GeForce RTX 4090", False),
    ],
)
def test_a_card_of_its_own_has_no_switch(device: str, switched: bool) -> None:
    assert gpus.has_switch(device) is switched


def test_what_was_measured_is_less_than_what_is_published() -> None:
    published = {gpu.name: gpu.flops for gpu in gpus.GPUS}
    assert all(0.7 < gpus.MATMUL[name] / published[name] < 0.9 for name in gpus.MATMUL)
