"""Draws images in the cells of a figure, each with its text underneath."""

import textwrap
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.transforms import Bbox
from PIL import Image

from analysis.figures.style import STYLE, plt

CELL, GAP = 1.0, 0.35  # inches: an image, between groups of them
DPI = STYLE['savefig.dpi']
CRISP = 3.0  # an image enlarged more than this keeps square pixels

_UNDER: dict[str, Any] = {
  'fontsize': 6.5,
  'ha': 'center',
  'va': 'top',
  'linespacing': 1.05,
}


class Canvas(NamedTuple):
  """A figure with a single axes, in inches from the top left, and its images.

  The images are pixels of `DPI`, and become one sheet in the end.
  """

  figure: plt.Figure
  ax: plt.Axes
  images: list[tuple[int, int, Image.Image]]  # pixels from the left, the top


class Sheet(Artist):
  """Draws pixels as they are, with the top left corner at a place in inches.

  Matplotlib's own images are resampled one by one, which takes seconds.
  """

  def __init__(
    self, ax: plt.Axes, left: float, top: float, pixels: Image.Image
  ) -> None:
    super().__init__()
    self.set_zorder(0.0)  # below lines and texts
    self._on = ax
    self._corner = left, top + pixels.height / DPI
    self._pixels = pixels

  def get_window_extent(self, renderer: RendererBase | None = None) -> Bbox:
    """Returns the place on the figure, for its tight bounding box."""
    del renderer
    low = self._on.transData.transform(self._corner)
    size = np.array(self._pixels.size) / DPI
    return Bbox([low, low + size * self._on.figure.dpi])

  def draw(self, renderer: RendererBase) -> None:
    """Draws the pixels, if the figure is saved at `DPI`."""
    x, y = self._on.transData.transform(self._corner)
    pixels = np.asarray(self._pixels.convert('RGBA'))[::-1]
    renderer.draw_image(renderer.new_gc(), round(x), round(y), pixels)


def canvas(width: float, height: float) -> Canvas:
  """Makes an empty canvas, in inches."""
  figure = plt.figure(figsize=(width, height))
  ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
  ax.set(xlim=(0.0, width), ylim=(height, 0.0))
  ax.axis('off')
  return Canvas(figure, ax, [])


def put(
  on: Canvas, left: float, top: float, image: np.ndarray, text: str
) -> None:
  """Places an image as large as its cell allows, with a text underneath.

  `image` is uint8 [H, W] or [H, W, 3].
  """
  side = 0.94 * CELL
  scale = side * DPI / max(image.shape[:2])
  size = [max(1, round(scale * length)) for length in image.shape[1::-1]]
  smooth = Image.Resampling.HAMMING
  how = Image.Resampling.NEAREST if scale > CRISP else smooth
  picture = Image.fromarray(image).resize(size, how)
  x, y = (
    round(DPI * start + (DPI * side - length) / 2.0)
    for start, length in zip((left, top), size, strict=True)
  )
  on.images.append((x, y, picture))
  on.ax.text(left + side / 2.0, top + side + 0.04, text, **_UNDER)


def finish(on: Canvas) -> plt.Figure:
  """Draws the images that were put on a canvas; returns its figure."""
  if not on.images:
    return on.figure
  left = min(x for x, _, _ in on.images)
  top = min(y for _, y, _ in on.images)
  right = max(x + picture.width for x, _, picture in on.images)
  bottom = max(y + picture.height for _, y, picture in on.images)
  # Grey where all are: a report holds the sheets of many figures.
  grey = all(picture.mode == 'L' for _, _, picture in on.images)
  size = right - left, bottom - top
  sheet = Image.new('L' if grey else 'RGB', size, 'white')
  for x, y, picture in on.images:
    sheet.paste(picture, (x - left, y - top))
  on.ax.add_artist(Sheet(on.ax, left / DPI, top / DPI, sheet))
  return on.figure


def wrapped(name: str) -> str:
  """Breaks a class name into lines that fit a cell, after _ first."""
  lines = textwrap.wrap(name.replace('_', '_ '), 18)
  return '\n'.join(line.replace('_ ', '_') for line in lines[:3])
