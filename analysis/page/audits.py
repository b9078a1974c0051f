"""The doubtful labels and near-duplicates, as the page shows them."""

import csv
import pathlib
from collections.abc import Iterable
from typing import Any

from analysis import audit

NEIGHBOURS = 4  # beside a doubtful image

Row = dict[str, str]


def read(path: pathlib.Path | None) -> list[Row]:
  """The first rows of each source in what `analysis.audit` wrote, if it did."""
  if path is None:
    return []
  with path.open(newline='', encoding='utf-8') as file:
    rows = csv.DictReader(file)
    return [row for row in rows if int(row['rank']) <= audit.SHOWN]


def images(row: Row) -> list[tuple[str, str]]:
  """Ids of the pictures that a row of either table needs, and their labels."""
  if 'id_a' in row:
    return [(row[f'id_{side}'], row[f'label_{side}']) for side in 'ab']
  names = [f'neighbour_{j}' for j in range(1, NEIGHBOURS + 1)]
  # With fewer neighbours than that there are no such columns, or empty ones.
  near = [(row[name], row[f'{name}_label']) for name in names if row.get(name)]
  return [(row['id'], row['label']), *near]


def nest(
  labels: Iterable[Row],
  pairs: Iterable[Row],
  known: dict[str, dict[str, int]],
) -> list[dict[str, Any]]:
  """A list a source and table: its rows, each with its pictures.

  `known` gives the place of a picture by source and id.
  """
  found: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for kind, rows in (('labels', labels), ('pairs', pairs)):
    for row in rows:
      places = known[row['source']]
      pictures = [
        {'id': key, 'class': label, 'picture': places.get(key, -1)}
        for key, label in images(row)
      ]
      one = {'row': row, 'pictures': pictures}
      found.setdefault((row['source'], kind), []).append(one)
  return [
    {'source': source, 'kind': kind, 'rows': rows}
    for (source, kind), rows in found.items()
  ]
