"""``python -m grpcpool.cli``: the command ``grpcpool``, where scripts are not on the path."""

from . import main

main()
