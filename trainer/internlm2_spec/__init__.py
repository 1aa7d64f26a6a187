"""Facts that the operator and the trainer must agree on. Standard library only."""
