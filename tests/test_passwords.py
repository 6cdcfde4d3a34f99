"""Passwords: what is right, what is remembered, and how many wait."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import bcrypt
import pytest

from exporter.web.passwords import REMEMBERED_MOST, Passwords
from exporter.web.replies import Refusal
from exporter.web.worker import WAITING_MOST

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

USERS = {"ann": b"hash of secret", "bob": b"hash of other"}


class Checks:
    """Stands for bcrypt: a hash names its password. Holds each check until it is released."""

    def __init__(self, *, held: bool = False) -> None:
        self.done: list[tuple[bytes, bytes]] = []
        self.threads: set[str] = set()
        self._permits = threading.Semaphore(0 if held else 10**6)

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        self._permits.acquire()
        self.done.append((password, hashed))
        self.threads.add(threading.current_thread().name)
        return hashed == b"hash of " + password

    def release(self, count: int = 10**6) -> None:
        self._permits.release(count)


def made(checks: Checks) -> Passwords:
    return Passwords(checks, lambda count: b"k" * count)


def run(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 20))


async def begun(passwords: Passwords, user: str, password: bytes) -> asyncio.Task[bool]:
    task = asyncio.create_task(passwords.verify(USERS, user, password))
    await asyncio.sleep(0)  # it joins the line
    return task


def test_real_hashes_are_told_apart() -> None:
    hashed = bcrypt.hashpw("pässword".encode(), bcrypt.gensalt(4))
    users = {"ann": hashed, "old": b"$2y" + hashed[3:]}

    async def scene() -> None:
        passwords = Passwords()
        for user in users:
            assert await passwords.verify(users, user, "pässword".encode())
            assert await passwords.verify(users, user, "pässword".encode())
        for password in (b"", b"wrong", b"p\0", b"\xff" * 5000):
            assert not await passwords.verify(users, "ann", password)
        assert not await passwords.verify(users, "eve", "pässword".encode())

    run(scene)


def test_what_is_longer_than_bcrypt_takes_counts_as_in_go() -> None:
    users = {"ann": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4))}

    async def scene() -> None:
        passwords = Passwords()
        assert await passwords.verify(users, "ann", b"x" * 90)
        assert not await passwords.verify(users, "ann", b"x" * 71)

    run(scene)


def test_right_ones_are_remembered_and_wrong_ones_are_not() -> None:
    checks = Checks()

    async def scene() -> None:
        passwords = made(checks)
        for _ in range(3):
            assert await passwords.verify(USERS, "ann", b"secret")
            assert not await passwords.verify(USERS, "ann", b"wrong")
        assert len(checks.done) == 4
        assert all(name.startswith("passwords") for name in checks.threads)

    run(scene)


def test_a_new_hash_is_asked_about_again() -> None:
    checks = Checks()

    async def scene() -> None:
        passwords = made(checks)
        assert await passwords.verify(USERS, "ann", b"secret")
        assert not await passwords.verify({"ann": b"hash of new"}, "ann", b"secret")
        assert not await passwords.verify({"bob": USERS["bob"]}, "ann", b"secret")

    run(scene)


def test_an_unknown_user_costs_a_check_and_never_gets_in() -> None:
    checks = Checks()

    async def scene() -> None:
        passwords = made(checks)
        for user in ("eve", "", "\udcff"):
            for password in (b"secret", b"other"):
                for _ in range(2):
                    assert not await passwords.verify(USERS, user, password)
        assert len(checks.done) == 12

    run(scene)


def test_an_unknown_user_has_the_cost_of_one_and_the_same_user() -> None:
    checks = Checks()

    async def scene() -> None:
        passwords = made(checks)
        for number in range(20):
            for password in (b"1", b"2"):
                await passwords.verify(USERS, f"eve{number}", password)
        hashes = [hashed for _, hashed in checks.done]
        assert hashes[::2] == hashes[1::2]
        assert set(hashes) == set(USERS.values())

    run(scene)


def test_no_framing_makes_two_logins_one() -> None:
    async def scene() -> None:
        passwords = Passwords(lambda _password, _hashed: True)
        users = {"ann": b"h", "an": b"h"}
        assert await passwords.verify(users, "ann", b"x")
        assert passwords._digest(b"ann", b"x", b"h") != passwords._digest(b"an", b"nx", b"h")

    run(scene)


def test_memory_is_bounded_and_keeps_what_is_used() -> None:
    checks = Checks()

    async def scene() -> None:
        passwords = made(checks)
        users = {str(number): b"hash of x" for number in range(REMEMBERED_MOST + 1)}
        for user in users:
            assert await passwords.verify(users, user, b"x")
            assert await passwords.verify(users, "0", b"x")
        assert len(checks.done) == len(users)
        await passwords.verify(users, "1", b"x")
        assert len(checks.done) == len(users) + 1

    run(scene)


def test_a_remembered_one_waits_for_nobody() -> None:
    checks = Checks(held=True)

    async def scene() -> None:
        passwords = made(checks)
        good = await begun(passwords, "ann", b"secret")
        checks.release(1)
        assert await good
        flood = [await begun(passwords, "ann", b"%d" % number) for number in range(WAITING_MOST + 1)]
        with pytest.raises(Refusal) as refused:
            await passwords.verify(USERS, "bob", b"other")
        assert (refused.value.status, refused.value.reason) == (503, "busy")
        assert await passwords.verify(USERS, "ann", b"secret")
        assert len(checks.done) == 1
        checks.release()
        assert not any(await asyncio.gather(*flood))
        assert await passwords.verify(USERS, "bob", b"other")

    run(scene)


def test_a_check_that_fails_stops_no_other() -> None:
    def failing(password: bytes, _hashed: bytes) -> bool:
        if password == b"bad":
            raise ValueError("bcrypt")
        return True

    async def scene() -> None:
        passwords = Passwords(failing)
        with pytest.raises(ValueError, match="bcrypt"):
            await passwords.verify(USERS, "ann", b"bad")
        assert await passwords.verify(USERS, "ann", b"good")

    run(scene)
