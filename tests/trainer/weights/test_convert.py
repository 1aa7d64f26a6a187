"""Weights that leave and come home: the same bytes whatever saved them, and never more than a file in memory."""

import dataclasses
import json
import resource
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Model, Refused, Stage
from internlm2_spec.presets import parameters
from internlm2_trainer import storage
from internlm2_trainer.checkpoint import address, shards, verify
from internlm2_trainer.storage import Store
from internlm2_trainer.storage.file import FileStore
from internlm2_trainer.weights import convert, naming, released
from internlm2_trainer.weights.convert import Precision
from internlm2_trainer.weights.naming import Format
from tests import ranks
from tests.trainer import parity
from tests.trainer.released_models import (
    REWARD,
    SMALL,
    files,
    random_weights,
    read_tensors,
    saved_model,
    shards_of,
)
from tests.trainer.states import a_store, checkpointer

MIB = 2**20


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return a_store(request, tmp_path)


def exported(
    url: str,
    destination: Store | str,
    *,
    format: Format = "internlm2",
    precision: Precision = "fp32",
    file_bytes: int = 10**9,
) -> dict[str, bytes]:
    """Export the only step of a run and return the folder."""
    target = storage.open_store(destination) if isinstance(destination, str) else destination
    write(url, target, format=format, precision=precision, file_bytes=file_bytes)
    return files(target)


def write(url: str, target: Store, *, format: Format, precision: Precision, file_bytes: int) -> None:
    step = address.one_step(url)
    manifest = verify.read_manifest(step.store, step.stage, step.step)
    source = convert.Source(step.store, step.folder, manifest, Architecture.from_extra(manifest.extra, url))
    convert.export(source, target, format=format, precision=precision, file_bytes=file_bytes, tokenizer={})


def imported(folder: Store | str, url: str, stage: str = "imported") -> None:
    source = storage.open_store(folder) if isinstance(folder, str) else folder
    convert.import_folder(released.open_folder(source), source, storage.open_store(url), stage=stage, now=0.0)


def within(store: Store, folder: str) -> Store:
    return storage.open_store(f"{store.url}/{folder}")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("format", ["internlm2", "llama"])
def test_exported_imported_and_exported_again_is_equal_byte_by_byte(
    store: Store, format: Format, precision: Precision
) -> None:
    saved_model(f"{store.url}/run")
    first = exported(f"{store.url}/run", within(store, "a"), format=format, precision=precision, file_bytes=20_000)
    imported(within(store, "a"), f"{store.url}/home")
    second = exported(f"{store.url}/home", within(store, "b"), format=format, precision=precision, file_bytes=20_000)

    assert len(shards_of(first)) > 2
    assert first == second
    # The control: one other bit in the weights is another folder.
    saved_model(f"{store.url}/other", seed=1)
    assert exported(f"{store.url}/other", within(store, "c"), format=format, precision=precision) != first


def test_the_library_of_the_format_reads_what_was_saved(tmp_path: Path) -> None:
    saved = saved_model(f"file://{tmp_path}/run")
    folder = exported(f"file://{tmp_path}/run", f"file://{tmp_path}/out", file_bytes=20_000)
    read = read_tensors(shards_of(folder))

    assert read.keys() == {name.removeprefix("model.") for name in saved}
    assert all(torch.equal(read[name.removeprefix("model.")], tensor) for name, tensor in saved.items())
    index = json.loads(folder["model.safetensors.index.json"])
    assert index["metadata"]["total_size"] == 4 * parameters(SMALL.model)
    assert index["weight_map"].keys() == read.keys()
    assert all(name in read_tensors([folder[file]]) for name, file in index["weight_map"].items())


def test_bf16_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    saved = saved_model(f"file://{tmp_path}/run")
    read = read_tensors(shards_of(exported(f"file://{tmp_path}/run", f"file://{tmp_path}/out", precision="bf16")))

    assert all(torch.equal(read[n.removeprefix("model.")], tensor.to(torch.bfloat16)) for n, tensor in saved.items())


