"""A connection that ends when its client takes too long. The limits of an upload begin with its header's end."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def connection_for(seconds: float) -> type[H11Protocol]:
    """The connections of a server: closed where the header of a request is not there `seconds` after it might have
    begun, and where the client takes nothing of its answer for as long."""

    class Connection(H11Protocol):
        late: asyncio.TimerHandle | None = None
        stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._wait_for_header()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait_for_header()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self.late, self.stuck):
                if timer:
                    timer.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.stuck = self.loop.call_later(seconds, self.transport.abort)  # close() would go on waiting

        def resume_writing(self) -> None:
            super().resume_writing()
            self.stuck.cancel()

        def _wait_for_header(self) -> None:
            if self.late:
                self.late.cancel()
            self.late = self.loop.call_later(seconds, self._close_where_none_came)

        def _close_where_none_came(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Connection
