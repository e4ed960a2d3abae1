"""The core decides; it does nothing.

No grpc, no threads, no asyncio and no clock of its own: time and randomness are arguments. The rooms `sync` and `aio`
feed it with what they see and carry out what it answers.
"""
