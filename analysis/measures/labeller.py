"""Labels new images by the nearest class centre, or as unknown.

A class's centre is the mean of its labelled rows in the whitened embedding:
adding a class of a few examples adds a centre, and no encoder is trained.
Confidence is the softmax of −d² over a temperature, d the distances to the
centres (Snell, Swersky and Zemel 2017, arXiv:1703.05175, equation 2).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from analysis.files import inputs
from analysis.files.folders import Embedded
from analysis.files.inputs import Embeddings, Source
from analysis.measures import calibration, classes, openset, unknowns, whitened
from analysis.measures.unknowns import Seen
from plankton_jax.errors import InputError
from plankton_jax.neighbours import choice

NEIGHBOURS = 10  # of the novelty score


class Labeller(NamedTuple):
  """Labelled rows and what was fitted on validation images."""

  gallery: Embeddings  # label c is row c of the means; each class has rows
  seen: Seen  # the gallery in the whitened embedding
  temperature: float  # 1 where there was nothing to fit it on
  threshold: float  # of the novelty score; inf where there are too few


class Labels(NamedTuple):
  """The labels of N images."""

  nearest: np.ndarray  # [N] class whose centre is nearest
  confidence: np.ndarray  # [N] its probability, if the class is known
  second: np.ndarray  # [N] class with the next centre, if any
  second_confidence: np.ndarray  # [N]; 0 if there is one class
  distance: np.ndarray  # [N] from all classes, by measures.unknowns
  limit: np.ndarray  # [N] distance beyond which the image is unknown; or inf
  rows: np.ndarray  # [N, K] the nearest rows of the gallery
  row_distance: np.ndarray  # [N, K]
  how: str  # the way of the search for these rows

  @property
  def arrays(self) -> tuple[np.ndarray, ...]:
    """Returns the fields that have an entry for each image, in order."""
    return self[:-1]

  def take(self, rows: np.ndarray) -> 'Labels':
    """Selects images."""
    return Labels._make([*(array[rows] for array in self.arrays), self.how])


def gallery(
  source: Source, examples: Embedded | None
) -> tuple[Embeddings, np.ndarray, list[str]]:
  """Gathers train rows, rare ones if there are any, and examples.

  A class that several of these have gets the rows of all. Labels number the
  classes in order of their names; ids of examples begin with the name of their
  folder.

  Returns:
    The rows, which of them are not from train, and notes on what is left out.

  Raises:
    InputError: there are no labelled train images; an encoder without a run
      needs none beside examples.
  """
  splits: dict[str, Embeddings] = {}
  notes: list[str] = []
  if source.encoder is None or not examples:
    train, notes = inputs.labelled(source, 'train')
    if train is None:
      raise InputError(
        f'{source.name}: no labelled train images to predict from; embed images'
        ' in class folders, or an annotated export'
      )
    splits['train'] = train
  if inputs.RARE in source.splits:
    rare, missing = inputs.labelled(source, inputs.RARE)
    notes += missing
    if rare is not None:
      splits[inputs.RARE] = rare
  if examples:
    ids = np.array([example_id(examples, key) for key in examples.rows.id])
    splits['examples'] = examples.rows._replace(id=ids)
  every = inputs.together(source.name, splits)
  rows = inputs.numbered(every)
  return rows, np.flatnonzero(every.split != 'train'), notes


def example_id(examples: Embedded, key: str) -> str:
  """Names an example by its path from the folder above all examples."""
  return f'{examples.of.name}/{key}'


def split(
  source: Source, name: str, names: tuple[str, ...]
) -> tuple[Embeddings | None, list[str]]:
  """Selects a split's rows of the classes `names`, labelled by their index.

  Returns:
    The rows, None if there are none, and notes on what is left out.
  """
  rows, notes = inputs.labelled(source, name)
  if rows is None:
    return None, notes
  index = {name: i for i, name in enumerate(names)}
  label = np.array([index.get(name, -1) for name in rows.class_names])
  label = label.astype(np.int32)[rows.label]
  keep = label >= 0
  if not keep.any():
    return None, notes
  found = Embeddings(rows.embedding[keep], label[keep], rows.id[keep], names)
  return found, notes


def fit(
  gallery: Embeddings,
  examples: np.ndarray,
  val: Embeddings | None,
  *,
  acceptance: float,
) -> Labeller:
  """Fits temperature and threshold on images outside of the centres.

  These are the validation images and the gallery's rows `examples` [R], each
  left out of its own class. Where the gallery is examples alone, a part of them
  at a time is left out of the whole fit. Without any of them nothing is fitted.
  """
  of_val = None
  if val is None and len(examples) == len(gallery.label):
    seen, _, found, (rows, distance) = unknowns.fit_crosswise(
      gallery.embedding, gallery.label, neighbours=NEIGHBOURS
    )
  else:
    seen = unknowns.fit_rows(
      gallery.embedding, gallery.label, neighbours=NEIGHBOURS
    )
    of_val = None if val is None else unknowns.distances(seen, val.embedding)
    seen = unknowns.scaled(seen, of_val)
    rows, found = unknowns.distances_without(seen, examples)
    rows = rows[calibration.sample(len(rows), len(seen.space.classes))]
    distance = whitened.squared_without(
      seen.space, *whitened.means_without(seen.space, rows)
    )
  novelty = unknowns.score(seen, found).distance
  true = gallery.label[rows]
  if val is not None and of_val is not None:
    some = calibration.sample(len(val.label), len(seen.space.classes))
    distance = np.concatenate([squared(seen, val.embedding[some]), distance])
    held_out = unknowns.score(seen, of_val).distance
    novelty = np.concatenate([held_out, novelty])
    true = np.concatenate([val.label[some], true])
  if not len(true):
    return Labeller(gallery, seen, 1.0, math.inf)
  scale = calibration.temperature(-distance, true)
  limit = openset.threshold(novelty, acceptance)
  return Labeller(gallery, seen, scale, limit)


def of_run(source: Source, acceptance: float) -> tuple[Labeller, list[str]]:
  """Fits the classes of a run's labelled images, without test or examples.

  Returns:
    The labeller, and notes on what is left out.

  Raises:
    InputError: there are no labelled train images.
  """
  rows, added, notes = gallery(source, None)
  val, missing = split(source, 'val', rows.class_names)
  return fit(rows, added, val, acceptance=acceptance), notes + missing


def squared(seen: Seen, embedding: np.ndarray) -> np.ndarray:
  """Computes squared distances to the centres, [N, D] -> [N, C]."""
  rows = whitened.whiten(seen.space, embedding)
  return whitened.squared(seen.space, rows)


def squared_in_blocks(
  seen: Seen, embedding: np.ndarray
) -> Iterator[np.ndarray]:
  """Computes `squared` of so many rows at a time as `classes.blocks` says."""
  for block in classes.blocks(len(embedding), max(seen.space.means.shape)):
    yield squared(seen, embedding[block])


def guess(
  labeller: Labeller, embedding: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Finds each row's nearest centre; the class [N], and its probability [N]."""
  label, sure = [], []
  for apart in squared_in_blocks(labeller.seen, embedding):
    label.append(apart.argmin(axis=1))
    sure.append(calibration.confidence(-apart, labeller.temperature))
  return np.concatenate(label), np.concatenate(sure)


def label(
  labeller: Labeller, embedding: np.ndarray, *, count: int, way: str = 'auto'
) -> Labels:
  """Labels rows [N, D], with the `count` nearest rows of the gallery.

  `way` is that of `choice.nearest`.
  """
  found = []
  for apart in squared_in_blocks(labeller.seen, embedding):
    chance = calibration.softmax(-apart, labeller.temperature)
    at, first = np.arange(len(apart)), apart.argmin(axis=1)
    apart[at, first] = np.inf
    second = apart.argmin(axis=1)  # the first, where there is one class
    found.append(
      (first, chance[at, first], second, chance[at, second] * (second != first))
    )
  first, sure, second, rest = map(np.concatenate, zip(*found, strict=True))
  distance = unknowns.judge(labeller.seen, embedding).distance
  limit = np.full(len(first), labeller.threshold)
  near = choice.nearest(embedding, labeller.gallery.embedding, count, way=way)
  return Labels(
    first,
    sure,
    second,
    rest,
    distance,
    limit,
    near.rows,
    near.distance,
    near.how,
  )
