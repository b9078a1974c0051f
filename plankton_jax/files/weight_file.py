"""Reads .safetensors files from any source."""

import pathlib
from typing import NamedTuple

import numpy as np

from plankton_jax.errors import InputError, reason
from plankton_jax.files import home

_TYPES = frozenset(
  {'F64', 'F32', 'F16', 'BOOL'}
  | {f'{sign}{bits}' for sign in 'IU' for bits in (8, 16, 32, 64)}
)
_ENDINGS = ('.safetensors', '.pth', '.pt', '.bin', '.ckpt', '.tar')


class Contents(NamedTuple):
  """Arrays by name, and the header's own strings."""

  arrays: dict[str, np.ndarray]
  header: dict[str, str]


def is_named(path: str) -> bool:
  """Tells whether a path means a file: it is one, or has a known ending.

  Anything else names an encoder of this project.
  """
  file = home.expand(path)
  return file.suffix.lower() in _ENDINGS or file.is_file()


def read(path: pathlib.Path) -> Contents:
  """Reads every array of a file.

  Raises:
    InputError: the file is damaged, or holds a type that NumPy lacks. The
      message gives the reason alone: the caller names the file.
  """
  import safetensors  # training from nothing needs none

  arrays = {}
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      for name in file.keys():  # noqa: SIM118
        kind = file.get_slice(name).get_dtype()
        if kind not in _TYPES:
          raise InputError(
            f'{name!r} is of type {kind}; save the weights as float32'
          )
        arrays[name] = file.get_tensor(name)
      header = dict(file.metadata() or {})
  except (safetensors.SafetensorError, OSError, ValueError) as error:
    raise InputError(reason(error)) from None
  return Contents(arrays, header)
