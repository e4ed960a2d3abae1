"""The pool for aio code, over `grpc.aio.Channel`: the same names as in `grpcpool`, where they differ."""

from .pool import ChannelPool, insecure_channel, secure_channel

__all__ = ["ChannelPool", "insecure_channel", "secure_channel"]
