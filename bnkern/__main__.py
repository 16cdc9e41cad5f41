"""`python -m bnkern` is the command `bnkern`."""

import sys

from bnkern.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
