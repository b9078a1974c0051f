"""Writes an encoder as StableHLO, which JAX alone runs."""

import pathlib

import jax
import numpy as np

from plankton_jax.encoder import Encoder
from plankton_jax.export import plain
from plankton_jax.files import atomic

_PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def write(encoder: Encoder, path: pathlib.Path) -> float:
  """Writes a file for `jax.export.deserialize`.

  Returns:
    The largest difference from the encoder.

  Raises:
    InputError: the file does not embed as the encoder does.
  """
  function = jax.jit(plain.embed_fn(encoder))
  exported = jax.export.export(function, platforms=_PLATFORMS)(
    *plain.inputs(encoder).values()
  )
  blob = exported.serialize()
  call = jax.export.deserialize(blob).call
  found = plain.check(encoder, lambda *x: np.asarray(call(*x)), 'jax.export')
  with atomic.file(path) as building:
    building.write_bytes(blob)
  return found
