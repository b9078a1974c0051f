"""One look for every figure, and the one way to save it."""

import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np

from plankton_jax import atomic

matplotlib.use('Agg')

import matplotlib.pyplot as plt  # after the backend is chosen

STYLE = {
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
}
plt.rcParams.update(STYLE)


def palette(count: int) -> list[tuple[float, float, float, float]]:
  """`count` distinguishable colours; the first ten are safe for the
  colour-blind."""
  base = plt.get_cmap('tab10' if count <= 10 else 'tab20')
  if count <= base.N:
    return [base(i) for i in range(count)]
  # Steps of the golden ratio keep neighbours in the list apart in hue.
  hues = plt.get_cmap('turbo')
  return [hues(0.5 * (5**0.5 - 1.0) * i % 1.0) for i in range(count)]


def save(
  figure: plt.Figure,
  out: pathlib.Path,
  name: str,
  *,
  citations: Sequence[str] = (),
) -> pathlib.Path:
  """Writes out/name.png (150 dpi) and out/name.svg; closes the figure.

  Args:
    figure: the figure.
    out: folder.
    name: file name without its ending; a run called folder/run has its '/'
      replaced.
    citations: data sources to name under the figure, once each.

  Returns:
    The PNG's path.
  """
  note = '\n'.join(dict.fromkeys(filter(None, citations)))
  if note:
    figure.text(0.01, -0.01, note, fontsize=6, color='0.4', va='top')
  name = name.replace('/', '_')
  for ending, metadata in (('png', {}), ('svg', {'Date': None})):
    with atomic.file(out / f'{name}.{ending}') as building:
      figure.savefig(
        building, format=ending, bbox_inches='tight', metadata=metadata
      )
  plt.close(figure)
  return out / f'{name}.png'


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
  colours = plt.get_cmap('YlGnBu').with_extremes(bad='0.9')
  image = ax.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
  size = 8 if len(columns) <= 20 else 7
  names = {'fontsize': size, 'parse_math': False}  # they may hold $
  ax.set_yticks(range(len(rows)), rows, **names)
  ax.set_xticks(
    range(len(columns)),
    columns,
    rotation=45,
    ha='right',
    rotation_mode='anchor',
    **names,
  )
  ax.set_anchor('N')
  ax.grid(False)
  ax.tick_params(length=0)
  ax.spines[:].set_visible(False)
  if len(columns) > 20:
    return image
  for i, line in enumerate(texts):
    for j, text in enumerate(line):
      dark = image.norm(values[i, j]) > 0.6  # false for NaN
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
  """A grid of panels in rows and columns, each with room for so many classes.

  0 classes leave a panel empty. The more classes, the smaller the squares.
  """
  sizes = np.array(sizes)
  squares = np.select([sizes <= 12, sizes <= 20], [0.5, 0.36], 0.17)
  sides = np.maximum(sizes * squares, 1.2)  # inches
  across, down = sides.max(axis=0), sides.max(axis=1)
  label = 0.065 * max(map(len, names))  # at 8 points
  figure, grid = plt.subplots(
    *sizes.shape,
    figsize=(
      across.sum() + label * len(across) + 1.0,
      down.sum() + (0.7 * label + 0.6) * len(down) + 0.6,
    ),
    width_ratios=across,
    height_ratios=down,
    squeeze=False,
    layout='constrained',
  )
  for ax in grid[sizes == 0]:
    ax.set_axis_off()
  return figure, grid
