"""Draws single cells and colonies: rng -> strokes in body lengths."""

import numpy as np

from plankton_jax.data.drawn.drawing import (
  Stroke,
  ellipses,
  lines,
  normals,
  polar,
  polygon,
  trail,
  tube,
)


def chain(rng: np.random.Generator) -> list[Stroke]:
  """Draws glassy cells end to end, with chloroplasts, some with setae."""
  count = rng.integers(4, 15)
  pitch = 1.2 / count
  half = rng.uniform(0.03, 0.065) + 0.1 / count
  s = np.linspace(0.0, 1.0, count * 8 + 1)
  spine = trail(rng.normal(0.0, 0.7) * s + rng.normal(0.0, 0.15), 1.2)
  across = normals(spine)
  gap = rng.integers(0, 2)
  waist = rng.uniform(0.0, 0.35)
  strokes = []
  if rng.random() < 0.4:
    at = np.arange(0, count * 8 + 1, 8)
    reach = rng.uniform(0.15, 0.35)
    for sign in (-1.0, 1.0):
      sway = rng.normal(0.0, 0.25, (len(at), 1)) + np.linspace(0, 0.5, 5)
      heading = np.arctan2(sign * across[at, 1], sign * across[at, 0])
      setae = trail(heading[:, None] + sway, reach, (0.0, 0.0))
      strokes.append(lines(setae + spine[at][:, None], 0.4, 0.006))
  bulge = 1.0 - waist * np.abs(np.linspace(-1.0, 1.0, 9 - 2 * gap)) ** 3
  for cell in range(count):
    on = slice(cell * 8 + gap, cell * 8 + 9 - gap)
    middle = spine[cell * 8 + 4]
    turn = np.arctan2(across[on][4 - gap, 0], -across[on][4 - gap, 1])
    plastid = rng.uniform(0.2, 0.34) * pitch, rng.uniform(0.35, 0.65) * half
    strokes += [
      tube(spine[on], half * bulge, 0.75),
      tube(spine[on][1:-1], half * bulge[1:-1] - 0.016, 0.25),
      ellipses(
        middle + rng.normal(0.0, 0.1, 2) * half,
        plastid,
        rng.uniform(0.5, 0.9),
        -turn,
      ),
    ]
  return strokes


