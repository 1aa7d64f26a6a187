"""`make train-local`: the trainer alone, one process, no Kubernetes, no root, on any system.

Tokenizes the example corpus into OUT/corpus and trains internlm2-tiny on it with checkpoints in
OUT/checkpoints; run again, it resumes from the newest one.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from internlm2_spec import config
from internlm2_spec.presets import PRESETS

TOP = Path(__file__).parent.parent


def stage(out: Path, steps: int) -> config.Stage:
    """Return the stage to train: the demo's model on one rank."""
    return config.Stage(
        name="pretrain",
        model=PRESETS["internlm2-tiny"],
        data=config.Data(url=f"file://{out / 'corpus'}"),
        checkpoint=config.Checkpoint(url=f"file://{out / 'checkpoints'}", every_steps=10, keep=3),
        sequence_length=256,
        global_batch_tokens=8192,
        steps=steps,
        optimizer=config.Optimizer(lr=1.0e-3, min_lr=1.0e-4, warmup_steps=10),
    )


def main() -> int:
    """Tokenize once, then become the trainer."""
    parser = argparse.ArgumentParser(prog="python -m lab.local", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for corpus, configuration and checkpoints")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps (default 60, about a minute)")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "corpus" / "index.json").exists():
        examples = TOP / "examples"
        subprocess.run(
            [
                sys.executable, "-m", "internlm2_trainer", "tokenize",
                "--input", str(examples / "corpus"),
                "--tokenizer", str(examples / "tokenizer" / "internlm2-2k.model"),
                "--output", f"file://{out / 'corpus'}",
            ],
            check=True,
        )  # fmt: skip
    job = out / "job.json"
    job.write_text(config.to_json(stage(out, args.steps)) + "\n")
    command = [sys.executable, "-m", "internlm2_trainer", "train", "--config", str(job)]
    print(f"$ {' '.join(command)}", file=sys.stderr, flush=True)
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
