"""Draws images in the cells of a figure, each with its text underneath."""

import textwrap
from typing import Any

import numpy as np

from analysis.figures.style import plt

CELL, GAP = 1.0, 0.35  # inches: an image, between groups of them

_UNDER: dict[str, Any] = {
  'fontsize': 6.5,
  'ha': 'center',
  'va': 'top',
  'linespacing': 1.05,
  'parse_math': False,  # names may hold $
}


def canvas(width: float, height: float) -> tuple[plt.Figure, plt.Axes]:
  """Makes a figure with a single axes, in inches from the top left.

  One axes for each image would be slow.
  """
  figure = plt.figure(figsize=(width, height))
  ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
  ax.set(xlim=(0.0, width), ylim=(height, 0.0))
  ax.axis('off')
  return figure, ax


def put(
  ax: plt.Axes, left: float, top: float, image: np.ndarray, text: str
) -> None:
  """Draws an image as large as its cell allows, with a text underneath."""
  side = 0.94 * CELL
  high, wide = np.array(image.shape[:2]) * side / max(image.shape[:2])
  x, y = left + (side - wide) / 2.0, top + (side - high) / 2.0
  grey: dict[str, Any] = {'cmap': 'gray', 'vmin': 0, 'vmax': 255}
  ax.imshow(
    image,
    extent=(x, x + wide, y + high, y),
    **(grey if image.ndim == 2 else {}),
    aspect='auto',
  )
  ax.text(left + side / 2.0, top + side + 0.04, text, **_UNDER)


def wrapped(name: str) -> str:
  """Breaks a class name into lines that fit a cell, after _ first."""
  lines = textwrap.wrap(name.replace('_', '_ '), 18)
  return '\n'.join(line.replace('_ ', '_') for line in lines[:3])
