"""The space on a plane: UMAP or PCA fitted on train, applied to the rest.

`python -m analysis.projection --workdir=DIR [--method=pca]`. Axes carry no
unit. Distances on the plane are no distances of the embedding, so nothing is
measured here.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from matplotlib.lines import Line2D

from analysis.figures import figures
from analysis.figures.figures import plt
from analysis.files import inputs, tables
from analysis.files.inputs import Embeddings, Source
from analysis.measures import planes
from analysis.measures.planes import Plane

METHOD = flags.DEFINE_enum(
  'method',
  'umap',
  planes.METHODS,
  'Projection onto the plane; pca is the fast one.',
)

UNLABELLED = 'unlabelled'
SHOWN = ('train', 'test', 'unseen')
# Size and opacity: train is the ground on which the others are read.
DOTS = {'train': (5, 0.25), 'test': (11, 0.8), 'unseen': (14, 0.85)}


class Panel(NamedTuple):
  """One source as it is drawn."""

  name: str
  splits: dict[str, Embeddings]
  plane: Plane


def shown(source: Source) -> dict[str, Embeddings]:
  """The splits that a projection shows: train, test and unseen, or, from files
  of other names, all; empty ones are left out."""
  names = [s for s in SHOWN if s in source.splits] or list(source.splits)
  return {s: source.splits[s] for s in names if len(source.splits[s].label)}


def classes(sources: Iterable[dict[str, Embeddings]]) -> dict[str, str]:
  """Every class that has rows, in order, with the mark of its points."""
  marks: dict[str, str] = {}
  for splits in sources:
    for split, found in splits.items():
      for label in np.unique(found.label[found.label >= 0]):
        marks.setdefault(found.class_names[label], _mark(split))
  return marks


def colours(names: Iterable[str]) -> dict[str, tuple[float, ...]]:
  """One colour a class, the same wherever the suite draws points."""
  names = list(names)
  shades = figures.palette(len(names))
  return dict(zip(names, shades, strict=True)) | {UNLABELLED: (0.6, 0.6, 0.6)}


def table(panel: Panel) -> list[dict[str, Any]]:
  """A plane as rows of a table, in the order of the embedding files."""
  return [
    {
      'source': panel.name,
      'split': split,
      'id': key,
      'class': found.class_names[label] if label >= 0 else UNLABELLED,
      'x': f'{x:.5g}',
      'y': f'{y:.5g}',
    }
    for split, found in panel.splits.items()
    for key, label, (x, y) in zip(
      found.id, found.label, panel.plane.xy[split], strict=True
    )
  ]


def draw(panels: Sequence[Panel]) -> plt.Figure:
  """One panel a source; a class has one colour and one mark across panels."""
  marks = classes(panel.splits for panel in panels)
  colour = colours(marks)
  width = 6.0 * len(panels)
  longest = max(map(len, [*marks, *DOTS]))
  columns = max(1, int(width / (0.075 * longest + 0.45)))
  deep = 0.2 * -(-(len(marks) + len(DOTS)) // columns)
  figure = plt.figure(figsize=(width, 6.4 + deep))
  grid = figure.add_gridspec(
    *(2, len(panels)),
    height_ratios=(6.4, deep),
    **{'left': 0.01, 'right': 0.99, 'bottom': 0.02, 'top': 0.93},
    **{'hspace': 0.02, 'wspace': 0.03},
  )
  axes = [figure.add_subplot(grid[0, i]) for i in range(len(panels))]
  for ax, panel in zip(axes, panels, strict=True):
    ax.set(title=f'{panel.name}\n{panel.plane.how}', xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color='0.85')
    for split, found in panel.splits.items():
      named = np.append(found.class_names, UNLABELLED)[found.label]
      area, opacity = DOTS.get(split, DOTS['test'])
      ax.scatter(
        *panel.plane.xy[split].T,
        c=[colour[name] for name in named],
        s=area,
        alpha=opacity,
        marker=_mark(split),
        edgecolors='black' if split == 'unseen' else 'none',
        linewidths=0.3,
        rasterized=True,  # thousands of vector dots make a slow SVG
      )
  entries = [(mark, colour[name], 1.0, name) for name, mark in marks.items()]
  drawn = dict.fromkeys(split for panel in panels for split in panel.splits)
  for split in drawn:
    opacity = DOTS.get(split, DOTS['test'])[1]
    entries.append((_mark(split), (0.3, 0.3, 0.3, 1.0), opacity, f'({split})'))
  handles = [
    Line2D(
      *([0], [0]),
      linestyle='',
      marker=mark,
      color=shade,
      alpha=opacity,
      markeredgecolor='black' if mark == 'D' else 'none',
      markeredgewidth=0.4,
      label=f' {name}',  # one with a leading underscore would be left out
    )
    for mark, shade, opacity, name in entries
  ]
  below = figure.add_subplot(grid[1, :])
  below.axis('off')
  legend = below.legend(handles=handles, loc='upper center', ncols=columns)
  for text in legend.get_texts():
    text.set_parse_math(False)  # names may hold $
  return figure


def _mark(split: str) -> str:
  return 'D' if split == 'unseen' else 'o'


def analyse(sources: list[Source], out: pathlib.Path, *, method: str) -> None:
  """Projects every source by `method`; out/projection.{png,svg,csv,json}."""
  panels = []
  for source in sources:
    splits = shown(source)
    panels.append(Panel(source.name, splits, planes.project(splits, method)))
  summary, rows = [], []
  for panel in panels:
    rows += table(panel)
    counts = {split: len(found.label) for split, found in panel.splits.items()}
    summary.append({'source': panel.name, **counts, 'plane': panel.plane.how})
  tables.write_csv(out / 'projection.csv', rows)
  citations = inputs.citations(sources)
  figures.save(draw(panels), out, 'projection', citations=citations)
  tables.write_json(out / 'projection.json', summary)
  fields = dict.fromkeys(field for row in summary for field in row)
  tables.show(
    [{field: row.get(field, '') for field in fields} for row in summary],
    'projection: rows, and what the plane is',
  )


if __name__ == '__main__':
  inputs.main(lambda sources, out: analyse(sources, out, method=METHOD.value))
