"""One connection of a `FaultServer`: gRPC over HTTP/2, and everything that can be wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import quote

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from .background import news, reset
from .faults import Corrupt, Fail, Failure, Fault, Garbage, Hang, Refuse, Slow
from .garbage import GOAWAY, NOT_HTTP2, SETTINGS, frame, garbage
from .state import CHECK, HEALTH, WATCH, Reply, State
from .stream import Stream, request_of

__all__ = ["Connection"]

CONFIG = h2.config.H2Configuration(
    client_side=False,
    header_encoding="utf-8",
    # The client is grpc's, and what we send is our own business.
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)
HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
# A stream may have so many bytes under way, and a connection these on top of 64 KiB.
STREAM_WINDOW, CONNECTION_WINDOW = 1 << 20, 1 << 24
NO_ERROR, REFUSED_STREAM = 0, 7
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, UNLIMITED = 3, 4, 2**31 - 1
HIGHEST_STREAM = 2**31 - 1
OK, UNKNOWN = 0, 2
# A message that says that it is compressed; one that ends before it should.
UNREADABLE, TRUNCATED = b"\x01\x00\x00\x00\x05bytes", b"\x00\x00\x00\x00\x64bytes"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def setting(name: int, value: int) -> bytes:
    """Return a setting as SETTINGS frames have it."""
    return name.to_bytes(2, "big") + value.to_bytes(4, "big")


class Connection(asyncio.Protocol):
    """See the module. Lives on the server's loop."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._h2 = h2.connection.H2Connection(CONFIG)
        # Instead of h2's own, which announce a limit to concurrent streams.
        self._h2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW}
        )
        self._streams: dict[int, Stream] = {}
        self._muted = False
        self._held, self._unread = bytearray(), bytearray()
        self._windows = asyncio.Event()
        # Streams above this one are not looked at; while draining is wanted, but not announced, the next one is it.
        self._last: int | None = None
        self._refuses_next = False
        self.calls = 0
        self.port = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def in_flight(self) -> int:
        """How many calls are running."""
        return len(self._streams)

    # --- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        state = self._state
        if not state.accepting:
            reset(transport)
            return
        self.port = transport.get_extra_info("peername")[1]
        state.connections.add(self)
        state.accepted += 1
        if state.black_hole:
            self.mute()
        fault = state.faults.at_connect() if state.faults else None
        if isinstance(fault, Garbage):
            self._write(garbage(fault.rng, 0))
        elif fault is not None:
            self._write(NOT_HTTP2)
            self._end()
        self._greet_client()
        news.tell()

    def _greet_client(self) -> None:
        self._h2.initiate_connection()
        # Its SETTINGS are replaced by ours: calls that wait for a connection all begin with the first ones.
        self._h2.data_to_send()
        state, settings = self._state, setting(INITIAL_WINDOW_SIZE, STREAM_WINDOW)
        if state.limit is not None and state.advertised:
            settings += setting(MAX_CONCURRENT_STREAMS, state.limit)
        self._write(frame(SETTINGS, 0, 0, settings))
        self._h2.increment_flow_control_window(CONNECTION_WINDOW)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        if self._muted:
            # In Python 3.10 a transport that is told to pause as soon as it is there reads nevertheless; until it is
            # told again, which means something to it only after the opposite.
            self._unread += data
            self._transport.resume_reading()
            self._transport.pause_reading()
            return
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            # The client speaks no HTTP/2, or does not any more, after what it was sent.
            self.flush()
            self._end()
            return
        for event in events:
            self._handle(event)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what runs: nobody waits for it."""
        self._drop_streams()
        self._state.connections.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)
        news.tell()

    def _end(self) -> None:
        self._drop_streams()
        self._transport.close()

    def _drop_streams(self) -> None:
        for stream in list(self._streams.values()):
            self._over(stream, cancel=True)

    def flush(self) -> None:
        """Send what h2 has to say."""
        self._write(self._h2.data_to_send())

    def _write(self, data: bytes) -> None:
        if self._muted:
            self._held += data
        elif data and not self._transport.is_closing():
            self._transport.write(data)

    # --- what the server does to it

    def reset(self) -> None:
        """End by RST."""
        reset(self._transport)

    def mute(self) -> None:
        """Read nothing, send nothing."""
        self._muted = True
        self._transport.pause_reading()

    def unmute(self) -> None:
        """Go on where `mute` began."""
        if self._muted:
            self._muted = False
            held, unread = bytes(self._held), bytes(self._unread)
            self._held.clear()
            self._unread.clear()
            self._write(held)
            if unread:
                self.data_received(unread)
            self._transport.resume_reading()

    def advertise(self, limit: int) -> None:
        """Announce how many streams there may be at once."""
        # Not by way of h2, which ends the connection of a client that has not taken note of it yet.
        self._frame(SETTINGS, setting(MAX_CONCURRENT_STREAMS, limit))

    def drain(self) -> None:
        """Say GOAWAY, and end when the calls that came before the client knows have ended."""
        if self._last is None:
            # Two steps, as RFC 9113 has it (section 6.8): no stream that is under way right now is refused.
            self._last = HIGHEST_STREAM
            self._say_goaway()
            self._h2.ping(b"goodbye!")
            self.flush()

    def refuse_next(self, wanted: bool = True) -> None:
        """Answer the next stream with a GOAWAY that does not cover it."""
        self._refuses_next = wanted and self._last is None

    def _goaway_before(self, stream: int) -> None:
        self._last = max(stream - 2, 0)
        self._say_goaway()
        self._end_if_drained()

    def _say_goaway(self) -> None:
        assert self._last is not None
        self._frame(GOAWAY, self._last.to_bytes(4, "big") + NO_ERROR.to_bytes(4, "big"))

    def _end_if_drained(self) -> None:
        if self._last is not None and self._last != HIGHEST_STREAM and not self._streams:
            self._transport.close()

    def _frame(self, kind: int, payload: bytes) -> None:
        self.flush()
        self._write(frame(kind, 0, 0, payload))

    # --- what the client says

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._begin(event)
        elif isinstance(event, h2.events.DataReceived):
            # The client may have given the stream up in the same breath.
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.receive(event.data, event.stream_ended is not None)
        elif isinstance(event, h2.events.StreamEnded):
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.receive(b"", ended=True)
        elif isinstance(event, h2.events.StreamReset):
            if (stream := self._streams.get(event.stream_id)) is not None:
                self._over(stream, cancel=True)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._windows.set()
        elif isinstance(event, h2.events.PingAckReceived) and self._last == HIGHEST_STREAM:
            self._last = self._h2.highest_inbound_stream_id
            self._say_goaway()
            self._end_if_drained()

    def _begin(self, event: h2.events.RequestReceived) -> None:
        state, number = self._state, event.stream_id
        if self._last is not None and number > self._last:
            return
        if self._refuses_next:
            self._refuses_next = False
            state.refused += 1
            self._goaway_before(number)
            news.tell()
            return
        request = request_of(event.headers, self.port)
        over_limit = state.limit is not None and len(self._streams) >= state.limit
        if over_limit or (state.faults and state.faults.find(Refuse, request.method)):
            state.refused += 1
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self._h2.reset_stream(number, REFUSED_STREAM)
            news.tell()
            return
        stream = self._streams[number] = Stream(number, request)
        state.in_flight += 1
        state.counts[request.method] += 1
        state.requests.append(request)
        if not request.method.startswith(HEALTH):
            state.calls += 1
            self.calls += 1
        # What the call suffers is decided now: a fault that comes later is for later calls.
        faults = [state.faults.find(kind, request.method) for kind in SUFFERED] if state.faults else []
        stream.task = asyncio.get_running_loop().create_task(self._serve(stream, faults))
        news.tell()

    # --- what the calls get

    async def _serve(self, stream: Stream, faults: list[Fault | None]) -> None:
        code, details = OK, ""
        try:
            for fault in faults:
                if isinstance(fault, Slow):
                    await asyncio.sleep(fault.draw())
                elif isinstance(fault, Hang):
                    await fault.over.wait()
                elif isinstance(fault, Fail):
                    if fault.after:
                        await asyncio.sleep(fault.after)
                    self._finish(stream, fault.code, fault.details, fault.trailers)
                    return
                elif fault is not None:
                    self._misbehave(stream, fault)
                    return
            await self._answer(stream)
        except Failure as failure:
            code, details = failure.code, failure.details
        except Exception as error:
            # As grpc's own servers do: what goes wrong in an answer is the answer.
            code, details = UNKNOWN, f"{type(error).__name__}: {error}"
        self._finish(stream, code, details)

    async def _answer(self, stream: Stream) -> None:
        method = stream.request.method
        if method == CHECK:
            await self._send(stream, SERVING if self._state.serving else NOT_SERVING)
        elif method == WATCH:
            while True:
                changed = self._state.health_changed
                await self._send(stream, SERVING if self._state.serving else NOT_SERVING)
                self.flush()
                await changed.wait()
        else:
            answer = self._state.answer_to(method)
            if answer.whole:
                await self._reply(stream, answer.reply, b"".join([message async for message in self._messages(stream)]))
            else:
                async for message in self._messages(stream):
                    await self._reply(stream, answer.reply, message)

    async def _messages(self, stream: Stream) -> AsyncIterator[bytes]:
        while True:
            if stream.waiting:
                self.flush()
                await stream.arrival()
            elif (message := stream.take()) is not None:
                yield message
            else:
                return

    async def _reply(self, stream: Stream, reply: Reply, request: bytes) -> None:
        result = reply if isinstance(reply, bytes) else reply(request)
        if isinstance(result, bytes):
            await self._send(stream, result)
            return
        for message in result:
            await self._send(stream, message)
            # At once: the iterator may be about to do something to this very connection.
            self.flush()

    async def _send(self, stream: Stream, message: bytes) -> None:
        self._greet(stream)
        data = memoryview(b"\x00" + len(message).to_bytes(4, "big") + message)
        while data:
            room = min(self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size)
            if room <= 0:
                self.flush()
                self._windows.clear()
                await self._windows.wait()
                continue
            self._h2.send_data(stream.id, bytes(data[:room]))
            data = data[room:]

    def _greet(self, stream: Stream, *more: tuple[str, str]) -> None:
        if not stream.greeted:
            stream.greeted = True
            self._h2.send_headers(stream.id, [*HEADERS, *more])

    def _finish(self, stream: Stream, code: int, details: str, more: tuple[tuple[str, str], ...] = ()) -> None:
        trailers = [("grpc-status", str(code)), *more]
        if details:
            trailers.append(("grpc-message", quote(details, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")))
        self._h2.send_headers(stream.id, trailers if stream.greeted else HEADERS + trailers, end_stream=True)
        if not stream.ended:
            # It need not go on sending.
            self._h2.reset_stream(stream.id, NO_ERROR)
        self._over(stream)
        self.flush()
        self._end_if_drained()

    def _misbehave(self, stream: Stream, fault: Fault) -> None:
        if isinstance(fault, Garbage):
            self.flush()
            self._write(garbage(fault.rng, stream.id))
        elif isinstance(fault, Corrupt) and fault.what == "connection":
            self.flush()
            self._write(NOT_HTTP2)
            self._end()
        else:
            assert isinstance(fault, Corrupt)
            if fault.what == "truncated":
                self._greet(stream)
                self._h2.send_data(stream.id, TRUNCATED)
            else:
                self._greet(stream, ("grpc-encoding", "gzip"))
                self._h2.send_data(stream.id, UNREADABLE)
            self._finish(stream, OK, "")
            return
        self._over(stream)
        news.tell()

    def _over(self, stream: Stream, cancel: bool = False) -> None:
        if self._streams.pop(stream.id, None) is not None:
            self._state.in_flight -= 1
            if cancel and stream.task is not None:
                stream.task.cancel()
            news.tell()


# In this order.
SUFFERED: tuple[type[Fault], ...] = (Slow, Hang, Garbage, Corrupt, Fail)
