"""Measures retrieval, kNN and clustering, with intervals, and by class.

`python -m analysis.retrieval --workdir=DIR`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.figures import style
from analysis.figures.style import plt
from analysis.files import command, inputs
from analysis.files.result import Drawing, Result, Shown
from analysis.files.tables import Row
from analysis.measures import classes, scores
from analysis.measures.scores import Interval
from plankton_jax import retrieval
from plankton_jax.neighbours import search

KS = (1, 5, 10)
WORST = 5  # classes of a split in the terminal's table
NAMES = {
  **{f'recall_at_{k}': f'Recall@{k}' for k in KS},
  'r_precision': 'R-precision',
  'map_at_r': 'MAP@R',
  'knn_accuracy': f'kNN accuracy, k = {scores.NEIGHBOURS}',
  'nmi': 'NMI of k-means',
  'ami': 'AMI of k-means',
  'silhouette': 'silhouette',
}


class Scores(NamedTuple):
  """One source's split."""

  source: str
  split: str
  images: int
  queries: int  # images not alone in their class
  classes: int
  knn_from: str  # the rows that neighbours are chosen from
  micro: dict[str, Interval]  # every image has the same weight
  macro: dict[str, Interval]  # every class has the same weight
  by_class: list[Row]


def measure(
  source: str,
  split: str,
  rows: inputs.Embeddings,
  train: inputs.Embeddings | None,
) -> Scores:
  """Measures one split; kNN is fitted on `train`, if given."""
  embeddings, labels = rows.embedding, rows.label
  _, members, counts = np.unique(
    labels, return_inverse=True, return_counts=True
  )
  chosen = classes.sample(labels, scores.SILHOUETTE_ROWS)
  whole = retrieval.per_query(
    embeddings, labels, ks=KS, queries=classes.sample(labels, scores.QUERIES)
  )
  near = _nearest(embeddings, None)

  def ranking(at: np.ndarray) -> dict[str, float]:
    queries, values = (
      whole
      if len(at) == len(labels)
      else retrieval.per_query(embeddings[at], labels[at], ks=KS)
    )
    return retrieval.averages(values, labels[at][queries])

  def silhouette(at: np.ndarray) -> dict[str, float]:
    at = chosen[at]
    values, of = scores.silhouettes(embeddings[at], labels[at])
    return retrieval.averages({'silhouette': values}, of)

  def others(at: np.ndarray) -> dict[str, float]:
    own = near if len(at) == len(labels) else _nearest(embeddings[at], None)
    hits = scores.knn_hits(own, labels[at], labels[at])
    return retrieval.averages({'knn_accuracy': hits}, labels[at])

  found = scores.halves(ranking, len(labels))
  found |= scores.halves(silhouette, len(chosen))
  found |= scores.clustering(embeddings, labels)
  found |= dict.fromkeys(('macro_nmi', 'macro_ami'), scores.UNKNOWN)
  if train is None:
    found |= scores.halves(others, len(labels))
  else:
    of_train = _nearest(embeddings, train.embedding)
    hits = scores.knn_hits(of_train, train.label, labels)
    micro, macro = scores.bootstrap({'knn_accuracy': hits}, labels)
    found |= micro | {f'macro_{name}': x for name, x in macro.items()}
  return Scores(
    source,
    split,
    len(labels),
    int(np.sum(counts[members] > 1)),
    len(counts),
    'other images' if train is None else 'train',
    {name: found[name] for name in NAMES},
    {name: found[f'macro_{name}'] for name in NAMES},
    [
      {'source': source, 'split': split, **row}
      for row in by_class(rows, whole, near)
    ],
  )


def _nearest(embeddings: np.ndarray, gallery: np.ndarray | None) -> np.ndarray:
  """Finds the rows of a gallery nearest each; None takes the others, [N, K]."""
  return search.nearest(embeddings, gallery, scores.NEIGHBOURS)[1]


def by_class(
  rows: inputs.Embeddings, measured: retrieval.PerQuery, near: np.ndarray
) -> list[Row]:
  """Averages the queries of each class; the class that is found worst first.

  Names the other class that most of the nearest images are of, with its share
  of them. A class of lone images, which are no queries, is left out. `near`
  [N, K] are the other images nearest each.
  """
  queries, values = measured
  of, near = rows.label[queries], rows.label[near[queries]]
  table = []
  for label in np.unique(of):
    at = of == label
    others, counts = np.unique(near[at], return_counts=True)
    counts[others == label] = 0
    most = counts.argmax()
    table.append(
      {
        'class': rows.class_names[label],
        'images': int(np.sum(rows.label == label)),
        'recall_at_1': float(values['recall_at_1'][at].mean()),
        'map_at_r': float(values['map_at_r'][at].mean()),
        'mixed_with': rows.class_names[others[most]] if counts[most] else '',
        'share': float(counts[most] / near[at].size),
      }
    )
  return sorted(table, key=lambda row: row['map_at_r'])


