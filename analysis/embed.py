"""Embeds a run's images, or any folder of images, into .npz files.

python -m analysis.embed --workdir=DIR
python -m analysis.embed --workdir=DIR --images=FOLDER --out=FILE.npz
"""

import logging
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from analysis import inputs
from plankton_jax import atomic, host
from plankton_jax.errors import InputError

IMAGES = flags.DEFINE_string(
  'images', None, 'A folder of images to embed into --out, in place of the run.'
)
STEP = flags.DEFINE_integer(
  'step', None, 'The checkpoint [the best by validation].'
)


def write(
  path: pathlib.Path,
  embedding: np.ndarray,
  label: np.ndarray,
  id: np.ndarray,
  class_names: Sequence[str],
) -> None:
  """Writes one embedding file: `embedding` [N, D], `label` [N], `id` [N].

  All arrays are plain, so that `np.load(path, allow_pickle=False)` reads it.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with atomic.file(path) as building, building.open('wb') as file:
    np.savez(
      file,
      embedding=embedding.astype(np.float32),
      label=label.astype(np.int32),
      id=np.asarray(id, np.str_),
      class_names=np.asarray(class_names, np.str_),
    )
  print(f'{path}: {len(label):,} embeddings of {embedding.shape[1]} dimensions')


def embed_run(workdir: pathlib.Path, step: int | None) -> None:
  """Writes workdir/embeddings/{train,val,test,unseen}.npz."""
  from plankton_jax import checkpoints, loop

  encoder = checkpoints.load_encoder(workdir, step)
  data = loop.load_data(encoder.config, workdir)
  for split, rows in data.splits.items():
    write(
      workdir / 'embeddings' / f'{split}.npz',
      encoder.embed(data.images[rows]),
      data.labels[rows],
      data.ids[rows],
      data.class_names,
    )


def embed_folder(
  workdir: pathlib.Path, step: int | None, images: str, out: pathlib.Path
) -> None:
  """Writes the embeddings of any folder; images in its root get label -1."""
  from plankton_jax import checkpoints
  from plankton_jax.data import folder

  encoder = checkpoints.load_encoder(workdir, step)
  fields = encoder.config['data']
  pixels, labels, ids, class_names, skipped = folder.decode_folder(
    images, **{name: fields[name] for name in ('size', 'resize', 'channels')}
  )
  for name, reason in skipped:
    print(f'skipped {name}: {reason}', file=sys.stderr)
  write(out, encoder.embed(pixels), labels, ids, class_names)


def main(argv: Sequence[str]) -> None:
  try:
    if len(argv) > 1:
      raise InputError(f'unexpected argument {argv[1]!r}; flags take --')
    workdirs = [pathlib.Path(path) for path in inputs.WORKDIR.value]
    if not workdirs:
      raise InputError('--workdir is missing: the folder of a trained run')
    if bool(IMAGES.value) != bool(inputs.OUT.value):
      raise InputError('--images=FOLDER and --out=FILE.npz go together')
    if IMAGES.value and len(workdirs) > 1:
      raise InputError('--images takes one --workdir')
    host.use_fast_settings()
    host.show_log(logging.INFO)
    if IMAGES.value:
      out = pathlib.Path(inputs.OUT.value)
      embed_folder(workdirs[0], STEP.value, IMAGES.value, out)
    else:
      for workdir in workdirs:
        embed_run(workdir, STEP.value)
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  app.run(main)
