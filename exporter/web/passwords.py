"""Passwords against bcrypt hashes.

A check is slow on purpose, so it runs in a thread, one at a time, and few wait for it. What was right is remembered: as
a digest with a key of this process, never as the password.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import bcrypt

from exporter.web.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REMEMBERED_MOST = 1000
# bcrypt takes no more; the package refuses longer ones. Go and htpasswd, whose hashes these are, leave the rest out.
PASSWORD_BYTES = 72


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
        self._worker = Worker("passwords", "too many passwords wait to be checked")

    async def verify(self, users: Mapping[str, bytes], user: str, password: bytes) -> bool:
        """Whether a user has this password. Raises Refusal (503) when too many wait to be checked.

        There must be users. One who is not among them is checked with the hash of one who is, to take as long.
        """
        hashed = users.get(user) or self._stand_in(users, user)
        password = password[:PASSWORD_BYTES]
        digest = self._digest(user.encode(errors="surrogateescape"), password, hashed)
        if digest in self._right:
            self._right.move_to_end(digest)
            return True
        right = await self._worker.run_bounded(partial(self._check, password, hashed)) and user in users
        if right:
            self._right[digest] = None
            if len(self._right) > REMEMBERED_MOST:
                self._right.popitem(last=False)
        return right

    def _digest(self, *parts: bytes) -> bytes:
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hashlib.blake2b(framed, key=self._secret, digest_size=32).digest()

    def _stand_in(self, users: Mapping[str, bytes], user: str) -> bytes:
        # The same for the same name each time: by turns the costs of several users would tell that it is none of them.
        number = int.from_bytes(self._digest(user.encode(errors="surrogateescape")), "big")
        return users[sorted(users)[number % len(users)]]
