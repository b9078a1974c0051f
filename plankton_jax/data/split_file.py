"""Keeps the split that a workdir began with in its split.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from plankton_jax import atomic
from plankton_jax.data.splits import Split
from plankton_jax.errors import InputError

# Settings that files of version 0.1 lack, with the values used then.
_EARLIER = {'own_split': False, 'rare': 'gallery'}


def unseen_classes(file: Path) -> list[str] | None:
  """Reads the unseen classes of a split; None if there is no such file."""
  try:
    return json.loads(file.read_text(encoding='utf-8'))['settings'][
      'unseen_classes'
    ]
  except (OSError, ValueError, KeyError, TypeError):
    return None


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
    InputError: the file is damaged, or made for other data or settings.
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
  remedy = 'give a new --workdir'
  try:
    content = json.loads(file.read_text(encoding='utf-8'))
    named = {**content['splits'], 'dropped': content['dropped']}
    saved_fingerprint, saved = content['fingerprint'], content['settings']
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'{file} is damaged ({error}): delete it or {remedy}'
    ) from error
  if saved_fingerprint != fingerprint:
    raise InputError(f'{_changes(file, named, ids)}; restore it or {remedy}')
  saved = {**_EARLIER, **saved}
  for field, value in settings.items():
    if saved.get(field) != value:
      raise InputError(
        f'{file} was made with data {field} = {saved.get(field)}, not {value}: '
        f'set it back or {remedy}'
      )
  row = {name: i for i, name in enumerate(ids.tolist())}
  rows = {
    name: np.array([row[i] for i in members], np.int64)
    for name, members in named.items()
  }
  dropped = rows.pop('dropped')
  return Split(rows, dropped, content.get('rare', {}))


def _changes(file: Path, named: dict[str, list], ids: np.ndarray) -> str:
  """Describes how the data's images differ from the split's."""
  then, now = set().union(*named.values()), set(ids.tolist())
  notes = []
  for what, names in (('missing', then - now), ('new', now - then)):
    if names:
      shown = ', '.join(sorted(names)[:3]) + (', ...' if len(names) > 3 else '')
      notes.append(f'{len(names)} images are {what} ({shown})')
  if not notes:
    notes = ['the same names have other contents']
  return f'the data changed since {file} was written: {", ".join(notes)}'
