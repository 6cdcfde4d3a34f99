"""Copies what the exporter needs of the image's base into a folder: Python and its libraries, no shell, no packages.

    python3 tools/minimal_root.py VENV FOLDER

To be run by the base's own Python, in the Dockerfile. VENV is the exporter's; it is looked at, but not copied.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Of the standard library: what installs, tests, compiles C or opens windows.
LEFT_OUT = shutil.ignore_patterns(
    *("__pycache__", "config-*", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages"),
    *("_ctypes_test.*", "_test*", "_tkinter.*", "_xxtestfuzz.*", "test", "tkinter", "turtle*", "xx*"),
    *("localtime", "sitecustomize.py"),  # links of Debian's to what is not copied
)
# What glibc loads by name, to resolve hosts' names and to end threads: nothing is linked to it.
LOADED_BY_NAME = ("libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")
DPKG = Path("/var/lib/dpkg")
TIME_ZONES = Path("/usr/share/zoneinfo")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
FILES = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nknock-exporter:x:65532:65532::/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nknock-exporter:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


class Root:
    """The folder that becomes the root of the image."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: set[Path] = set()  # as they are called in the base

    def keep(self, path: Path) -> None:
        """Copy a file or a folder to where it is now, with the links on the way to it."""
        real = Path("/")
        for part in path.parts[1:]:
            here = real / part
            if here.is_symlink():
                self._link(here)
                self.keep(Path(os.path.normpath(real / here.readlink()), *path.relative_to(here).parts))
                return
            real = here
        place = self._place(real)
        place.parent.mkdir(parents=True, exist_ok=True)
        if real.is_dir():
            shutil.copytree(real, place, symlinks=True, ignore=LEFT_OUT)
        else:
            shutil.copy2(real, place)
        copied = place.rglob("*") if real.is_dir() else [place]
        self.files |= {"/" / each.relative_to(self._folder) for each in copied if each.is_file()}

    def has(self, path: Path) -> bool:
        """Whether a file is there already."""
        return self._place(path.resolve()).exists()

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        place = self._folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def compile(self, library: Path) -> None:
        """Compile a folder of Python, as the Dockerfile does the exporter's."""
        place = self._place(library.resolve())
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compiled = compileall.compile_dir(place, quiet=1, stripdir=self._folder, prependdir="/", invalidation_mode=mode)
        if not compiled:
            raise SystemExit(f"{library}: not all of it compiles")

    def _place(self, path: Path) -> Path:
        return self._folder / path.relative_to("/")

    def _link(self, link: Path) -> None:
        place = self._place(link)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to(link.readlink())


def libraries_of(files: Iterable[Path]) -> set[Path]:
    """Return the shared libraries that programs and libraries load, and who loads them."""
    done = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False)  # noqa: S603, S607 - the base's
    if done.returncode or "not found" in done.stdout:
        raise SystemExit(f"libraries are missing in the base:\n{done.stderr}{done.stdout}")
    found = re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", done.stdout, re.MULTILINE)
    return {Path(os.path.normpath(each)) for each in found}


def packages_of(files: set[Path]) -> dict[str, str]:
    """Return what dpkg knows of the packages that files are from, by name."""
    names = {
        owned.stem.partition(":")[0]
        for owned in (DPKG / "info").glob("*.list")
        if not files.isdisjoint(Path(os.path.realpath(line)) for line in owned.read_text().splitlines())
    }
    stanzas = {each.partition("\n")[0].removeprefix("Package: "): each for each in _stanzas()}
    return {name: stanzas[name] for name in names}


def _stanzas() -> list[str]:
    return (DPKG / "status").read_text().strip().split("\n\n")


def make(venv: Path, folder: Path) -> None:
    """Fill the folder."""
    root = Root(folder)
    library = Path(sysconfig.get_path("stdlib"))
    root.keep(Path(sys.executable))
    root.keep(library)
    root.compile(library)

    modules = [each for each in library.rglob("*.so") if root.has(each)]
    libraries = libraries_of([Path(sys.executable), *modules, *venv.rglob("*.so")])
    (c_library,) = (each for each in libraries if each.name.startswith("libc.so."))
    by_name = [c_library.parent / each for each in LOADED_BY_NAME]
    for each in (*libraries, *by_name):
        if not each.is_relative_to(venv):
            root.keep(each)
    root.keep(Path("/etc/ld.so.cache"))

    openssl = Path(ssl.get_default_verify_paths().openssl_cafile)
    for each in (AUTHORITIES, openssl, openssl.with_name("openssl.cnf"), TIME_ZONES, Path("/etc/os-release")):
        root.keep(each)
    for path, text in FILES.items():
        root.write(path, text)
    for name, stanza in packages_of(root.files).items():
        root.write(f"var/lib/dpkg/status.d/{name}", f"{stanza}\n")
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
