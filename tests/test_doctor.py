"""What `doctor` finds of a backend that is installed and does not load."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspipeline import doctor


def test_a_library_that_does_not_load_is_named_with_its_reason_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pyeddl"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "eddl.py").write_text("raise ImportError('libeddl.so: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    found = doctor._backend("pyeddl")
    assert found.state == "broken"
    assert "does not run: pyeddl is here but cannot be loaded: libeddl.so: cannot open shared object" in found.detail
    assert (
        found.remedy
        == "install it again: build EDDL and compile PyEDDL as docs/guide.md says, section PyEDDL (there is no wheel)"
    )
