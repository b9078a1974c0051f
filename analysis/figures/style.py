"""Sets the style of every figure: colours and marks of classes, heat maps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import matplotlib
import numpy as np

from analysis.files import tables
from analysis.files.inputs import Embeddings

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # after the backend is chosen
from matplotlib.ticker import LogFormatter

STYLE: dict[str, Any] = {
  'figure.dpi': 100,
  'savefig.dpi': 150,
  'font.size': 9,
  'axes.titlesize': 10,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.color': '0.92',
  'legend.frameon': False,
  'svg.hashsalt': 'plankton_jax',  # the same figure gives the same file
  'text.parse_math': False,  # names may hold $
}
plt.rcParams.update(cast(Any, STYLE))

Colour = tuple[float, float, float, float]

UNLABELLED = 'unlabelled'
GREY = (0.6, 0.6, 0.6, 1.0)


def palette(count: int) -> list[Colour]:
  """Picks distinguishable colours; up to ten are safe for the colour-blind."""
  base = plt.get_cmap('tab10' if count <= 10 else 'tab20')
  if count <= base.N:
    return [base(i) for i in range(count)]
  # Steps of the golden ratio keep neighbours in the list apart in hue.
  hues = plt.get_cmap('turbo')
  return [hues(0.5 * (5**0.5 - 1.0) * i % 1.0) for i in range(count)]


def mark(split: str) -> str:
  """Returns Matplotlib's mark of a split's points."""
  return 'D' if split == 'unseen' else 'o'


def marks(sources: Iterable[Mapping[str, Embeddings]]) -> dict[str, str]:
  """Lists every class that has rows, in order, with the mark of its points."""
  found: dict[str, str] = {}
  for splits in sources:
    for split, rows in splits.items():
      for label in np.unique(rows.label[rows.label >= 0]):
        found.setdefault(rows.class_names[label], mark(split))
  return found


def colours(names: Iterable[str]) -> dict[str, Colour]:
  """Gives each name a colour, and grey to points without label."""
  every = list(names)
  shades = palette(len(every))
  return {**dict(zip(every, shades, strict=True)), UNLABELLED: GREY}


def set_log(ax: plt.Axes, *sides: str) -> None:
  """Makes axes, 'x' or 'y', logarithmic, with plain numbers along them."""
  for side in sides:
    ax.set(**{f'{side}scale': 'log'})
    axis = getattr(ax, f'{side}axis')
    axis.set_major_formatter('{x:g}')
    axis.set_minor_formatter(LogFormatter())


def heatmap(
  ax: plt.Axes,
  values: np.ndarray,
  rows: Sequence[str],
  columns: Sequence[str],
  *,
  texts: Sequence[Sequence[str]],
  limits: tuple[float, float],
) -> matplotlib.image.AxesImage:
  """Draws values [R, C] as squares with their texts; NaN is grey.

  Beyond 20 columns the texts could not be read and are left out.
  """
  scale = plt.get_cmap('YlGnBu').with_extremes(bad='0.9')
  image = ax.imshow(values, cmap=scale, vmin=limits[0], vmax=limits[1])
  size = 8 if len(columns) <= 20 else 7
  ax.set_yticks(range(len(rows)), [*map(tables.short, rows)], fontsize=size)
  ax.set_xticks(
    range(len(columns)),
    [*map(tables.short, columns)],
    rotation=45,
    ha='right',
    rotation_mode='anchor',
    fontsize=size,
  )
  ax.set_anchor('N')
  ax.grid(False)
  ax.tick_params(length=0)
  ax.spines[:].set_visible(False)
  if len(columns) > 20:
    return image
  for i, line in enumerate(texts):
    for j, text in enumerate(line):
      share = (values[i, j] - limits[0]) / (limits[1] - limits[0])
      dark = share > 0.6  # false for NaN
      ax.text(
        j,
        i,
        text,
        ha='center',
        va='center',
        fontsize=7 if len(columns) <= 12 else 5.5,
        color='white' if dark else '0.15',
      )
  return image


def heatmap_grid(
  sizes: Sequence[Sequence[int]], names: Sequence[str]
) -> tuple[plt.Figure, np.ndarray]:
  """Makes a grid of panels in rows and columns, each with room for its classes.

  0 classes leave a panel empty. The more classes, the smaller the squares.
  """
  counts = np.array(sizes)
  squares = np.select(
    [counts <= 12, counts <= 20, counts <= 40], [0.5, 0.36, 0.17], 0.14
  )
  sides = np.maximum(counts * squares, 1.2)  # inches
  across, down = sides.max(axis=0), sides.max(axis=1)
  label = 0.065 * max(map(len, names))  # at 8 points
  figure, grid = plt.subplots(
    *counts.shape,
    figsize=(
      across.sum() + label * len(across) + 1.0,
      down.sum() + (0.7 * label + 0.6) * len(down) + 0.6,
    ),
    width_ratios=across,
    height_ratios=down,
    squeeze=False,
    layout='constrained',
  )
  for ax in grid[counts == 0]:
    ax.set_axis_off()
  return figure, grid
