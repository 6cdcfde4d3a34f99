"""The simulator as an HTTP server on threads of its own."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from exporter.errors import StartError
from exporter.keys import Secret
from exporter.simulator import replies
from exporter.simulator.api import Api, Request, SimulatedResponse, is_own
from exporter.simulator.delivery import deliver
from exporter.simulator.faults import Faults
from exporter.simulator.limits import EndpointLimits
from exporter.simulator.log import LoggedRequest, RequestLog
from exporter.simulator.world import World

if TYPE_CHECKING:
    from types import TracebackType

MAX_BODY = 16 * 2**20
_LOOK_SECONDS = 0.02  # how soon the accepting thread sees that it has to stop
_LEAVE_SECONDS = 0.3  # how long stop() waits for the threads of open connections


class Simulator:
    """Knock on a port: `with Simulator() as knock: Knock(base_url=knock.url, api_key="sk_test")`.

    `port` 0 takes a free one. With an `api_key` only that one is accepted, else any `sk_…`. `rate_limits` is True for
    Knock's, False for none, or a number of reads a second. `world`, `faults` and `log` outlive stop() and start().
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        world: World | None = None,
        api_key: str | None = None,
        rate_limits: bool | int = True,
    ) -> None:
        self.host = host
        self.port = port
        self.world = world or World()
        self.faults = Faults(self.world.chance("faults"))
        self.log = RequestLog()
        key = Secret(api_key) if api_key else None
        self._api = Api(self.world, EndpointLimits(rate_limits, self.world.speed), self.faults, key)
        self._request_ids = self.world.chance("requests")
        self._deciding = threading.Lock()  # limits, counted faults and chance are shared by all connections
        self._server: _SimulatorServer | None = None

    @property
    def url(self) -> str:
        """The base URL for clients; its port is known once it was started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def start(self) -> Self:
        """Listen, and serve from threads of its own; raises StartError where the address cannot be had."""
        try:
            self._server = _SimulatorServer(self)
        except OSError as error:
            raise StartError(f"cannot listen on {self.host}:{self.port}: {error.strerror}") from None
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(_LOOK_SECONDS,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the port and all connections, hanging ones too, within half a second; may be started again."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.hang_up()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def respond(self, request: Request) -> tuple[SimulatedResponse, str]:
        """Decide what a request gets, log it, and give the answer its request id."""
        with self._deciding:
            answer = self._api.respond(request)
            request_id = f"{self._request_ids.getrandbits(80):020x}"
            if not is_own(request.path):
                status = answer.reply.status if answer.reply else None
                self.log.add(LoggedRequest(request.at, request.method, request.path, request.operation_id, status))
        return answer, request_id


class _SimulatorServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.address_family = socket.AF_INET6 if ":" in simulator.host else socket.AF_INET
        self._open: dict[threading.Thread, socket.socket] = {}
        super().__init__((simulator.host, simulator.port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(
            self
        )  # HTTPServer's own asks DNS for the host's name, which may take seconds

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._open[thread] = request
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(threading.current_thread(), None)

    def hang_up(self) -> None:
        """End all connections and wait for their threads, which close the sockets."""
        until = time.monotonic() + _LEAVE_SECONDS
        left = dict(self._open)
        for connection in left.values():
            with contextlib.suppress(OSError):  # its thread may have closed it this moment
                connection.shutdown(socket.SHUT_RDWR)
        for thread in left:
            thread.join(max(0.0, until - time.monotonic()))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _SimulatorServer

    def handle(self) -> None:
        # Clients leave whenever they like, and faults and stop() break connections on purpose.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def parse_request(self) -> bool:
        self.arrived = self.server.simulator.world.clock.monotonic()
        return super().parse_request()

    def _serve(self) -> None:
        body = self._body()
        if body is None:
            return
        path, _, _ = self.path.partition("?")
        request = Request(self.command, path, self.arrived, self.headers.get("Authorization"), body)
        answer, request_id = self.server.simulator.respond(request)
        self.close_connection |= not deliver(self.connection, answer, request_id)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 the names that the base class looks for

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self.send_error(411, "A body needs a Content-Length")
        elif not (length.isascii() and length.isdigit()):
            self.send_error(400, "Content-Length is not a number")
        elif len(length) > len(str(MAX_BODY)) or int(length) > MAX_BODY:
            self.send_error(413, f"A body may have {MAX_BODY} bytes at most")
        else:
            return self.rfile.read(int(length))
        return None

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 the base class passes it
        """Answer what the base class or this one could not read, in JSON, and close."""
        self.close_connection = True
        reply = replies.error(code, message=message)
        head = reply.head("unread", len(reply.body))
        self.connection.sendall(head if self.command == "HEAD" else head + reply.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base class's name
        """Say nothing: `Simulator.log` has it all."""
