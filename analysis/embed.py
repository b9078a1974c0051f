"""Embeds a run's images, or any others, into .npz and .parquet files.

python -m analysis.embed --workdir=DIR
python -m analysis.embed --workdir=DIR --images=FOLDER --out=FILE.npz

The folder may be an EcoTaxa export or hold IFCB bins, too.
"""

import logging
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from analysis.files import folders, inputs, tables
from analysis.files.command import IMAGES, OUT, WORKDIR
from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.data import select
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
    rows = inputs.Embeddings(
      encoder.embed(data.images[at]),
      data.labels[at],
      data.ids[at],
      data.class_names,
    )
    measures = {name: values[at] for name, values in data.measures.items()}
    for ending in ('npz', 'parquet'):
      file = workdir / 'embeddings' / f'{split}.{ending}'
      write(file, rows, encoder.step, measures)


def embed_images(
  workdir: pathlib.Path, step: int | None, images: str, out: pathlib.Path
) -> None:
  """Embeds any folder, EcoTaxa export or IFCB bins into a file.

  Classes are a folder's folders, with label -1 for images in its root, or the
  taxa of an export's validated objects, with label -1 for all others.
  """
  from plankton_jax import checkpoints

  check(out)
  found = select.objects(images, field='--images')
  encoder = checkpoints.load_encoder(workdir, step)
  if not found.items:
    listing = folder.scan(images, field='--images')
    write(out, folders.embed(encoder, listing).rows, encoder.step)
    return
  embedded, kept = folders.embed_objects(encoder, found)
  taxa = [
    item.taxon if item.status == 'validated' else ''
    for item in (found.items[row] for row in kept)
  ]
  names = tuple(sorted(set(taxa) - {''}))
  index = {name: at for at, name in enumerate(names)} | {'': -1}
  rows = embedded.rows._replace(
    label=np.array([index[taxon] for taxon in taxa], np.int32),
    class_names=names,
  )
  row = {id: at for at, id in enumerate(found.measures.ids)}
  at = [row[id] for id in rows.id.tolist()] if row else []
  measures = {
    name: found.measures.values[at, column]
    for column, name in enumerate(found.measures.names)
  }
  write(out, rows, encoder.step, measures)


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
    embed_images(workdirs[0], STEP.value, images, pathlib.Path(out))
    return
  for workdir in workdirs:
    embed_run(workdir, STEP.value)


if __name__ == '__main__':
  command.run(main, fast=True)
