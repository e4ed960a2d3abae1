"""The command ``grpcpool``. Nothing in the library imports this; it needs the extra ``cli``."""

from __future__ import annotations

import sys

__all__ = ["main"]

# What the extra `cli` brings.
_EXTRA = ("typer", "rich", "psutil")


def main() -> None:
    """Run the command line; without the extra ``cli``, say how to get it and exit with code 2."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        print(f"the grpcpool command needs {missing}: pip install 'grpcpool[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    app()
