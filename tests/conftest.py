"""Settings of the whole suite."""

import os
import signal

from hypothesis import settings

# The suite runs on all cores already; PyTorch's threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A check of a clean clone must give the same answer twice; people's runs draw new examples.
settings.register_profile("ci", derandomize=True, print_blob=True)
settings.register_profile("default", print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# A shell starts what it runs in the background with interrupts ignored, and programs started from
# there inherit it: the tests of Ctrl-C need the usual answer, here and in what they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
