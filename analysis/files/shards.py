"""Writes embeddings as Parquet shards, as they come, and reads Parquet.

A folder `NAME.parquet` holds the shards, which pyarrow, pandas, DuckDB or Spark
read as one table. Each appears whole under its name or not at all, and a file
UNFINISHED lies beside them until the command that writes them is done: it says
of what they are, so that the same command goes on after those that are there.
Each says of which files it was made, so that changed files are noticed.
"""

import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.files import tables
from plankton_jax.data.sources.source import one_line
from plankton_jax.errors import InputError, reason
from plankton_jax.files import atomic

MANY = 1_000_000  # rows of a file; more go into shards
ROWS = 100_000  # of a shard
UNFINISHED = '_unfinished.json'  # readers of folders leave out _names
_SHOWN = 8  # names of columns that an error lists at most
HEADER = b'plankton_jax'  # the key of our JSON in a schema's metadata
COLUMNS = ('id', 'class', 'label', 'embedding', 'split')  # those that are read

Columns = Mapping[str, Any]  # by name, [N] or [N, D] each


def size(count: int, asked: int | None) -> int:
  """Chooses the rows of a shard; 0 to write one file.

  Args:
    count: rows in all.
    asked: rows of a shard, 0 for one file; None chooses by the count.
  """
  if asked is None:
    return ROWS if count > MANY else 0
  return asked if count > asked else 0


def write(
  folder: pathlib.Path,
  *,
  count: int,
  rows: int,
  plan: Mapping[str, Any],
  make: Callable[[slice], Columns],
  stamp: Callable[[slice], str],
  header: Mapping[str, Any],
) -> int:
  """Writes all shards of a folder that are not there yet; see `finish`.

  Shards of another plan or stamp, or of a folder that was finished, are
  replaced.

  Args:
    folder: its path ends in .parquet.
    count: rows in all.
    rows: of a shard.
    plan: what is embedded, and how, as JSON.
    make: makes the columns of a slice of rows.
    stamp: digests the state of what a slice of rows is made of.
    header: said in every shard, as JSON.

  Returns:
    How many shards were there.
  """
  _begin(folder, json.dumps({**plan, 'count': count, 'rows': rows}))
  there = 0
  for number, start in enumerate(range(0, count, rows)):
    path = folder / f'part-{number:05d}.parquet'
    part = slice(start, min(start + rows, count))
    now = stamp(part)  # before it is read, so that a later change is noticed
    if path.exists() and read_header(path).get('stamp') == now:
      there += 1
    else:
      write_file(path, make(part), {**header, 'stamp': now})
  return there


def finish(folder: pathlib.Path) -> None:
  """Takes the marker away: all shards are there, and may be read."""
  (folder / UNFINISHED).unlink()


def _begin(folder: pathlib.Path, plan: str) -> None:
  """Makes the folder, and removes shards of other plans from it."""
  if folder.is_file():
    folder.unlink()
  folder.mkdir(parents=True, exist_ok=True)
  marker = folder / UNFINISHED
  if not marker.is_file() or marker.read_text('utf-8') != plan:
    # Until all old shards are gone, the marker names no plan.
    atomic.text(marker, '')
    for path in folder.glob('part-*.parquet'):
      path.unlink()
    atomic.text(marker, plan)
  for path in folder.glob('.part-*'):  # of a process that was killed
    path.unlink()


def write_file(
  path: pathlib.Path, columns: Columns, header: Mapping[str, Any]
) -> None:
  """Writes one file, in place of a folder of shards if there is one."""
  if path.is_dir():
    shutil.rmtree(path)
  tables.write_parquet(path, columns, {HEADER: json.dumps(header).encode()})


def read_header(path: pathlib.Path) -> dict[str, Any]:
  """Reads what the file or folder says besides its columns.

  Raises:
    InputError: it cannot be read, or is not finished.
  """
  return json.loads((_schema(path).metadata or {}).get(HEADER, '{}'))


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads a file, or all shards of a folder, as the arrays of an .npz.

  These are `embedding`, and as far as there are such columns `id`, `split`,
  `label` and `class_names`.

  Raises:
    InputError: it cannot be read, or is not finished.
  """
  import pyarrow
  from pyarrow import parquet

  schema = _schema(path)
  require(path, 'column', schema.names)
  kept = [name for name in COLUMNS if name in schema.names]
  try:
    table = parquet.read_table(path, columns=kept)
    found = {'embedding': _matrix(path, table['embedding'])}
    texts = {
      name: table[name].cast(pyarrow.string()).fill_null('')
      for name in kept
      if name != 'embedding'
    }
  except (pyarrow.ArrowException, OSError) as error:
    raise _unreadable(path, error) from None
  others = texts.pop('label', None)  # as other programs call it
  classes = texts.pop('class', others)
  if classes is not None:
    encoded = classes.combine_chunks().dictionary_encode()
    present = encoded.dictionary.to_pylist()
    names = read_header(path).get('class_names') or []
    if not set(present) <= {*names, ''}:
      present = list(map(tables.known, present))
      names = sorted({*present} - {''})
    index = {name: at for at, name in enumerate(names)} | {'': -1}
    numbers = np.array([index[name] for name in present], np.int32)
    found['label'] = numbers[encoded.indices.to_numpy()]
    found['class_names'] = np.array(names, np.str_)
  for name, column in texts.items():
    found[name] = column.to_numpy().astype(np.str_)
  return found


def require(path: pathlib.Path, kind: str, names: Sequence[str]) -> None:
  """Raises InputError unless embeddings are among arrays or columns."""
  if 'embedding' not in names:
    held = one_line(', '.join(names[:_SHOWN])) or 'none'
    more = ', ...' if len(names) > _SHOWN else ''
    raise InputError(
      f"{path}: {kind} 'embedding' is missing (it has {held}{more}): give the"
      ' vectors, [N, D], this name'
    )


def _schema(path: pathlib.Path) -> Any:
  """Opens the schema of a file or folder.

  Raises:
    InputError: it is missing, unfinished or damaged.
  """
  import pyarrow
  from pyarrow import parquet

  if not path.exists():
    raise InputError(f'{path}: no such embedding file; run analysis.embed')
  if (path / UNFINISHED).exists():
    raise InputError(
      f'{path}: not all shards are there; give the command that wrote them'
      ' again, and it goes on'
    )
  try:
    return parquet.ParquetDataset(path).schema
  except (pyarrow.ArrowException, OSError) as error:
    raise _unreadable(path, error) from None


def _unreadable(path: pathlib.Path, error: Exception) -> InputError:
  return InputError(f'{path}: not readable Parquet ({reason(error)})')


def _matrix(path: pathlib.Path, column: Any) -> np.ndarray:
  """Stacks a column of lists of numbers, [N, D] float32."""
  from pyarrow import compute, types

  kind = column.type
  fixed = types.is_fixed_size_list(kind)
  if not (fixed or types.is_list(kind) or types.is_large_list(kind)) or not (
    types.is_integer(kind.value_type) or types.is_floating(kind.value_type)
  ):
    raise InputError(f'{path}: embedding is {kind}; want lists of numbers')
  lengths = compute.unique(compute.list_value_length(column)).to_pylist()
  if len(lengths) > 1 or None in lengths:
    raise InputError(f'{path}: rows of embedding differ in length: {lengths}')
  width = kind.list_size if fixed else (lengths or [0])[0]
  found = np.empty((len(column), width), np.float32)
  start = 0
  for chunk in column.chunks:
    values = chunk.flatten().to_numpy(zero_copy_only=False)
    found[start : start + len(chunk)] = values.reshape(len(chunk), width)
    start += len(chunk)
  return found
