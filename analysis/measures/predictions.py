"""Collects the prediction of each new image, and tabulates predictions.

A `Prediction` holds all that another format needs; `rows` is an example.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.measures.labeller import Labeller, Labels
from analysis.measures.lineages import Placed
from analysis.measures.openset import no_class
from plankton_jax.data.sources.objects import Object

NEIGHBOURS = 5
# What a table says of an object, and the column that repeats it.
TABLED = {
  'sample': 'sample',
  'acquisition': 'acquisition',
  'status': 'status',
  'taxon': 'annotated_as',
}


class Neighbour(NamedTuple):
  """A labelled image near a new one."""

  id: str
  name: str  # its class
  distance: float  # Euclidean, in the embedding


class Prediction(NamedTuple):
  """One image."""

  id: str  # its record's: path below a folder, or sample/acquisition/object
  item: Object  # what its source says of it
  name: str  # class, or openset.no_class
  confidence: float  # of the nearest class, if the image is of a known one
  nearest: str  # class whose centre is nearest
  second: str  # class with the next centre, or ''
  second_confidence: float
  distance: float  # from all classes, by measures.unknowns
  threshold: float  # beyond it the image is unknown; inf without thresholds
  neighbours: tuple[Neighbour, ...]  # nearest first, at most NEIGHBOURS
  placed: Placed | None = None  # where it is sure, if lineages are known

  @property
  def file(self) -> str:
    """Returns the image's path below its folder or in its export."""
    return self.item.image

  @property
  def object_id(self) -> str:
    """Returns EcoTaxa's id, or a file's path, without ending if unique so."""
    return self.item.object_id

  @property
  def known(self) -> bool:
    """Tells whether it is near enough; a class may be called `unknown`."""
    return self.distance <= self.threshold

  @property
  def taxon(self) -> str:
    """Names the class, or the node above it that is sure; '' if unknown."""
    if not self.known:
      return ''
    return self.placed.name if self.placed else self.name

  @property
  def score(self) -> float:
    """Returns the probability of what `taxon` names."""
    return self.placed.confidence if self.placed else self.confidence

  @property
  def ranked(self) -> list[tuple[str, float]]:
    """Lists `taxon` and the likeliest classes with their probabilities."""
    found = {self.nearest: self.confidence}
    if self.second:
      found[self.second] = self.second_confidence
    if self.taxon:
      found = {self.taxon: self.score} | found
      found[self.taxon] = self.score
    return list(found.items())


def collect(
  ids: Sequence[str],
  items: Sequence[Object],
  labeller: Labeller,
  labels: Labels,
  placed: Sequence[Placed | None] = (),
) -> list[Prediction]:
  """Collects a prediction for each of N images.

  `placed` gives the node of each, if the classes have lineages.
  """
  names, gallery = labeller.gallery.class_names, labeller.gallery
  keys, classes = gallery.id.tolist(), gallery.label.tolist()
  alone, none = len(names) < 2, no_class(names)
  found = []
  for id, item, node, first, sure, second, rest, far, limit, rows, gaps in zip(
    ids,
    items,
    placed or [None] * len(ids),
    *(part.tolist() for part in labels.arrays),
    strict=True,
  ):
    found.append(
      Prediction(
        id,
        item,
        names[first] if far <= limit else none,
        sure,
        names[first],
        '' if alone else names[second],
        rest,
        far,
        limit,
        tuple(
          Neighbour(keys[row], names[classes[row]], gap)
          for row, gap in zip(rows, gaps, strict=True)
        ),
        node,
      )
    )
  return found


def uncertain(found: Sequence[Prediction]) -> list[Prediction]:
  """Sorts the least certain first: the unknown by distance, then the others."""

  def key(one: Prediction) -> tuple[bool, float]:
    beyond = one.distance - one.threshold
    return one.known, one.confidence if one.known else -beyond

  return sorted(found, key=key)


def rows(found: Sequence[Prediction]) -> Iterator[dict[str, Any]]:
  """Tabulates predictions; neighbours become columns.

  Columns that a table gives are there if any image has a value.
  """
  given = [
    field for field in TABLED if any(getattr(one.item, field) for one in found)
  ]
  for one in found:
    line = {
      'file': one.file,
      'object_id': one.object_id,
      **{TABLED[field]: getattr(one.item, field) for field in given},
      'class': one.name,
      'confidence': one.confidence,
      'nearest_class': one.nearest,
      'second_class': one.second,
      'second_confidence': one.second_confidence,
      'distance': one.distance,
      'threshold': one.threshold,
    }
    if one.placed:
      line |= {
        'taxon': one.taxon,
        'rank': one.placed.rank if one.known else '',
        'taxon_confidence': one.score,
      }
    for place, other in enumerate(one.neighbours, 1):
      line |= {
        f'neighbour_{place}': other.id,
        f'neighbour_{place}_class': other.name,
        f'neighbour_{place}_distance': other.distance,
      }
    yield line


def classes(
  labeller: Labeller, trained: Sequence[str], found: Sequence[Prediction]
) -> list[dict[str, Any]]:
  """Makes a line for each class: its labelled and its predicted images."""
  sure: dict[str, list[float]] = {}
  for one in found:
    if one.known:
      sure.setdefault(one.nearest, []).append(one.confidence)
  images = np.bincount(labeller.gallery.label).tolist()
  known = set(trained)
  lines = []
  for i, name in enumerate(labeller.gallery.class_names):
    own = sure.get(name, [])
    lines.append(
      {
        'class': name,
        'trained': name in known,
        'labelled': images[i],
        'predicted': len(own),
        'mean_confidence': float(np.mean(own)) if own else np.nan,
      }
    )
  return lines
