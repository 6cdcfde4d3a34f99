"""What the configuration names outside of itself: keys, tokens, certificates, and the place for the state."""

from __future__ import annotations

import errno
import os
import ssl
from typing import TYPE_CHECKING, Any

from exporter import files
from exporter.config import plain, settings, values
from exporter.config.models import KEY_SOURCES
from exporter.config.yaml_source import Found
from exporter.keys import BEGINNING, InvalidKey, KeySource, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from exporter.config.yaml_source import Document, Loc

_FOLDER = "relative paths start at the folder of this file"
_HINTS = {"api_key_env": "; set it to the key"}
_SHAPES: dict[str, Callable[[str], object]] = {"api_key_env": values.check_variable, "api_key": str}


def check_files(
    document: Document, folder: Path, environ: Mapping[str, str], names: Collection[str] = ()
) -> Iterator[Found]:
    """Find what is missing or unusable outside of the file; `folder` is where relative paths start.

    With `names`, only what these environments need: the others' keys may be somewhere else.
    """
    top = plain.mapping(document.data)
    for loc, environment in plain.environments(top):
        if names and environment.get("name") not in names:
            continue
        for key in KEY_SOURCES:
            yield from _key((*loc, key), environment, folder, environ)
        yield from _authorities((*loc, "ca_file"), environment, folder)
        for place, source in plain.http_sources(loc, environment):
            yield from _key((*place, "bearer_token_file"), source, folder, environ)
            yield from _authorities((*place, "ca_file"), source, folder)
    for loc, token in plain.tokens(top):
        scope = plain.texts(token.get("environments")) or [settings.ALL_ENVIRONMENTS]
        if names and not {settings.ALL_ENVIRONMENTS, *names}.intersection(scope):
            continue
        yield from _key((*loc, "token_file"), token, folder, environ)
    yield from _storage(("storage", "path"), plain.mapping(top.get("storage")), folder)


def key_source(key: str, value: str, folder: Path) -> KeySource:
    """Make the source of a key or token from its setting: `key` is one of KEY_SOURCES, or names another file."""
    if key == "api_key_env":
        return KeySource(variable=value, knock=True)
    if key == "token_file":
        return KeySource(file=folder / value, least=settings.TOKEN_LEAST)
    if key == "api_key":
        return KeySource(inline=Secret(value), knock=True)
    return KeySource(file=folder / value, knock=key == "api_key_file")


def _key(loc: Loc, level: dict[str, Any], folder: Path, environ: Mapping[str, str]) -> Iterator[Found]:
    key = str(loc[-1])
    value = level.get(key)
    if not plain.fits(_SHAPES.get(key, values.check_path), value):
        return
    source = key_source(key, str(value), folder)
    try:
        source.read(environ)
    except InvalidKey as error:
        missing = str(error).endswith((os.strerror(errno.ENOENT), "is not set"))
        if missing and str(value).startswith(BEGINNING):
            hint = " (looks like the key itself: put it into the file or variable that is named here, or use api_key)"
        else:
            hint = f"; {_FOLDER}" if missing and source.file else _HINTS.get(key, "")
        yield Found(loc, f"{error}{hint}", file=source.file)


def _authorities(loc: Loc, level: dict[str, Any], folder: Path) -> Iterator[Found]:
    value = level.get("ca_file")
    if not plain.fits(values.check_path, value):
        return
    path = folder / str(value)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=files.pem(path))
    except (ssl.SSLError, ValueError):
        yield Found(loc, f"{path}: holds no certificates (expected PEM)", file=path)
    except OSError as error:
        hint = f" ({_FOLDER})" if isinstance(error, FileNotFoundError) else ""
        yield Found(loc, f"{path}: {error.strerror}{hint}", file=path)


def _storage(loc: Loc, level: dict[str, Any], folder: Path) -> Iterator[Found]:
    value = level.get("path")
    if not plain.fits(values.check_path, value):
        return
    path = folder / str(value)
    try:
        if path.is_dir():
            yield Found(loc, f"{path}: is a folder (name a file in it, e.g. {path / 'state.db'})", file=path)
        elif not path.parent.is_dir():
            yield Found(loc, f"{path.parent}: is not a folder (make it first; {_FOLDER})", file=path.parent)
    except OSError as error:
        yield Found(loc, f"{path}: {error.strerror} ({_FOLDER})", file=path)
