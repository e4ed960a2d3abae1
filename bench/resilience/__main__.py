"""``python -m bench.resilience``, from the root of the repository."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
