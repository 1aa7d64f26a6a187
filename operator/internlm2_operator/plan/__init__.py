"""Decisions about one job: `plan(snapshot, now)` says what to do. No clock, no client, no logger inside."""

from internlm2_operator.plan.decide import plan as plan
