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
import hashlib
import json
import logging
import pathlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

from analysis.files import folders, inputs, shards
from analysis.files.command import ENCODER, IMAGES, OUT, PIXEL_UM, WORKDIR
from configs import base
from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.data import select
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError, shorten_list
from plankton_jax.files import atomic, config_file, encoder_folder

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

# Shares of train, val and test where nothing is trained: enough of val for the
# thresholds of classes.
_FRACTIONS = (0.6, 0.2, 0.2)
_PIXELS = ('size', 'resize', 'channels')  # fields that an encoder depends on
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
    shards.write_file(path, _columns(rows) | known, _header(rows, step))
  print(
    f'{path}: {len(rows.label):,} embeddings of {rows.embedding.shape[1]}'
    ' dimensions'
  )


def _measures(measures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {
    name: np.asarray(values, np.float32)
    for name, values in measures.items()
    if name not in _ARRAYS
  }


def _columns(rows: inputs.Embeddings) -> dict[str, Any]:
  names = [*rows.class_names, '']
  return {
    'id': [str(key) for key in rows.id],
    'class': [names[label] for label in rows.label],
    'embedding': rows.embedding.astype(np.float32),
  }


def _header(rows: inputs.Embeddings, step: int) -> dict[str, Any]:
  return {'class_names': list(rows.class_names), 'step': step}


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
    return _columns(found.rows) | _measures(found.measures)

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


def embed_run(
  workdir: pathlib.Path, step: int | None, shard: int | None = None
) -> None:
  """Writes workdir/embeddings/{train,val,test,unseen,rare}.{npz,parquet}.

  There is a file of rare classes only where there are any. A split of many
  images becomes a folder of Parquet shards alone; `shard` is as `shards.size`
  takes it.
  """
  from plankton_jax import checkpoints
  from plankton_jax.train import loop

  encoder = checkpoints.load_encoder(workdir, step)
  data = loop.load_data(encoder.config, workdir)

  def embed(at: np.ndarray, part: slice) -> Part:
    at = at[part]
    measures = {name: values[at] for name, values in data.measures.items()}
    embedding = encoder.embed(data.images[at], measures=measures)
    rows = inputs.Embeddings(
      embedding, data.labels[at], data.ids[at], data.class_names
    )
    return Part(rows, measures)

  sharded = []  # Finished together: a second call goes on after the last.
  for split, at in data.splits.items():
    file = workdir / 'embeddings' / f'{split}.parquet'
    if rows := shards.size(len(at), shard):
      ids = data.ids[at].tolist()
      each = functools.partial(embed, at)
      stamp = lambda part: data.fingerprint
      write_shards(file, encoder, ids, data.class_names, each, stamp, rows)
      file.with_suffix('.npz').unlink(missing_ok=True)
      sharded.append(file)
      continue
    whole = embed(at, slice(None))
    for path in (file.with_suffix('.npz'), file):
      write(path, whole.rows, encoder.step, whole.measures)
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
  check(out)
  objects = select.described(images, field='--images')
  items = () if objects is None else objects.items
  taxa = [item.taxon if item.status == 'validated' else '' for item in items]
  names = tuple(sorted(set(taxa) - {''}))
  found: folders.Images
  if objects is None:
    found = folder.scan(images, field='--images')
    names = found.class_names
  else:
    found = objects
  index = {name: at for at, name in enumerate(names)} | {'': -1}
  rows = shards.size(len(found.ids), shard) if out.suffix == '.parquet' else 0
  white = folders.find_white(encoder, found)

  def embed(part: slice) -> Part:
    own = folders.part(found, part) if rows else found
    options: dict[str, Any] = {
      'pixel_um': pixel_um,
      'white': white,
      'some': not rows,
    }
    if isinstance(own, folder.Listing):
      embedded = folders.embed(encoder, own, **options)
      return Part(embedded.rows, embedded.measures)
    embedded, kept = folders.embed_objects(encoder, own, **options)
    label = np.array([index[taxa[part][row]] for row in kept], np.int32)
    found_rows = embedded.rows._replace(label=label, class_names=names)
    return Part(found_rows, embedded.measures)

  if rows:
    for name, reason in found.skipped:
      print(f'skipped {name}: {reason}', file=sys.stderr)
    whole_stamp = folders.stamp(found) if objects is not None else ''

    def stamp(part: slice) -> str:
      own = whole_stamp or folders.stamp(folders.part(found, part))
      return f'{own} {white}'  # which all images decide together

    write_shards(out, encoder, found.ids, names, embed, stamp, rows, pixel_um)
    shards.finish(out)
  else:
    whole = embed(slice(None))
    write(out, whole.rows, encoder.step, whole.measures)


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
  items = () if found is None else found.items
  annotated = any(item.status for item in items)
  try:
    if annotated:
      names = sorted({x.taxon for x in items if x.status == 'validated'})
    else:
      names = list(folder.scan_classes(images, field='--images').class_names)
  except InputError as error:
    raise InputError(
      f'{error}; or give --out=FILE.npz to embed without classes'
    ) from None
  kept = {name: encoder.config['data'][name] for name in _PIXELS}
  chosen = {
    'source': 'ecotaxa' if annotated else 'folder',
    'path': str(pathlib.Path(images).expanduser().resolve()),
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
  if seen := transfer.common(encoder.class_names, names):
    log.warning(
      'the encoder was trained on %d of the %d classes, as their names say:'
      ' measures of them are too good (%s)',
      len(seen),
      len(names),
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
  workdirs = [pathlib.Path(path) for path in WORKDIR.value]
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
  default = pathlib.Path(
    'runs', pathlib.Path(images).resolve().name.removesuffix('.zip')
  )
  path = pathlib.Path(out) if out else default
  if workdirs:
    check(path)
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
