"""What a pod serves on its metrics port, read over HTTP."""

import math
import urllib.request

from internlm2_spec import metrics as catalogue
from internlm2_spec.contract import Progress, TrainPhase
from tests.trainer import parity


def test_progress_and_metrics_tell_the_last_step() -> None:
    metrics = parity.metrics()
    port = metrics.serve(0)
    try:
        metrics.enter(TrainPhase.STEP)
        metrics.resumed(40)
        metrics.finished(41, loss=2.5, tokens_per_second=1000.0, mfu=None, now=17.0)
        metrics.skipped()
        metrics.checkpoints_skipped(2)
        progress = Progress.from_json(get(port, "progress"))
        text = get(port, "metrics")
    finally:
        metrics.close()

    assert (progress.phase, progress.started_step, progress.step, progress.loss) == (TrainPhase.STEP, 40, 41, 2.5)
    assert (progress.step_time, progress.first_step_time, progress.mfu) == (17.0, 17.0, None)
    assert "internlm2_train_step 41.0" in text
    assert 'internlm2_train_phase{phase="step"} 1.0' in text
    assert 'internlm2_train_phase{phase="init"} 0.0' in text
    assert "internlm2_train_skipped_steps_total 1.0" in text
    assert "internlm2_train_checkpoints_skipped_total 2.0" in text


def test_a_loss_that_is_not_a_number_is_still_readable() -> None:
    metrics = parity.metrics()
    metrics.finished(1, loss=math.nan, tokens_per_second=1.0, mfu=None, now=1.0)

    loss = Progress.from_json(metrics.progress.to_json()).loss

    assert loss is not None
    assert math.isnan(loss)


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as reply:
        body: bytes = reply.read()
    return body.decode()


def test_every_metric_of_the_catalogue_is_registered_and_no_other() -> None:
    registered = {family.name: (family.type, family.documentation) for family in parity.metrics().registry.collect()}
    listed = {each.name.removesuffix("_total"): (each.kind, each.meaning) for each in catalogue.TRAINER}
    assert registered == listed
