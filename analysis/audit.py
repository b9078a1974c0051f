"""Which labels are doubtful, and which images are all but the same.

`python -m analysis.audit --workdir=DIR`. Labels are judged among the train, val
and test images, which are of the classes that training saw; near-duplicates
are looked for in all splits.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from analysis import gallery
from analysis.figures import audit_figures, figures
from analysis.files import inputs, tables
from analysis.files.inputs import Embeddings, Source
from analysis.measures import nearest, suspects
from plankton_jax.errors import InputError

SHOWN = 24  # in a figure
LISTED = 5  # neighbours of each image in the table

Row = dict[str, Any]


class Rows(NamedTuple):
  """Splits of one source, one after another."""

  embedding: np.ndarray  # [N, D]
  name: np.ndarray  # [N] class; empty for an image without label
  split: np.ndarray  # [N]
  id: np.ndarray  # [N]


def together(source: str, splits: dict[str, Embeddings]) -> Rows:
  """The rows of the splits, in their order.

  Raises:
    InputError: splits of different dimensions.
  """
  dims = [rows.embedding.shape[1] for rows in splits.values()]
  if len(set(dims)) > 1:
    raise InputError(
      f'{source}: {", ".join(splits)} have {dims} dimensions; embed all by one'
      ' run'
    )
  parts = [
    (
      rows.embedding,
      np.array([*rows.class_names, ''], object)[rows.label],
      np.full(len(rows.id), split, object),
      rows.id.astype(object),
    )
    for split, rows in splits.items()
  ]
  return Rows(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def doubtful(source: str, rows: Rows, near: np.ndarray) -> list[Row]:
  """Every image that can be judged, the most doubtful first, as a table.

  `near` [N, K] are the nearest other rows of each.
  """
  classes, label, counts = np.unique(
    rows.name.astype(str), return_inverse=True, return_counts=True
  )
  if len(classes) < 2:
    print(f'audit: {source}: all images are of one class: none is judged')
    return []
  if (counts == 1).any():
    alone = ', '.join(classes[counts == 1])
    print(f'audit: {source}: alone in its class, so not judged: {alone}')
  ranked = suspects.rank(near, rows.embedding, label)
  table = []
  for place, i in enumerate(ranked.row):
    listed = near[i, :LISTED]
    names = [f'neighbour_{j}' for j in range(1, len(listed) + 1)]
    table.append(
      {
        'source': source,
        'rank': place + 1,
        'id': rows.id[i],
        'split': rows.split[i],
        'label': rows.name[i],
        'suggested': classes[ranked.suggested[place]],
        'score': ranked.score[place],
        'others': ranked.others[place],
        'margin': ranked.margin[place],
        **dict(zip(names, rows.id[listed], strict=True)),
        **{
          f'{name}_label': label
          for name, label in zip(names, rows.name[listed], strict=True)
        },
      }
    )
  return table


def twins(source: str, rows: Rows, found: suspects.Pairs) -> list[Row]:
  """Pairs of near-duplicates, the closest first, as a table."""
  return [
    {
      'source': source,
      'rank': place,
      'distance': distance,
      'ratio': ratio,
      'across_splits': rows.split[a] != rows.split[b],
      **{
        f'{field}_{side}': getattr(rows, name)[i]
        for side, i in (('a', a), ('b', b))
        for field, name in (('id', 'id'), ('split', 'split'), ('label', 'name'))
      },
    }
    for place, (a, b, distance, ratio) in enumerate(zip(*found, strict=True), 1)
  ]


def draw(
  source: Source,
  suspected: list[Row],
  pairs: list[Row],
  out: pathlib.Path,
) -> None:
  """The first of either list as pictures; says so where there are none."""
  try:
    read = gallery.reader(source)
  except InputError as error:
    print(f'audit: {error}')
    return
  file = f'audit_{source.name}'
  for name, figure in (
    (file, audit_figures.labels(source.name, suspected[:SHOWN], read)),
    (f'{file}_pairs', audit_figures.pairs(source.name, pairs[:SHOWN], read)),
  ):
    if figure is not None:
      figures.save(figure, out, name, citations=[source.config['citation']])


def analyse(sources: list[Source], out: pathlib.Path) -> None:
  """Ranks and draws; audit.csv, audit_duplicates.csv, audit_SOURCE*.png, ….

  Labels of the unseen split are not judged: the embedding never learnt them.
  """
  suspected: list[Row] = []
  pairs: list[Row] = []
  summary: list[Row] = []
  for source in sources:
    found = {
      split: inputs.labelled(source, split, 'audit')
      for split in source.splits
      if split != 'unseen'
    }
    judged = {split: rows for split, rows in found.items() if rows is not None}
    every = together(source.name, source.splits)
    distance, near = nearest.nearest(every.embedding, None, suspects.NEIGHBOURS)
    alike = twins(source.name, every, suspects.duplicates(distance, near))
    labels: list[Row] = []
    if judged:
      rows = together(source.name, judged)
      if len(rows.id) < len(every.id):
        _, near = nearest.nearest(rows.embedding, None, suspects.NEIGHBOURS)
      labels = doubtful(source.name, rows, near)
    else:
      print(f'audit: {source.name}: no labels to judge')
    draw(source, labels, alike, out)
    suspected += labels
    pairs += alike
    summary.append(
      {
        'source': source.name,
        'images judged': len(labels),
        'mostly among others': sum(row['others'] > 0.5 for row in labels),
        'near-duplicates': len(alike),
        'across splits': sum(row['across_splits'] for row in alike),
        'of two labels': sum(row['label_a'] != row['label_b'] for row in alike),
      }
    )
  tables.show(summary, 'audit: labels and pairs of near-duplicates')
  tables.write_json(out / 'audit.json', summary)
  tables.write_csv(out / 'audit.csv', suspected)
  tables.write_csv(out / 'audit_duplicates.csv', pairs)


if __name__ == '__main__':
  inputs.main(analyse)
