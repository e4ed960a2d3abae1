"""Which backend gets the call: strategies of grpcpool, core gRPC and others, against real servers that misbehave."""