def analyse(sources: Sequence[inputs.Source]) -> Result:
  """Measures test and unseen, or every file.

  kNN is fitted on train for the test split, and leaves one out elsewhere.
  """
  found: list[Scores] = []
  notes: list[str] = []
  for source in sources:
    splits, missing = inputs.measured(source)
    notes += missing
    for split, rows in splits.items():
      train = None
      if split == 'test' and 'train' in source.splits:
        train, missing = inputs.labelled(source, 'train')
        notes += missing
      found.append(measure(source.name, split, rows, train))
      notes += limits(found[-1])
  if not found:
    return Result(notes)
  lines = [
    {
      'source': f.source,
      'split': f.split,
      'measure': name,
      'images': f.images,
      'queries': f.queries,
      'classes': f.classes,
      'knn_from': f.knn_from,
      **{
        f'{kind}{end}': x
        for kind, values in (('micro', f.micro), ('macro', f.macro))
        for end, x in zip(('', '_low', '_high'), values[name], strict=True)
      },
    }
    for f in found
    for name in NAMES
  ]
  of_classes = [row for f in found for row in f.by_class]
  citations = inputs.citations(sources)
  return Result(
    notes,
    [
      Shown('retrieval: every image counts alike', table(found, 'micro')),
      Shown(
        'retrieval: every class counts alike',
        table(found, 'macro'),
        '95 % intervals: retrieval.csv',
      ),
      Shown(
        'retrieval: classes found worst',
        [
          {
            NAMES.get(name, name.replace('_', ' ')): x
            for name, x in row.items()
          }
          for f in found
          for row in f.by_class[:WORST]
        ],
        'share: of the ten nearest images; all classes: retrieval_classes.csv',
      ),
    ],
    {'retrieval.csv': lines, 'retrieval_classes.csv': of_classes},
    {'retrieval.json': lines},
    {'retrieval': Drawing(lambda: draw(found), citations)},
  )


def limits(found: Scores) -> list[str]:
  """Says what could not be measured of a split."""
  where = f'{found.source}, {found.split}'
  notes = []
  if found.queries < found.images:
    alone = found.images - found.queries
    notes.append(
      f'{where}: {alone} images are alone in their class: no queries'
    )
  if found.classes < 2:
    notes.append(f'{where}: one class only: no clustering, no silhouette')
  elif not scores.reclustered(found.images, found.classes):
    notes.append(
      f'{where}: too many images and classes to cluster halves of them: NMI and'
      ' AMI without intervals, of k-means from one start'
    )
  samples = {
    'ranks': scores.QUERIES,
    'k-means': scores.CLUSTERED_ROWS,
    'silhouette': scores.SILHOUETTE_ROWS,
  }
  notes += [
    f'{where}: {measure} of about {most:,} of {found.images:,} images, drawn by'
    ' seed from each class'
    for measure, most in samples.items()
    if found.images > most
  ]
  return notes


def table(found: Sequence[Scores], field: str) -> list[dict[str, Any]]:
  """Tabulates each split's measures that are defined for the averaging."""
  names = [n for n in NAMES if field == 'micro' or n not in ('nmi', 'ami')]
  return [
    {
      'source': f.source,
      'split': f.split,
      **{
        NAMES[name].split(',')[0].split(' of')[0]: getattr(f, field)[name][0]
        for name in names
      },
    }
    for f in found
  ]


def draw(found: list[Scores]) -> plt.Figure:
  """Draws a panel for each split, by source; micro filled, macro hollow."""
  splits = list(dict.fromkeys(f.split for f in found))
  sources = list(dict.fromkeys(f.source for f in found))
  colours = style.colours(sources)
  step = 0.8 / (2 * len(sources))
  figure, grid = plt.subplots(
    1,
    len(splits),
    figsize=(
      1.6 + 3.6 * len(splits),
      1.4 + (0.12 + 0.24 * len(sources)) * len(NAMES),
    ),
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  for f in found:
    ax = grid[0, splits.index(f.split)]
    ax.set_title(f.split)
    for k, interval in enumerate((f.micro, f.macro)):
      offset = (2 * sources.index(f.source) + k + 0.5) * step - 0.4
      at = np.arange(len(NAMES)) + offset
      value, low, high = np.array([interval[name] for name in NAMES]).T
      ax.errorbar(
        value,
        at,
        xerr=[value - low, high - value],
        fmt='os'[k],
        color=colours[f.source],
        mfc=colours[f.source] if k == 0 else 'white',
        ms=4,
        lw=1,
        label=f'{f.source}, mean of {("images", "classes")[k]}',
      )
  grid[0, 0].set_yticks(range(len(NAMES)), NAMES.values())
  grid[0, 0].invert_yaxis()
  for ax in grid[0]:
    ax.set_xlim(min(0.0, ax.get_xlim()[0]), 1.02)
    ax.set_xlabel('score and 95 % interval')
    ax.tick_params(axis='y', length=0)
  figure.legend(
    *grid[0, 0].get_legend_handles_labels(),
    loc='outside upper center',
    ncols=min(4, len(sources)),
    fontsize=7,
  )
  return figure


if __name__ == '__main__':
  command.run('retrieval', analyse)
