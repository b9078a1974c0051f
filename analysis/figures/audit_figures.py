"""The figures of `analysis.audit`: images side by side, each with a line."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis import gallery
from analysis.figures.figures import plt

NEIGHBOURS = 3  # beside a doubtful image
GAP, LINE = 0.4, 1.8  # inches: between items, from line to line

LETTERS = 15  # of a heading above an image
_HEADING = {'fontsize': 8, 'va': 'center', 'parse_math': False}

Read = Callable[[str], np.ndarray]
Row = dict[str, Any]


class Item(NamedTuple):
  """Images in a row, under one heading."""

  heading: str
  images: list[tuple[str, str]]  # id and the text underneath


def labels(source: str, rows: Sequence[Row], read: Read) -> plt.Figure | None:
  """Doubtful images, each followed by its nearest neighbours."""
  items = [
    Item(
      f'{row["rank"]}.  {row["score"]:.2f}  {row["split"]}: rather'
      f' {row["suggested"]}',
      [
        (row['id'], f'labelled\n{gallery.wrapped(row["label"])}'),
        *(
          (
            row[f'neighbour_{j}'],
            gallery.wrapped(row[f'neighbour_{j}_label']),
          )
          for j in range(1, NEIGHBOURS + 1)
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
  return _draw(title, items, read, across=3, width=NEIGHBOURS + 1)


def pairs(source: str, rows: Sequence[Row], read: Read) -> plt.Figure | None:
  """Pairs of near-duplicates."""
  items = [
    Item(
      f'{row["rank"]}.  {row["distance"]:.3f}  ({row["ratio"]:.2f})',
      [
        (
          row[f'id_{side}'],
          f'{row[f"split_{side}"]}\n{gallery.wrapped(row[f"label_{side}"])}',
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
) -> plt.Figure | None:
  """Items in lines of `across`, each `width` images wide; None without any."""
  if not items:
    return None
  step = width * gallery.CELL + GAP
  size = across * step - GAP, -(-len(items) // across) * LINE + 0.35
  figure = plt.figure(figsize=size)
  ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))  # in inches from the top left
  ax.set(xlim=(0.0, size[0]), ylim=(size[1], 0.0))
  ax.axis('off')
  ax.text(0.02, 0.1, title, fontsize=11, va='center', parse_math=False)
  for n, item in enumerate(items):
    line, column = divmod(n, across)
    left, top = column * step, 0.65 + line * LINE
    ax.plot([left, left + step - GAP], [top - 0.25] * 2, color='0.8', lw=0.6)
    room = LETTERS * width
    heading = item.heading
    if len(heading) > room:
      heading = f'{heading[: room - 1]}…'
    ax.text(left + 0.02, top - 0.11, heading, **_HEADING)
    for j, (key, text) in enumerate(item.images):
      gallery.put(ax, left + j * gallery.CELL, top, read(key), text)
  return figure
