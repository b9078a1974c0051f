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
  """One source's split: the classes that have rows, and their distances."""

  source: str
  split: str
  classes: tuple[str, ...]
  counts: np.ndarray  # [C] images
  means: np.ndarray  # [C, C] mean distance, NaN where there is no pair


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
  return present, counts, means * METRICS[metric].factor


def separation(means: np.ndarray) -> dict[str, float]:
  """Averages distances within and between classes, and takes their ratio.

  Every class has the same weight. NaN if there is no such pair, as between
  classes if there is only one.
  """
  own = np.diag(means)
  own = own[np.isfinite(own)]
  other = means[~np.eye(len(means), dtype=bool)]
  within = float(own.mean()) if own.size else np.nan
  between = float(other.mean()) if other.size else np.nan
  ratio = between / within if within > 0 else np.nan
  return {'within': within, 'between': between, 'ratio': ratio}


def analyse(sources: Sequence[inputs.Source], *, include_self: bool) -> Result:
  """Measures the class distances of test and unseen, or of every file."""
  notes: list[str] = []
  panels: dict[str, list[Panel]] = {metric: [] for metric in METRICS}
  for source in sources:
    splits, missing = inputs.measured(source)
    notes += missing
    for split, rows in splits.items():
      for metric, measured in panels.items():
        present, counts, means = measure(
          rows, metric=metric, include_self=include_self
        )
        names = tuple(rows.class_names[i] for i in present)
        measured.append(Panel(source.name, split, names, counts, means))
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
      **separation(panel.means),
      **largest(panel, MOST_WHOLE)._asdict(),
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
      for name, value in separation(panel.means).items():
        line[f'{METRICS[metric].name}: {name}'] = value
  return list(lines.values())


def largest(panel: Panel, most: int) -> Panel:
  """Keeps the `most` largest classes of a panel."""
  keep = classes.first(panel.counts, most)
  return panel._replace(
    classes=tuple(panel.classes[i] for i in keep),
    counts=panel.counts[keep],
    means=panel.means[np.ix_(keep, keep)],
  )


def left_out(panel: Panel) -> list[str]:
  """Says what the figure and the files leave out, if classes are many."""
  where = f'{panel.source}, {panel.split}'
  count = len(panel.classes)
  notes = []
  if count > style.MOST_CLASSES:
    notes.append(
      f'{where}: the figures show the {style.MOST_CLASSES} largest of'
      f' {count:,} classes'
    )
  if count > MOST_WHOLE:
    notes.append(
      f'{where}: distances.json holds the {MOST_WHOLE} largest classes,'
      f" distances.csv each class's {NEAREST} nearest"
    )
  return notes


def listed(means: np.ndarray) -> list[np.ndarray]:
  """Selects the classes to list beside each of C classes, by means [C, C].

  Selects all; of more than `MOST_WHOLE` only itself and the `NEAREST`.
  """
  every = np.arange(len(means))
  if len(means) <= MOST_WHOLE:
    return [every] * len(means)
  others = means.copy()
  np.fill_diagonal(others, -np.inf)  # first of all
  return [classes.first(-line, NEAREST + 1) for line in others]


def pairs(panels: dict[str, list[Panel]]) -> list[dict[str, Any]]:
  """Tabulates each ordered pair of classes and metric."""
  return [
    {
      'source': panel.source,
      'split': panel.split,
      'metric': metric,
      'unit': METRICS[metric].unit,
      'class': panel.classes[i],
      'other': panel.classes[j],
      'mean': panel.means[i, j],
    }
    for metric, measured in panels.items()
    for panel in measured
    for i, others in enumerate(listed(panel.means))
    for j in others
  ]


def draw(panels: list[Panel], *, metric: str, include_self: bool) -> plt.Figure:
  """Draws a row a source, a column a split, on one colour scale.

  Ratios are of all classes, even if only the largest are drawn.
  """
  ratios = [separation(panel.means)['ratio'] for panel in panels]
  panels = [largest(panel, style.MOST_CLASSES) for panel in panels]
  sources = list(dict.fromkeys(panel.source for panel in panels))
  splits = list(dict.fromkeys(panel.split for panel in panels))
  at = {(panel.source, panel.split): panel for panel in panels}
  label, unit, _ = METRICS[metric]
  digits = 0 if unit else 2
  figure, grid = style.heatmap_grid(
    [
      [len(at[s, t].classes) if (s, t) in at else 0 for t in splits]
      for s in sources
    ],
    [name for panel in panels for name in panel.classes],
  )
  top = max(np.nanmax(panel.means, initial=0.0) for panel in panels)
  for panel, ratio in zip(panels, ratios, strict=True):
    ax = grid[sources.index(panel.source), splits.index(panel.split)]
    texts = [
      ['–' if np.isnan(mean) else f'{mean:.{digits}f}' for mean in line]
      for line in panel.means
    ]
    image = style.heatmap(
      ax,
      panel.means,
      panel.classes,
      panel.classes,
      texts=texts,
      limits=(0.0, top or 1.0),
    )
    text = 'n/a' if np.isnan(ratio) else f'{ratio:.2f}'
    ax.set_title(
      f'{panel.source}: {panel.split}\nbetween / within = {text}',
      parse_math=False,
    )
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
