"""Everything at once, for minutes: ``nox -s soak``, or ``python -m tests.soak --seconds 90``; see `__main__`."""
