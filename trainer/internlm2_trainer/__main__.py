"""`python -m internlm2_trainer`: train, estimate, look after checkpoints, check nodes, run a pod's agent."""

import sys


def main(arguments: list[str]) -> int:
    """Run one verb and return its exit code. Each verb imports what it needs: torch takes seconds."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb == "train":
        from internlm2_trainer.loop import options

        told = options.parse(rest)
        from internlm2_trainer.pod import rank

        return rank.main(told.config, told.trace)
    if verb == "agent":
        from internlm2_trainer.pod import agent

        return agent.main(rest)
    if verb == "checkpoint":
        from internlm2_trainer.cli import checkpoint

        return checkpoint.main(rest)
    if verb == "tokenize":
        from internlm2_trainer.cli import tokenize

        return tokenize.main(rest)
    if verb == "estimate":
        from internlm2_trainer.cli import estimate

        return estimate.main(rest)
    if verb == "train-tokenizer":
        from internlm2_trainer.cli import tokenizer

        return tokenizer.main(rest)
    if verb == "check":
        from internlm2_trainer.cli import check

        return check.main(rest)
    print(_USAGE, file=sys.stdout if verb in ("-h", "--help") else sys.stderr)
    return 0 if arguments and verb in ("-h", "--help") else 2


_USAGE = """usage: python -m internlm2_trainer VERB [options]

  train            train one stage: --config job.json, with --profile FIRST:LAST traced
  estimate         say what a stage costs before it runs, or search for its best layout
  tokenize         turn text into packed token shards
  train-tokenizer  train a SentencePiece tokenizer
  agent            run the ranks of one node and keep them running
  check            find slow and broken nodes before a job starts on them
  checkpoint       list, verify, show, compare, export, import and prune checkpoints

python -m internlm2_trainer VERB --help says more."""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
