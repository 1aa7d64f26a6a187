"""Pictures of the dashboards as they stand in the chart, from a Prometheus that is there.

python -m dashboards.snapshot --prometheus URL --namespace NAMESPACE --job JOB [--minutes 60] [--out docs/images]
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from dashboards import draw
from dashboards.__main__ import FOLDER
from dashboards.ask import Answer, Json, Prometheus, Window, answers, unanswered

TOP: Final = Path(__file__).parent.parent
POINTS: Final = 360  # of a line, as many as a panel can show


def boards() -> dict[str, Json]:
    """Return the dashboards of the chart by the names of their files."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((TOP / FOLDER).glob("*.json"))}


def window(start: float, end: float, scrape: float) -> Window:
    """Return a range whose points lie on whole multiples of their distance, no closer than the scrapes."""
    step = max(1.0, scrape, round((end - start) / POINTS))
    return Window(start // step * step, end // step * step, step, scrape)


def chosen(board: Json, namespace: str, job: str) -> dict[str, str]:
    """Return the values of a dashboard's variables; one that is not about jobs shows every operator."""
    about_jobs = any(variable["name"] == "job" for variable in board["templating"]["list"])
    return {"namespace": namespace, "job": job} if about_jobs else {"namespace": ".*"}


def asked(prometheus: Prometheus, namespace: str, job: str, over: Window) -> dict[str, list[Answer]]:
    """Return the answers of every panel by dashboard.

    Raises:
        OSError: Prometheus cannot be reached, or refuses a query.
    """
    return {
        name: list(answers(prometheus, board, chosen(board, namespace, job), over)) for name, board in boards().items()
    }


def silent(prometheus: Prometheus, namespace: str, job: str, over: Window) -> list[str]:
    """Return every query of every dashboard that got no data, one line each: dashboard, panel, query."""
    found = asked(prometheus, namespace, job, over)
    return [f"{boards()[name]['title']}: {line}" for name, panels in found.items() for line in unanswered(panels)]


def main(argv: list[str] | None = None) -> int:
    """Draw them all and list the queries without data; 2 when Prometheus does not answer."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.snapshot", description=__doc__)
    parser.add_argument("--prometheus", default=os.environ.get("PROMETHEUS_URL", ""), help="http://HOST:PORT")
    parser.add_argument("--namespace", default="default", help="of the job, a regular expression")
    parser.add_argument("--job", default="demo", help="name of the job, a regular expression")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far back (default: 60)")
    parser.add_argument("--scrape", type=float, default=15.0, help="seconds between two scrapes (default: 15)")
    parser.add_argument("--out", type=Path, default=TOP / "docs" / "images", help="folder (default: docs/images)")
    options = parser.parse_args(argv)
    if not options.prometheus.startswith(("http://", "https://")):
        print(f"--prometheus: `{options.prometheus}` is no address; pass http://HOST:PORT", file=sys.stderr)
        return 2
    now = time.time()
    over = window(now - 60 * options.minutes, now, options.scrape)
    try:
        found = asked(Prometheus(options.prometheus), options.namespace, options.job, over)
    except OSError as error:
        print(f"--prometheus: {options.prometheus} does not answer: {error}; is it up?", file=sys.stderr)
        return 2
    for name, panels in found.items():
        path = options.out / f"dashboard-{name}.png"
        draw.save(draw.picture(boards()[name], panels, over), path)
        print(path)
        for line in unanswered(panels):
            print(f"no data: {name}: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
