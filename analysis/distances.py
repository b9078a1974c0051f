"""Measures mean distances within and between classes.

`python -m analysis.distances --workdir=DIR [--include_self]`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import style
from analysis.figures.style import plt
from analysis.files import command, inputs
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import classes
from plankton_jax import distances

INCLUDE_SELF = flags.DEFINE_bool(
  'include_self',
  False,
  "Count each image's zero distance to itself in the within-class means.",
)


class Metric(NamedTuple):
  """A distance as it is shown."""

  name: str
  unit: str
  factor: float  # from class_means' own unit


METRICS = {
  'euclidean': Metric('Euclidean', '', 1.0),
  'angular': Metric('angular', '°', 180.0 / np.pi),
  'cosine': Metric('cosine', '', 1.0),
}
MOST_WHOLE = 200  # the most classes whose distances are all written; of more,
NEAREST = 20  # only each class's distances to so many others.


class Panel(NamedTuple):
  """One source's split of C classes that have rows: what is shown of it.

  The distances of all pairs of many classes would fill the memory.
  """

  source: str
  split: str
  classes: tuple[str, ...]  # C
  counts: np.ndarray  # [C] images
  separation: dict[str, float]  # of all classes
  largest: np.ndarray  # [K] classes, the MOST_WHOLE with most images
  means: np.ndarray  # [K, K] their mean distances, NaN where there is no pair
  others: np.ndarray  # [C, M] the classes listed beside each
  to_others: np.ndarray  # [C, M] mean distances to these


def measure(
  rows: inputs.Embeddings, *, metric: str, include_self: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Measures classes present [C], their images [C] and distances [C, C]."""
  present, labels, counts = np.unique(
    rows.label, return_inverse=True, return_counts=True
  )
  means = distances.class_means(
    rows.embedding,
    labels,
    len(present),
    metric=metric,
    include_self=include_self,
  )
  means *= METRICS[metric].factor
  return present, counts, means


def separation(means: np.ndarray) -> dict[str, float]:
  """Averages distances within and between classes, and takes their ratio.

  Every class has the same weight. NaN if there is no such pair, as between
  classes if there is only one.
  """
  own = np.diag(means)
  own = own[np.isfinite(own)]
  others = ~np.eye(len(means), dtype=bool)
  within = float(own.mean()) if own.size else np.nan
  between = float(means.mean(where=others)) if len(means) > 1 else np.nan
  ratio = between / within if within > 0 else np.nan
  return {'within': within, 'between': between, 'ratio': ratio}


def make_panel(
  source: str, split: str, rows: inputs.Embeddings, **measured: Any
) -> Panel:
  """Measures a split, as `measure` does, and keeps what is shown of it."""
  present, counts, means = measure(rows, **measured)
  keep = classes.first(counts, MOST_WHOLE)
  others = listed(means)
  return Panel(
    source,
    split,
    tuple(rows.class_names[i] for i in present),
    counts,
    separation(means),
    keep,
    means[np.ix_(keep, keep)],
    others,
    np.take_along_axis(means, others, axis=1),
  )


def analyse(sources: Sequence[inputs.Source], *, include_self: bool) -> Result:
  """Measures the class distances of test and unseen, or of every file."""
  notes: list[str] = []
  panels: dict[str, list[Panel]] = {metric: [] for metric in METRICS}
  for source in sources:
    splits, missing = inputs.measured(source)
    notes += missing
    for split, rows in splits.items():
      for metric, measured in panels.items():
        measured.append(
          make_panel(
            source.name, split, rows, metric=metric, include_self=include_self
          )
        )
  if not panels['euclidean']:
    return Result(notes)
  if not include_self:
    notes += [
      note
      for panel in panels['euclidean']
      for note in classes.alone(
        [panel.classes[i] for i in np.flatnonzero(panel.counts == 1)],
        f'{panel.source}, {panel.split}: ',
        ', so no distance within it',
      )
    ]
  notes += [note for panel in panels['euclidean'] for note in left_out(panel)]
  convention = 'counted in' if include_self else 'left out of'
  title = (
    'distances: ratio = mean between / mean within classes, each class alike;'
    f' self-pairs {convention} the means within'
  )
  described = [
    {
      'source': panel.source,
      'split': panel.split,
      'metric': metric,
      'unit': METRICS[metric].unit,
      **panel.separation,
      'classes': [panel.classes[i] for i in panel.largest],
      'counts': panel.counts[panel.largest],
      'means': panel.means,
    }
    for metric, measured in panels.items()
    for panel in measured
  ]
  citations = inputs.citations(sources)
  return Result(
    notes,
    [Shown(title, summary(panels))],
    {'distances.csv': pairs(panels)},
    {'distances.json': {'include_self': include_self, 'panels': described}},
    {
      f'distances_{metric}': Drawing(
        functools.partial(
          draw, measured, metric=metric, include_self=include_self
        ),
        citations,
      )
      for metric, measured in panels.items()
    },
  )


