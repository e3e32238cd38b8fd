"""``palquant train`` in double precision: rounding differences between runs then flip no codes."""

import sys

import torch

from palquant.cli import main

if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    sys.exit(main(["train", *sys.argv[1:]]))
