"""A cluster that exists only as events, under the operator's own decisions: `plan`, `diagnose`, `decide_cordon`."""
