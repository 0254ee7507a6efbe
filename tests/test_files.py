from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mspipeline.errors import DataError, StorageError
from mspipeline.files import (
    PARTIAL,
    read_json,
    read_text,
    remove_partials,
    sha256_data,
    sha256_file,
    whole_file,
    write_bytes,
    write_json,
)


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "x.txt"
    with whole_file(target) as partial:
        partial.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["x.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_was_there_stays_when_the_writer_fails(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")

    def write() -> None:
        with whole_file(target) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/x: cannot be written .*choose another output folder"):
        write_bytes(tmp_path / "file" / "x", b"1")


def test_json_goes_and_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"ä": [1, None]})
    assert read_json(tmp_path / "x.json", what="thing", remedy="make it") == {"ä": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "y.json", float("nan"))
    assert not (tmp_path / "y.json").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json: not a readable thing .*; make it"):
        read_json(tmp_path / "x.json", what="thing", remedy="make it")
    with pytest.raises(DataError, match=r"no such file, expected a thing; make it"):
        read_json(tmp_path / "none.json", what="thing", remedy="make it")


def test_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    assert sha256_data({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a":[2],"b":1}').hexdigest()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_is_read_whatever_editor_wrote_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str, end: str
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(f"Hôpital{end}{end}  Zürich {end}".encode(encoding))
    assert read_text(path) == "Hôpital\n\n  Zürich \n"
    warned = ["byte 0xf4 in line 1 is no UTF-8" in record.getMessage() for record in caplog.records]
    assert warned == ([True] if encoding == "cp1252" else [])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('{"a": 1}'.encode("utf-16-le"), "zero byte at character 1, expected text"),
        (b"\xff\xfe{", "truncated data"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_bytes_that_are_no_text_are_refused_in_one_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words) as caught:
        read_json(path, what="record", remedy="make it again")
    assert str(caught.value).startswith(f"{path}: not a readable record")
    assert "\n" not in str(caught.value)


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    with whole_file(target) as first, whole_file(target) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
        assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name}
        assert all(name.startswith("x.txt.") and name.endswith(PARTIAL) for name in os.listdir(tmp_path))
    assert target.read_text() == "first"  # which was renamed last
    assert os.listdir(tmp_path) == ["x.txt"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.h5.0a1b2c3d.partial", "b.json.partial", "a.h5", "partial"):
        (tmp_path / name).touch()
    remove_partials(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "partial"]