def test_llama_gets_wqkv_taken_apart_and_gives_it_back(tmp_path: Path) -> None:
    saved = saved_model(f"file://{tmp_path}/run")
    read = read_tensors(shards_of(exported(f"file://{tmp_path}/run", f"file://{tmp_path}/out", format="llama")))
    sizes, name = SMALL.model, "model.layers.1.self_attn.{}_proj.weight"
    # (h gs d) of the released conversion: h KV heads, gs queries then key and value, d the head size.
    rows = saved["model.model.layers.1.attention.wqkv.weight"].view(sizes.kv_heads, -1, 8, sizes.hidden)

    assert torch.equal(read[name.format("q")], rows[:, :-2].reshape(-1, sizes.hidden))
    assert torch.equal(read[name.format("k")], rows[:, -2].reshape(-1, sizes.hidden))
    assert torch.equal(read[name.format("v")], rows[:, -1].reshape(-1, sizes.hidden))
    imported(f"file://{tmp_path}/out", f"file://{tmp_path}/home")
    state = {name: torch.zeros_like(tensor) for name, tensor in saved.items()}
    checkpointer(storage.open_store(f"file://{tmp_path}/home")).init_from("imported", state)
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())


def test_a_reward_head_leaves_and_comes_home(tmp_path: Path) -> None:
    saved = saved_model(f"file://{tmp_path}/run", REWARD)
    first = exported(f"file://{tmp_path}/run", f"file://{tmp_path}/a")
    imported(f"file://{tmp_path}/a", f"file://{tmp_path}/home")

    assert torch.equal(read_tensors(shards_of(first))["v_head.weight"], saved["model.v_head.weight"])
    assert json.loads(first["config.json"])["architectures"] == ["InternLM2ForRewardModel"]
    assert exported(f"file://{tmp_path}/home", f"file://{tmp_path}/b") == first


