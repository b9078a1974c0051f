"""Finds, reads and writes an encoder as a folder: its weights and a card."""

import json
import pathlib
from typing import Any

import flax.traverse_util
import numpy as np

from plankton_jax.errors import InputError
from plankton_jax.files import atomic, home, json_text, weight_file

WEIGHTS = 'encoder.safetensors'
BUNDLED = pathlib.Path(__file__).parents[1] / 'encoders'  # a folder for each


def find(name: str | pathlib.Path) -> pathlib.Path | None:
  """Finds a folder that `save` wrote, or the bundled encoder of that name.

  A folder comes before a bundled encoder of the same name; None if there is
  neither.
  """
  folder = home.expand(name)
  places = [folder]
  if len(folder.parts) == 1:
    places.append(BUNDLED / folder)
  return next((at for at in places if (at / WEIGHTS).is_file()), None)


def need(name: str, field: str) -> pathlib.Path:
  """Finds an encoder as `find` does; `field` is named in the error.

  Raises:
    InputError: there is none.
  """
  found = find(name)
  if found is None:
    bundled = sorted(path.parent.name for path in BUNDLED.glob(f'*/{WEIGHTS}'))
    raise InputError(
      f'{field}={name}: no folder of an exported encoder ({WEIGHTS}), and no'
      f' bundled encoder; bundled: {", ".join(bundled) or "none"}'
    )
  return found


def save(
  folder: pathlib.Path,
  *,
  params: dict[str, Any],
  batch_stats: dict[str, Any],
  config: dict[str, Any],
  class_names: tuple[str, ...],
  step: int,
  card: str,
  half: bool = False,
) -> None:
  """Writes FOLDER/encoder.safetensors and FOLDER/README.md.

  Args:
    folder: the folder to make.
    params: {'encoder': ..., 'objective': ...}.
    batch_stats: the encoder's.
    config: the run's.
    class_names: the seen classes.
    step: the checkpoint's.
    card: Markdown that describes the encoder.
    half: keep kernels and prototypes as float16. Norms stay as they are: they
      are small, and variances below 6e-5 would lose digits.

  Raises:
    InputError: the folder exists, or a value is too large for float16.
  """
  import safetensors.numpy  # training from nothing needs none

  if folder.exists():
    raise InputError(f'{folder} exists; choose a new --out')
  flat = flax.traverse_util.flatten_dict(
    {'params': params, 'batch_stats': batch_stats}, sep='/'
  )
  arrays = {  # whole in memory, as safetensors writes them
    name: np.asarray(_halved(name, array) if half else array, order='C')
    for name, array in flat.items()
  }
  header = {
    'config': json.dumps(config),
    'class_names': json.dumps(class_names),
    'step': json.dumps(step),
  }
  with atomic.directory(folder) as building:
    # Not by its save_file, which lets no one else read the file.
    data = safetensors.numpy.save(arrays, metadata=header)
    (building / WEIGHTS).write_bytes(data)
    (building / 'README.md').write_text(card, encoding='utf-8')


def _halved(name: str, array: np.ndarray) -> np.ndarray:
  """Rounds a kernel to float16; returns arrays of one dimension as they are.

  Raises:
    InputError: a value is too large.
  """
  if np.ndim(array) < 2:
    return array
  largest = float(np.abs(array).max())
  if largest > float(np.finfo(np.float16).max):
    raise InputError(
      f'{name} has {largest:.3g}: too large for float16; leave out --half'
    )
  return np.asarray(array, np.float16)


def read(folder: pathlib.Path) -> dict[str, Any]:
  """Reads `params`, `batch_stats`, `config`, `class_names` and `step`.

  Arrays kept as float16 are returned as float32.

  Raises:
    InputError: the file is damaged, or was not written by `save`.
  """
  path = folder / WEIGHTS
  try:
    arrays, header = weight_file.read(path)
    fields = {
      name: _field(header, name, kind)
      for name, kind in (('config', dict), ('class_names', list), ('step', int))
    }
    for section in ('data', 'encoder', 'objective'):
      if not isinstance(fields['config'].get(section), dict):
        raise InputError(f'its config has no {section!r}')
    if not all(isinstance(name, str) for name in fields['class_names']):
      raise InputError('class_names are not strings')
    variables = _tree(arrays)
  except InputError as error:
    raise InputError(
      f'{path}: not a readable encoder ({error}); export it again'
    ) from None
  return variables | fields


def _field(header: dict[str, str], name: str, kind: type) -> Any:
  """Parses a field of the header.

  Raises:
    InputError: it is missing, is not JSON, or is of another type.
  """
  if name not in header:
    raise InputError(f'no {name!r} in its header')
  try:
    return json_text.parse(header[name], kind)
  except InputError as error:
    raise InputError(f'{name}: {error}') from None


def _tree(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """Nests arrays by their names, `params` and `batch_stats` on top.

  Raises:
    InputError: the names are not those that `save` writes.
  """
  # Objectives without parameters and networks without statistics have no
  # arrays.
  tree: dict[str, Any] = {
    'params': {'encoder': {}, 'objective': {}},
    'batch_stats': {},
  }
  for name, array in arrays.items():
    *parents, leaf = name.split('/')
    at = tree
    for parent in parents:
      at = at.setdefault(parent, {})
      if not isinstance(at, dict):
        raise InputError(f'{name!r} lies within an array')
    if leaf in at:
      raise InputError(f'{name!r} is both an array and a folder of arrays')
    at[leaf] = array.astype(np.float32) if array.dtype == np.float16 else array
  if tree.keys() != {'params', 'batch_stats'} or not tree['params']['encoder']:
    raise InputError("no 'params/encoder/...' in it, or other arrays beside")
  return tree


def without_paths(config: Any) -> Any:
  """Shortens every absolute path in a config to its last part."""
  if isinstance(config, dict):
    return {name: without_paths(value) for name, value in config.items()}
  if isinstance(config, str) and pathlib.PurePath(config).is_absolute():
    return pathlib.PurePath(config).name
  return config
