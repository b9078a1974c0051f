"""Finds doubtful labels and near-duplicate images.

Both come from the nearest neighbours of every image among all others.
"""

from typing import NamedTuple

import numpy as np

from analysis.measures import classes

NEIGHBOURS = 10
# Of images spread evenly in m dimensions about (K − 1) / 3^m have another that
# near by chance: 0.3 % at m = 7.4, which is that of a trained embedding of
# plankton images (Levina and Bickel 2004). There 9 in 10 copies of 5 % less
# contrast are found and 6 in 10 of JPEG quality 90, but 1 in 10 of those that
# are shifted by a pixel.
CLOSE = 1.0 / 3.0


class Suspects(NamedTuple):
  """Rows [R] by how doubtful their label is, the most doubtful first."""

  row: np.ndarray
  suggested: np.ndarray  # the label that its neighbours suggest
  score: np.ndarray  # 0 … 1
  others: np.ndarray  # share of its neighbours in other classes
  margin: np.ndarray  # distance to its own centre less that to the suggested


def rank(
  rows: np.ndarray, embedding: np.ndarray, label: np.ndarray
) -> Suspects:
  """Ranks rows of two classes or more by their neighbours `rows` [N, K].

  The score is the share of other classes among the K nearest, with one more
  vote of the class centres: (K · others + (1 + m) / 2) / (K + 1), where
  m = (d_own − d_other) / (d_own + d_other) in −1 … 1 of the distances to the
  centre of its own class, without itself, and to the nearest other. Neighbours
  thus decide, and centres break ties. In a class of fewer than K + 1 images
  only as many neighbours count as the class could provide; an image alone in
  its class cannot be judged and is left out.
  """
  present, counts, means = classes.centroids(embedding, label)
  members = np.searchsorted(present, label)
  size = counts[members]
  asked = np.minimum(rows.shape[1], size - 1)
  # Neighbours that do not count go to a class of their own.
  voters = np.where(np.arange(rows.shape[1]) < asked[:, None], rows, len(label))
  of = np.append(members, len(present))
  parts = [
    _judge(embedding[at], means, size[at], members[at], of[voters[at]])
    for at in classes.blocks(len(label), len(present))
  ]
  own, own_votes, suggested, to_suggested, other = (
    np.concatenate(part) for part in zip(*parts, strict=True)
  )
  with np.errstate(divide='ignore', invalid='ignore'):
    others = 1.0 - own_votes / asked
    gap = np.where(own + other > 0, (own - other) / (own + other), 0.0)
  score = (asked * others + (1.0 + gap) / 2.0) / (asked + 1.0)
  judged = np.flatnonzero(asked > 0)
  order = judged[np.argsort(-score[judged], kind='stable')]
  return Suspects(
    order,
    present[suggested[order]],
    score[order],
    others[order],
    (own - to_suggested)[order],
  )


class _Judged(NamedTuple):
  """Holds what neighbours and class centres say of some rows, [B] each."""

  own: np.ndarray  # distance to the centre of the own class, without the row
  own_votes: np.ndarray
  suggested: np.ndarray  # the class with most votes of the others
  to_suggested: np.ndarray  # distance to its centre
  other: np.ndarray  # distance to the nearest other centre


def _judge(
  embedding: np.ndarray,
  means: np.ndarray,
  size: np.ndarray,
  members: np.ndarray,
  voters: np.ndarray,
) -> _Judged:
  """Judges a block of rows [B, D] by centres [C, D] and votes.

  Args:
    embedding: [B, D].
    means: [C, D].
    size: [B] images of the class of each row.
    members: [B] its class.
    voters: [B, K] classes of its neighbours; C for one that does not count.
  """
  at = np.arange(len(members))
  count = len(means) + 1
  flat = (at[:, None] * count + voters).ravel()
  voted = np.bincount(flat, minlength=len(at) * count).reshape(-1, count)
  voted = voted[:, :-1]
  far = classes.distances(embedding, means)
  # ‖x − (n c − x) / (n − 1)‖ = n / (n − 1) ‖x − c‖: the centre without itself.
  with np.errstate(divide='ignore', invalid='ignore'):
    own = far[at, members] * size / (size - 1)
  own_votes = voted[at, members].copy()
  voted[at, members] = -1
  far[at, members] = np.inf
  # Most votes; ties go to the nearest centre.
  most = voted == voted.max(axis=1, keepdims=True)
  suggested = np.where(most, far, np.inf).argmin(axis=1)
  return _Judged(own, own_votes, suggested, far[at, suggested], far.min(axis=1))


class Pairs(NamedTuple):
  """Near-duplicates [P], first those closest relative to their surroundings."""

  first: np.ndarray  # rows, the lower one
  second: np.ndarray
  distance: np.ndarray
  ratio: np.ndarray  # to the distance at which either has K neighbours


def duplicates(distance: np.ndarray, rows: np.ndarray) -> Pairs:
  """Finds pairs that lie far closer than the images around them.

  Takes the K nearest of every row, [N, K]. A pair counts if its distance is at
  most `CLOSE` times that of both images' K-th neighbours. It is then among
  the K nearest of both, so that no pair is missed unless an image has K or more
  copies.
  """
  if not rows.shape[1]:
    none, nowhere = np.zeros(0, int), np.zeros(0)
    return Pairs(none, none, nowhere, nowhere)
  reach = distance[:, -1]
  reach = np.minimum(reach[:, None], reach[rows])
  at, place = np.nonzero(distance <= CLOSE * reach)
  near = rows[at, place]
  pairs, once = np.unique(
    np.sort(np.stack([at, near], axis=1), axis=1), axis=0, return_index=True
  )
  far, reach = distance[at, place][once], reach[at, place][once]
  ratio = np.divide(far, reach, out=np.zeros_like(far), where=reach > 0)
  order = np.lexsort((far, ratio))
  first, second = pairs[order].T
  return Pairs(first, second, far[order], ratio[order])
