"""What grpcpool costs, measured: see README.md in this directory."""
