"""One deadline for all that an exchange does on the network: names, connecting, sending, receiving.

requests' timeouts bound each wait, not their sum, so a server that trickles header bytes could hold a thread for ever.
Here one `Deadline` travels as the timeout through requests and urllib3 down to the socket, which asks it before each
read and write; it also bounds how many bytes may come in, whatever they claim to be.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from urllib3.util import Timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.send_window import Slot

    Lookup = Callable[..., list[tuple[Any, ...]]]  # socket.getaddrinfo

MAX_BODY_BYTES = 16 * 2**20
_MAX_RECEIVED = MAX_BODY_BYTES + 2**20  # with status line, headers and chunk sizes
_SHORTEST_WAIT = 0.001  # seconds; 0 would make a socket non-blocking


class ResponseTooLarge(OSError):
    """More bytes came in than an answer may have."""


class StaleConnection(OSError):
    """A connection that was kept from before had ended: it broke, and no byte had come."""


class NameTimeout(TimeoutError):
    """The time ran out while a host name was looked up."""


class Deadline(Timeout):
    """What one exchange may use: seconds from now, and bytes received. urllib3 takes it for a timeout.

    Its request is sent in `slot` (None: at once).
    """

    def __init__(self, seconds: float, slot: Slot | None = None) -> None:
        super().__init__(total=seconds)
        self.until = time.monotonic() + seconds
        self.allowance = _MAX_RECEIVED
        self._slot = slot

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Wait for the slot, which takes no time of the exchange, and hold it while the request is sent."""
        if self._slot is None:
            yield
            return
        with self._slot:
            self.until += self._slot.waited
            yield

    def remaining(self) -> RemainingTime:
        """Return the seconds that remain, never 0; they remember this deadline."""
        left = RemainingTime(max(self.until - time.monotonic(), _SHORTEST_WAIT))
        left.deadline = self
        return left

    def check(self) -> float:
        """Return the seconds that remain; raises TimeoutError when there are none."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("deadline")
        return left

    def spend(self, received: int) -> None:
        """Take what was received off the allowance; raises ResponseTooLarge when it is used up."""
        self.allowance -= received
        if self.allowance < 0:
            raise ResponseTooLarge("allowance")

    @property
    def untouched(self) -> bool:
        """Whether nothing has been received yet."""
        return self.allowance == _MAX_RECEIVED

    def clone(self) -> Deadline:
        """Stay the one deadline: urllib3 copies its timeouts, which would restart them."""
        return self

    def start_connect(self) -> float:
        """Do nothing: the time runs from the beginning, not from the connect."""
        return self.until

    @property
    def connect_timeout(self) -> RemainingTime:
        """What remains: for the pool, the connect, the proxy's CONNECT and the handshake."""
        return self.remaining()

    @property
    def read_timeout(self) -> RemainingTime:
        """What remains: for the answer."""
        return self.remaining()


class RemainingTime(float):
    """Seconds left of a deadline. urllib3 hands numbers on to sockets, and the deadline has to come along."""

    __slots__ = ("deadline",)
    deadline: Deadline


class DeadlineSocket(socket.socket):
    """A socket whose timeout, when set to a `RemainingTime`, bounds all that follows together and not each call."""

    _deadline: Deadline | None = None

    def settimeout(self, value: float | None) -> None:
        """Take over the deadline of a `RemainingTime`; any other number works as with every socket."""
        self._deadline = value.deadline if isinstance(value, RemainingTime) else None
        super().settimeout(value)

    def gettimeout(self) -> float | None:
        """Return what is left; the ssl module passes it on to the socket that replaces this one."""
        return self._deadline.remaining() if self._deadline else super().gettimeout()

    def _hurry(self) -> None:
        if self._deadline:
            super().settimeout(self._deadline.check())

    def _count(self, received: int) -> None:
        if self._deadline:
            self._deadline.spend(received)

    def recv(self, *args: Any) -> bytes:
        """Receive in the time left."""
        self._hurry()
        data = super().recv(*args)
        self._count(len(data))
        return data

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """Receive in the time left."""
        self._hurry()
        count = super().recv_into(*args, **kwargs)
        self._count(count)
        return count

    def send(self, *args: Any) -> int:
        """Send in the time left."""
        self._hurry()
        return super().send(*args)

    def sendall(self, *args: Any) -> None:
        """Send in the time left."""
        self._hurry()
        super().sendall(*args)


class DeadlineSSLSocket(DeadlineSocket, ssl.SSLSocket):
    """The same inside TLS."""


class _Question(NamedTuple):
    host: str
    port: int
    answer: Future[list[tuple[Any, ...]] | Exception]


class Resolver:
    """Looks names up in one daemon thread: getaddrinfo knows no timeout, and must not hold up anybody or the exit."""

    def __init__(self, lookup: Lookup = socket.getaddrinfo) -> None:
        self._asked: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        threading.Thread(target=_resolve, args=(self._asked, lookup), name="knock-dns", daemon=True).start()

    def find(self, host: str, port: int, seconds: float) -> list[tuple[Any, ...]]:
        """Return the addresses as getaddrinfo does; raises NameTimeout or socket.gaierror."""
        question = _Question(host, port, Future())
        self._asked.put(question)
        try:
            found = question.answer.result(seconds)
        except TimeoutError:
            question.answer.cancel()
            raise NameTimeout(host) from None
        if isinstance(found, Exception):
            raise socket.gaierror(*(found.args if isinstance(found, socket.gaierror) else (socket.EAI_NONAME, "")))
        return found

    def close(self) -> None:
        """End the thread, after the look-up that it is in."""
        self._asked.put(None)


def _resolve(asked: queue.SimpleQueue[_Question | None], lookup: Lookup) -> None:
    while (question := asked.get()) is not None:
        if question.answer.cancelled():
            continue
        found: list[tuple[Any, ...]] | Exception
        try:
            found = lookup(question.host, question.port, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001  whatever it is: the thread must live, and the caller be told
            found = error
        # Those who asked meanwhile get the same answer: 64 slow look-ups one after another would all come too late.
        for each in (question, *_take_same(asked, question)):
            if each.answer.set_running_or_notify_cancel():
                each.answer.set_result(found)


def _take_same(asked: queue.SimpleQueue[_Question | None], question: _Question) -> list[_Question]:
    waiting = [asked.get() for _ in range(asked.qsize())]  # this thread alone takes out
    same = [each for each in waiting if each is not None and each[:2] == question[:2]]
    for each in waiting:
        if each is None or each[:2] != question[:2]:
            asked.put(each)
    return same


def connect(addresses: list[tuple[Any, ...]], left: RemainingTime, options: list[Any] | None) -> DeadlineSocket:
    """Connect to the first address that answers; each gets its share of the time. Raises the last one's OSError."""
    failed = OSError("no address")
    for index, address in enumerate(addresses):
        share = left.deadline.check() / (len(addresses) - index)
        try:
            sock = _connect(address, share, options)
        except OSError as error:
            failed = error
        else:
            sock.settimeout(left)
            return sock
    raise failed


def _connect(address: tuple[Any, ...], seconds: float, options: list[Any] | None) -> DeadlineSocket:
    family, kind, protocol, _, where = address
    sock = DeadlineSocket(family, kind, protocol)
    try:
        for option in options or ():
            sock.setsockopt(*option)
        sock.settimeout(seconds)
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock
