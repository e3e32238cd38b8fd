"""A training that ends at any of its writes, unable to tidy up, goes on as if it had not."""

import subprocess
import sys

from palquant.golden.config import TrainConfig
from palquant.golden.train import train

CONFIG = TrainConfig(base_width=2, epochs=2)
#: Trains in copies of this process, each of which ends right before another one of its renames:
#: what was written until then lies aside. Prints how many such ends there are.
ENDING = """
import os, sys
from pathlib import Path
from palquant.golden.config import TrainConfig
from palquant.golden.train import train

folder, rename = Path(sys.argv[1]), Path.replace
for end in range(100):
    child = os.fork()
    if not child:
        seen = iter(range(100))
        def replace(path, target):
            if next(seen) == end:
                os._exit(9)
            return rename(path, target)
        Path.replace = replace
        train(TrainConfig(base_width=2, epochs=2), folder / str(end), progress=False)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(end)
        break
"""


def test_a_training_goes_on_from_an_end_at_any_write(tmp_path):
    whole = train(CONFIG, tmp_path / "whole", progress=False)
    result = subprocess.run(
        [sys.executable, "-c", ENDING, str(tmp_path)], check=True, capture_output=True, text=True
    )
    ends = int(result.stdout)
    assert ends >= 5  # a checkpoint and metrics for each epoch, and the model
    for end in range(ends):
        folder = tmp_path / str(end)
        resumed = train(CONFIG, folder, resume=True, progress=False)
        assert resumed.history == whole.history
        for path in (tmp_path / "whole").iterdir():
            if path.suffix != ".pt":  # its zip archive is not the same byte for byte
                assert (folder / path.name).read_bytes() == path.read_bytes(), (end, path.name)
        assert resumed.checkpoint.is_file()
