"""Nests the rows of the gallery and the audit as the page shows them."""

from collections.abc import Iterable, Mapping
from typing import Any

from analysis.measures import ranks

NEIGHBOURS = 4  # beside a doubtful image

Row = Mapping[str, Any]
Places = Mapping[str, Mapping[str, int]]  # of a picture, by source and id


def shown(rows: Iterable[Row]) -> list[Row]:
  """Selects the gallery's rows of the classes to show."""
  sizes: dict[tuple[str, str], dict[str, int]] = {}
  rows = list(rows)
  for row in rows:
    of_split = sizes.setdefault((row['source'], row['split']), {})
    of_split[row['class']] = row['images']
  names = {where: ranks.largest(of) for where, of in sizes.items()}
  return [
    row for row in rows if row['class'] in names[row['source'], row['split']]
  ]


def albums(rows: Iterable[Row], known: Places) -> list[dict[str, Any]]:
  """Nests an album for each source and split: classes, kinds, pictures."""
  found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
  for row in rows:
    classes = found.setdefault((row['source'], row['split']), {})
    one = classes.setdefault(
      row['class'],
      {'images': row['images'], 'kinds': {k: [] for k in ranks.KINDS}},
    )
    picture = {
      'id': row['id'],
      'class': row['true_class'],
      'distance': row['distance'],
      'picture': known[row['source']].get(row['id'], -1),
    }
    one['kinds'][row['kind']].append(picture)
  return [
    {'source': source, 'split': split, 'classes': classes}
    for (source, split), classes in found.items()
  ]


def images(row: Row) -> list[tuple[str, str]]:
  """Lists the pictures that a row of either table needs: ids and labels."""
  if 'id_a' in row:
    return [(row[f'id_{side}'], row[f'label_{side}']) for side in 'ab']
  names = [f'neighbour_{j}' for j in range(1, NEIGHBOURS + 1)]
  # With fewer neighbours these columns are missing or empty.
  near = [(row[name], row[f'{name}_label']) for name in names if row.get(name)]
  return [(row['id'], row['label']), *near]


def audits(
  labels: Iterable[Row], pairs: Iterable[Row], known: Places
) -> list[dict[str, Any]]:
  """Nests a list for each source and table: rows with their pictures."""
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
