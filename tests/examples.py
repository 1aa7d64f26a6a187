"""How many examples hypothesis draws, the same ones in every run."""

from hypothesis import settings

few = settings(max_examples=60, deadline=None, derandomize=True, database=None)
