"""How an answer goes over the wire, whole or spoiled."""

from __future__ import annotations

import selectors
import socket
import struct
from typing import TYPE_CHECKING

from exporter.simulator import faults as kinds

if TYPE_CHECKING:
    from exporter.simulator.api import SimulatedResponse
    from exporter.simulator.replies import Reply

_PIECE = b" " * 65_536
_RESET = struct.pack("ii", 1, 0)  # linger for no time: close() sends RST


def deliver(connection: socket.socket, answer: SimulatedResponse, request_id: str) -> bool:
    """Send an answer; tell whether the connection can serve another request. Raises ConnectionError where it broke."""
    if answer.latency:
        pause(connection, answer.latency)
    reply, fault = answer.reply, answer.fault
    if reply is None:
        _stay_silent(connection, fault)
        return False
    head = reply.head(request_id, len(reply.body))
    match fault:
        case None:
            connection.sendall(head + reply.body)  # in one: two writes may cost 40 ms of waiting for an ACK
        case kinds.Truncated():
            connection.sendall(head + reply.body[: len(reply.body) // 2])
        case kinds.Oversized():
            _send_padded(connection, reply, fault, request_id)
        case kinds.TrickleHeaders():
            _trickle(connection, head, fault.seconds)
            connection.sendall(reply.body)
        case kinds.TrickleBody():
            connection.sendall(head)
            _trickle(connection, reply.body, fault.seconds)
    return fault is None


def pause(connection: socket.socket, seconds: float | None) -> None:
    """Wait (None: for ever), but no longer than the client or the simulator keeps the connection.

    Raises ConnectionAbortedError when it ended. What a pipelining client sends meanwhile counts as its end too.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        if selector.select(seconds):
            raise ConnectionAbortedError


def _stay_silent(connection: socket.socket, fault: object) -> None:
    if isinstance(fault, kinds.Hang):
        pause(connection, None)
    if isinstance(fault, kinds.Reset):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.close()  # before the server's orderly shutdown, whose FIN would come first


def _send_padded(connection: socket.socket, reply: Reply, fault: kinds.Oversized, request_id: str) -> None:
    pieces = fault.mebibytes * 2**20 // len(_PIECE)
    length = len(reply.body) + pieces * len(_PIECE)
    connection.sendall(reply.head(request_id, length if fault.declared else None) + reply.body)
    for _ in range(pieces):
        connection.sendall(_PIECE)


def _trickle(connection: socket.socket, text: bytes, seconds: float) -> None:
    for byte in text:
        connection.sendall(bytes((byte,)))
        pause(connection, seconds)
