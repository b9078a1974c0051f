"""Keeps the split that a workdir began with in its split.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from plankton_jax import atomic, json_text
from plankton_jax.data.splits import NAMES, Split
from plankton_jax.errors import InputError

# Settings that files of version 0.1 lack, with the values used then.
_EARLIER = {'own_split': False, 'rare': 'gallery'}


def unseen_classes(file: Path) -> list[str] | None:
  """Reads the unseen classes of a split; None if there is no such file."""
  try:
    settings = _field(json_text.parse(file.read_bytes()), 'settings', dict)
    found = _lists_of_text({'': settings.get('unseen_classes')})
    return found['']
  except (OSError, InputError):
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
    content = json_text.parse(file.read_bytes())
    named = _lists_of_text(
      _field(content, 'splits', dict)
      | {'dropped': _field(content, 'dropped', list)}
    )
    saved = _field(content, 'settings', dict)
    for name in (*NAMES, 'unseen'):
      _field(named, name, list)
    rare = _field({'rare': {}} | content, 'rare', dict)
  except InputError as error:
    raise InputError(
      f'{file} is damaged ({error}): delete it or {remedy}'
    ) from None
  saved_fingerprint = content.get('fingerprint')
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
  strangers = [i for members in named.values() for i in members if i not in row]
  if strangers:
    raise InputError(
      f'{file} is damaged ({strangers[0]!r} is none of the images): delete it'
      f' or {remedy}'
    )
  rows = {
    name: np.array([row[i] for i in members], np.int64)
    for name, members in named.items()
  }
  dropped = rows.pop('dropped')
  return Split(rows, dropped, rare)


def _field(content: dict[str, Any], name: str, kind: type) -> Any:
  """Picks a field of a JSON object.

  Raises:
    InputError: it is missing, or of another type.
  """
  if not isinstance(content.get(name), kind):
    raise InputError(f'{name!r} is missing or no {kind.__name__}')
  return content[name]


def _lists_of_text(named: dict[str, Any]) -> dict[str, list[str]]:
  """Checks that every value is a list of strings.

  Raises:
    InputError: one is not.
  """
  for name, members in named.items():
    if not isinstance(members, list) or not all(
      isinstance(member, str) for member in members
    ):
      raise InputError(f'{name!r} is no list of ids')
  return named


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
