"""Knock in a box: bulk operations that run, fail and stall as told, over HTTP, for tests, demo and docs."""

from exporter.knock.simulator.faults import Faults
from exporter.knock.simulator.log import LoggedRequest, RequestLog
from exporter.knock.simulator.plan import LIFELIKE, NO_TROUBLE, Order, Shares
from exporter.knock.simulator.server import Simulator
from exporter.knock.simulator.world import REAL_TIME, Clock, World

__all__ = [
    "LIFELIKE",
    "NO_TROUBLE",
    "REAL_TIME",
    "Clock",
    "Faults",
    "LoggedRequest",
    "Order",
    "RequestLog",
    "Shares",
    "Simulator",
    "World",
]
