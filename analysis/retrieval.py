"""How well neighbours and clusters match the classes, with intervals.

`python -m analysis.retrieval --workdir=DIR`.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from analysis.figures import figures
from analysis.figures.figures import plt
from analysis.files import inputs, tables
from analysis.measures import scores
from analysis.measures.scores import Interval
from plankton_jax import retrieval

KS = (1, 5, 10)
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
  queries: int  # images that are not alone in their class
  classes: int
  knn_from: str  # what the neighbours are chosen from
  micro: dict[str, Interval]  # every image counts alike
  macro: dict[str, Interval]  # every class counts alike


def measure(
  source: str,
  split: str,
  rows: inputs.Embeddings,
  train: inputs.Embeddings | None,
) -> Scores:
  """Every measure of one split; `train` is what kNN is fitted on, if given."""
  embeddings, labels = rows.embedding, rows.label
  queries, ranked = retrieval.per_query(embeddings, labels, ks=KS)
  silhouette, sampled = scores.silhouettes(embeddings, labels)
  micro: dict[str, Interval] = {}
  macro: dict[str, Interval] = {}
  for values, of in (
    (ranked, labels[queries]),
    ({'knn_accuracy': scores.knn_hits(embeddings, labels, train)}, labels),
    ({'silhouette': silhouette}, sampled),
  ):
    means, class_means = scores.bootstrap(values, of)
    micro |= means
    macro |= class_means
  micro |= scores.clustering(embeddings, labels)
  macro |= dict.fromkeys(('nmi', 'ami'), scores.UNKNOWN)
  return Scores(
    source,
    split,
    len(labels),
    len(queries),
    len(np.unique(labels)),
    'other images' if train is None else 'train',
    micro,
    macro,
  )


def analyse(sources: list[inputs.Source], out: pathlib.Path) -> None:
  """Measures test and unseen; out/retrieval.{png,svg,csv,json}.

  kNN is fitted on train for the test split, and leaves one out elsewhere.
  """
  found = []
  for source in sources:
    for split, rows in inputs.measured(source, 'retrieval').items():
      where = f'retrieval: {source.name}, {split}'
      train = None
      if split == 'test' and 'train' in source.splits:
        train = inputs.labelled(source, 'train', 'retrieval')
      f = measure(source.name, split, rows, train)
      if f.queries < f.images:
        alone = f.images - f.queries
        print(f'{where}: {alone} images are alone in their class: no queries')
      if f.classes < 2:
        print(f'{where}: one class only: no clustering, no silhouette')
      if f.images > scores.SILHOUETTE_ROWS:
        print(
          f'{where}: silhouette of {scores.SILHOUETTE_ROWS:,} images, drawn by'
          ' seed'
        )
      found.append(f)
  if not found:
    return
  _write(found, out)
  citations = inputs.citations(sources)
  figures.save(draw(found), out, 'retrieval', citations=citations)


def _write(found: list[Scores], out: pathlib.Path) -> None:
  for field, title in (
    ('micro', 'every image counts alike'),
    ('macro', 'every class counts alike'),
  ):
    table = [
      {
        'source': f.source,
        'split': f.split,
        **{
          NAMES[name].split(',')[0].split(' of')[0]: getattr(f, field)[name][0]
          for name in NAMES
          if field == 'micro' or name not in ('nmi', 'ami')
        },
      }
      for f in found
    ]
    tables.show(table, f'retrieval: {title}')
  print('  95 % intervals: retrieval.csv')
  rows: list[dict[str, Any]] = [
    {
      'source': f.source,
      'split': f.split,
      'measure': name,
      'images': f.images,
      'queries': f.queries,
      'classes': f.classes,
      'knn_from': f.knn_from,
      **_fields('micro', f.micro[name]),
      **_fields('macro', f.macro[name]),
    }
    for f in found
    for name in NAMES
  ]
  tables.write_csv(out / 'retrieval.csv', rows)
  tables.write_json(out / 'retrieval.json', rows)


def _fields(name: str, interval: Interval) -> dict[str, float]:
  return {
    name: interval[0],
    f'{name}_low': interval[1],
    f'{name}_high': interval[2],
  }


def draw(found: list[Scores]) -> plt.Figure:
  """A panel a split, a colour a source; micro filled, macro hollow."""
  splits = list(dict.fromkeys(f.split for f in found))
  sources = list(dict.fromkeys(f.source for f in found))
  colours = dict(zip(sources, figures.palette(len(sources)), strict=True))
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
        xerr=np.maximum([value - low, high - value], 0.0),
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
  handles, texts = grid[0, 0].get_legend_handles_labels()
  legend = figure.legend(
    handles,
    texts,
    loc='outside upper center',
    ncols=min(4, len(sources)),
    fontsize=7,
  )
  for text in legend.get_texts():
    text.set_parse_math(False)  # names may hold $
  return figure


if __name__ == '__main__':
  inputs.main(analyse)
