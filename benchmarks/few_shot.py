"""Measures encoders on classes that none of them has seen, by few examples.

  python -m benchmarks.few_shot --path=FOLDER --encoders=NAME,WORKDIR,... \
    [--classes=CLASS,CLASS] [--shots=1,5,20] [--draws=20] [--out=runs/few_shot]

An encoder is a bundled one's name, an exported folder, or a run's workdir. The
table is written to few_shot.csv in --out too. Without --classes all classes of
the folder are taken that none of the encoders was trained on. `gain` is in
macro MAP@R over the first encoder, with its interval over classes.
"""

import logging
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from sklearn import metrics

from analysis.files import folders, tables
from analysis.files.inputs import Embeddings
from analysis.measures import classes
from benchmarks import cells
from plankton_jax import checkpoints, host, retrieval
from plankton_jax.cli import command
from plankton_jax.data.sources import folder
from plankton_jax.data.sources.objects import Objects
from plankton_jax.encoder import Encoder
from plankton_jax.errors import InputError
from plankton_jax.nn import transfer


class Measured(NamedTuple):
  """An encoder on classes that it has not seen."""

  ranked: Mapping[str, float]  # 'R@1' and 'MAP@R', of all images
  by_class: list[float]  # MAP@R of each class
  # By 'centre k' and 'example k': balanced accuracy of each draw.
  accuracy: Mapping[str, list[float]]


def measure(
  rows: Embeddings, *, shots: Sequence[int], draws: int, seed: int = 0
) -> Measured:
  """Measures retrieval, and labelling by k examples of each class.

  A draw takes k examples of every class that has more images, and labels all
  others of these classes, by the nearest centre of a class's examples (Snell,
  Swersky and Zemel 2017, arXiv:1703.05175) and by the nearest example. Every
  encoder is given the same draws.

  Args:
    rows: labelled embeddings.
    shots: each k.
    draws: how many of each.
    seed: of the draws.
  """
  queries, each = retrieval.per_query(rows.embedding, rows.label, ks=(1,))
  accuracy: dict[str, list[float]] = {}
  for k in shots:
    for draw in range(draws):
      rng = np.random.default_rng((seed, k, draw))
      examples, others = split(rows.label, k, rng)
      for way, guess in (('centre', by_centre), ('example', by_example)):
        score = math.nan
        if len(others):
          label = guess(
            rows.embedding[examples],
            rows.label[examples],
            rows.embedding[others],
          )
          score = metrics.balanced_accuracy_score(rows.label[others], label)
        accuracy.setdefault(f'{way} {k}', []).append(float(score))
  of = rows.label[queries]
  found = retrieval.averages(each, of)
  ranked = {'R@1': found['recall_at_1'], 'MAP@R': found['map_at_r']}
  by_class = [
    float(each['map_at_r'][of == label].mean()) for label in np.unique(of)
  ]
  return Measured(ranked, by_class, accuracy)


