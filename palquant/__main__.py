"""``python -m palquant``: the ``palquant`` command."""

import sys

from palquant.cli import main

if __name__ == "__main__":
    sys.exit(main())
