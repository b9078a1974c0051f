"""Reads the embeddings that every analysis starts from."""

import lzma
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.files import shards, tables
from plankton_jax.errors import InputError, reason
from plankton_jax.files import config_file, encoder_folder

SPLITS = ('train', 'val', 'test', 'unseen')
RARE = 'rare'  # a split of classes too small to train on, if there is one

# The arrays of an embedding file: kinds of NumPy's types, and dimensions.
_ARRAYS = {
  'embedding': ('biuf', 2),
  'label': ('biufSU', 1),
  'id': ('SUbiuf', 1),
  'class_names': ('SUbiuf', 1),
  'split': ('SU', 1),
}
# NumPy lets through what zipfile and its own header parser raise.
_UNREADABLE = (
  ValueError,
  TypeError,
  OSError,
  EOFError,
  RuntimeError,  # an unknown compression, or encrypted
  MemoryError,  # a header that claims more than there is
  zipfile.BadZipFile,
  zlib.error,
  lzma.LZMAError,
  struct.error,
)


class Embeddings(NamedTuple):
  """One embedding file: rows of one split."""

  embedding: np.ndarray  # [N, D] float32
  label: np.ndarray  # [N] int32, index into class_names
  id: np.ndarray  # [N] str, the record's key
  class_names: tuple[str, ...]


class Rows(NamedTuple):
  """Rows of several splits of one source, one split after another."""

  embedding: np.ndarray  # [N, D]
  name: np.ndarray  # [N] class; empty for an image without label
  split: np.ndarray  # [N]
  id: np.ndarray  # [N]


class Source(NamedTuple):
  """The embeddings of one run, of files, or of an encoder without a run."""

  name: str  # its name in figures
  splits: dict[str, Embeddings]  # by split name, or by the file's stem
  workdir: pathlib.Path | None  # None where only files were given
  config: dict[str, Any] | None  # the run's config; None without a run
  encoder: pathlib.Path | None = None  # its folder, where there is no run


def read_embeddings(path: pathlib.Path) -> Embeddings:
  """Reads one embedding file, of our encoder or anyone's, and checks it.

  It is an .npz of arrays, or a Parquet file or folder of shards whose columns
  have these names, with `class` in place of `label`. `embedding` [N, D] alone
  is needed. `label` [N] are indices into `class_names`, -1 for none, or the
  names themselves, '' or words such as NaN for none; rows are unlabelled
  without it. `id` [N] are unique; row numbers without it.

  Raises:
    InputError: the file does not exist or holds pickled objects, an array is
      missing or of a wrong shape or type, a label has no name, or a row is not
      finite.
  """
  return _parse(path, _arrays(path))


def is_embedding_file(path: str | pathlib.Path) -> bool:
  """Tells by its ending whether a path names embeddings, not images."""
  return pathlib.Path(path).suffix.lower() in ('.npz', '.parquet')


def _parse(path: pathlib.Path, found: Mapping[str, np.ndarray]) -> Embeddings:
  """Checks the arrays of an embedding file, and completes them."""
  for name, (kinds, ndim) in _ARRAYS.items():
    if name not in found:
      continue
    array = found[name]
    if array.dtype.kind not in kinds or array.ndim != ndim:
      raise InputError(
        f'{path}: {name} is {array.dtype} {array.shape}; want'
        f' {"numbers" if kinds == "biuf" else "text"} of {ndim} dimension(s)'
      )
  with np.errstate(over='ignore'):  # what float32 cannot hold is told below
    embedding = np.asarray(found['embedding'], np.float32)
  if len(embedding) and not embedding.shape[1]:
    raise InputError(
      f'{path}: embedding {embedding.shape} holds no numbers; want [N, D]'
    )
  label, names = _labels(path, found)
  if label.shape != (len(embedding),):
    raise InputError(
      f'{path}: embedding {embedding.shape} and label {label.shape} do not'
      ' fit; want [N, D] and [N]'
    )
  fits = label.size == 0 or -1 <= label.min() <= label.max() < len(names)
  if not fits or (label % 1).any():
    raise InputError(
      f'{path}: a label has no name in class_names; name every class, and give'
      ' -1 to images without one'
    )
  label = label.astype(np.int32)  # not before: it would wrap around
  ids = np.arange(len(label)).astype(str)
  if 'id' in found:
    ids = _text(path, found, 'id', len(label))
  bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
  if bad.size:
    raise InputError(
      f'{path}: {bad.size} of {len(label)} rows are not finite, first row'
      f' {bad[0]} (id {ids[bad[0]]}); remove them or embed again'
    )
  return Embeddings(embedding, label, ids, names)


