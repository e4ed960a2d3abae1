"""grpc's own channel factories, as they were when grpcpool was imported.

To be used where `grpc.insecure_channel` and the like may have been replaced by (a wrapper around) our own: making a
member by those would make a pool within the pool, without end.
"""

import grpc

__all__ = ["aio_insecure_channel", "aio_secure_channel", "insecure_channel", "secure_channel"]

insecure_channel = grpc.insecure_channel
secure_channel = grpc.secure_channel
aio_insecure_channel = grpc.aio.insecure_channel
aio_secure_channel = grpc.aio.secure_channel
