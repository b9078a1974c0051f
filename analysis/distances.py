"""How far apart the classes are: mean distances within and between them.

`python -m analysis.distances --workdir=DIR [--include_self]`.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import figures
from analysis.figures.figures import plt
from analysis.files import inputs, tables
from plankton_jax import distances

INCLUDE_SELF = flags.DEFINE_bool(
  'include_self',
  False,
  "Count each image's zero distance to itself in the within-class means.",
)

# Metric: its name in the figure, its unit, and the unit in class_means' own.
METRICS = {
  'euclidean': ('Euclidean', '', 1.0),
  'angular': ('angular', '°', 180.0 / np.pi),
}


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
  """Classes present [C], their images [C], their mean distances [C, C]."""
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
  return present, counts, means * METRICS[metric][2]


def separation(means: np.ndarray) -> dict[str, float]:
  """Mean within, mean between and their ratio; every class counts alike.

  NaN where there is no pair of the kind, as for between in a lone class.
  """
  own = np.diag(means)
  own = own[np.isfinite(own)]
  other = means[~np.eye(len(means), dtype=bool)]
  within = float(own.mean()) if own.size else np.nan
  between = float(other.mean()) if other.size else np.nan
  ratio = between / within if within > 0 else np.nan
  return {'within': within, 'between': between, 'ratio': ratio}


def analyse(
  sources: list[inputs.Source], out: pathlib.Path, *, include_self: bool
) -> None:
  """Measures and draws; out/distances_{euclidean,angular}.{png,svg}, …."""
  splits = {
    source.name: inputs.measured(source, 'distances') for source in sources
  }
  panels: dict[str, list[Panel]] = {metric: [] for metric in METRICS}
  for name, found in splits.items():
    for split, rows in found.items():
      for metric, drawn in panels.items():
        present, counts, means = measure(
          rows, metric=metric, include_self=include_self
        )
        classes = tuple(rows.class_names[i] for i in present)
        drawn.append(Panel(name, split, classes, counts, means))
  if not panels['euclidean']:
    return
  for panel in panels['euclidean']:
    for name, count in zip(panel.classes, panel.counts, strict=True):
      if count == 1 and not include_self:
        print(
          f'distances: {panel.source}, {panel.split}: {name} has one image,'
          ' so no distance within it'
        )
  _write(panels, out, include_self=include_self)
  citations = inputs.citations(sources)
  for metric, drawn in panels.items():
    figure = draw(drawn, metric=metric, include_self=include_self)
    figures.save(figure, out, f'distances_{metric}', citations=citations)


def _write(panels, out, *, include_self) -> None:
  summary: dict[tuple[str, str], dict[str, Any]] = {}
  pairs, full = [], []
  for metric, drawn in panels.items():
    label, unit, _ = METRICS[metric]
    for panel in drawn:
      where = {'source': panel.source, 'split': panel.split}
      ratios = separation(panel.means)
      row = summary.setdefault((panel.source, panel.split), dict(where))
      row.update({f'{label}: {k}': value for k, value in ratios.items()})
      head = {**where, 'metric': metric, 'unit': unit}
      full.append({**head, **ratios, **panel._asdict()})
      pairs += [
        {**head, 'class': a, 'other': b, 'mean': panel.means[i, j]}
        for i, a in enumerate(panel.classes)
        for j, b in enumerate(panel.classes)
      ]
  convention = 'counted in' if include_self else 'left out of'
  tables.show(
    list(summary.values()),
    'distances: ratio = mean between / mean within classes, each class alike;'
    f' self-pairs {convention} the means within',
  )
  tables.write_csv(out / 'distances.csv', pairs)
  tables.write_json(
    out / 'distances.json', {'include_self': include_self, 'panels': full}
  )


def draw(panels: list[Panel], *, metric: str, include_self: bool) -> plt.Figure:
  """A row a source, a column a split, one colour scale for all of them."""
  sources = list(dict.fromkeys(panel.source for panel in panels))
  splits = list(dict.fromkeys(panel.split for panel in panels))
  at = {(panel.source, panel.split): panel for panel in panels}
  label, unit, _ = METRICS[metric]
  digits = 0 if unit else 2
  figure, grid = figures.heatmap_grid(
    [
      [len(at[s, t].classes) if (s, t) in at else 0 for t in splits]
      for s in sources
    ],
    [name for panel in panels for name in panel.classes],
  )
  top = max(np.nanmax(panel.means, initial=0.0) for panel in panels)
  for (source, split), panel in at.items():
    ax = grid[sources.index(source), splits.index(split)]
    texts = [
      ['–' if np.isnan(mean) else f'{mean:.{digits}f}' for mean in line]
      for line in panel.means
    ]
    image = figures.heatmap(
      ax,
      panel.means,
      panel.classes,
      panel.classes,
      texts=texts,
      limits=(0.0, top or 1.0),
    )
    ratio = separation(panel.means)['ratio']
    text = 'n/a' if np.isnan(ratio) else f'{ratio:.2f}'
    ax.set_title(
      f'{source}: {split}\nbetween / within = {text}', parse_math=False
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
  inputs.main(
    lambda sources, out: analyse(sources, out, include_self=INCLUDE_SELF.value)
  )