def read_splits(path: pathlib.Path) -> dict[str, Embeddings]:
  """Reads one embedding file as splits: by its array `split` [N], if any.

  Without that array it is one split, of the file's name.

  Raises:
    InputError: as `read_embeddings` does.
  """
  arrays = _arrays(path)
  rows = _parse(path, arrays)
  if 'split' not in arrays:
    return {path.stem: rows}
  split = _text(path, arrays, 'split', len(rows.label))
  return {
    name: take(rows, split == name)
    for name in dict.fromkeys(split.tolist())
    if name
  }


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the arrays of a file that are ours to read."""
  if path.suffix.lower() == '.parquet':
    return shards.read(path)
  if not path.is_file():
    raise InputError(f'{path}: no such embedding file; run analysis.embed')
  if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle
    raise InputError(
      f'{path}: not a readable .npz; embed again, or write it with np.savez'
    )
  try:
    # NumPy leaves a file that it opened itself open where it is damaged.
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
      shards.require(path, 'array', arrays.files)
      return {name: arrays[name] for name in arrays.files if name in _ARRAYS}
  except InputError:
    raise
  except _UNREADABLE as error:
    wrong = f'not a readable .npz ({reason(error)})'
    if 'allow_pickle' in str(error):
      wrong = 'holds pickled objects, which are never loaded; save plain arrays'
    raise InputError(f'{path}: {wrong}') from None


def _labels(
  path: pathlib.Path, found: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Reads labels as indices, and the names that they index."""
  if 'label' not in found:
    given = 'class_names' in found
    names = tuple(_text(path, found, 'class_names').tolist()) if given else ()
    return np.full(len(found['embedding']), -1), names
  if found['label'].dtype.kind in 'SU':
    text = [tables.known(name) for name in _text(path, found, 'label').tolist()]
    names = tuple(sorted({*text} - {''}))
    index = {name: at for at, name in enumerate(names)} | {'': -1}
    return np.array([index[name] for name in text], int), names
  if 'class_names' not in found:
    raise InputError(
      f"{path}: array 'class_names' is missing, which label indexes"
    )
  return found['label'], tuple(_text(path, found, 'class_names').tolist())


def _text(
  path: pathlib.Path,
  found: Mapping[str, np.ndarray],
  name: str,
  count: int | None = None,
) -> np.ndarray:
  """Reads an array of texts; a given `count` is that of the images."""
  try:
    text = found[name].astype(str)
  except UnicodeDecodeError as error:
    raise InputError(f'{path}: {name} is no text ({error})') from None
  if count is not None and text.shape != (count,):
    raise InputError(
      f'{path}: {name} {text.shape} does not fit label; give one an image'
    )
  return text


def step(source: Source) -> int | None:
  """Reads the step of the checkpoint that embedded train, if recorded."""
  assert source.workdir is not None
  path = find(source.workdir, 'train')
  if path.suffix == '.parquet':
    return shards.read_header(path).get('step')
  with np.load(path, allow_pickle=False) as arrays:
    return int(arrays['step']) if 'step' in arrays.files else None


def labelled(source: Source, split: str) -> tuple[Embeddings | None, list[str]]:
  """Selects a split's rows that have a label.

  Returns:
    The rows, None if there are none, and notes on what is missing.
  """
  if split not in source.splits:
    return None, [f'{source.name} has no {split} split: skipped']
  where = f'{source.name}, {split}'
  rows = source.splits[split]
  known = rows.label >= 0
  if not known.any():
    return None, [f'{where}: no labelled images: skipped']
  notes = []
  if not known.all():
    notes.append(f'{where}: {np.sum(~known)} rows have no label: left out')
  return take(rows, known), notes


def take(rows: Embeddings, which: np.ndarray) -> Embeddings:
  """Selects rows by a mask or by their indices."""
  return rows._replace(
    embedding=rows.embedding[which], label=rows.label[which], id=rows.id[which]
  )


def named(
  class_names: Sequence[str], label: np.ndarray, unlabelled: str = ''
) -> np.ndarray:
  """Names the classes of labels [N], object [N]; -1 takes `unlabelled`."""
  return np.array([*class_names, unlabelled], object)[label]


