"""Embeds a run's images, or any folder of images, into .npz and .parquet files.

python -m analysis.embed --workdir=DIR
python -m analysis.embed --workdir=DIR --images=FOLDER --out=FILE.npz
"""

import logging
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from analysis.files import folders, inputs, tables
from analysis.files.command import IMAGES, OUT, PIXEL_UM, WORKDIR
from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

STEP = flags.DEFINE_integer(
  'step', None, 'The checkpoint [the best by validation].'
)

_ARRAYS = ('embedding', 'label', 'id', 'class_names', 'step', 'class', 'file')


def check(path: pathlib.Path) -> None:
  """Raises InputError for an extension other than .npz and .parquet."""
  if path.suffix not in ('.npz', '.parquet'):
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
    name: np.asarray(values, np.float32)
    for name, values in measures.items()
    if name not in _ARRAYS and not np.isnan(values).all()
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
    names = [*rows.class_names, '']
    tables.write_parquet(
      path,
      {
        'id': [str(key) for key in rows.id],
        'class': [names[label] for label in rows.label],
        'embedding': rows.embedding,
        **known,
      },
    )
  print(
    f'{path}: {len(rows.label):,} embeddings of {rows.embedding.shape[1]}'
    ' dimensions'
  )


def embed_run(workdir: pathlib.Path, step: int | None) -> None:
  """Writes workdir/embeddings/{train,val,test,unseen,rare}.{npz,parquet}.

  There is a file of rare classes only where there are any.
  """
  from plankton_jax import checkpoints
  from plankton_jax.train import loop

  encoder = checkpoints.load_encoder(workdir, step)
  data = loop.load_data(encoder.config, workdir)
  for split, at in data.splits.items():
    measures = {name: values[at] for name, values in data.measures.items()}
    rows = inputs.Embeddings(
      encoder.embed(data.images[at], measures=measures),
      data.labels[at],
      data.ids[at],
      data.class_names,
    )
    for ending in ('npz', 'parquet'):
      file = workdir / 'embeddings' / f'{split}.{ending}'
      write(file, rows, encoder.step, measures)


def embed_folder(
  workdir: pathlib.Path,
  step: int | None,
  images: str,
  out: pathlib.Path,
  pixel_um: float | None = None,
) -> None:
  """Embeds any folder into a file; images in its root get label -1.

  `pixel_um` is the side of their pixels, µm; None takes the run's.
  """
  from plankton_jax import checkpoints

  check(out)
  listing = folder.scan(images, field='--images')
  encoder = checkpoints.load_encoder(workdir, step)
  found = folders.embed(encoder, listing, pixel_um=pixel_um)
  write(out, found.rows, encoder.step, found.measures)


def main(argv: Sequence[str]) -> None:
  """Embeds as the flags ask."""
  del argv
  workdirs = [pathlib.Path(path) for path in WORKDIR.value]
  if not workdirs:
    raise InputError('--workdir is missing: the folder of a trained run')
  images, out = IMAGES.value, OUT.value
  if bool(images) != bool(out):
    raise InputError('--images=FOLDER and --out=FILE.npz go together')
  if images and len(workdirs) > 1:
    raise InputError('--images takes one --workdir')
  host.show_log(logging.INFO)
  if images and out:
    embed_folder(
      workdirs[0], STEP.value, images, pathlib.Path(out), PIXEL_UM.value
    )
    return
  for workdir in workdirs:
    embed_run(workdir, STEP.value)


if __name__ == '__main__':
  command.run(main, fast=True)
