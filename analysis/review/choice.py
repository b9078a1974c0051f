"""Orders images for review: what one decision would settle, most useful first.

A `View` is an ordered list with a line: the rows above it are about to be taken
together, those below follow by likeness, so that moving the line grows or
shrinks what is taken.
"""

from typing import NamedTuple

import numpy as np

from analysis.review.refit import Predicted
from analysis.review.store import UNDECIDED, State

MOST = 300  # rows above the line at first: what a person looks over at most
FURTHER = 2000  # rows below it
SURE = 0.9  # mean confidence of the rows above the line of a class
FEWEST = 3  # rows of a set worth showing as one
LISTED = 400  # sets
PREDICTED = 3.0  # weight of alike predictions; alike images have 1
# The power of a group's cohesion that stands for the share of its images that
# are of one class, where no class is known yet.
ALIKE = 4.0


class Set(NamedTuple):
  """Undecided images that are likely of one class."""

  kind: str  # 'group' or 'class'
  key: int  # number of the group, or index into the predictions' names
  name: str  # the suggested class, or ''
  images: int
  likely: float  # images above its line that one name would fit


class View(NamedTuple):
  """An ordered list, and how many of its rows are above the line."""

  rows: np.ndarray  # [M]
  line: int
  name: str  # suggested


def sets(
  state: State, predicted: Predicted, embedding: np.ndarray
) -> list[Set]:
  """Lists groups and predicted classes, the most useful decision first.

  That is by how many images one decision would likely settle: those that the
  suggested name fits or, of a group for which no class is known, its size by a
  power of its cohesion.
  """
  left = np.flatnonzero(state.label == UNDECIDED)
  found = [
    *_groups(state, predicted, embedding, left),
    *_classes(predicted, left),
  ]
  found.sort(key=lambda one: -one.likely)
  return found[:LISTED]


def _groups(
  state: State, predicted: Predicted, embedding: np.ndarray, left: np.ndarray
) -> list[Set]:
  """Lists the groups with enough undecided rows `left`."""
  rows = left[state.group[left] >= 0]
  order = np.argsort(state.group[rows], kind='stable')
  rows = rows[order]
  present, starts = np.unique(state.group[rows], return_index=True)
  found = []
  for group, some in zip(present, np.split(rows, starts[1:]), strict=False):
    if len(some) < FEWEST:
      continue
    name, agreed = suggestion(predicted, some)
    share = agreed / len(some)
    if not name:
      share = _cohesion(embedding[some]) ** ALIKE
    found.append(
      Set('group', int(group), name, len(some), share * min(len(some), MOST))
    )
  return found


def _cohesion(rows: np.ndarray) -> float:
  """Computes the mean cosine of unit rows [M, D] to their mean."""
  return float(np.linalg.norm(rows.mean(axis=0)))


def _classes(predicted: Predicted, left: np.ndarray) -> list[Set]:
  """Lists the classes that undecided rows `left` are predicted as."""
  first = predicted.first[left]
  found = []
  for i in np.unique(first[first >= 0]):
    sure = np.sort(predicted.confidence[left[first == i]])[::-1]
    likely = float(sure[: line(sure)].sum())
    found.append(Set('class', int(i), predicted.names[i], len(sure), likely))
  return found


def suggestion(predicted: Predicted, rows: np.ndarray) -> tuple[str, float]:
  """Names the class that rows are most likely of, and how many are."""
  total = predicted.chance[rows].sum(axis=0)
  if not total.any():
    return '', 0.0
  return predicted.names[int(total.argmax())], float(total.max())


def likeliest(predicted: Predicted, rows: np.ndarray, count: int) -> list[str]:
  """Lists the `count` classes that rows are likeliest of, if any."""
  total = predicted.chance[rows].sum(axis=0)
  order = np.argsort(-total, kind='stable')[:count]
  return [predicted.names[i] for i in order if total[i] > 0.0]


def line(confidence: np.ndarray) -> int:
  """Puts the line below the most rows of which SURE are likely right.

  Args:
    confidence: [M], descending.
  """
  if not len(confidence):
    return 0
  mean = np.cumsum(confidence) / np.arange(1, len(confidence) + 1)
  return int(np.clip(np.sum(mean >= SURE), 1, MOST))


