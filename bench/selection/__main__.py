"""``python -m bench.selection``, from the root of the repository."""

# Every server process imports this module once more, so all that is heavy waits for the guard.
if __name__ == "__main__":
    import sys

    from .main import main

    sys.exit(main())