def split(
  labels: np.ndarray, k: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Draws k rows of every class that has more, and lists its other rows."""
  examples, others = [np.zeros(0, int)], [np.zeros(0, int)]
  for label in np.unique(labels):
    order = rng.permutation(np.flatnonzero(labels == label))
    if len(order) > k:
      examples.append(order[:k])
      others.append(order[k:])
  return np.concatenate(examples), np.concatenate(others)


def by_centre(
  examples: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> np.ndarray:
  """Labels rows [N, D] by the nearest mean of a class's examples, [N]."""
  present, _, means = classes.centroids(examples, labels)
  return present[classes.distances(rows, means).argmin(axis=1)]


def by_example(
  examples: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> np.ndarray:
  """Labels rows [N, D] by the nearest example, [N]."""
  near = classes.distances(rows, examples.astype(np.float64))
  return labels[near.argmin(axis=1)]


def unseen(
  images: Objects, encoders: Mapping[str, Encoder], wanted: Iterable[str] = ()
) -> Objects:
  """Takes the images of classes that no encoder was trained on.

  Args:
    images: of the folder.
    encoders: by name.
    wanted: the classes to take; all by default.

  Raises:
    InputError: a wanted class is not there, or was seen; or fewer than two are
      left.
  """
  wanted = list(wanted)
  for name in wanted:
    if name not in images.class_names:
      raise InputError(f'--classes: {name} is no class of {images.place}')
  chosen = set(wanted or images.class_names)
  for name, encoder in encoders.items():
    seen = transfer.common(_seen(encoder), chosen)
    if seen and wanted:
      raise InputError(
        f'--encoders: {name} was trained on {", ".join(seen)}: they are not'
        ' unseen'
      )
    chosen -= set(seen)
  if len(chosen) < 2:
    raise InputError(
      f'{images.place}: fewer than two classes are unseen to every encoder'
    )
  names = images.class_names
  return images.take(
    [i for i, c in enumerate(images.labels) if names[c] in chosen]
  )


def _seen(encoder: Encoder) -> frozenset[str]:
  before = encoder.config['encoder'].get('pretrained', '')
  return transfer.seen_classes(before) | set(encoder.class_names)


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  flags.DEFINE_string(
    'path', None, 'Folder of images, one folder a class.', flag_values=values
  )
  flags.DEFINE_list('encoders', [], 'Which to measure.', flag_values=values)
  flags.DEFINE_list('classes', [], 'On which [all].', flag_values=values)
  flags.DEFINE_list(
    'shots', ['1', '5', '20'], 'Examples a class.', flag_values=values
  )
  flags.DEFINE_integer(
    'draws', 20, 'How often they are drawn.', flag_values=values
  )
  flags.DEFINE_string(
    'out', 'runs/few_shot', 'Folder of the results.', flag_values=values
  )


def lines(found: Mapping[str, Measured]) -> list[dict[str, Any]]:
  """Makes the rows of few_shot.csv: means and half their 95 % intervals."""
  table = []
  for name, one in found.items():
    row: dict[str, Any] = {'encoder': name, **one.ranked}
    for column, scores in _sampled(one, found).items():
      mean, half = cells.interval(scores)
      row |= {column: mean, f'{column} ±': half}
    table.append(row)
  return table


def _sampled(
  one: Measured, found: Mapping[str, Measured]
) -> dict[str, list[float]]:
  """Lists the measures whose means have an interval."""
  first, *others = (every.by_class for every in found.values())
  gain = {'gain': [*np.subtract(one.by_class, first)]} if others else {}
  return {'macro MAP@R': one.by_class, **gain, **one.accuracy}


def shown(found: Mapping[str, Measured]) -> list[dict[str, str]]:
  """Formats the rows for the terminal."""
  return [
    {
      'encoder': name,
      **{column: cells.shown([x]) for column, x in one.ranked.items()},
      **{column: cells.shown(x) for column, x in _sampled(one, found).items()},
    }
    for name, one in found.items()
  ]


def main(values: flags.FlagValues) -> None:
  """Measures each encoder; prints and writes the table."""
  if not values.path or not values.encoders:
    raise InputError('--path=FOLDER and --encoders=NAME,... are needed')
  if not all(k.isdigit() and int(k) for k in values.shots) or values.draws < 1:
    raise InputError('--shots and --draws must be whole numbers from 1')
  host.show_log(logging.WARNING)
  encoders = {n: checkpoints.load_encoder(n) for n in values.encoders}
  listed = folder.scan_classes(values.path, field='--path').images
  images = unseen(listed, encoders, values.classes)
  found = {
    name: measure(
      folders.embed(encoder, images, desc=name).rows,
      shots=[int(k) for k in values.shots],
      draws=values.draws,
    )
    for name, encoder in encoders.items()
  }
  count = len(np.unique(images.labels))
  tables.show(
    shown(found),
    f'{len(images.ids):,} images of {count} unseen classes; balanced accuracy'
    ' by k examples a class, mean ± 95 % interval over draws; of macro MAP@R,'
    ' and its gain over the first encoder, over classes',
  )
  out = pathlib.Path(values.out)
  out.mkdir(parents=True, exist_ok=True)
  print(tables.write_csv(out / 'few_shot.csv', lines(found)))


if __name__ == '__main__':
  define(flags.FLAGS)
  command.run(lambda argv: main(flags.FLAGS), fast=True)
