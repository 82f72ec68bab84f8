"""A connection that ends when its client takes too long. The limits of an upload begin with its header's end."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 128  # connections that the system holds until they are accepted, all of them in one go
HALF_CLOSED = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    b'{"detail":"The client closed its side of the connection before the answer. It must stay open until then."}'
)
SPARE = 500  # connections beside those of the requests that there may be


def most_connections(places: int, decoders: int) -> int:
    """The number of connections at a time. Without a file to spare no client could connect and no upload be written."""
    others = BACKLOG + places + 4 * decoders + 64  # uploads, pipes to decoders, and what Python has open
    return max(allowed_files(places + SPARE + others) - others, places + 8)


def allowed_files(wanted: int) -> int:
    """The number of files that this process may open, up to `wanted`; its limit is raised where that is allowed."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)


def connection_for(seconds: float, most: int) -> type[H11Protocol]:
    """The connections of a server: closed where the header of a request is not there `seconds` after it might have
    begun, and where the client takes nothing of its answer for as long. Of more than `most`, the one that has waited
    longest for a header makes room."""
    waiting: dict[H11Protocol, None] = {}  # the first one longest; some of them have their header by now

    class Connection(H11Protocol):
        late: asyncio.TimerHandle | None = None
        stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                idle = next((other for other in waiting if other._is_idle()), self)
                waiting.pop(idle, None)
                idle.transport.abort()
            self._wait_for_header()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait_for_header()

        def connection_lost(self, exc: Exception | None) -> None:
            waiting.pop(self, None)
            for timer in (self.late, self.stuck):
                if timer:
                    timer.cancel()
            super().connection_lost(exc)

        def eof_received(self) -> None:
            """A client that closes its side while it waits cannot be told from one that has gone: the work for it
            ends, and it is told, should it still be there."""
            super().eof_received()
            if self.cycle is not None and not self.cycle.response_started:
                self.transport.write(HALF_CLOSED)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.stuck = self.loop.call_later(seconds, self.transport.abort)  # close() would go on waiting

        def resume_writing(self) -> None:
            super().resume_writing()
            self.stuck.cancel()

        def _wait_for_header(self) -> None:
            waiting.pop(self, None)
            waiting[self] = None
            if self.late:
                self.late.cancel()
            self.late = self.loop.call_later(seconds, self._close_where_none_came)

        def _close_where_none_came(self) -> None:
            if self._is_idle():
                self.transport.abort()

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

    return Connection
