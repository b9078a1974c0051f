"""Compares groups of like images with other ways to find them, by the truth.

  python -m benchmarks.discovery --workdir=DIR [--split=unseen]

Rows of the table: the groups of analysis.discover; k-means, told how many
classes there are, and into MANY groups; HDBSCAN on the embeddings as they are;
and all these on embeddings before their whitening, if there is one, on raw
pixels, of which the first PIXELS principal components are taken, and on the
embeddings of the encoder before its training.
`pure` is the share of images in groups of which nine tenths are of one class.
"""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from analysis.files import result
from analysis.files.result import Result, Shown
from analysis.measures import groups
from analysis.measures.groups import Groups
from plankton_jax import checkpoints, host
from plankton_jax.cli import command
from plankton_jax.errors import InputError
from plankton_jax.nn import whitening
from plankton_jax.train import experiment, store

SEED = 0
PIXELS = 256  # principal components of the pixels
MANY = 100  # groups of k-means where it is not told how many there are


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  flags.DEFINE_string('workdir', None, 'A trained run.', flag_values=values)
  flags.DEFINE_string('split', 'unseen', 'The split.', flag_values=values)
  flags.DEFINE_string(
    'out', None, 'Folder [workdir/analysis/discovery].', flag_values=values
  )


def pixels(images: np.ndarray) -> np.ndarray:
  """Projects images [N, H, W, C] on their principal components [N, PIXELS]."""
  from sklearn.decomposition import PCA

  rows = images.reshape(len(images), -1).astype(np.float32) / 255
  count = min(PIXELS, *rows.shape)
  pca = PCA(count, svd_solver='randomized', random_state=SEED)
  return pca.fit_transform(rows).astype(np.float32)


def hdbscan(rows: np.ndarray) -> np.ndarray:
  """Groups rows [N, D] by HDBSCAN alone, its sizes as ours."""
  from sklearn.cluster import HDBSCAN

  found = HDBSCAN(groups.SMALLEST, min_samples=groups.CORE, copy=True)
  return found.fit_predict(rows)


def kmeans(rows: np.ndarray, count: int) -> np.ndarray:
  """Groups rows [N, D] into so many groups, or one a row."""
  from sklearn.cluster import KMeans

  count = min(count, len(rows))
  return KMeans(count, n_init=5, random_state=SEED).fit_predict(rows)


def table(
  spaces: dict[str, np.ndarray], truth: np.ndarray
) -> list[dict[str, Any]]:
  """Measures every way in every space [N, D] against the truth [N]."""
  classes = len(np.unique(truth))

  def described(of: np.ndarray, rows: np.ndarray) -> Groups:
    return groups.describe(rows, of, rows)

  ways: dict[str, Callable[[np.ndarray], Groups]] = {
    'discover': groups.find,
    'HDBSCAN': lambda rows: described(hdbscan(rows), rows),
    'k-means, right k': lambda rows: described(kmeans(rows, classes), rows),
    f'k-means, {MANY}': lambda rows: described(kmeans(rows, MANY), rows),
  }
  return [
    {'groups by': way, 'of': space, **groups.agreement(find(rows), truth)}
    for space, rows in spaces.items()
    for way, find in ways.items()
  ]


def main(values: flags.FlagValues) -> None:
  """Runs the command."""
  host.show_log(logging.WARNING)
  if not values.workdir:
    raise InputError('--workdir is missing: the folder of a trained run')
  workdir = pathlib.Path(values.workdir)
  encoder = checkpoints.load_encoder(workdir)
  untrained = checkpoints.untrained_encoder(workdir)
  data = experiment.load_data(encoder.config, workdir)
  if not len(data.splits.get(values.split, ())):
    raise InputError(f'{workdir}: its split {values.split!r} holds no image')
  at = data.splits[values.split]
  images = data.images[at]
  measures = data.measures_of(at)
  spaces = {
    'embeddings': encoder.embed(images, measures=measures),
    'untrained encoder': untrained.embed(images, measures=measures),
    'raw pixels': pixels(images),
  }
  matrix = store.load_whitening(workdir, encoder.step)
  if matrix is not None:
    spaces['not whitened'] = whitening.invert(matrix, spaces['embeddings'])
  lines = table(spaces, data.labels[at])
  found = Result(
    shown=[Shown(f'discovery: {len(images):,} images, {values.split}', lines)],
    tables={'discovery.csv': lines},
    announced={'discovery.csv': ''},
  )
  out = pathlib.Path(values.out or workdir / 'analysis' / 'discovery')
  result.show('discovery', found)
  result.write(found, out)


if __name__ == '__main__':
  define(flags.FLAGS)
  command.run(lambda argv: main(flags.FLAGS), fast=True)
