"""Shows images at each class's centre and edge, and the nearest of others.

`python -m analysis.gallery --workdir=DIR [--split=test,unseen]`. Distances are
Euclidean, in the embedding. A class's centre is the mean of its embeddings in
the split, not normalised, which would not change the ranks.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from analysis.figures import images
from analysis.figures.style import plt
from analysis.files import command, inputs, originals, tables
from analysis.files.inputs import Embeddings, Source
from analysis.files.originals import Read
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import ranks
from analysis.measures.ranks import COUNT, KINDS, Ranked
from plankton_jax.errors import InputError

SPLIT = flags.DEFINE_list(
  'split', ['test', 'unseen'], 'Splits whose classes the gallery shows.'
)

PAGE = 6  # classes on a figure
LINE = 1.78  # inches a class


def table(
  source: str, split: str, found: Embeddings, ranked: Sequence[Ranked]
) -> list[dict[str, Any]]:
  """Lists the ranked rows with their distances."""
  return [
    {
      'source': source,
      'split': split,
      'class': found.class_names[one.label],
      'images': one.size,
      'kind': kind,
      'rank': place,
      'id': found.id[row],
      'true_class': found.class_names[found.label[row]],
      'distance': distance,
    }
    for one in ranked
    for kind, rows in one.rows.items()
    for place, (row, distance) in enumerate(
      zip(rows, one.distance[kind], strict=True), 1
    )
  ]


def summary(
  source: str, split: str, found: Embeddings, ranked: Sequence[Ranked]
) -> list[dict[str, Any]]:
  """Tabulates how wide each class is, and which class comes nearest."""
  rows = []
  for one in ranked:
    other = one.rows['other'][:1]
    alone = not len(other)
    own = {
      'nearest': one.distance['nearest'][0],
      'median': one.median,
      'farthest': one.distance['farthest'][0],
    }
    if one.size < 2:  # An only image is the centre itself.
      own = dict.fromkeys(own, np.nan)
    rows.append(
      {
        'source': source,
        'split': split,
        'class': found.class_names[one.label],
        'images': one.size,
        **own,
        'other': np.nan if alone else one.distance['other'][0],
        'of class': '' if alone else found.class_names[found.label[other[0]]],
      }
    )
  return rows


def analyse(sources: Sequence[Source], *, splits: Sequence[str]) -> Result:
  """Ranks the images of every class, and draws them.

  A source without images is named and keeps its rows in the table. From files,
  all splits are ranked.
  """
  rows: list[dict[str, Any]] = []
  widths: list[dict[str, Any]] = []
  notes: list[str] = []
  figures: dict[str, Drawing] = {}
  for source in sources:
    read = None
    try:
      read = originals.reader(source)
    except InputError as error:
      notes.append(str(error))
    shown, missing = inputs.labelled_splits(
      source, splits if source.workdir else source.splits
    )
    notes += missing
    for split, found in shown.items():
      ranked = ranks.rank(found.embedding, found.label)
      rows += table(source.name, split, found, ranked)
      widths += summary(source.name, split, found, ranked)
      if read is None:
        continue
      largest = ranks.largest(
        {found.class_names[r.label]: r.size for r in ranked}
      )
      if len(largest) < len(ranked):
        notes.append(
          f'{source.name}, {split}: the {len(largest)} largest of'
          f' {len(ranked):,} classes are shown; gallery.csv holds all'
        )
      ranked = [r for r in ranked if found.class_names[r.label] in largest]
      title = f'{source.name}: {split}. Numbers: distance to the class centre'
      figures |= {
        f'gallery_{source.name}_{split}_{page // PAGE + 1}': Drawing(
          functools.partial(
            draw, title, found, ranked[page : page + PAGE], read
          ),
          inputs.citations([source]),
        )
        for page in range(0, len(ranked), PAGE)
      }
  if not rows:
    return Result(notes)
  return Result(
    notes,
    [Shown('gallery: distances to the class centre', widths)],
    {'gallery.csv': rows},
    figures=figures,
  )


def draw(
  title: str, found: Embeddings, ranked: Sequence[Ranked], read: Read
) -> plt.Figure:
  """Draws a line for each class, and a group of columns for each kind."""
  group_width = COUNT * images.CELL + images.GAP
  width = len(KINDS) * group_width
  on = images.canvas(width, len(ranked) * LINE + 0.6)
  on.ax.text(0.02, 0.1, title, fontsize=11, va='center')
  for line, one in enumerate(ranked):
    top = 0.75 + line * LINE
    name = found.class_names[one.label]
    on.ax.plot([0.0, width - images.GAP], [top - 0.22] * 2, color='0.8', lw=0.6)
    on.ax.text(
      0.02,
      top - 0.09,
      f'{tables.short(name)}  ({one.size} image{"s" * (one.size != 1)})',
      fontsize=9,
      fontweight='bold',
      va='center',
    )
    for group, (kind, heading) in enumerate(KINDS.items()):
      left = group * group_width
      if line == 0:
        on.ax.text(left + 0.02, top - 0.35, heading, fontsize=9, va='center')
      for place, (row, distance) in enumerate(
        zip(one.rows[kind], one.distance[kind], strict=True)
      ):
        text = f'{distance:.3f}'
        if kind == 'other':
          true = found.class_names[found.label[row]]
          text = f'{images.wrapped(true)}\n{text}'
        at = left + place * images.CELL, top + 0.03
        images.put(on, *at, read(found.id[row]), text)
  return images.finish(on)


if __name__ == '__main__':
  command.run('gallery', lambda sources: analyse(sources, splits=SPLIT.value))
