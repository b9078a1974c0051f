"""Keeps in split.json the split that a workdir was started with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plankton_jax.data.sources.source import one_line
from plankton_jax.data.splits import NAMES, Split
from plankton_jax.errors import InputError
from plankton_jax.files import atomic, json_text

# Settings that files of version 0.1 lack, as those splits were made.
_EARLIER = {'own_split': False, 'rare': 'gallery'}
_SPLITS = (*NAMES, 'unseen')


class _Content(NamedTuple):
  """Holds the content of a split file, its shape checked."""

  fingerprint: str
  settings: dict[str, Any]
  rows: dict[str, list[str]]  # split, or 'dropped' -> ids
  rare: dict[str, str]  # class -> reason


def unseen_classes(file: Path) -> list[str] | None:
  """Reads the unseen classes of a split; None if the file has none."""
  try:
    found = _content(file).settings.get('unseen_classes')
  except (OSError, ValueError):
    return None  # which `reuse_or_make` explains
  return found if _are_texts(found) else None


def reuse_or_make(
  file: Path,
  ids: np.ndarray,
  make: Callable[[], Split],
  *,
  fingerprint: str,
  settings: dict[str, Any],
) -> Split:
  """Reads the split in the file, or makes one and saves it there.

  Raises:
    InputError: the file was written for other data or settings.
  """
  if file.exists():
    return _read(file, ids, fingerprint, settings)
  split = make()
  content = {
    'fingerprint': fingerprint,
    'settings': settings,
    'splits': {name: ids[rows].tolist() for name, rows in split.rows.items()},
    'dropped': ids[split.dropped].tolist(),
    'rare': split.rare,
  }
  file.parent.mkdir(parents=True, exist_ok=True)
  atomic.text(file, json.dumps(content, indent=1, ensure_ascii=False) + '\n')
  return split


def _read(
  file: Path, ids: np.ndarray, fingerprint: str, settings: dict[str, Any]
) -> Split:
  """Reads the split, for data and settings that are those of the file.

  Raises:
    InputError: the file is damaged, or of other data or settings.
  """
  remedy = 'give a new --workdir'
  damaged = f'delete it or {remedy}'
  try:
    content = _content(file)
  except (OSError, ValueError) as error:
    raise InputError(f'{file} is damaged ({error}): {damaged}') from error
  if content.fingerprint != fingerprint:
    changes = _changes(file, content.rows, ids)
    raise InputError(f'{changes}; restore it or {remedy}')
  saved = {**_EARLIER, **content.settings}
  for field, value in settings.items():
    if saved.get(field) != value:
      shown = one_line(saved.get(field))
      raise InputError(
        f'{file} was made with data {field} = {shown}, not {value}: '
        f'set it back or {remedy}'
      )
  row = {name: i for i, name in enumerate(ids.tolist())}
  strange = set().union(*content.rows.values()) - row.keys()
  if strange:
    raise InputError(
      f'{file} is damaged (no image {min(strange)!r}): {damaged}'
    )
  rows = {
    name: np.array([row[i] for i in members], np.int64)
    for name, members in content.rows.items()
  }
  dropped = rows.pop('dropped')
  return Split(rows, dropped, content.rare)


def _content(file: Path) -> _Content:
  """Reads a file and checks the shape of its content.

  Raises:
    OSError: it cannot be read.
    ValueError: with the reason, if it is no split.
  """
  found = json_text.parse(file.read_bytes())
  shape = {'fingerprint': str, 'settings': dict, 'splits': dict}
  for field, kind in shape.items():
    if not isinstance(found.get(field), kind):
      raise ValueError(f'no {field}')
  rows = {**found['splits'], 'dropped': found.get('dropped')}
  for name in (*_SPLITS, *rows):
    if not _are_texts(rows.get(name)):
      raise ValueError(f'{name!r} is no list of images')
  rare = found.get('rare', {})
  if not isinstance(rare, dict) or not _are_texts([*rare.values()]):
    raise ValueError('rare is no object of texts')
  return _Content(found['fingerprint'], found['settings'], rows, rare)


def _are_texts(values: Any) -> bool:
  return isinstance(values, list) and all(isinstance(v, str) for v in values)


def _changes(file: Path, named: dict[str, list], ids: np.ndarray) -> str:
  """Describes how the data's images differ from the split's."""
  then, now = set().union(*named.values()), set(ids.tolist())
  notes = []
  for what, names in (('missing', then - now), ('new', now - then)):
    if names:
      shown = ', '.join(map(one_line, sorted(names)[:3])) + (
        ', ...' if len(names) > 3 else ''
      )
      notes.append(f'{len(names)} images are {what} ({shown})')
  if not notes:
    notes = ['the same names have other contents']
  return f'the data changed since {file} was written: {", ".join(notes)}'
