"""Lists doubtful labels and near-duplicate images.

`python -m analysis.audit --workdir=DIR`. Labels are judged among train, val and
test images, whose classes training saw; near-duplicates are sought in all
splits.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.figures import images
from analysis.figures.style import plt
from analysis.files import command, inputs, originals
from analysis.files.inputs import Rows, Source
from analysis.files.originals import Read
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import suspects
from plankton_jax.errors import InputError, shorten_list
from plankton_jax.neighbours import search

SHOWN = 24  # in a figure
BESIDE = 3  # neighbours of a doubtful image in the figure
GAP, LINE = 0.4, 1.8  # inches: between items, from line to line
LETTERS = 15  # of a heading above an image
LISTED = 5  # neighbours of each image in the table

Row = dict[str, Any]


def doubtful(
  source: str, rows: Rows, near: np.ndarray
) -> tuple[list[Row], list[str]]:
  """Lists every image that can be judged, the most doubtful first.

  `near` [N, K] are the nearest other rows of each.

  Returns:
    The table, and notes on images that cannot be judged.
  """
  classes, label, counts = np.unique(
    rows.name.astype(str), return_inverse=True, return_counts=True
  )
  if len(classes) < 2:
    return [], [f'{source}: all images are of one class: none is judged']
  notes = []
  if (counts == 1).any():
    alone = shorten_list(classes[counts == 1].tolist())
    notes.append(f'{source}: alone in its class, so not judged: {alone}')
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
  return table, notes


def twins(source: str, rows: Rows, found: suspects.Pairs) -> list[Row]:
  """Lists pairs of near-duplicates, the closest first."""
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


class Audited(NamedTuple):
  """The findings in one source."""

  source: Source
  labels: list[Row]  # the most doubtful first
  pairs: list[Row]  # the closest first
  notes: list[str]


def judge(source: Source) -> Audited:
  """Ranks the labels and the near-duplicates of one source.

  Labels of unseen and rare classes are not judged: training never saw them.
  """
  judged, notes = inputs.labelled_splits(
    source, [s for s in source.splits if s not in ('unseen', inputs.RARE)]
  )
  every = inputs.together(source.name, source.splits)
  distance, near = search.nearest(every.embedding, None, suspects.NEIGHBOURS)
  pairs = twins(source.name, every, suspects.duplicates(distance, near))
  if not judged:
    return Audited(
      source, [], pairs, [*notes, f'{source.name}: no labels to judge']
    )
  rows = inputs.together(source.name, judged)
  if len(rows.id) < len(every.id):
    _, near = search.nearest(rows.embedding, None, suspects.NEIGHBOURS)
  labels, alone = doubtful(source.name, rows, near)
  return Audited(source, labels, pairs, notes + alone)


def analyse(sources: Sequence[Source]) -> Result:
  """Ranks labels and near-duplicates of every source, and draws the top."""
  audited = [judge(source) for source in sources]
  notes = [note for one in audited for note in one.notes]
  figures: dict[str, Drawing] = {}
  for one in audited:
    drawn, missing = drawings(one)
    figures |= drawn
    notes += missing
  summary = [
    {
      'source': one.source.name,
      'images judged': len(one.labels),
      'mostly among others': sum(row['others'] > 0.5 for row in one.labels),
      'near-duplicates': len(one.pairs),
      'across splits': sum(row['across_splits'] for row in one.pairs),
      'of two labels': sum(
        row['label_a'] != row['label_b'] for row in one.pairs
      ),
    }
    for one in audited
  ]
  return Result(
    notes,
    [Shown('audit: labels and pairs of near-duplicates', summary)],
    {
      'audit.csv': [row for one in audited for row in one.labels],
      'audit_duplicates.csv': [row for one in audited for row in one.pairs],
    },
    {'audit.json': summary},
    figures,
  )


def drawings(found: Audited) -> tuple[dict[str, Drawing], list[str]]:
  """Prepares figures of the top of both lists, if there are images."""
  try:
    read = originals.reader(found.source)
  except InputError as error:
    return {}, [str(error)]
  name, citations = found.source.name, inputs.citations([found.source])
  lists = {
    f'audit_{name}': (draw_labels, found.labels),
    f'audit_{name}_pairs': (draw_pairs, found.pairs),
  }
  return {
    file: Drawing(functools.partial(draw, name, rows[:SHOWN], read), citations)
    for file, (draw, rows) in lists.items()
    if rows
  }, []


class Item(NamedTuple):
  """Images in a row, under one heading."""

  heading: str
  images: list[tuple[str, str]]  # id and the text underneath


def draw_labels(source: str, rows: Sequence[Row], read: Read) -> plt.Figure:
  """Draws doubtful images, each followed by its nearest neighbours."""
  items = [
    Item(
      f'{row["rank"]}.  {row["score"]:.2f}  {row["split"]}: rather'
      f' {row["suggested"]}',
      [
        (row['id'], f'labelled\n{images.wrapped(row["label"])}'),
        *(
          (row[f'neighbour_{j}'], images.wrapped(row[f'neighbour_{j}_label']))
          for j in range(1, BESIDE + 1)
          if f'neighbour_{j}' in row
        ),
      ],
    )
    for row in rows
  ]
  title = (
    f'{source}: the most doubtful labels, and the nearest images to each.'
    ' Numbers: rank, score'
  )
  return _draw(title, items, read, across=3, width=BESIDE + 1)


def draw_pairs(source: str, rows: Sequence[Row], read: Read) -> plt.Figure:
  """Draws pairs of near-duplicates."""
  items = [
    Item(
      f'{row["rank"]}.  {row["distance"]:.3f}  ({row["ratio"]:.2f})',
      [
        (
          row[f'id_{side}'],
          f'{row[f"split_{side}"]}\n{images.wrapped(row[f"label_{side}"])}',
        )
        for side in 'ab'
      ],
    )
    for row in rows
  ]
  title = (
    f'{source}: the closest near-duplicates. Numbers: rank, distance, and its'
    ' share of the distance to the 10th neighbour'
  )
  return _draw(title, items, read, across=6, width=2)


def _draw(
  title: str, items: list[Item], read: Read, *, across: int, width: int
) -> plt.Figure:
  """Draws items in lines of `across`, each `width` images wide."""
  step = width * images.CELL + GAP
  size = across * step - GAP, -(-len(items) // across) * LINE + 0.35
  on = images.canvas(*size)
  on.ax.text(0.02, 0.1, title, fontsize=11, va='center')
  for n, item in enumerate(items):
    line, column = divmod(n, across)
    left, top = column * step, 0.65 + line * LINE
    on.ax.plot([left, left + step - GAP], [top - 0.25] * 2, color='0.8', lw=0.6)
    room = LETTERS * width
    heading = item.heading
    if len(heading) > room:
      heading = f'{heading[: room - 1]}…'
    on.ax.text(left + 0.02, top - 0.11, heading, fontsize=8, va='center')
    for j, (key, text) in enumerate(item.images):
      images.put(on, left + j * images.CELL, top, read(key), text)
  return images.finish(on)


if __name__ == '__main__':
  command.run('audit', analyse)
