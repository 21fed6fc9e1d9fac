"""`python -m ndtrain` is the command `ndtrain`, also from a bare checkout."""

import sys

from ndtrain.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
