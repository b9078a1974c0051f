"""Embeds a run's images, or any others, into .npz and .parquet files.

python -m analysis.embed --workdir=DIR
python -m analysis.embed --workdir=DIR --images=FOLDER --out=FILE.npz
python -m analysis.embed --encoder=plankton --images=FOLDER --out=FILE.npz
python -m analysis.embed --encoder=plankton --images=FOLDER [--out=DIR]

In place of a folder, an EcoTaxa export or IFCB bins go into a file, too. The
last takes one folder a class, or an export, and makes DIR a workdir for every
analysis, without training. More than a million images go into FILE.parquet, a
folder of shards, as they come; after a kill the same command goes on there.
"""

import functools
import json
import logging
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from analysis.files import folders, inputs, outputs, shards
from analysis.files.command import ENCODER, IMAGES, OUT, PIXEL_UM, WORKDIR
from configs import base
from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.data import select
from plankton_jax.data.sources import entries, folder
from plankton_jax.data.sources.objects import Objects
from plankton_jax.errors import InputError, shorten_list
from plankton_jax.files import config_file, encoder_folder, home

if TYPE_CHECKING:  # JAX is imported only where something is embedded.
  from plankton_jax.encoder import Encoder

log = logging.getLogger(__name__)

STEP = flags.DEFINE_integer(
  'step', None, 'The checkpoint [the best by validation].'
)

SHARD = flags.DEFINE_integer(
  'shard',
  None,
  'Images of a Parquet shard, 0 for one file [100,000 of more than a million].',
  lower_bound=0,
)

for name in ('workdir', 'encoder', 'images', 'out', 'pixel_um'):
  flags.declare_key_flag(name)  # --help shows it

# Shares of train, val and test where nothing is trained: enough of val for the
# thresholds of classes.
_FRACTIONS = (0.6, 0.2, 0.2)
_PIXELS = ('size', 'resize', 'channels')  # fields that an encoder depends on


def embed_run(
  workdir: pathlib.Path, step: int | None, shard: int | None = None
) -> None:
  """Writes workdir/embeddings/{train,val,test,unseen,rare}.{npz,parquet}.

  There is a file of rare classes only where there are any. A split of many
  images becomes a folder of Parquet shards alone; `shard` is as `shards.size`
  takes it.
  """
  from plankton_jax import checkpoints
  from plankton_jax.train import experiment

  encoder = checkpoints.load_encoder(workdir, step)
  data = experiment.load_data(encoder.config, workdir)

  def embed(at: np.ndarray, part: slice) -> outputs.Part:
    at = at[part]
    measures = data.measures_of(at)
    embedding = encoder.embed(data.images[at], measures=measures)
    rows = inputs.Embeddings(
      embedding, data.labels[at], data.ids[at], data.class_names
    )
    return outputs.Part(rows, measures)

  sharded = []  # Finished together: a second call goes on after the last.
  for split, at in data.splits.items():
    file = workdir / 'embeddings' / f'{split}.parquet'
    if rows := shards.size(len(at), shard):
      ids = data.ids[at].tolist()
      each = functools.partial(embed, at)
      stamp = lambda part: data.fingerprint
      outputs.write_shards(
        file, encoder, ids, data.class_names, each, stamp, rows
      )
      file.with_suffix('.npz').unlink(missing_ok=True)
      sharded.append(file)
      continue
    whole = embed(at, slice(None))
    for path in (file.with_suffix('.npz'), file):
      outputs.write(path, whole.rows, encoder.step, whole.measures)
  for file in sharded:
    shards.finish(file)


def embed_folder(
  encoder: 'Encoder',
  images: str,
  out: pathlib.Path,
  pixel_um: float | None = None,
  shard: int | None = None,
) -> None:
  """Embeds any folder, EcoTaxa export or IFCB bins into a file.

  Classes are a folder's folders, with label -1 for images in its root, or the
  taxa of an export's validated objects, with label -1 for all others.
  `pixel_um` is the side of their pixels, µm; None takes the known, or the
  run's. Many images become a folder of shards where `out` ends in .parquet;
  `shard` is as `shards.size` takes it.
  """
  outputs.check(out)
  found = select.objects(images, field='--images')
  rows = shards.size(len(found.ids), shard) if out.suffix == '.parquet' else 0
  white = folders.find_white(encoder, found)

  def chosen(part: slice) -> Objects:
    return found.take(range(len(found.ids))[part])

  def embed(part: slice) -> outputs.Part:
    own = chosen(part) if rows else found
    made = folders.embed(
      encoder, own, pixel_um=pixel_um, white=white, some=not rows
    )
    return outputs.Part(made.rows, made.measures)

  if rows:
    for name, reason in found.skipped:
      print(f'skipped {name}: {reason}', file=sys.stderr)
    whole_stamp = folders.stamp(found) if found.root is None else ''

    def stamp(part: slice) -> str:
      own = whole_stamp or folders.stamp(chosen(part))
      return f'{own} {white}'  # which all images decide together

    outputs.write_shards(
      out, encoder, found.ids, found.class_names, embed, stamp, rows, pixel_um
    )
    shards.finish(out)
  else:
    whole = embed(slice(None))
    outputs.write(out, whole.rows, encoder.step, whole.measures)


