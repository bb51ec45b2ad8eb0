"""Tables that are stored by columns: Parquet and Arrow files, and the folders of Hugging Face's `save_to_disk`.

pyarrow reads them batch by batch. Of a `save_to_disk` folder only the names of its Arrow files matter here.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..forms import read_json

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema

_ROWS = 1000  # that become Python objects at a time
_TRANSLATION = "translation"  # the column of a dict by language that Hugging Face's translation data sets have
_ARROW_FILE = b"ARROW1"  # the other form of Arrow is a stream


def files_of(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `save_to_disk` wrote, in order."""
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json", {"splits": [str]}, "save the data set again")["splits"]
        raise UserError(f"{folder} has the splits {', '.join(splits)}; give one of them, as {folder / splits[0]}")
    if not (folder / "state.json").is_file():
        raise UserError(f"{folder} is not a folder of save_to_disk; give the files in it")
    state = read_json(folder / "state.json", {"_data_files": [{"filename": str}]}, "save the data set again")
    if state.get("_indices_data_files"):
        raise UserError(f"{folder} holds a selection of rows; save it again by dataset.flatten_indices().save_to_disk")
    return [folder / file["filename"] for file in state["_data_files"]]


def count_rows(path: Path) -> int:
    """Number of rows of a file."""
    with _opened(path, []) as (_, batches):
        return sum(batch.num_rows for batch in batches)


def rows(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The rows of a file with these columns; where one of them is missing, one row of empty texts by all columns."""
    with _opened(path, columns) as (schema, batches):
        names = _fields(schema)
        if not {*columns} <= {*names}:
            yield dict.fromkeys(names, "")
            return
        for batch in batches:
            for first in range(0, batch.num_rows, _ROWS):
                yield from map(with_translation, batch.slice(first, _ROWS).to_pylist())


def with_translation(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with the languages of its translation as columns."""
    translation = row.get(_TRANSLATION)
    return {**row, **translation} if isinstance(translation, dict) else row


def _fields(schema: "Schema") -> list[str]:
    """The columns of a table, or the languages of its translations."""
    import pyarrow

    kind = schema.field(_TRANSLATION).type if _TRANSLATION in schema.names else None
    return [*schema.names, *(field.name for field in (kind if isinstance(kind, pyarrow.StructType) else ()))]


@contextmanager
def _opened(path: Path, columns: Sequence[str]) -> Iterator[tuple["Schema", Iterator["RecordBatch"]]]:
    """The columns of a file, and its rows with some of them; UserError where it is damaged."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{path} is read by pyarrow, which is missing; type: pip install pyarrow")
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        with path.open("rb") as stream:
            start = stream.read(len(_ARROW_FILE))
            stream.seek(0)
            if path.suffix.lower() == ".parquet":
                table = parquet.ParquetFile(stream)
                known = [name for name in (*columns, _TRANSLATION) if name in table.schema_arrow.names]
                yield table.schema_arrow, table.iter_batches(_ROWS, columns=known)
            elif start == _ARROW_FILE:
                reader = ipc.open_file(stream)
                yield reader.schema, map(reader.get_batch, range(reader.num_record_batches))
            else:
                reader = ipc.open_stream(stream)
                yield reader.schema, iter(reader)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path} is damaged or incomplete ({error}); copy it again") from None
