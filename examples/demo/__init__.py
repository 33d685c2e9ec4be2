"""The demonstration: real models trained with `torch.nn.CrossEntropyLoss` and with ours.

Run it from the root of the repository with `python -m examples.demo`.
"""

import os

# Set before torch is imported: its profiler, which measures the memory, otherwise logs every start
# and stop into the progress bars.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