def summary(panels: dict[str, list[Panel]]) -> list[dict[str, Any]]:
  """Tabulates the separation of each source and split, by each metric."""
  lines: dict[tuple[str, str], dict[str, Any]] = {}
  for metric, measured in panels.items():
    for panel in measured:
      line = lines.setdefault(
        (panel.source, panel.split),
        {'source': panel.source, 'split': panel.split},
      )
      for name, value in panel.separation.items():
        line[f'{METRICS[metric].name}: {name}'] = value
  return list(lines.values())


def left_out(panel: Panel) -> list[str]:
  """Says what the figure and the files leave out, if classes are many."""
  where = f'{panel.source}, {panel.split}'
  count = len(panel.classes)
  notes = []
  if (shown := classes.shown(count)) < count:
    notes.append(
      f'{where}: the figures show the {shown} largest of {count:,} classes'
    )
  if count > MOST_WHOLE:
    notes.append(
      f'{where}: distances.json holds the {MOST_WHOLE} largest classes,'
      f" distances.csv each class's {NEAREST} nearest"
    )
  return notes


def listed(means: np.ndarray) -> np.ndarray:
  """Selects the classes to list beside each of C classes, by means [C, C].

  Selects all; of more than `MOST_WHOLE` only itself and the `NEAREST`.

  Returns:
    Classes [C, M], ascending.
  """
  count = len(means)
  if count <= MOST_WHOLE:
    return np.tile(np.arange(count), (count, 1))
  found = np.empty((count, NEAREST + 1), int)
  for own, line in enumerate(means):  # one at a time, as `means` may be large
    far = line.copy()
    far[own] = -np.inf
    found[own] = np.sort(np.argpartition(far, NEAREST)[: NEAREST + 1])
  return found


def pairs(panels: dict[str, list[Panel]]) -> list[dict[str, Any]]:
  """Tabulates each ordered pair of classes and metric."""
  return [
    {
      'source': panel.source,
      'split': panel.split,
      'metric': metric,
      'unit': METRICS[metric].unit,
      'class': name,
      'other': panel.classes[j],
      'mean': mean,
    }
    for metric, measured in panels.items()
    for panel in measured
    for i, name in enumerate(panel.classes)
    for j, mean in zip(panel.others[i], panel.to_others[i], strict=True)
  ]


def drawn(panel: Panel) -> tuple[list[str], np.ndarray]:
  """Selects what a figure has room for: class names and their means [K, K]."""
  most = classes.shown(len(panel.classes))
  keep = classes.first(panel.counts[panel.largest], most)
  names = [panel.classes[i] for i in panel.largest[keep]]
  return names, panel.means[np.ix_(keep, keep)]


def draw(panels: list[Panel], *, metric: str, include_self: bool) -> plt.Figure:
  """Draws sources as rows and splits as columns, on one colour scale.

  Ratios are of all classes, even if only the largest are drawn.
  """
  sources = list(dict.fromkeys(panel.source for panel in panels))
  splits = list(dict.fromkeys(panel.split for panel in panels))
  label, unit, _ = METRICS[metric]
  digits = 0 if unit else 2
  shown = {(panel.source, panel.split): drawn(panel) for panel in panels}
  figure, grid = style.heatmap_grid(
    [
      [len(shown[s, t][0]) if (s, t) in shown else 0 for t in splits]
      for s in sources
    ],
    [name for names, _ in shown.values() for name in names],
  )
  top = max(np.nanmax(means, initial=0.0) for _, means in shown.values())
  for panel in panels:
    ax = grid[sources.index(panel.source), splits.index(panel.split)]
    names, means = shown[panel.source, panel.split]
    texts = [
      ['–' if np.isnan(mean) else f'{mean:.{digits}f}' for mean in line]
      for line in means
    ]
    image = style.heatmap(
      ax, means, names, names, texts=texts, limits=(0.0, top or 1.0)
    )
    ratio = panel.separation['ratio']
    text = 'n/a' if np.isnan(ratio) else f'{ratio:.2f}'
    ax.set_title(f'{panel.source}: {panel.split}\nbetween / within = {text}')
  name = f'mean {label} distance' + (f' ({unit})' if unit else '')
  figure.colorbar(image, ax=grid, label=name, shrink=0.8, aspect=30)
  convention = 'include' if include_self else 'leave out'
  figure.suptitle(
    f'Mean {label} distance between classes. Diagonal: within the class;'
    f' these means'
    f" {convention}\neach image's zero distance to itself.\n",
    fontsize=9,
  )
  return figure


if __name__ == '__main__':
  command.run(
    'distances',
    lambda sources: analyse(sources, include_self=INCLUDE_SELF.value),
  )
