"""The points of the interactive map, as the page's script reads them."""

import base64
import csv
import pathlib
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_hex

from analysis import projection
from analysis.files.inputs import Embeddings, Source

NEAREST = 10
MOST = 12_000  # points of a source on the map; more are sampled
SEED = 0


class Points(NamedTuple):
  """A source's points, split by split in the order of `projection.shown`."""

  xy: np.ndarray  # [N, 2] float32
  name: list[str]  # [N] class
  split: list[str]  # [N]
  id: list[str]  # [N]
  nearest: np.ndarray  # [N, K] which points are nearest in the embedding
  distance: np.ndarray  # [N, K] and how far they are there
  left_out: int  # rows that the map has no room for


def nearest(embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The NEAREST other rows of each row [N, D] and their Euclidean distances.

  [N, K] each; K is less where there are fewer rows.
  """
  from sklearn.neighbors import NearestNeighbors

  count = min(NEAREST, len(embedding) - 1)
  if count < 1:
    return np.zeros((len(embedding), 0), int), np.zeros((len(embedding), 0))
  search = NearestNeighbors(n_neighbors=count, algorithm='brute')
  distance, rows = search.fit(embedding).kneighbors()
  return rows, distance


def coordinates(path: pathlib.Path) -> dict[tuple[str, str], np.ndarray]:
  """What `analysis.projection` wrote: [N, 2] by source and split."""
  found: dict[tuple[str, str], list[tuple[float, float]]] = {}
  with path.open(newline='', encoding='utf-8') as file:
    for row in csv.DictReader(file):
      at = (float(row['x']), float(row['y']))
      found.setdefault((row['source'], row['split']), []).append(at)
  return {key: np.array(xy, np.float32) for key, xy in found.items()}


def place(source: Source, planes: dict[tuple[str, str], np.ndarray]) -> Points:
  """A source's points with their neighbours among one another."""
  splits = projection.shown(source)
  xy = np.concatenate([planes[source.name, split] for split in splits])
  embedding = np.concatenate([rows.embedding for rows in splits.values()])
  keep = np.arange(len(xy))
  if len(keep) > MOST:
    keep = np.random.default_rng(SEED).choice(len(xy), MOST, replace=False)
    keep.sort()
  rows, distance = nearest(embedding[keep])
  name = [str(n) for found in splits.values() for n in named(found)]
  split = [s for s, found in splits.items() for _ in found.id]
  ids = [str(key) for found in splits.values() for key in found.id]
  return Points(
    xy[keep],
    [name[i] for i in keep],
    [split[i] for i in keep],
    [ids[i] for i in keep],
    rows,
    distance,
    len(xy) - len(keep),
  )


def named(found: Embeddings) -> np.ndarray:
  """The class name of each row; label -1 is the last entry."""
  names = np.array([*found.class_names, projection.UNLABELLED], object)
  return names[found.label]


def payload(
  sources: list[Source], points: list[Points], images: list[dict[str, int]]
) -> dict[str, Any]:
  """The map as JSON; `images` gives each source's pictures by id, if any."""
  marks = projection.classes(projection.shown(source) for source in sources)
  colours = projection.colours(marks)
  names = [*marks, projection.UNLABELLED]
  splits = list(dict.fromkeys(s for one in points for s in one.split))
  return {
    'classes': [
      {'name': n, 'colour': to_hex(colours[n]), 'unseen': marks.get(n) == 'D'}
      for n in names
    ],
    'splits': splits,
    'sources': [
      {
        'name': source.name,
        'x': packed(one.xy[:, 0], '<f4'),
        'y': packed(one.xy[:, 1], '<f4'),
        'class': packed([names.index(n) for n in one.name], '<u2'),
        'split': packed([splits.index(s) for s in one.split], '<u2'),
        'image': packed([known.get(key, -1) for key in one.id], '<i4'),
        'id': one.id,
        'nearest': packed(one.nearest, '<u4'),
        'distance': packed(one.distance, '<f4'),
      }
      for source, one, known in zip(sources, points, images, strict=True)
    ],
  }


def packed(values: Any, dtype: str) -> str:
  """Numbers as base64 of little-endian `dtype`."""
  return base64.b64encode(np.asarray(values, dtype).tobytes()).decode()