def of_class(state: State, predicted: Predicted, key: int) -> View:
  """Orders the undecided rows predicted as a class, the surest first."""
  rows = np.flatnonzero((state.label == UNDECIDED) & (predicted.first == key))
  rows = rows[np.argsort(-predicted.confidence[rows], kind='stable')]
  return View(rows, line(predicted.confidence[rows]), predicted.names[key])


def of_group(
  state: State, predicted: Predicted, embedding: np.ndarray, key: int
) -> View:
  """Orders a group's undecided rows from its centre, then what is like them.

  Both by the cosine to the group's mean, and PREDICTED times that of the
  chances to the group's mean chances: growth passes images by that look alike
  but are surely of another class.
  """
  left = state.label == UNDECIDED
  rows = np.flatnonzero(left & (state.group == key))
  if not len(rows):
    return View(rows, 0, '')
  name, _ = suggestion(predicted, rows)
  near = _cosines(embedding, rows) + PREDICTED * _cosines(
    predicted.chance, rows
  )
  rows = rows[np.argsort(-near[rows], kind='stable')]
  left[rows] = False
  return View(_and_like(rows, near, left), len(rows), name)


def _cosines(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Computes cosines of all values [N, D] to the mean of some; 0 of zeros."""
  centre = values[rows].mean(axis=0)
  length = np.sqrt(np.einsum('nd,nd->n', values, values))
  length *= np.linalg.norm(centre)
  return (values @ centre) / np.where(length > 0.0, length, 1.0)


def like(
  state: State, predicted: Predicted, embedding: np.ndarray, rows: np.ndarray
) -> View:
  """Orders what is most like some rows after them."""
  left = state.label == UNDECIDED
  left[rows] = False
  name, _ = suggestion(predicted, rows)
  near = embedding @ embedding[rows].mean(axis=0)
  return View(_and_like(rows, near, left), len(rows), name)


def _and_like(
  rows: np.ndarray, near: np.ndarray, left: np.ndarray
) -> np.ndarray:
  """Puts the rows `left` [N] bool after others, the nearest first."""
  others = np.flatnonzero(left)
  near = near[others]
  count = min(FURTHER, len(others))
  if count < len(others):
    first = np.argpartition(-near, count)[:count]
    others, near = others[first], near[first]
  return np.concatenate([rows, others[np.argsort(-near, kind='stable')]])


def decided(state: State, embedding: np.ndarray, name: int) -> View:
  """Orders the rows of a decided name, the farthest from their mean first."""
  rows = np.flatnonzero(state.label == name)
  if not len(rows):
    return View(rows, 0, state.names[name])
  near = embedding[rows] @ embedding[rows].mean(axis=0)
  return View(rows[np.argsort(near, kind='stable')], 0, state.names[name])


def drawn(state: State, rows: np.ndarray) -> View:
  """Keeps the order of a draw [K], without what is decided."""
  return View(rows[state.label[rows] == UNDECIDED], 0, '')


def unsure(
  state: State, predicted: Predicted, density: np.ndarray, count: int
) -> View:
  """Selects the rows whose single decisions would teach the most.

  The least margin where images are dense (Settles and Craven 2008, equation 13,
  of the margin in place of the entropy), one of each group before a second.

  Args:
    state: what is decided.
    predicted: of all rows.
    density: [N] likeness of each row to its neighbours, above 0.
    count: rows to select.
  """
  rows = np.flatnonzero(state.label == UNDECIDED)
  gain = (1.0 - predicted.margin[rows]) * density[rows]
  rows = rows[np.argsort(-gain, kind='stable')]
  group = state.group[rows]
  turn = np.zeros(len(rows), int)  # how many of its group come before a row
  order = np.argsort(group, kind='stable')
  _, starts, sizes = np.unique(
    group[order], return_index=True, return_counts=True
  )
  turn[order] = np.arange(len(rows)) - np.repeat(starts, sizes)
  rows = rows[np.argsort(turn, kind='stable')][:count]
  return View(rows, 0, '')
