"""`python -m internlm2_operator run`: the operator's process."""

import asyncio
import logging
import os
import sys

from internlm2_operator.runtime import app, log, options
from internlm2_spec.config import Refused


def main() -> int:
    """Run until SIGTERM (0), until the lease is lost (1), or refuse to start (2)."""
    chosen = options.parse(sys.argv[1:], os.environ)
    log.configure(logging.DEBUG if chosen.verbose else logging.INFO)
    try:
        asyncio.run(app.run(chosen))
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    except ExceptionGroup as ended:
        logging.getLogger(__name__).error("stopped: %s", "; ".join(map(repr, ended.exceptions)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