def make_workdir(
  encoder: 'Encoder',
  images: str,
  workdir: pathlib.Path,
  pixel_um: float | None = None,
) -> None:
  """Makes the workdir of labelled images, with an encoder as it is.

  They are one folder a class, or an EcoTaxa export. The workdir holds the
  encoder without the objective's parameters, which are of other classes, and a
  config that names the images. Does nothing if it is there.

  Raises:
    InputError: an image lies in no class folder, or the workdir holds another
      encoder or other images.
  """
  from plankton_jax.nn import transfer

  found = select.described(images, field='--images')
  annotated = found is not None and any(item.status for item in found.items)
  if found is None or not annotated:
    try:
      found = folder.scan_classes(images, field='--images').images
    except InputError as error:
      raise InputError(
        f'{error}; or give --out=FILE.npz to embed without classes'
      ) from None
  kept = {name: encoder.config['data'][name] for name in _PIXELS}
  chosen = {
    'source': 'ecotaxa' if annotated else 'folder',
    'path': str(home.expand(images).resolve()),
    'unseen_classes': 0,
    'fractions': list(_FRACTIONS),
    'pixel_um': pixel_um or 0.0,
  }
  data = base.get_config().data.to_dict() | kept | chosen
  config = json.loads(
    json.dumps({**encoder.config, 'data': data, 'citation': ''})
  )
  if workdir.exists():
    there = encoder_folder.find(workdir) == workdir
    held: dict[str, Any] = encoder_folder.read(workdir) if there else {}
    theirs = config_file.complete(held.get('config', {}))
    if (theirs, held.get('step')) != (config, encoder.step):
      raise InputError(f'{workdir} holds something else; choose a new --out')
  else:
    params = {**encoder.variables['params'], 'objective': {}}
    encoder.replace(params=params, config=config).save(
      workdir,
      card=f'Made by analysis.embed from {images}; nothing was trained.\n',
    )
  config_file.write(config, workdir)
  if seen := transfer.common(encoder.class_names, found.class_names):
    log.warning(
      'the encoder was trained on %d of the %d classes, as their names say:'
      ' measures of them are too good (%s)',
      len(seen),
      len(found.class_names),
      shorten_list(seen),
    )


def embed_images(
  encoder: 'Encoder',
  images: str,
  out: pathlib.Path,
  *,
  run: bool,
  pixel_um: float | None = None,
  shard: int | None = None,
) -> None:
  """Embeds a folder into a file, or, without a run, into a workdir too."""
  if run or inputs.is_embedding_file(out):
    embed_folder(encoder, images, out, pixel_um, shard)
    return
  make_workdir(encoder, images, out, pixel_um)
  embed_run(out, None, shard)
  print(f'{out}: a workdir, as for python -m analysis.report --workdir={out}')


def main(argv: Sequence[str]) -> None:
  """Embeds as the flags ask."""
  del argv
  workdirs = [home.expand(path) for path in WORKDIR.value]
  name, images, out = ENCODER.value, IMAGES.value, OUT.value
  if bool(workdirs) == bool(name):
    raise InputError(
      'give --workdir, the folder of a trained run, or --encoder=plankton with'
      ' --images=FOLDER'
    )
  if name and not images:
    raise InputError('--images is missing: the folder to embed by --encoder')
  if workdirs and bool(images) != bool(out):
    raise InputError('--images=FOLDER and --out=FILE.npz go together')
  if images and len(workdirs) > 1:
    raise InputError('--images takes one --workdir')
  host.show_log(logging.INFO)
  if not images:
    for workdir in workdirs:
      embed_run(workdir, STEP.value, SHARD.value)
    return
  default = pathlib.Path('runs', entries.title(home.expand(images)))
  path = home.expand(out or default)
  if workdirs:
    outputs.check(path)
  place = encoder_folder.need(name, '--encoder') if name else workdirs[0]

  from plankton_jax import checkpoints

  encoder = checkpoints.load_encoder(place, STEP.value)
  embed_images(
    encoder,
    images,
    path,
    run=not name,
    pixel_um=PIXEL_UM.value,
    shard=SHARD.value,
  )


if __name__ == '__main__':
  command.run(main, fast=True)
