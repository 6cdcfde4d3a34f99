"""Passwords against bcrypt hashes.

A check is slow on purpose, so it runs in a worker thread, one at a time, and what was right is remembered: as a digest
with a key of this process, never as the password. Those who wait take turns by party (an address, or a network), so
that a flood of wrong passwords from one does not keep another waiting.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import bcrypt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REMEMBERED_MOST = 1000
WAITING_MOST = 16  # about a second's work, at the usual cost of 10
WAITING_EACH = 4  # of one party
# bcrypt takes no more; the package refuses longer ones. Go and htpasswd, whose hashes these are, leave the rest out.
PASSWORD_BYTES = 72


class Busy(Exception):
    """Too many checks wait; this one was not done."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Check:
    """A check that waits: it is not shown, since it holds the password."""

    digest: bytes
    password: bytes
    hashed: bytes
    known: bool
    verdict: asyncio.Future[bool]


class Passwords:
    """Tells whether a password is right. Lives in one event loop.

    `check` takes password and hash; `token_bytes` makes the key of the digests.
    """

    def __init__(
        self,
        check: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._check = check
        self._secret = token_bytes(hashlib.blake2b.MAX_KEY_SIZE)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Future[bool]] = {}
        self._line = _Line()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="passwords")
        self._working = False

    async def verify(self, users: Mapping[str, bytes], user: str, password: bytes, party: str) -> bool:
        """Whether a user has this password; `party` is who asks, by which checks take turns. Raises Busy.

        There must be users. One who is not among them is checked with the hash of one who is, to take as long.
        """
        hashed = users.get(user) or self._stand_in(users, user)
        password = password[:PASSWORD_BYTES]
        digest = self._digest(user.encode(errors="surrogateescape"), password, hashed)
        if digest in self._right:
            self._right.move_to_end(digest)
            return True
        verdict = self._under_way.get(digest)
        if verdict is None:
            verdict = asyncio.get_running_loop().create_future()
            self._enqueue(_Check(digest, password, hashed, user in users, verdict), party)
        # Shielded: who goes away must not cancel it for the others that wait for the same.
        return await asyncio.shield(verdict)

    def _digest(self, *parts: bytes) -> bytes:
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hashlib.blake2b(framed, key=self._secret, digest_size=32).digest()

    def _stand_in(self, users: Mapping[str, bytes], user: str) -> bytes:
        # The same for the same name each time: by turns the costs of several users would tell that it is none of them.
        number = int.from_bytes(self._digest(user.encode(errors="surrogateescape")), "big")
        return users[sorted(users)[number % len(users)]]

    def _enqueue(self, check: _Check, party: str) -> None:
        left_out = self._line.join(check, party)
        if left_out is check:
            raise Busy
        if left_out is not None:
            self._fail(left_out, Busy())
        self._under_way[check.digest] = check.verdict
        self._next()

    def _next(self) -> None:
        if self._working or (check := self._line.next()) is None:
            return
        self._working = True
        done = asyncio.get_running_loop().run_in_executor(self._worker, self._check, check.password, check.hashed)
        done.add_done_callback(lambda future: self._done(check, future))

    def _done(self, check: _Check, done: asyncio.Future[bool]) -> None:
        self._working = False
        if done.cancelled():  # the loop ends
            return
        if (error := done.exception()) is not None:
            self._fail(check, error)
        else:
            self._settle(check, right=done.result() and check.known)
        self._next()

    def _settle(self, check: _Check, *, right: bool) -> None:
        del self._under_way[check.digest]
        check.verdict.set_result(right)
        if not right:
            return
        self._right[check.digest] = None
        if len(self._right) > REMEMBERED_MOST:
            self._right.popitem(last=False)

    def _fail(self, check: _Check, error: BaseException) -> None:
        del self._under_way[check.digest]
        check.verdict.set_exception(error)
        check.verdict.exception()  # looked at: those who waited may have gone


class _Line:
    """Checks that wait, of each party in order; the parties take turns."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[_Check]] = OrderedDict()
        self._count = 0

    def join(self, check: _Check, party: str) -> _Check | None:
        """Let one wait; return who has no place for that: itself, or the last of those who have the most."""
        own = len(self._waiting.get(party, ()))
        if own >= WAITING_EACH:
            return check
        left_out = None
        if self._count >= WAITING_MOST:
            longest = max(self._waiting, key=lambda each: len(self._waiting[each]))
            if len(self._waiting[longest]) <= own + 1:
                return check
            left_out = self._waiting[longest].pop()
            self._count -= 1
        self._waiting.setdefault(party, deque()).append(check)
        self._count += 1
        return left_out

    def next(self) -> _Check | None:
        """Take out whose turn it is; None where nobody waits."""
        if not self._waiting:
            return None
        party, checks = self._waiting.popitem(last=False)
        check = checks.popleft()
        self._count -= 1
        if checks:
            self._waiting[party] = checks  # at the end
        return check
