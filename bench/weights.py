"""How fast weights leave and come home, and how much memory that takes.

    python -m bench.weights [--mib 512] [--url file:///folder] [--output bench/results/weights.json]

A model of about that size in fp32 is exported in files of 64 MiB and imported again as objects of 64 MiB (1 GiB by
default, which would hold all of it), in one process each so that its peak is its own. Rates are MiB of the files that
are written, per second of wall time and of CPU time.
"""

import argparse
import dataclasses
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from bench import record
from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Model
from internlm2_spec.manifest import ELEMENT_BYTES, elements
from internlm2_spec.presets import parameters
from internlm2_trainer import storage
from internlm2_trainer.checkpoint import address, shards, verify
from internlm2_trainer.weights import convert, huggingface, naming, released
from internlm2_trainer.weights.convert import Precision
from internlm2_trainer.weights.naming import Format

MIB: Final = 2**20
FILE_BYTES: Final = 64 * MIB


@dataclass(frozen=True, slots=True)
class Cost:
    """One way that weights went. `memory_ratio` is the growth of the process over the bytes of the model in fp32."""

    what: str
    written_mib: float
    mib_per_second: float
    mib_per_cpu_second: float
    memory_mib: float
    memory_ratio: float


def of_size(mib: int) -> Architecture:
    """Return a model with the ratios of the 7B one and about that many MiB of weights in fp32."""
    layers = max(1, round((mib * MIB / 4 - 2 * 4096 * 1024) / (1024 * (1024 * 2 + 512 + 3 * 3584))))
    return Architecture(Model(layers=layers, hidden=1024, heads=16, kv_heads=4, ffn=3584, vocab=4096), 1e6, 4096)


def prepare(url: str, architecture: Architecture) -> None:
    """Publish random weights as an import of them would."""
    run, folder = storage.open_store(f"{url}/run"), storage.open_store(f"{url}/random")
    named = {each.name: torch.randn(each.shape) for each in naming.tensors(architecture, "internlm2")}
    staged = {name: convert.whole(tensor) for name, tensor in named.items()}
    folder.put(released.SINGLE, shards.encode(staged)[0])
    described = huggingface.config_json(architecture, "internlm2", "float32")
    folder.put("config.json", [memoryview(json.dumps(described).encode())])
    convert.import_folder(released.open_folder(folder), folder, run, stage="imported", now=0.0)


def export(url: str, name: str, format: Format, precision: Precision) -> int:
    """Export the run and return the bytes that were written."""
    step = address.one_step(f"{url}/run")
    manifest = verify.read_manifest(step.store, step.stage, step.step)
    source = convert.Source(step.store, step.folder, manifest, Architecture.from_extra(manifest.extra, url))
    destination = storage.open_store(f"{url}/{name}")
    return convert.export(
        source, destination, format=format, precision=precision, file_bytes=FILE_BYTES, tokenizer={}
    )  # fmt: skip


def come_home(url: str, name: str) -> int:
    """Import an exported folder and return the bytes that were written."""
    source, run = storage.open_store(f"{url}/{name}"), storage.open_store(f"{url}/home-{name}")
    folder = released.open_folder(source)
    manifest = convert.import_folder(folder, source, run, stage="imported", now=0.0, object_bytes=FILE_BYTES)
    return sum(elements(t.shape) * ELEMENT_BYTES[t.dtype] for t in manifest.tensors.values())


def measure(what: str, model_bytes: int, work: Callable[..., int], *arguments: Any) -> Cost:
    """Do one piece of work in a fresh process that has torch imported, and return what it took."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "boto3", "bench.weights"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(sender, work, arguments))
    process.start()
    written, seconds, cpu, grown = receiver.recv()
    process.join()
    return Cost(
        what, round(written / MIB, 1), round(written / MIB / seconds, 1), round(written / MIB / cpu, 1),
        round(grown / MIB, 1), round(grown / model_bytes, 3),
    )  # fmt: skip


def _measured(sender: Any, work: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    before, started, cpu = _peak_bytes(), time.perf_counter(), time.process_time()
    written = work(*arguments)
    sender.send((written, time.perf_counter() - started, time.process_time() - cpu, _peak_bytes() - before))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Measure both formats and types, print, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.weights", description=__doc__.split("\n")[0])
    parser.add_argument("--mib", type=int, default=512, help="size of the model in fp32 (default 512)")
    parser.add_argument("--url", help="where to work (default: a temporary folder)")
    record.add_output(parser, "weights")
    options = parser.parse_args()
    architecture = of_size(options.mib)
    size = parameters(architecture.model) * 4
    ways: tuple[tuple[Format, Precision], ...] = (("internlm2", "bf16"), ("internlm2", "fp32"), ("llama", "bf16"))
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or f"file://{folder}"
        prepare(url, architecture)
        for format, precision in ways:
            name = f"{format}-{precision}"
            costs.append(measure(f"export {name}", size, export, url, name, format, precision))
            costs.append(measure(f"import {name}", size, come_home, url, name))
    results = {
        "modelMib": round(size / MIB, 1),
        "fileMib": FILE_BYTES // MIB,
        "costs": [dataclasses.asdict(cost) for cost in costs],
    }
    record.write(options.output, "bench.weights", results)
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
