"""Draws the strokes of an organism, and photographs them to a crop.

Organisms are drawn in body lengths around the origin: pose, size and focus are
chosen in one place, `photograph`, in the same way for every class.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFilter

MIN_SIDE, MAX_SIDE = 30, 220  # px
_OVERSAMPLING = 3
_AROUND = np.linspace(0.0, 2.0 * np.pi, 30, endpoint=False)


class Stroke(NamedTuple):
  """Paths [P, N, 2]: lines `width` thick, or filled polygons if it is 0."""

  paths: np.ndarray
  ink: float  # 0 is clear water, 1 lets no light through
  width: float


def polygon(points: np.ndarray, ink: float) -> Stroke:
  """Fills the polygon through `points` [N, 2]."""
  return Stroke(points[None], ink, 0.0)


def lines(paths: np.ndarray, ink: float, width: float) -> Stroke:
  """Draws lines through `paths` [P, N, 2], or one line through [N, 2]."""
  return Stroke(paths if paths.ndim == 3 else paths[None], ink, width)


def ellipses(
  centres: ArrayLike, radii: ArrayLike, ink: float, turn: float = 0.0
) -> Stroke:
  """Fills ellipses at `centres` [P, 2] or [2], turned by `turn` radians."""
  outline = (polar(_AROUND) * radii) @ rotation(turn)
  return Stroke(np.reshape(centres, (-1, 1, 2)) + outline, ink, 0.0)


def tube(spine: np.ndarray, radii: ArrayLike, ink: float) -> Stroke:
  """Fills a solid of half-width `radii` (one, or [N]) along `spine` [N, 2].

  It is laid as quadrilaterals, since one polygon would leave a hole wherever
  a coiled body crosses itself.
  """
  offset = normals(spine) * np.reshape(radii, (-1, 1))
  left, right = spine + offset, spine - offset
  quads = np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)
  return Stroke(quads, ink, 0.0)


def polar(angles: ArrayLike, radii: ArrayLike = 1.0) -> np.ndarray:
  """Places points [..., 2] at `angles` (radians), `radii` from the origin."""
  towards, far = np.broadcast_arrays(angles, radii)
  return np.stack([np.cos(towards), np.sin(towards)], -1) * far[..., None]


def rotation(angle: float) -> np.ndarray:
  """Makes the matrix [2, 2] that turns row vectors by `angle` radians."""
  cos, sin = np.cos(angle), np.sin(angle)
  return np.array([[cos, sin], [-sin, cos]])


def trail(
  headings: np.ndarray, length: ArrayLike, start: ArrayLike = (0.0, 0.0)
) -> np.ndarray:
  """Traces curves [..., N, 2] that leave `start` along `headings` [..., N]."""
  step = np.asarray(length)[..., None] / (headings.shape[-1] - 1)
  steps = polar(headings, step)
  steps[..., 0, :] = start
  return np.cumsum(steps, axis=-2)


def normals(spine: np.ndarray) -> np.ndarray:
  """Takes unit normals [N, 2] of the curve `spine` [N, 2], to its left."""
  tangent = np.gradient(spine, axis=0)
  tangent /= np.hypot(tangent[:, 0], tangent[:, 1])[:, None]
  return tangent[:, ::-1] * (-1.0, 1.0)


def photograph(
  rng: np.random.Generator, strokes: list[Stroke], length: float
) -> np.ndarray:
  """Takes the crop that an imager would save of `strokes`, uint8 [H, W].

  A body length is `length` px before foreshortening; pose, crop, clutter,
  focus, illumination and sensor noise are drawn from `rng`.
  """
  pose = _pose(rng) * length
  placed = [Stroke(s.paths @ pose, s.ink, s.width * length) for s in strokes]
  corner, size = _crop(rng, placed)
  blur = min(rng.gamma(1.5, 0.008), 0.022) * length
  body = _render(placed, corner, size, focus=blur)
  dirt = _render(_clutter(rng, size), 0.0, size, focus=rng.uniform(0.3, 2.0))

  # Tissue is patchy; frames are brighter to one side and grainy.
  patches = np.exp(_smooth_field(rng, size, cells=7) * 0.22)
  opacity = rng.uniform(0.5, 1.0)
  ink = np.maximum(body * patches * opacity, dirt * opacity)
  level, unevenness = rng.uniform(205.0, 248.0), rng.uniform(2.0, 9.0)
  light = level + unevenness * _smooth_field(rng, size, cells=3)
  grain = rng.standard_normal(body.shape, np.float32) * rng.uniform(1.5, 7.0)
  image = light * (1.0 - np.minimum(ink, 0.97)) + grain
  return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _pose(rng: np.random.Generator) -> np.ndarray:
  """Draws a rotation of either face, foreshortened along any direction."""
  tilt = rng.uniform(0.0, np.pi)
  foreshorten = np.diag([rng.uniform(0.65, 1.0), 1.0])
  face = np.diag([1.0, rng.choice([-1.0, 1.0])])
  turn = rotation(rng.uniform(0.0, 2.0 * np.pi))
  return face @ rotation(tilt) @ foreshorten @ turn


def _crop(
  rng: np.random.Generator, placed: list[Stroke]
) -> tuple[np.ndarray, np.ndarray]:
  """Draws corner and size (x, y), px, of a loose box that may cut the body."""
  low = np.min([s.paths.min((0, 1)) for s in placed], axis=0)
  high = np.max([s.paths.max((0, 1)) for s in placed], axis=0)
  extent = high - low
  margins = rng.uniform(0.0, 0.22, (2, 2)) * extent.max() + 2.0
  if rng.random() < 0.25:  # The organism lies on the edge of the frame.
    end, axis = rng.integers(2, size=2)
    margins[end, axis] = -rng.uniform(0.05, 0.25) * extent[axis]
  low, high = low - margins[0], high + margins[1]
  size = np.clip(np.rint(high - low), MIN_SIDE, MAX_SIDE).astype(int)
  return (low + high - size) / 2.0, size


def _render(
  placed: list[Stroke],
  corner: np.ndarray | float,
  size: np.ndarray,
  focus: float,
) -> np.ndarray:
  """Renders strokes in px as ink [H, W] in 0..1, blurred by `focus` px."""
  width, height = (int(side) * _OVERSAMPLING for side in size)
  canvas = Image.new('L', (width, height))
  draw = ImageDraw.Draw(canvas)
  for stroke in placed:
    level = round(255 * stroke.ink)
    paths = (stroke.paths - corner) * _OVERSAMPLING
    # Nothing the optics resolve is thinner than two thirds of a pixel.
    thick = max(round(stroke.width * _OVERSAMPLING), 2) if stroke.width else 0
    for path in paths.reshape(len(paths), -1).tolist():
      if thick:
        draw.line(path, fill=level, width=thick)
      else:
        draw.polygon(path, fill=level)
  canvas = canvas.reduce(_OVERSAMPLING)
  canvas = canvas.filter(ImageFilter.GaussianBlur(focus))
  return np.asarray(canvas, np.float32) / 255.0


def _clutter(rng: np.random.Generator, size: np.ndarray) -> list[Stroke]:
  """Draws specks, fragments and sometimes a fibre, in px."""
  strokes = []
  for _ in range(rng.poisson(3.0)):
    radii = rng.gamma(2.0, 0.6, 2) + 0.4
    spot = rng.uniform(0.0, size)
    strokes.append(ellipses(spot, radii, rng.uniform(0.15, 0.7)))
  for _ in range(rng.poisson(0.8)):
    bend = np.linspace(0.0, rng.normal(0.0, 1.5), 8)
    scrap = trail(
      rng.uniform(0.0, 2.0 * np.pi) + bend,
      rng.uniform(0.06, 0.22) * max(size),
      rng.uniform(0.0, size),
    )
    strokes.append(tube(scrap, rng.uniform(0.5, 2.0), rng.uniform(0.15, 0.5)))
  if rng.random() < 0.15:
    ends = rng.uniform(0.0, 1.0, (2, 2))
    side = rng.integers(2)
    ends[:, side] = -0.1, 1.1
    strokes.append(lines(ends * size, rng.uniform(0.15, 0.5), 1.0))
  return strokes


def _smooth_field(
  rng: np.random.Generator, size: np.ndarray, cells: int
) -> np.ndarray:
  """Draws a smooth field [H, W] of about unit variance, `cells` across."""
  coarse = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
  width, height = map(int, size)
  resized = coarse.resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(resized)