def test_any_layout_exports_the_same_bytes_and_starts_from_an_import(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    layouts = {1: parity.stage(), 4: parity.stage(tensor=2, zero=3, shard=2)}
    folders = []
    for world, stage in layouts.items():
        ranks.run(world, save_random, f"{url}/run{world}", stage)
        folders.append(exported(f"{url}/run{world}", f"{url}/out{world}", format="llama"))
    assert folders[0] == folders[1]

    imported(f"{url}/out1", f"{url}/home")
    one, four = (ranks.run(world, sums_of_imported, f"{url}/home", stage) for world, stage in layouts.items())
    assert one[0] == four[0] == sums_by_name(read_as_ours(folders[0]))


def save_random(rank: int, world: int, url: str, stage: Stage) -> None:
    run = parity.trainer(dataclasses.replace(stage, seed=7))
    checkpointer(storage.open_store(url), rank, world).save(1, run.state(), run.extra(1), wait=True)


def sums_of_imported(rank: int, world: int, url: str, stage: Stage) -> dict[str, list[float]]:
    state = parity.trainer(stage).state()
    checkpointer(storage.open_store(url), rank, world).init_from("imported", state)
    whole = {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in state.items()}
    return sums_by_name({name: t for name, t in whole.items() if name.startswith("model.")})


def sums_by_name(tensors: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Return numbers that any moved row or column changes: exact sums, weighted by place."""
    place = {name: torch.arange(t.numel()).view(t.shape) % 997 for name, t in tensors.items()}
    return {name: [t.double().sum().item(), (t.double() * place[name]).sum().item()] for name, t in tensors.items()}


def read_as_ours(llama: dict[str, bytes]) -> dict[str, torch.Tensor]:
    """Put a Llama folder's tensors together by hand."""
    read, sizes = read_tensors(shards_of(llama)), parity.SIZES
    of = Architecture(sizes, 50000.0, parity.SEQUENCE)
    ours = {f"model.{name}": torch.empty(shape) for name, shape in naming.own_shapes(of).items()}
    for foreign in naming.tensors(of, "llama"):
        for rows, part in zip(foreign.rows, read[foreign.name].split([r.count for r in foreign.rows]), strict=True):
            ours[rows.tensor][rows.start : rows.start + rows.count] = part
    return ours


class Counting(FileStore):
    """A folder that notes how much is read and written, in order."""

    def __init__(self, folder: Path, events: list[tuple[str, int]]) -> None:
        super().__init__(f"file://{folder}", str(folder))
        self._events = events

    def put(self, key: str, parts: Sequence[memoryview]) -> None:
        if key.endswith(".safetensors"):
            self._events.append(("put", sum(map(len, parts))))
        super().put(key, parts)

    def read(self, key: str, start: int, length: int) -> bytes:
        self._events.append(("read", length))
        return super().read(key, start, length)


def held(events: list[tuple[str, int]]) -> list[tuple[int, int]]:
    """Return for each file that was written how much had been read for it, and its size."""
    found, read = [], 0
    for kind, size in events:
        if kind == "put":
            found.append((read, size))
        read = 0 if kind == "put" else read + size
    return found


HEADER_BYTES = 4096


@pytest.fixture
def no_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read exactly what is asked for: ranges less than 1 MiB apart are read as one, and this model is smaller."""
    monkeypatch.setattr(shards, "GAP_BYTES", 0)


@pytest.mark.usefixtures("no_gaps")
def test_an_export_reads_no_more_than_the_file_that_it_writes_next(tmp_path: Path) -> None:
    saved_model(f"file://{tmp_path}/run")
    events: list[tuple[str, int]] = []
    step = address.one_step(f"file://{tmp_path}/run")
    run, out = Counting(tmp_path / "run", events), Counting(tmp_path / "out", events)
    source = convert.Source(run, step.folder, verify.read_manifest(run, step.stage, step.step), SMALL)
    total = convert.export(source, out, format="internlm2", precision="fp32", file_bytes=20_000, tokenizer={})

    assert len(held(events)) > 3
    assert all(read <= size <= 20_000 + HEADER_BYTES for read, size in held(events))
    assert sum(read for read, _ in held(events)) == total


@pytest.mark.usefixtures("no_gaps")
def test_an_import_reads_no_more_than_the_object_that_it_writes_next(tmp_path: Path) -> None:
    saved_model(f"file://{tmp_path}/run")
    exported(f"file://{tmp_path}/run", f"file://{tmp_path}/out", format="llama")
    events: list[tuple[str, int]] = []
    folder, home = Counting(tmp_path / "out", events), Counting(tmp_path / "home", events)
    opened = released.open_folder(folder)
    convert.import_folder(opened, folder, home, stage="imported", now=0.0, object_bytes=20_000)

    assert len(held(events)) > 3
    assert all(size <= 20_000 + HEADER_BYTES for _, size in held(events))
    # The first has read the headers, too.
    assert all(read <= size for read, size in held(events)[1:])


LARGE = Architecture(Model(layers=24, hidden=512, heads=8, kv_heads=4, ffn=1792, vocab=4096), 1e6, 64)


def test_memory_grows_by_a_file_and_not_by_the_model(tmp_path: Path) -> None:
    """A model of 361 MiB leaves in files of 8 MiB, and comes home, in less than a third of it."""
    size = parameters(LARGE.model) * 4
    url = f"file://{tmp_path}"
    ranks.run(1, save_large, f"{url}/run")
    (small,) = ranks.run(1, growth_of_export, f"{url}/run", f"{url}/a", 8 * MIB)
    (whole,) = ranks.run(1, growth_of_export, f"{url}/run", f"{url}/b", 10**12)
    (home,) = ranks.run(1, growth_of_import, f"{url}/a", f"{url}/home")

    assert small < size / 3
    assert home < size / 3
    assert whole > size  # the control


def save_large(_rank: int, _world: int, url: str) -> None:
    saved_model(url, LARGE)


def growth_of_export(_rank: int, _world: int, url: str, destination: str, file_bytes: int) -> int:
    before = peak_bytes()
    write(url, storage.open_store(destination), format="llama", precision="fp32", file_bytes=file_bytes)
    return peak_bytes() - before


def growth_of_import(_rank: int, _world: int, folder: str, url: str) -> int:
    source, run = storage.open_store(folder), storage.open_store(url)
    before = peak_bytes()
    opened = released.open_folder(source)
    convert.import_folder(opened, source, run, stage="imported", now=0.0, object_bytes=8 * MIB)
    return peak_bytes() - before


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_killed_export_is_no_model_and_is_not_continued(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    saved_model(f"{url}/run")
    complete = exported(f"{url}/run", f"{url}/whole", file_bytes=20_000)
    writes = len(complete)
    for survived in range(writes):
        folder = tmp_path / f"killed{survived}"
        with pytest.raises(Killed):
            exported(f"{url}/run", Mortal(folder, survived), file_bytes=20_000)
        assert "config.json" not in files(storage.open_store(f"file://{folder}"))
        if survived:
            with pytest.raises(Refused, match=r"and no config.json; name an empty folder, or delete what a killed"):
                exported(f"{url}/run", f"file://{folder}")
    assert exported(f"{url}/run", Mortal(tmp_path / "lives", writes), file_bytes=20_000) == complete


def test_a_killed_import_is_no_checkpoint_and_is_simply_repeated(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    saved_model(f"{url}/run")
    exported(f"{url}/run", f"{url}/out")
    source = storage.open_store(f"{url}/out")
    with pytest.raises(Killed):
        convert.import_folder(
            released.open_folder(source), source, Mortal(tmp_path / "home", 1), stage="imported", now=0.0
        )
    left = files(storage.open_store(f"{url}/home"))
    with pytest.raises(Refused, match="has no checkpoint"):
        address.one_step(f"{url}/home")
    imported(source, f"{url}/home")

    assert left.keys() < files(storage.open_store(f"{url}/home")).keys()
    assert exported(f"{url}/home", f"{url}/again") == files(source)


class Killed(Exception):
    """The process is gone."""


class Mortal(FileStore):
    """A folder whose writer dies after some writes."""

    def __init__(self, folder: Path, writes: int) -> None:
        super().__init__(f"file://{folder}", str(folder))
        self._writes = writes

    def put(self, key: str, parts: Sequence[memoryview]) -> None:
        self._live()
        super().put(key, parts)

    def create(self, key: str, body: bytes) -> None:
        self._live()
        super().create(key, body)

    def _live(self) -> None:
        if self._writes == 0:
            raise Killed
        self._writes -= 1


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    saved_model(f"{url}/run")
    before = exported(f"{url}/run", f"{url}/out")
    with pytest.raises(Refused, match="holds a model already; name an empty folder; nothing is overwritten"):
        exported(f"{url}/run", f"{url}/out", format="llama")
    assert files(storage.open_store(f"{url}/out")) == before

    imported(f"{url}/out", f"{url}/run")  # beside the stage that trained
    with pytest.raises(Refused, match="--stage: imported has a checkpoint already; give the weights a stage of their"):
        imported(f"{url}/out", f"{url}/run")
    with pytest.raises(Refused, match="--stage: pretrain has a checkpoint already"):
        imported(f"{url}/out", f"{url}/run", stage="pretrain")


def test_a_checkpoint_that_does_not_say_its_model_is_refused(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    checkpointer(storage.open_store(url)).save(1, random_weights(SMALL), {"tokens": 0}, wait=True)

    with pytest.raises(Refused, match="does not say which model it is of; save it again with this version"):
        exported(url, f"{url}/out")


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [([], []), ([3], [[3]]), ([3, 3, 3], [[3, 3], [3]]), ([9, 1, 1], [[9], [1, 1]]), ([1, 9, 1], [[1], [9], [1]])],
)
def test_tensors_are_packed_in_order_and_a_large_one_stands_alone(sizes: list[int], groups: list[list[int]]) -> None:
    assert convert.pack(sizes, size=lambda size: size, limit=6) == groups