def labelled_splits(
  source: Source, names: Iterable[str]
) -> tuple[dict[str, Embeddings], list[str]]:
  """Selects the labelled rows of some splits, with the notes of `labelled`."""
  found: dict[str, Embeddings] = {}
  notes: list[str] = []
  for name in names:
    rows, missing = labelled(source, name)
    notes += missing
    if rows is not None:
      found[name] = rows
  return found, notes


def measured(source: Source) -> tuple[dict[str, Embeddings], list[str]]:
  """Selects the labelled test and unseen rows of a workdir, or all files."""
  files = source.workdir is None
  return labelled_splits(source, source.splits if files else ('test', 'unseen'))


def together(source: str, splits: Mapping[str, Embeddings]) -> Rows:
  """Concatenates the rows of the splits, in their order.

  Raises:
    InputError: splits differ in dimensions.
  """
  check_widths(source, splits)
  parts = [
    (
      rows.embedding,
      named(rows.class_names, rows.label),
      np.full(len(rows.id), split, object),
      rows.id.astype(object),
    )
    for split, rows in splits.items()
  ]
  return Rows(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def check_widths(source: str, splits: Mapping[str, Embeddings]) -> None:
  """Raises InputError unless all splits have the same number of dimensions."""
  dims = [rows.embedding.shape[1] for rows in splits.values()]
  if len(set(dims)) > 1:
    raise InputError(
      f'{source}: {", ".join(splits)} have {dims} dimensions; embed all by one'
      ' run'
    )


def numbered(rows: Rows) -> Embeddings:
  """Numbers the classes of rows in order of their names; -1 for none."""
  names, label = np.unique(rows.name.astype(str), return_inverse=True)
  if len(names) and names[0] == '':
    names, label = names[1:], label - 1
  return Embeddings(
    rows.embedding,
    label.astype(np.int32),
    rows.id.astype(str),
    tuple(names.tolist()),
  )


def citations(sources: Sequence[Source]) -> list[str]:
  """Lists the origin of each source's images; '' if unknown."""
  return [(source.config or {}).get('citation', '') for source in sources]


def from_workdirs(workdirs: Sequence[pathlib.Path]) -> list[Source]:
  """Reads the embeddings of workdirs, and names those of one name apart.

  Raises:
    InputError: a folder is not a workdir or holds no embeddings, or two
      workdirs cannot be told apart.
  """
  return _named_apart([_from_workdir(workdir) for workdir in workdirs])


def find(workdir: pathlib.Path, split: str) -> pathlib.Path:
  """Names the file of a split's embeddings, or the folder of its shards."""
  path = workdir / 'embeddings' / f'{split}.parquet'
  return path if path.is_dir() else path.with_suffix('.npz')


def _from_workdir(workdir: pathlib.Path) -> Source:
  """Reads the embeddings and the config of one workdir."""
  if not (workdir / 'config.json').is_file():
    raise InputError(f'{workdir}: not a workdir (it holds no config.json)')
  splits = {
    split: read_embeddings(find(workdir, split))
    for split in (*SPLITS, RARE)
    if find(workdir, split).exists()
  }
  if not splits:
    raise InputError(
      f'{workdir}: no embeddings; run'
      f' python -m analysis.embed --workdir={workdir}'
    )
  config = config_file.read(workdir)
  return Source(workdir.resolve().name, splits, workdir, config)


def from_files(paths: Sequence[pathlib.Path]) -> Source:
  """Reads embedding files as the splits of one source; see `read_splits`.

  Raises:
    InputError: a file cannot be read, or two splits have one name.
  """
  splits: dict[str, Embeddings] = {}
  for path in paths:
    for name, rows in read_splits(path).items():
      if name in splits:
        raise InputError(
          f'{path}: a second file or split named {name}: rename one'
        )
      splits[name] = rows
  return Source(' + '.join(splits), splits, None, None)


def from_encoder(name: str) -> Source:
  """Makes the source of an encoder that has embedded nothing yet.

  Raises:
    InputError: there is no such encoder.
  """
  folder = encoder_folder.need(name, '--encoder')
  return Source(folder.resolve().name, {}, None, None, encoder=folder)


def _named_apart(sources: list[Source]) -> list[Source]:
  """Names workdirs folder/name if others have the same name."""
  names = [source.name for source in sources]
  apart: list[Source] = []
  for source in sources:
    if names.count(source.name) > 1 and source.workdir is not None:
      parent = source.workdir.resolve().parent.name
      source = source._replace(name=f'{parent}/{source.name}')
    if source.name in (other.name for other in apart):
      raise InputError(
        f'{source.workdir}: a second workdir named {source.name}; rename one'
      )
    apart.append(source)
  return apart
