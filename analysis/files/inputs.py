"""Where every analysis starts: embedding files, from workdirs or by name."""

import json
import logging
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from plankton_jax.cli import host
from plankton_jax.errors import InputError

SPLITS = ('train', 'val', 'test', 'unseen')

WORKDIR = flags.DEFINE_multi_string(
  'workdir', [], 'A finished workdir; repeat the flag to compare several.'
)
EMBEDDINGS = flags.DEFINE_multi_string(
  'embeddings', [], 'An embedding file (.npz) in place of a workdir.'
)
OUT = flags.DEFINE_string(
  'out', None, 'Folder for the results [first workdir/analysis].'
)


class Embeddings(NamedTuple):
  """One embedding file: rows of one split."""

  embedding: np.ndarray  # [N, D] float32
  label: np.ndarray  # [N] int32, index into class_names
  id: np.ndarray  # [N] str, the record's key
  class_names: tuple[str, ...]


class Source(NamedTuple):
  """What an analysis is given: one run's embeddings and where it lives."""

  name: str  # as the figures call it
  splits: dict[str, Embeddings]  # by split name, or by the file's stem
  workdir: pathlib.Path | None  # None where only files were given
  config: dict[str, Any] | None  # the run's config, likewise


def read_embeddings(path: pathlib.Path) -> Embeddings:
  """Reads one embedding file and checks it.

  Raises:
    InputError: no such file, arrays missing or of the wrong shape, pickled
      objects, labels without a name, or a row that is not finite.
  """
  if not path.is_file():
    raise InputError(f'{path}: no such embedding file; run analysis.embed')
  if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle
    raise InputError(f'{path}: not a readable .npz; write it with np.savez')
  try:
    with np.load(path, allow_pickle=False) as arrays:
      found = {name: arrays[name] for name in arrays.files}
  except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
    pickled = 'allow_pickle' in str(error)
    reason = (
      'holds pickled objects, which are never loaded; save plain arrays'
      if pickled
      else f'not a readable .npz ({error})'
    )
    raise InputError(f'{path}: {reason}') from None
  missing = {'embedding', 'label', 'id', 'class_names'} - found.keys()
  if missing:
    raise InputError(f'{path}: array {sorted(missing)[0]!r} is missing')
  embedding = np.asarray(found['embedding'], np.float32)
  label = np.asarray(found['label'], np.int32)
  names = tuple(str(name) for name in found['class_names'])
  if embedding.ndim != 2 or label.shape != (len(embedding),):
    raise InputError(
      f'{path}: embedding {embedding.shape} and label {label.shape} do not'
      ' fit; want [N, D] and [N]'
    )
  if found['id'].shape != label.shape:
    raise InputError(f'{path}: id {found["id"].shape} does not fit label')
  if label.size and not -1 <= label.min() <= label.max() < len(names):
    raise InputError(f'{path}: a label has no name in class_names')
  bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
  if bad.size:
    raise InputError(
      f'{path}: {bad.size} of {len(label)} rows are not finite, first row'
      f' {bad[0]} (id {found["id"][bad[0]]}); remove them or embed again'
    )
  return Embeddings(embedding, label, found['id'].astype(str), names)


def step(source: Source) -> int | None:
  """The checkpoint's step that a workdir's train rows are of, if noted."""
  path = source.workdir / 'embeddings' / 'train.npz'
  with np.load(path, allow_pickle=False) as arrays:
    return int(arrays['step']) if 'step' in arrays.files else None


def labelled(source: Source, split: str, part: str) -> Embeddings | None:
  """A split's rows that have a label, or None; what is missing is printed.

  Args:
    source: where the split is.
    split: its name.
    part: the analysis that asks, as the line printed names it.
  """
  where = f'{part}: {source.name}'
  if split not in source.splits:
    print(f'{where} has no {split} split: skipped')
    return None
  rows = source.splits[split]
  known = rows.label >= 0
  if not known.any():
    print(f'{where}, {split}: no labelled images: skipped')
    return None
  if not known.all():
    print(f'{where}, {split}: {np.sum(~known)} rows have no label: left out')
  return Embeddings(
    rows.embedding[known], rows.label[known], rows.id[known], rows.class_names
  )


def measured(source: Source, part: str) -> dict[str, Embeddings]:
  """The labelled rows to measure: test and unseen of a workdir, or all files.

  Splits that are missing or empty are left out and printed, as by `labelled`.
  """
  wanted = source.splits if source.workdir is None else ('test', 'unseen')
  found = {split: labelled(source, split, part) for split in wanted}
  return {split: rows for split, rows in found.items() if rows is not None}


def citations(sources: Sequence[Source]) -> list[str]:
  """Where each source's images come from; '' where none is known."""
  return [(source.config or {}).get('citation', '') for source in sources]


def _from_workdir(workdir: pathlib.Path) -> Source:
  if not (workdir / 'config.json').is_file():
    raise InputError(f'{workdir}: not a workdir (it holds no config.json)')
  splits = {
    split: read_embeddings(workdir / 'embeddings' / f'{split}.npz')
    for split in SPLITS
    if (workdir / 'embeddings' / f'{split}.npz').exists()
  }
  if not splits:
    raise InputError(
      f'{workdir}: no embeddings; run'
      f' python -m analysis.embed --workdir={workdir}'
    )
  config = json.loads((workdir / 'config.json').read_text())
  return Source(workdir.resolve().name, splits, workdir, config)


def _from_files(paths: Sequence[pathlib.Path]) -> Source:
  splits: dict[str, Embeddings] = {}
  for path in paths:
    if path.stem in splits:
      raise InputError(f'{path}: a second file named {path.stem}')
    splits[path.stem] = read_embeddings(path)
  return Source(' + '.join(splits), splits, None, None)


def _named_apart(sources: list[Source]) -> list[Source]:
  """Workdirs of one name in different folders are called folder/name."""
  names = [source.name for source in sources]
  apart = []
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


def main(analyse: Callable[[list[Source], pathlib.Path], None]) -> None:
  """Runs `analyse(sources, out)` on what the flags name; exits 2 on bad input.

  Several workdirs are given to one call, so that they are drawn side by side;
  the results land in the first one's `analysis` folder.
  """

  def run(argv: Sequence[str]) -> None:
    host.show_log(logging.WARNING)
    try:
      if len(argv) > 1:
        raise InputError(f'unexpected argument {argv[1]!r}; flags take --')
      if bool(WORKDIR.value) == bool(EMBEDDINGS.value):
        raise InputError('give --workdir=DIR or --embeddings=FILE.npz')
      workdirs = [pathlib.Path(path) for path in WORKDIR.value]
      files = [pathlib.Path(path) for path in EMBEDDINGS.value]
      sources = [_from_workdir(path) for path in workdirs]
      sources += [_from_files(files)] if files else []
      default = (workdirs or [files[0].parent])[0] / 'analysis'
      out = pathlib.Path(OUT.value) if OUT.value else default
      out.mkdir(parents=True, exist_ok=True)
      analyse(_named_apart(sources), out)
    except InputError as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(2)

  app.run(run)
