"""`python -m internlm2_operator.agent`: the process of the DaemonSet."""

import asyncio
import logging
import os
import sys

from internlm2_operator.agent import app, options
from internlm2_spec.config import Refused


def main() -> int:
    """Run until SIGTERM (0), or refuse to start (2)."""
    chosen = options.parse(sys.argv[1:], os.environ)
    level = logging.DEBUG if chosen.verbose else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(app.run(chosen))
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
