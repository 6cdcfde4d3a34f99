"""Knock in a box: bulk operations that run, fail and stall as told, over HTTP, for tests, demo and docs."""

from exporter.simulator.faults import Faults
from exporter.simulator.log import LoggedRequest, RequestLog
from exporter.simulator.plan import LIFELIKE, NO_TROUBLE, Order, Shares
from exporter.simulator.server import Simulator
from exporter.simulator.world import REAL_TIME, Clock, World

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
