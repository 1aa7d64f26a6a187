"""What a rank of a test imports, imported once: the server that forks ranks imports this module and no other.

Our own modules above all: where no bytecode is written, each process that imports them compiles them again.
"""

import gc
import importlib
from typing import Final

MODULES: Final = (
    "pytest",  # the children re-import the main module
    "hypothesis",
    "boto3",
    "torch._dynamo",  # slicing a device mesh imports it
    "internlm2_trainer.pod.node",
    "internlm2_trainer.pod.rank",
    "internlm2_trainer.check.node",
    "tests.trainer.parity",
    "tests.trainer.states",
)

gc.disable()  # imports leave no garbage, and looking for it takes a tenth of their time
for name in MODULES:
    importlib.import_module(name)
gc.freeze()  # a collection would write into every page that ranks share
gc.enable()
