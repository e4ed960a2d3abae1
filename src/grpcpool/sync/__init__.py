"""The pool for sync code, over `grpc.Channel`."""

from .pool import ChannelPool, insecure_channel, secure_channel

__all__ = ["ChannelPool", "insecure_channel", "secure_channel"]
