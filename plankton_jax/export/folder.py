"""An encoder as a folder to hand on: weights with their config, and a card."""

import json
import pathlib
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from plankton_jax import atomic
from plankton_jax.errors import InputError

WEIGHTS = 'encoder.safetensors'


def save(
  folder: pathlib.Path,
  *,
  variables: dict[str, Any],
  config: dict[str, Any],
  class_names: tuple[str, ...],
  step: int,
  card: str,
) -> None:
  """Writes FOLDER/encoder.safetensors and FOLDER/README.md.

  Args:
    folder: a new one.
    variables: {'params': ..., 'batch_stats': ...}.
    config: the run's.
    class_names: the seen classes.
    step: the checkpoint's.
    card: Markdown that says what the encoder is.

  Raises:
    InputError: the folder exists.
  """
  if folder.exists():
    raise InputError(f'{folder} exists; choose a new --out')
  arrays = {
    name: np.ascontiguousarray(array)
    for name, array in flax.traverse_util.flatten_dict(
      variables, sep='/'
    ).items()
  }
  header = {
    'config': json.dumps(config),
    'class_names': json.dumps(class_names),
    'step': json.dumps(step),
  }
  with atomic.directory(folder) as building:
    safetensors.numpy.save_file(arrays, building / WEIGHTS, metadata=header)
    (building / 'README.md').write_text(card, encoding='utf-8')


def read(folder: pathlib.Path) -> dict[str, Any]:
  """`params`, `batch_stats`, `config`, `class_names` and `step` of a folder.

  Raises:
    InputError: the file is damaged, or not one that `save` wrote.
  """
  path = folder / WEIGHTS
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      header = file.metadata() or {}
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    fields = {
      name: json.loads(header[name])
      for name in ('config', 'class_names', 'step')
    }
  except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
    raise InputError(
      f'{path}: not a readable encoder ({error}); export it again'
    ) from None
  variables = flax.traverse_util.unflatten_dict(arrays, sep='/')
  # An objective without parameters leaves no trace among arrays.
  variables['params'].setdefault('objective', {})
  return variables | fields


def without_paths(config: Any) -> Any:
  """The config with the last part alone of every absolute path in it."""
  if isinstance(config, dict):
    return {name: without_paths(value) for name, value in config.items()}
  if isinstance(config, str) and pathlib.PurePath(config).is_absolute():
    return pathlib.PurePath(config).name
  return config
