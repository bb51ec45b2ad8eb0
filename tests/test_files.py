"""Files that are whole or not there."""

import pytest

from weighted_freezing_fairseq.files import whole, write_atomically


def test_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep/file"
    write_atomically(path, "text\n")
    assert path.read_bytes() == b"text\n"
    with pytest.raises(KeyError), whole(path) as part:
        part.write_bytes(b"hal")
        raise KeyError
    assert path.read_bytes() == b"text\n"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and [p.name for p in path.parent.iterdir()] == ["file"]
