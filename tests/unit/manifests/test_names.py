"""Names are short enough, keep the order of the slots, and never meet."""

import re
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from internlm2_operator.manifests import names
from tests.examples import few

HOST: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LAST: Final = {"stage": 15, "attempt": 99999, "slot": 5063, "replacement": 99999}

jobs = st.from_regex(r"\A[a-z]([-a-z0-9]{0,61}[a-z0-9])?\Z")
# Long names that differ in their last characters only.
siblings = st.builds(
    lambda head, tail: (head + tail)[:63].rstrip("-"), st.just("run-" * 14), st.text("ab12", max_size=7)
)
members = st.fixed_dictionaries({name: st.integers(0, last) for name, last in LAST.items()})


def address(slot: int, replacement: int = 0, *, job: str = "demo") -> str:
    name = names.pod(job, stage=0, attempt=1, slot=slot, replacement=replacement)
    return names.address(name, job=job, namespace="default")


@few
@given(jobs, members)
@example("j" * 63, LAST)
def test_a_pod_is_a_host_whatever_the_job_is_called(job: str, member: dict[str, int]) -> None:
    assert HOST.fullmatch(names.pod(job, **member))


@few
@given(jobs | siblings, jobs | siblings, members, members)
@example("j" * 41, names.pod("j" * 41, **LAST).removesuffix("-15-99999-5063-r99999"), LAST, LAST)
@example("a", "a-0", LAST, LAST)
def test_two_jobs_never_share_the_name_of_a_pod(
    one: str, other: str, first: dict[str, int], second: dict[str, int]
) -> None:
    same = (one, first) == (other, second)
    assert (names.pod(one, **first) == names.pod(other, **second)) is same


def test_a_name_that_fits_is_kept_as_it_is() -> None:
    assert names.pod("demo", stage=0, attempt=1, slot=2) == "demo-0-001-0002"
    assert names.pod("j" * 40, stage=0, attempt=1, slot=2, replacement=3) == "j" * 40 + "-0-001-0002-r3"


@pytest.mark.parametrize("job", ["demo", "j" * 63], ids=["short", "longest"])
@pytest.mark.parametrize("replacement", [0, 1, 12])
def test_a_replacement_sorts_where_its_slot_did(replacement: int, job: str) -> None:
    assert address(8, job=job) < address(9, replacement, job=job) < address(10, job=job)


@few
@given(jobs, st.integers(0, 5062), st.integers(0, 99999), st.integers(0, 99999))
def test_addresses_sort_as_slots_do(job: str, slot: int, first: int, second: int) -> None:
    assert address(slot, first, job=job) < address(slot + 1, second, job=job)


def test_the_same_name_in_two_namespaces_is_two_addresses() -> None:
    name = names.pod("demo", stage=0, attempt=1, slot=0)
    assert names.address(name, job="demo", namespace="a") != names.address(name, job="demo", namespace="b")
    assert names.rendezvous_id("uid-of-a", 1) != names.rendezvous_id("uid-of-b", 1)
