"""Local folders: links to folders are followed, each folder once; globs match what Python's own glob matches."""

from __future__ import annotations

import glob
from pathlib import Path

import pytest

from workers.storage.local_listing import find_files


def tree(root: Path) -> Path:
    """c/2023/a.txt; c/2024 -> disk/, which holds b.txt and deep/c.txt, and a link back to c."""
    for name in ("c/2023/a.txt", "disk/b.txt", "disk/deep/c.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "c/2024").symlink_to(root / "disk")
    (root / "disk/up").symlink_to(root / "c")
    return root / "c"


def names(found: list[str], top: Path) -> list[str]:
    return [name.removeprefix(f"{top}/") for name in found]


@pytest.mark.parametrize("pattern", [None, "**", "**/*.txt"])
def test_linked_folders_are_read_once_and_a_cycle_ends(tmp_path: Path, pattern: str | None) -> None:
    top = tree(tmp_path)
    found = find_files(str(top), pattern and f"{top}/{pattern}")
    assert names(found.files, top) == ["2023/a.txt", "2024/b.txt", "2024/deep/c.txt"]
    assert found.repeated == [(f"{top}/2024/up", str(top))]


def test_two_links_to_one_folder_are_one_and_the_second_is_told(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a.txt").touch()
    top = tmp_path / "c"
    top.mkdir()
    for name in ("one", "two"):
        (top / name).symlink_to(tmp_path / "disk")
    found = find_files(str(top))
    assert (names(found.files, top), found.repeated) == (["one/a.txt"], [(f"{top}/two", f"{top}/one")])


def test_a_real_folder_goes_before_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2/a.txt").touch()
    (tmp_path / "current").symlink_to(tmp_path / "v2")
    assert names(find_files(str(tmp_path)).files, tmp_path) == ["v2/a.txt"]
    assert names(find_files(str(tmp_path), f"{tmp_path}/cur*/*.txt").files, tmp_path) == ["current/a.txt"]


@pytest.mark.parametrize(
    "pattern", ["*.txt", "*/*.txt", "*/*/*.txt", "20*/[ab].txt", "2024/?.txt", "**/c.txt", "2024/**/*.txt", "*"]
)
def test_globs_match_what_pythons_glob_matches(tmp_path: Path, pattern: str) -> None:
    top = tree(tmp_path)
    (tmp_path / "disk/up").unlink()
    (top / "top.txt").touch()
    wanted = [
        name
        for name in glob.glob(f"{top}/{pattern}", recursive=True)  # noqa: PTH207 - pathlib's ** follows no links
        if Path(name).is_file()
    ]
    assert find_files(str(top), f"{top}/{pattern}").files == sorted(wanted)


def test_markers_are_hidden_and_key_value_folders_are_not(tmp_path: Path) -> None:
    for name in ("_SUCCESS", ".x.crc", "y=1_$folder$", "_delta_log/0.json", "_k=v/a.txt", "y=1/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files(str(tmp_path))
    assert names(found.files, tmp_path) == ["_k=v/a.txt", "y=1/b.txt"]
    assert names(found.hidden, tmp_path) == [".x.crc", "_SUCCESS", "_delta_log", "y=1_$folder$"]


def test_a_link_to_itself_is_left_to_whoever_asks_for_its_size(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert names(find_files(str(tmp_path)).files, tmp_path) == ["loop"]
