"""``python -m bench.overload``, from the root of the repository."""

import sys

from .main import main

sys.exit(main())
