"""The gallery's rows, nested as the page shows them."""

import csv
import pathlib
from collections.abc import Iterable
from typing import Any

from analysis import gallery

Row = dict[str, str]


def read(path: pathlib.Path) -> list[Row]:
  """What `analysis.gallery` wrote."""
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def nest(
  rows: Iterable[Row], known: dict[str, dict[str, int]]
) -> list[dict[str, Any]]:
  """An album a source and split: its classes, their kinds, their pictures.

  `known` gives the place of a picture by source and id.
  """
  albums: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
  for row in rows:
    classes = albums.setdefault((row['source'], row['split']), {})
    one = classes.setdefault(
      row['class'],
      {'images': int(row['images']), 'kinds': {k: [] for k in gallery.KINDS}},
    )
    picture = {
      'id': row['id'],
      'class': row['true_class'],
      'distance': float(row['distance']),
      'picture': known[row['source']].get(row['id'], -1),
    }
    one['kinds'][row['kind']].append(picture)
  return [
    {'source': source, 'split': split, 'classes': classes}
    for (source, split), classes in albums.items()
  ]
