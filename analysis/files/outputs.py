"""Writes the embeddings that every analysis starts from; see `inputs`."""

import hashlib
import json
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.files import inputs, shards
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

if TYPE_CHECKING:  # JAX is imported only where something is embedded.
  from plankton_jax.encoder import Encoder

# Measures of these names are left out.
_ARRAYS = ('embedding', 'label', 'id', 'class_names', 'step', 'class', 'file')


def check(path: pathlib.Path) -> None:
  """Raises InputError for an extension other than .npz and .parquet."""
  if not inputs.is_embedding_file(path):
    raise InputError(f'{path}: give a name that ends in .npz or .parquet')


def write(
  path: pathlib.Path,
  rows: inputs.Embeddings,
  step: int,
  measures: Mapping[str, np.ndarray] = types.MappingProxyType({}),
) -> None:
  """Writes rows that a step's checkpoint embedded, in the path's format.

  .npz: plain arrays, so that `np.load(path, allow_pickle=False)` reads it.
  .parquet: a row for each image: id, class ('' without label), embedding.
  Both hold `measures`, an array or column [N] each, where any is known; one
  that bears the name of another array is left out.

  Raises:
    InputError: the path has another extension.
  """
  check(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  known = {
    name: values
    for name, values in _measures(measures).items()
    if not np.isnan(values).all()
  }
  if path.suffix == '.npz':
    with atomic.file(path) as building, building.open('wb') as file:
      arrays: dict[str, Any] = {
        'embedding': rows.embedding.astype(np.float32),
        'label': rows.label.astype(np.int32),
        'id': np.asarray(rows.id, np.str_),
        'class_names': np.asarray(rows.class_names, np.str_),
        'step': np.int64(step),
      }
      np.savez(file, **arrays | known)
  else:
    header = {'class_names': list(rows.class_names), 'step': step}
    shards.write_file(path, columns(rows) | known, header)
  print(
    f'{path}: {len(rows.label):,} embeddings of {rows.embedding.shape[1]}'
    ' dimensions'
  )


def _measures(measures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Keeps the measures that bear the name of no other array, as float32."""
  return {
    name: np.asarray(values, np.float32)
    for name, values in measures.items()
    if name not in _ARRAYS
  }


def columns(rows: inputs.Embeddings) -> dict[str, Any]:
  """Makes the columns of a Parquet file: id, class ('' without), embedding."""
  return {
    'id': [str(key) for key in rows.id],
    'class': inputs.named(rows.class_names, rows.label).tolist(),
    'embedding': rows.embedding.astype(np.float32),
  }


class Part(NamedTuple):
  """Rows that are embedded, and what is known of them."""

  rows: inputs.Embeddings
  measures: Mapping[str, np.ndarray]  # [N] each


def write_shards(
  path: pathlib.Path,
  encoder: 'Encoder',
  ids: Sequence[str],
  class_names: tuple[str, ...],
  embed: Callable[[slice], Part],
  stamp: Callable[[slice], str],
  rows: int,
  pixel_um: float | None = None,
) -> None:
  """Embeds images into a folder of shards of some `rows` each, as they come.

  Goes on after the shards that are there of the same encoder and images, and
  leaves it to `shards.finish` to let the folder be read. Embeds a shard again
  if one of its images was replaced since.

  Args:
    path: the folder, whose name ends in .parquet.
    encoder: the encoder.
    ids: of all images, readable or not.
    class_names: of all images.
    embed: embeds a slice of the images.
    stamp: digests the state of the files that hold a slice of the images.
    rows: images of a shard.
    pixel_um: the side of their pixels, as given, µm.
  """

  def make(part: slice) -> shards.Columns:
    found = embed(part)
    return columns(found.rows) | _measures(found.measures)

  there = shards.write(
    path,
    count=len(ids),
    rows=rows,
    plan={
      'pixel_um': pixel_um,
      'images': _digest(map(str.encode, ids)),
      'encoder': _encoder_digest(encoder),
    },
    make=make,
    stamp=stamp,
    header={'class_names': list(class_names), 'step': encoder.step},
  )
  print(
    f'{path}: {-(-len(ids) // rows):,} shards of {rows:,} images, {there:,} of'
    ' them written before'
  )


def _digest(parts: Iterable[bytes]) -> str:
  state = hashlib.blake2b(digest_size=16)
  for part in parts:
    state.update(part + b'\0')
  return state.hexdigest()


def _encoder_digest(encoder: 'Encoder') -> str:
  """Digests the encoder's arrays and config."""
  import jax

  arrays = jax.tree.leaves(encoder.variables)
  config = json.dumps(encoder.config, sort_keys=True).encode()
  return _digest([config, *(np.asarray(x).tobytes() for x in arrays)])
