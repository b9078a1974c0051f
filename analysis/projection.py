"""Draws the embedding on a plane: UMAP or PCA, fitted on train.

`python -m analysis.projection --workdir=DIR [--method=pca]`. Axes have no
unit. Distances on the plane are not those of the embedding, so nothing is
measured here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.style import plt
from analysis.files import command, inputs, tables
from analysis.files.inputs import Embeddings, Source
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import planes
from analysis.measures.planes import Plane

METHOD = flags.DEFINE_enum(
  'method',
  'umap',
  planes.METHODS,
  'Projection onto the plane; pca is the fast one.',
)

MOST_NAMED = 120  # classes in the legend
# Size and opacity: train is the background of the others.
DOTS = {'train': (5, 0.25), 'test': (11, 0.8), 'unseen': (14, 0.85)}


class Panel(NamedTuple):
  """One source as it is drawn."""

  name: str
  splits: dict[str, Embeddings]
  plane: Plane


def table(panel: Panel) -> list[dict[str, Any]]:
  """Lists a plane's points, in the order of the embedding files."""
  return [
    {
      'source': panel.name,
      'split': split,
      'id': key,
      'class': found.class_names[label] if label >= 0 else style.UNLABELLED,
      'x': f'{x:.5g}',
      'y': f'{y:.5g}',
    }
    for split, found in panel.splits.items()
    for key, label, (x, y) in zip(
      found.id, found.label, panel.plane.xy[split], strict=True
    )
  ]


def draw(panels: Sequence[Panel]) -> plt.Figure:
  """Draws a panel for each source; a class looks the same in all of them."""
  mark_of = style.marks(panel.splits for panel in panels)
  colour = style.colours(mark_of)
  named = dict(list(mark_of.items())[:MOST_NAMED])
  width = 6.0 * len(panels)
  longest = max(map(len, [*named, *DOTS]))
  columns = max(1, int(width / (0.075 * longest + 0.45)))
  deep = 0.2 * -(-(len(named) + len(DOTS)) // columns)
  figure = plt.figure(figsize=(width, 6.4 + deep))
  grid = figure.add_gridspec(
    2,
    len(panels),
    height_ratios=(6.4, deep),
    left=0.01,
    right=0.99,
    bottom=0.02,
    top=0.93,
    hspace=0.02,
    wspace=0.03,
  )
  for i, panel in enumerate(panels):
    _scatter(figure.add_subplot(grid[0, i]), panel, colour)
  splits = dict.fromkeys(split for panel in panels for split in panel.splits)
  entries = [
    *(_entry(mark, colour[name], 1.0, name) for name, mark in named.items()),
    *(
      _entry(
        style.mark(split),
        (0.3, 0.3, 0.3, 1.0),
        DOTS.get(split, DOTS['test'])[1],
        f'({split})',
      )
      for split in splits
    ),
  ]
  below = figure.add_subplot(grid[1, :])
  below.axis('off')
  below.legend(handles=entries, loc='upper center', ncols=columns)
  return figure


def _scatter(
  ax: plt.Axes, panel: Panel, colour: Mapping[str, style.Colour]
) -> None:
  """Draws the points of one source."""
  ax.set_title(f'{panel.name}\n{panel.plane.how}')
  ax.set(xticks=[], yticks=[])
  ax.spines[:].set(visible=True, color='0.85')
  for split, found in panel.splits.items():
    own = inputs.named(found.class_names, found.label, style.UNLABELLED)
    area, opacity = DOTS.get(split, DOTS['test'])
    x, y = panel.plane.xy[split].T
    ax.scatter(
      x,
      y,
      c=[colour[name] for name in own],
      s=area,
      alpha=opacity,
      marker=style.mark(split),
      edgecolors='black' if split == 'unseen' else 'none',
      linewidths=0.3,
      rasterized=True,  # thousands of vector dots would make a slow SVG
    )


def _entry(mark: str, shade: style.Colour, opacity: float, name: str) -> Line2D:
  """Makes an entry of the legend."""
  return Line2D(
    [0],
    [0],
    linestyle='',
    marker=mark,
    color=shade,
    alpha=opacity,
    markeredgecolor='black' if mark == 'D' else 'none',
    markeredgewidth=0.4,
    # Matplotlib leaves out names with a leading underscore.
    label=f' {tables.short(name)}',
  )


def analyse(sources: Sequence[Source], *, method: str) -> Result:
  """Projects every source by `method`."""
  panels, notes = [], []
  for source in sources:
    splits = planes.shown(source)
    notes += planes.sampled(source, splits)
    panels.append(Panel(source.name, splits, planes.project(splits, method)))
  count = len(style.marks(panel.splits for panel in panels))
  if count > MOST_NAMED:
    notes.append(
      f'the legend names the first {MOST_NAMED} of {count:,} classes'
    )
  summary: list[dict[str, Any]] = [
    {
      'source': panel.name,
      **{split: len(found.label) for split, found in panel.splits.items()},
      'plane': panel.plane.how,
    }
    for panel in panels
  ]
  title = 'projection: rows, and what the plane is'
  return Result(
    notes,
    [Shown(title, tables.filled(summary))],
    {'projection.csv': [row for panel in panels for row in table(panel)]},
    {'projection.json': summary},
    {'projection': Drawing(lambda: draw(panels), inputs.citations(sources))},
  )


if __name__ == '__main__':
  command.run(
    'projection', lambda sources: analyse(sources, method=METHOD.value)
  )
