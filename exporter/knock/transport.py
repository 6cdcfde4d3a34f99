"""requests' adapter, equipped: one host, one deadline, own trust, nothing from the environment.

Requests go through the pool of the adapter, not through its `send`: that makes a request and a response of requests'
own, of which nothing is read here, and takes an eighth of the time of a whole exchange.
"""

from __future__ import annotations

import http.client
import math
import ssl
import time
from base64 import b64encode
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes, urlsplit

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import parse_url

from exporter.keys import is_word
from exporter.knock.deadline import DeadlineSocket, RemainingTime, Resolver, StaleConnection, connect
from exporter.knock.response import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from urllib3 import BaseHTTPResponse, PoolManager

    from exporter.knock.deadline import Deadline, Lookup


IDLE_MOST = 30.0  # seconds; balancers forget a connection after a minute or more, some without a word


class _Connection(HTTPConnection):
    response_class = Response

    def __init__(self, *args: Any, resolver: Resolver, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._resolver = resolver
        self.idle_since = math.inf  # monotonic; when it was last given back
        self.reused = False

    def _new_conn(self) -> DeadlineSocket:
        left = cast("RemainingTime", self.timeout)
        addresses = self._resolver.find(self._dns_host, self.port, left.deadline.check())
        return connect(addresses, left, self.socket_options)

    def getresponse(self) -> Any:  # a Response: it has what the pool needs of urllib3's
        """Return the answer, once its headers are here."""
        self.sock.settimeout(self.timeout)
        return http.client.HTTPConnection.getresponse(self)

    def _send_output(self, *args: Any, **kwargs: Any) -> None:
        """Send the request; connecting comes before, so that the slot is taken next to the send."""
        if self.sock is None:
            self.connect()
        with cast("RemainingTime", self.timeout).deadline.sending():
            super()._send_output(*args, **kwargs)  # type: ignore[misc]  # not in typeshed


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    monotonic: Callable[[], float]

    def urlopen(self, *args: Any, **kwargs: Any) -> BaseHTTPResponse:
        kwargs["pool_timeout"] = kwargs["timeout"].remaining()  # waiting for a free connection is part of the exchange
        return super().urlopen(*args, **kwargs)

    def _get_conn(self, timeout: float | None = None) -> _Connection:
        self._close_idle(self.monotonic() - IDLE_MOST)
        connection = cast("_Connection", super()._get_conn(timeout))
        connection.reused = not connection.is_closed
        return connection

    def _put_conn(self, conn: _Connection | None) -> None:  # type: ignore[override]  # it makes no others
        if conn is not None:
            conn.idle_since = self.monotonic()
        super()._put_conn(conn)

    def _make_request(self, conn: _Connection, *args: Any, **kwargs: Any) -> BaseHTTPResponse:  # type: ignore[override]
        try:
            return super()._make_request(conn, *args, **kwargs)
        except OSError as error:
            if conn.reused and kwargs["timeout"].untouched and _ended(error):
                self._close_idle(conn.idle_since)  # else the next request would meet the next dead one
                raise StaleConnection(*error.args) from error
            raise

    def _close_idle(self, since: float) -> None:
        """Close the connections that have been idle since then or for longer; they connect again when used."""
        if (pool := self.pool) is None:
            return
        with pool.mutex:
            for connection in pool.queue:
                if connection is not None and connection.idle_since <= since:
                    connection.close()


def _ended(error: OSError) -> bool:
    return not isinstance(error, (TimeoutError, ssl.SSLError)) or isinstance(error, ssl.SSLEOFError)


class _SecurePool(_Pool, HTTPSConnectionPool):
    pass


def _new_pool(
    pool: type[_Pool],
    connection: type[_Connection],
    resolver: Resolver,
    monotonic: Callable[[], float],
    *args: Any,
    **kwargs: Any,
) -> _Pool:
    made = pool(*args, **kwargs)
    made.ConnectionCls = partial(connection, resolver=resolver)  # type: ignore[assignment]  # it is called, nothing else
    made.monotonic = monotonic
    return made


def _checked(proxy: str) -> str:
    url = proxy if "://" in proxy else f"http://{proxy}"  # HTTPS_PROXY=host:3128 is usual
    parts = parse_url(url)
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ValueError("not an http or https URL")
    return url


def _login(proxy: str) -> tuple[str, str]:
    """Return what a proxy is sent of user and password (RFC 7617), and which of it is secret; "" where it has none."""
    parts = urlsplit(proxy)
    user, password = unquote_to_bytes(parts.username or ""), unquote_to_bytes(parts.password or "")
    if not user and not password:
        return "", ""
    return b64encode(user + b":" + password).decode(), (password or user).decode(errors="replace")


class Transport(HTTPAdapter):
    """requests' adapter for one host: no retries, no redirects, no cookies, nothing from the environment.

    `proxy` is an http or https URL. At most `connections` are open; who finds none free waits within its deadline.
    `proxy_secrets` are what a proxy must not get shown of what it is sent.
    Raises requests', urllib3's or ValueErrors for URLs that cannot be used.
    """

    def __init__(  # noqa: PLR0913  one parameter for each setting, by name
        self,
        base_url: str,
        *,
        context: ssl.SSLContext,
        proxy: str | None,
        connections: int,
        lookup: Lookup,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._monotonic = monotonic
        proxy = None if proxy is None else _checked(proxy)
        self.proxy_secrets = [each for each in _login(proxy or "") if not is_word(each)]
        self._resolver = Resolver(lookup)
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0, pool_block=True)
        self._proxied_plainly = proxy is not None and base_url.lower().startswith("http:")
        manager = self.proxy_manager_for(proxy) if proxy is not None else self.poolmanager
        self._pool: HTTPConnectionPool = manager.connection_from_url(base_url)
        parts = urlsplit(base_url)
        self._origin = len(f"{parts.scheme}://{parts.netloc}")

    def request(
        self,
        url: str,
        headers: Mapping[str, str],
        deadline: Deadline,
        *,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Response:
        """Send a request and return the answer once its headers are here; the caller has to close it."""
        path = url[self._origin :]
        answer = self._pool.urlopen(
            method,
            url if self._proxied_plainly else path if path.startswith("/") else f"/{path}",
            body,
            headers,
            self.max_retries,
            redirect=False,
            assert_same_host=False,
            timeout=deadline,
            preload_content=False,
        )
        return cast("Response", answer)

    def close(self) -> None:
        """Close what is idle; exchanges on their way end by themselves."""
        super().close()
        self._pool.close()
        self._resolver.close()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools with our context and our sockets."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self._equip(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make the pools behind a proxy likewise; the same authorities speak for an https proxy."""
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, proxy_ssl_context=self._context, **kwargs)
        self._equip(manager)
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Send user and password as UTF-8 (RFC 7617): requests sends Latin-1, and fails on what that does not have."""
        credentials, _ = _login(proxy)
        return {"Proxy-Authorization": f"Basic {credentials}"} if credentials else {}

    def _equip(self, manager: PoolManager) -> None:
        parts = self._resolver, self._monotonic
        manager.pool_classes_by_scheme = cast(
            "dict[str, type[HTTPConnectionPool]]",
            {
                "http": partial(_new_pool, _Pool, _Connection, *parts),
                "https": partial(_new_pool, _SecurePool, _SecureConnection, *parts),
            },
        )
