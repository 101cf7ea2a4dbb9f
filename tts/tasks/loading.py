"""Where task data comes from, a local file or a public one downloaded once, and how its records are read."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from functools import partial
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any

from tts.errors import ConfigError, MissingExtra
from tts.files import cache_folder, download
from tts.text import well_formed

LARGEST = 1 << 28
"""Bytes of a record, and of a file that is read as a whole: a small archive can hold any number."""


def data_file(path: Path | None, name: str, url: str) -> Path:
    """The local `path`, or `url` downloaded once as `name` into the cache folder.

    The cache is `$TTS_DATA`, by default `~/.cache/ttscale/data`. Raises `ConfigError` if the file is missing or cannot
    be downloaded, saying how to give a local one.
    """
    if path is not None:
        return local_file(path)
    cached = cache_folder() / name
    if not cached.is_file():
        _download(url, cached)
    return cached


def local_file(path: Path) -> Path:
    """`path` with `~` expanded. Raises `ConfigError` if there is no such file."""
    path = path.expanduser()
    if not path.is_file():
        raise ConfigError(f"{path} is a folder; name a file" if path.is_dir() else f"there is no file {path}")
    return path


def _download(url: str, target: Path) -> None:
    print(f"downloading {url} to {target}", file=sys.stderr)
    try:
        download(url, target)
    except OSError as error:
        raise ConfigError(
            f"cannot download {url} to {target}: {error or type(error).__name__}. "
            f"Download it elsewhere and give it as path=FILE, or put it at {target}"
        ) from error


class Record:
    """One record of a data file, with its place for error messages."""

    def __init__(self, path: Path, number: int, fields: Any) -> None:
        self.place: str = f"{path}:{number}"
        if not isinstance(fields, dict):
            raise self.error(f"expected a JSON object, found {_kind(type(fields))}")
        self.fields: dict[str, Any] = fields

    def need(self, key: str, *kinds: type) -> Any:
        """The value at `key`. Raises `ConfigError` if it is missing or of none of `kinds`."""
        value = self.fields.get(key)
        if value is None:
            raise self.error(f"no '{key}'; there are: {', '.join(self.fields)[:500] or 'no fields'}")
        if kinds and not isinstance(value, kinds):
            names = " or ".join(dict.fromkeys(map(_kind, kinds)))
            raise self.error(f"'{key}' must be {names}, not {_kind(type(value))}")
        return value

    def error(self, message: str) -> ConfigError:
        """An error that names this record's place."""
        return ConfigError(f"{self.place}: {message}")


_KINDS = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object", bool: "true or false"}


def _kind(kind: type) -> str:
    """A type in the words of JSON."""
    return _KINDS.get(kind, "null" if kind is type(None) else kind.__name__)


def parsed(data: bytes | str) -> Any:
    """What JSON says. Raises `ValueError` where it is none, or nested too deeply."""
    try:
        return well_formed(json.loads(data))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(not_text(error)) from None


def not_text(error: UnicodeDecodeError) -> str:
    """What is wrong with a file of another encoding."""
    return f"it is not a text in UTF-8 (byte {error.object[error.start]:#04x}); convert it first"


def bounded(file: IO[bytes] | GzipFile) -> bytes:
    """What is left in `file`. Raises `ValueError` if that is more than `LARGEST`."""
    if len(data := file.read(LARGEST + 1)) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    return data


def _opened(path: Path) -> IO[bytes] | GzipFile:
    return GzipFile(path) if path.suffix == ".gz" else path.open("rb")


def read_jsonl(path: Path) -> Iterator[Record]:
    """The records of a file with one JSON object per line, plain or .gz; empty lines are skipped.

    Raises `ConfigError` naming the line that is not a JSON object, or the file that cannot be read.
    """
    number = 0
    try:
        with _opened(path) as lines:
            for number, line in enumerate(iter(partial(lines.readline, LARGEST + 1), b""), 1):
                if len(line) > LARGEST:
                    raise ConfigError(f"{path}:{number}: has more than {LARGEST:,} bytes")
                if line.strip():
                    yield Record(path, number, parsed(line))
    except ValueError as error:
        raise ConfigError(f"{path}:{number}: not JSON: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def read_records(path: Path) -> Iterator[Record]:
    """The records of a .jsonl, .json (a list), .csv, .tsv or .parquet file; all but the last may be .gz as well.

    The cells of .csv and .tsv are text, and empty ones are left out. Raises `ConfigError` naming the line or the file
    that cannot be read.
    """
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    match kind.lower():
        case ".json":
            yield from read_json_list(path)
        case ".csv" | ".tsv":
            yield from _read_csv(path, "," if kind.lower() == ".csv" else "\t")
        case ".parquet":
            yield from _read_parquet(path)
        case _:
            yield from read_jsonl(path)


def _read_csv(path: Path, delimiter: str) -> Iterator[Record]:
    opened = gzip.open if path.suffix == ".gz" else open
    csv.field_size_limit(sys.maxsize)
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter=delimiter, strict=True)
            for row in rows:
                if None in row or None in row.values():
                    columns = len(rows.fieldnames or ())
                    raise ConfigError(f"{path}:{rows.line_num}: not {columns} cells, as many as the first line has")
                yield Record(path, rows.line_num, {key: cell for key, cell in row.items() if cell})
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path} as CSV: {not_text(error)}") from error
    except (csv.Error, ValueError, OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"cannot read {path} as CSV: {error}") from error


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingExtra("data", "reading Parquet") from None
    try:
        with parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(1024) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield Record(path, number, well_formed(row))
    except (ArrowException, OSError) as error:
        raise ConfigError(f"cannot read {path} as Parquet: {error}") from error


def hub_records(name: str, subset: str | None, split: str, revision: str | None) -> Iterator[Record]:
    """The records of a data set of the Hugging Face hub, or of a folder in one of its forms.

    Raises `ConfigError` in the words of the library `datasets` if there is no such one.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtra("hub", f"loading hf:{name}") from None
    try:
        rows = datasets.load_dataset(name, subset, split=split, revision=revision)
    except Exception as error:  # of whatever kind: a network's, a file system's, the library's own
        raise ConfigError(f"cannot load hf:{name}: {error}") from error
    for number, row in enumerate(rows):
        yield Record(Path(f"hf:{name}"), number, well_formed(dict(row)))


def read_json_list(path: Path) -> Iterator[Record]:
    """The records of a file that is one JSON list, or an object with one list of objects, numbered from 1.

    Raises `ConfigError` for any other file.
    """
    try:
        with _opened(path) as file:
            records = parsed(bounded(file))
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"cannot read {path} as JSON: {error}") from error
    if isinstance(records, dict):
        lists = [
            value for value in records.values() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        records = lists[0] if len(lists) == 1 else records
    if not isinstance(records, list):
        raise ConfigError(f"{path}: expected a JSON list, or an object that has one, found {_kind(type(records))}")
    for number, record in enumerate(records, 1):
        yield Record(path, number, record)
