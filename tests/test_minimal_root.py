"""What the image without a shell is copied from: links are kept, and what a base lacks is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from minimal_root import Root, libraries_of


def copied(folder: Path, path: Path) -> Path:
    return folder / path.relative_to("/")


@pytest.fixture
def merged_usr(tmp_path: Path) -> Path:
    """Make a merged /usr, with a library as distributions have it, and one in another place."""
    base = tmp_path / "base"
    for place in ("usr/lib/machine", "opt"):
        (base / place).mkdir(parents=True)
    (base / "lib").symlink_to("usr/lib")
    (base / "usr/lib/machine/libx.so.1.2").write_text("x")
    (base / "usr/lib/machine/libx.so.1").symlink_to("libx.so.1.2")
    (base / "opt/liby.so").symlink_to(base / "lib/../lib/machine/libx.so.1")
    return base


def test_a_file_is_copied_with_all_links_on_the_way(merged_usr: Path, tmp_path: Path) -> None:
    base, folder = merged_usr, tmp_path / "folder"
    root = Root(folder)
    root.keep(base / "lib/machine/libx.so.1")
    root.keep(base / "lib/machine/libx.so.1")
    here = copied(folder, base)
    assert (here / "lib").readlink() == Path("usr/lib")
    assert (here / "lib/machine/libx.so.1").readlink() == Path("libx.so.1.2")
    assert (here / "lib/machine/libx.so.1").read_text() == "x"
    assert root.files == {base / "usr/lib/machine/libx.so.1.2"}
    assert not (here / "opt").exists()
    root.keep(base / "opt/liby.so")
    assert (here / "opt/liby.so").is_symlink()


def test_of_a_folder_what_installs_and_tests_is_left_out(tmp_path: Path) -> None:
    library = tmp_path / "lib" / "python3.13"
    for name in ("json/tool.py", "test/test_json.py", "ensurepip/__init__.py", "lib-dynload/_testcapi.so", "abc.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text("")
    root = Root(tmp_path / "folder")
    root.keep(library)
    assert root.files == {library / "json/tool.py", library / "abc.py"}
    assert root.has(library / "abc.py")
    assert not root.has(library / "test/test_json.py")


def test_a_library_that_the_base_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ldd = tmp_path / "ldd"
    ldd.write_text("#!/bin/sh\nprintf '/usr/bin/python3:\\n\\tlibffi.so.8 => not found\\n'\n")
    ldd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(SystemExit, match=r"missing in the base:\n.*\n.*libffi\.so\.8"):
        libraries_of([Path("/usr/bin/python3")])
