"""Settings of the whole suite."""

import os

from hypothesis import settings

# The suite runs on all cores already; PyTorch's threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A check of a clean clone must give the same answer twice; people's runs draw new examples.
settings.register_profile("ci", derandomize=True, print_blob=True)
settings.register_profile("default", print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