def filament_puff(rng: np.random.Generator) -> list[Stroke]:
  """Draws a dark tuft of straight filaments that cross near the middle."""
  count = rng.integers(70, 150)
  combed = rng.uniform(0.4, 3.0)
  angles = rng.normal(0.0, combed, count)
  length = rng.uniform(0.45, 1.0, count)
  middle = rng.normal(0.0, 0.1, (count, 2)) * (1.0, 0.7)
  reach = polar(angles, length / 2.0)
  paths = np.stack([middle - reach, middle + reach], 1)
  inks = rng.uniform(0.4, 0.95, 4)
  core = ellipses(rng.normal(0, 0.08, (14, 2)), (0.1, 0.08), 0.85)
  return [
    *(lines(paths[i::4], ink, 0.01) for i, ink in enumerate(inks)),
    core,
    lines(paths[: count // 3], 0.95, 0.01),
  ]


def horned_cell(rng: np.random.Generator) -> list[Stroke]:
  """Draws a girdled cell with one straight horn and two recurved ones."""
  s = np.linspace(0.0, 1.0, 20)
  taper = 1.0 - 0.85 * s**0.5
  thick = rng.uniform(0.05, 0.07)
  apical = trail(rng.normal(0.0, 0.15) * s, rng.uniform(0.5, 0.75), (0.06, 0))
  strokes = [tube(apical, thick * taper, 0.7)]
  curl = rng.uniform(1.3, 2.2)
  for sign in (-1.0, 1.0):
    turn = np.minimum(1.0, 2.2 * s) * (curl + rng.normal(0.0, 0.15))
    horn = trail(
      sign * (2.3 - turn), rng.uniform(0.45, 0.8), (-0.06, sign * 0.05)
    )
    strokes.append(tube(horn, thick * taper, 0.7))
  wide = rng.uniform(0.11, 0.15)
  shape = np.array(
    [
      [0.14, 0.03],
      [0.02, 1.0],
      [-0.05, 0.95],
      [-0.13, 0.5],
      [-0.13, -0.5],
      [-0.05, -0.95],
      [0.02, -1.0],
      [0.14, -0.03],
    ]
  ) * (1.0, wide)
  girdle = np.array([[0.0, -0.95 * wide], [0.03, 0.0], [0.0, 0.95 * wide]])
  return [
    *strokes,
    polygon(shape * 1.08, 0.9),
    polygon(shape * 0.85, rng.uniform(0.5, 0.75)),
    ellipses((-0.05, rng.normal(0, 0.02)), (0.045, 0.055), 0.95),
    lines(girdle - [0.01, 0.0], 0.3, 0.016),
    lines(girdle - [-0.012, 0.0], 0.95, 0.012),
  ]


def round_cell(rng: np.random.Generator) -> list[Stroke]:
  """Draws a balloon of clear sap, its nucleus hung on strands at one side."""
  angles = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)
  dent = rng.uniform(0.0, 0.35) * np.exp(-((angles - np.pi) ** 2) / 0.12)
  shape = polar(angles, 0.45 * (1.0 - dent))
  wall = rng.uniform(0.85, 0.93)
  nucleus = np.array([-rng.uniform(0.08, 0.24), rng.normal(0.0, 0.03)])
  ends = polar(rng.uniform(0.0, 2.0 * np.pi, rng.integers(8, 18)), 0.4)
  ends *= rng.uniform(0.5, 1.0, (len(ends), 1))
  strands = np.stack([np.broadcast_to(nucleus, ends.shape), ends], 1)
  s = np.linspace(0.0, 1.0, 12)
  flagellum = trail(np.pi + rng.normal(0.0, 1.3) * s, 0.3, shape[24])
  strokes = [
    polygon(shape, 0.75),
    polygon(shape * wall, rng.uniform(0.12, 0.25)),
    polygon(shape * (wall - 0.06), rng.uniform(0.12, 0.4)),
    lines(strands, 0.5, 0.01),
    ellipses(nucleus, rng.uniform(0.05, 0.13, 2), 0.85, rng.uniform(0, 3)),
    ellipses(nucleus, (0.035, 0.035), 1.0),
    ellipses(ends[:5] * 0.9, (0.02, 0.02), 0.7),
  ]
  if rng.random() < 0.5:
    strokes.insert(0, lines(flagellum, 0.6, 0.02))
  return strokes


def spiny_sphere(rng: np.random.Generator) -> list[Stroke]:
  """Draws a small dark sphere with needles radiating in opposite pairs."""
  pairs = rng.integers(5, 11)
  angles = np.arange(pairs) * np.pi / pairs + rng.normal(0.0, 0.1, pairs)
  angles = np.concatenate([angles, angles + np.pi])
  # Needles point out of the picture plane too, and so look shorter.
  length = np.tile(rng.uniform(0.3, 0.6, pairs), 2)
  length *= rng.uniform(0.85, 1.0, len(angles))
  core = rng.uniform(0.07, 0.16)
  paths = np.stack([np.zeros((len(angles), 2)), polar(angles, length)], 1)
  sheath = np.stack([paths[:, 0], paths[:, 1] * 0.35], 1)
  granules = polar(rng.uniform(0, 6.28, 9), core * rng.uniform(0.3, 1.1, 9))
  return [
    ellipses((0.0, 0.0), (core * 1.7, core * 1.7), rng.uniform(0.0, 0.25)),
    lines(paths, rng.uniform(0.5, 0.75), 0.01),
    lines(sheath, 0.75, 0.024),
    ellipses((0.0, 0.0), (core, core), 0.8),
    ellipses((0.0, 0.0), (core * 0.6, core * 0.6), 0.95),
    ellipses(granules, (0.025, 0.025), 0.95),
  ]


def vase(rng: np.random.Generator) -> list[Stroke]:
  """Draws a flared cup on a stalk, and in it an animal crowned with cilia."""
  x = np.array([-0.5, -0.3, -0.2, -0.1, 0.05, 0.2, 0.3, 0.34])
  belly, neck = rng.uniform(0.75, 1.15), rng.uniform(0.75, 1.0)
  radii = rng.uniform(0.11, 0.17) * np.array(
    [0.05, 0.1, 0.4 * belly, 0.85 * belly, belly, neck, neck, 1.15]
  )
  fine = np.linspace(-0.5, 0.34, 30)
  radii = np.interp(fine, x, radii)
  spine = np.stack([fine, rng.normal(0.0, 0.15) * fine**2], -1)
  inside = fine > -0.18
  zooid = inside & (fine < rng.uniform(0.08, 0.26))
  plump = np.sin(np.linspace(0.3, np.pi - 0.5, zooid.sum())) ** 0.5
  plump *= rng.uniform(0.5, 0.85)
  count = rng.integers(6, 12)
  roots = np.linspace(-0.9, 0.9, count)
  start = spine[-1] + np.stack([np.zeros(count), roots * radii[-1]], -1)
  heading = (
    roots[:, None] * rng.uniform(0.4, 1.0)
    + rng.normal(0.0, 0.15, (count, 1))
    + np.zeros(4)
  )
  cilia = trail(heading, rng.uniform(0.08, 0.22))
  lip = spine[-1] + np.array([[0.0, -1.0], [0.0, 1.0]]) * radii[-1]
  hang = np.stack([spine[inside][0], spine[9]])
  return [
    lines(cilia + start[:, None], 0.5, 0.01),
    tube(spine, radii, 0.8),
    tube(spine[inside], radii[inside] - 0.022, 0.2),
    tube(spine[zooid], radii[zooid] * plump, 0.75),
    ellipses(spine[zooid][2:6:3], (0.03, 0.03), 1.0),
    lines(hang, 0.7, 0.012),
    lines(lip, 0.75, 0.016),
  ]
