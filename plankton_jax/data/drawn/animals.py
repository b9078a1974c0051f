"""Draws many-celled plankton: rng -> strokes in body lengths, head to +x."""

import numpy as np

from plankton_jax.data.drawn.drawing import (
  Stroke,
  ellipses,
  lines,
  normals,
  polygon,
  trail,
  tube,
)


def appendicularian(rng: np.random.Generator) -> list[Stroke]:
  """Draws a compact trunk and a finned tail thrown into an S."""
  s = np.linspace(0.0, 1.0, 36)
  swing = rng.uniform(1.0, 2.0) * np.sin(
    2.0 * np.pi * rng.uniform(0.75, 1.15) * s + rng.uniform(-0.6, 0.6)
  )
  tail = trail(swing + rng.normal(0.0, 0.6) * s, 1.1)
  fin = rng.uniform(0.04, 0.065) * (1.0 - s**3) * np.minimum(1.0, 4 * s + 0.4)
  long, wide = rng.uniform(0.11, 0.15), rng.uniform(0.07, 0.1)
  head = (-0.6 * long, 0.0)
  return [
    tube(tail, fin + 0.01, 0.6),
    tube(tail, fin, 0.32),
    tube(tail, fin * 0.4, 0.75),
    ellipses(head, (long, wide), 0.85),
    ellipses(np.add(head, (-0.3 * long, 0.0)), (0.5 * long, 0.6 * wide), 0.6),
    ellipses(
      np.add(head, (0.35 * long, 0.2 * wide)), (0.4 * long, 0.5 * wide), 1.0
    ),
    ellipses(np.add(head, (-0.5 * long, 0.0)), (0.2 * long, 0.2 * wide), 0.95),
  ]


def arrow_worm(rng: np.random.Generator) -> list[Stroke]:
  """Draws a long clear dart with paired fins, a tail fan and a hooked head."""
  s = np.linspace(0.0, 1.0, 40)
  body = trail(rng.normal(0.0, 0.25) + rng.normal(0.0, 0.45) * s, 1.3)
  body -= body.mean(0)
  girth = rng.uniform(0.03, 0.055)
  radii = girth * np.interp(
    s,
    [0, 0.03, 0.08, 0.12, 0.4, 0.7, 0.93, 1.0],
    [0.45, 0.95, 0.95, 0.7, 1.0, 0.9, 0.4, 0.3],
  )
  strokes, fins = [], rng.uniform(0.6, 1.3)
  for start, stop in [(0.36, 0.6), (0.63, 0.86)]:
    on = (s >= start) & (s <= stop)
    flare = np.sin(np.pi * np.linspace(0.0, 1.0, on.sum()) ** 1.6)
    flare *= fins * girth
    strokes += [
      tube(body[on], radii[on] + flare + 0.008, 0.5),
      tube(body[on], radii[on] + flare, 0.16),
    ]
  fan = np.interp(s, [0.9, 0.97, 1.0], [0.3, 2.4, 2.9]) * girth
  end = s > 0.9
  strokes += [
    tube(body[end], fan[end] + 0.008, 0.5),
    tube(body[end], fan[end], 0.18),
    tube(body, radii + 0.006, 0.75),
    tube(body, radii - 0.004, 0.32),
    tube(body[4:], radii[4:] * 0.3, rng.uniform(0.45, 0.85)),
    tube(body[:5], radii[:5], 0.85),
  ]
  hooks = np.stack(
    [
      trail(np.linspace(h, 0.2 * h, 5), 0.08, (0.0, 0.0))
      for h in (-1.4, -0.9, 0.9, 1.4)
    ]
  )
  forward = (body[0] - body[2]) / np.hypot(*(body[0] - body[2]))
  axes = np.stack([forward, [-forward[1], forward[0]]])
  return [*strokes, lines(hooks @ axes + body[1], 0.65, 0.008)]


def copepod(rng: np.random.Generator) -> list[Stroke]:
  """Draws a teardrop body, a forked tail and two long antennae."""
  s = np.linspace(0.0, 1.0, 24)
  spine = trail(np.pi + rng.normal(0.0, 0.25) * s, 0.62, (0.3, 0.0))
  girth = rng.uniform(0.09, 0.14)
  radii = girth * np.sin(np.pi * np.clip(s * 0.9 + 0.06, 0, 1)) ** 0.6
  tail = trail(np.pi + rng.normal(0.0, 0.5) + 0.3 * s, 0.3, spine[-1])
  ink = rng.uniform(0.6, 0.85)
  spread, sweep = rng.uniform(0.7, 1.5), rng.uniform(0.2, 1.6)
  antennae = np.stack(
    [
      trail(sign * (spread + sweep * s**1.5), rng.uniform(0.45, 0.75), spine[1])
      for sign in (-1.0, 1.0)
    ]
  )
  fork = np.pi + np.array([[-0.5], [-0.2], [0.2], [0.5]]) + 0.0 * s[:4]
  legs = np.pi + rng.choice([-1.0, 1.0]) * (1.0 + rng.normal(0, 0.12, (5, 1)))
  feet = trail(legs + 0.5 * s[::6], rng.uniform(0.12, 0.22))
  strokes = [
    lines(antennae, 0.7, 0.018),
    lines(feet + spine[6:16:2, None], 0.55, 0.014),
    tube(tail, np.linspace(0.035, 0.02, 24), 0.75),
    lines(trail(fork, 0.14, tail[-1]), 0.6, 0.01),
    tube(spine, radii, 0.95),
    tube(spine[1:-1], radii[1:-1] - 0.014, ink),
    tube(spine[6:20], radii[6:20] * rng.uniform(0.25, 0.5), 1.0),
    ellipses(spine[2], (0.016, 0.016), 1.0),
  ]
  rings = normals(spine) * radii[:, None]
  bands = np.stack([spine - rings, spine + rings], 1)[[11, 14, 17, 20]]
  strokes.append(lines(bands, 0.98, 0.01))
  if rng.random() < 0.25:
    for sign in (-1.0, 1.0):
      sac = tail[8] + [-0.08, sign * 0.09]
      strokes += [
        ellipses(sac, (0.11, 0.05), 0.75, sign * 0.3),
        ellipses(sac + rng.normal(0, 0.03, (5, 2)), (0.02, 0.02), 1.0),
      ]
  return strokes


def ctenophore(rng: np.random.Generator) -> list[Stroke]:
  """Draws a clear pear with beaded comb rows and two fringed tentacles."""
  wide = rng.uniform(0.24, 0.34)
  angle = np.linspace(0.0, 2.0 * np.pi, 40)
  shape = np.stack([0.4 * np.cos(angle), wide * np.sin(angle)], -1)
  shape[:, 1] *= 1.0 + rng.uniform(-0.3, 0.3) * np.cos(angle)
  strokes = []
  for sign in (-1.0, 1.0):
    s = np.linspace(0.0, 1.0, 16)
    sway = rng.uniform(0.3, 0.8) * np.sin(6.0 * s + rng.uniform(0, 6.28))
    reach = rng.uniform(0.35, 0.9)
    tentacle = trail(sign * 0.35 + sway, reach, (0.2, sign * wide * 0.75))
    fringe = trail(rng.normal(1.6, 0.4, (12, 1)) + 0.8 * s[:4], 0.1)
    strokes += [
      lines(tentacle, 0.6, 0.014),
      lines(fringe + tentacle[4:, None], 0.35, 0.006),
    ]
  strokes += [polygon(shape, 0.6), polygon(shape * 0.95, 0.16)]
  strokes += [
    ellipses((0.05, 0.0), (0.24, rng.uniform(0.03, 0.06)), 0.45),
    ellipses((0.03, 0.5 * wide), (0.09, 0.03), 0.7, 0.3),
    ellipses((0.03, -0.5 * wide), (0.09, 0.03), 0.7, -0.3),
    ellipses((-0.36, 0.0), (0.025, 0.025), 0.95),
  ]
  along = np.linspace(-0.85, 0.8, rng.integers(10, 15))
  for meridian in rng.uniform(-0.1, 0.1) + np.array([-0.85, -0.45, 0.3, 0.75]):
    y = meridian * wide * np.sqrt(1.0 - along**2)
    beads = np.stack([0.4 * along, y], -1)
    strokes.append(ellipses(beads, (0.009, 0.026), 0.75))
  return strokes


def jellyfish(rng: np.random.Generator) -> list[Stroke]:
  """Draws a bell with canals, a manubrium and tentacles off its rim."""
  high, tilt = rng.uniform(0.2, 0.42), rng.uniform(0.03, 0.13)
  angle = np.linspace(-np.pi / 2, np.pi / 2, 24)
  dome = np.stack([high * np.cos(angle), 0.28 * np.sin(angle)], -1)
  under = np.stack([-tilt * np.cos(angle), 0.28 * np.sin(angle)], -1)[::-1]
  bell = np.concatenate([dome, under])
  s = np.linspace(0.0, 1.0, 16)
  count = rng.integers(6, 16)
  roots = np.linspace(-0.95, 0.95, count)
  start = np.stack([-tilt * np.sqrt(1 - roots**2), 0.28 * roots], -1)
  drift, flare = rng.normal(0.0, 0.4), rng.uniform(0.0, 0.9)
  wave = rng.uniform(0.1, 0.6) * np.sin(
    rng.uniform(3.0, 8.0) * s + rng.normal(0.0, 0.7, (count, 1))
  )
  heading = np.pi - flare * roots[:, None] + wave + drift * s
  tentacles = trail(heading, rng.uniform(0.3, 0.9, count))
  canals = roots[1:-1:2, None]
  x = np.linspace(0.0, 1.0, 7)
  ribs = np.stack(
    np.broadcast_arrays(
      high * 0.95 * np.sin(x * np.pi / 2) * np.sqrt(1 - canals**2 * 0.2),
      0.26 * canals * np.cos(x * np.pi / 2),
    ),
    -1,
  )
  bend, reach = rng.normal(0.0, 0.5), rng.uniform(0.2, 0.45)
  mouth = trail(np.pi + bend * s, reach, (0.7 * high, 0.0))
  rim = np.concatenate([under, under[::-1] * (-1.0, 1.0)])
  return [
    lines(tentacles + start[:, None], rng.uniform(0.4, 0.7), 0.01),
    polygon(bell, 0.7),
    polygon(bell * 0.93 + [0.004, 0.0], rng.uniform(0.14, 0.3)),
    polygon(rim, 0.32),
    lines(ribs, 0.5, 0.01),
    ellipses((0.7 * high, 0.0), (0.05, 0.09), 0.6),
    tube(mouth, 0.045 - 0.035 * np.sqrt(s), 0.75),
    lines(under, 0.85, 0.02),
    ellipses(start, (0.014, 0.014), 0.95),
  ]


def pluteus(rng: np.random.Generator) -> list[Stroke]:
  """Draws a larva like an easel: a pointed body and stiff, diverging arms."""
  pairs = rng.integers(2, 5)
  spread = rng.uniform(0.3, 0.65)
  reach = rng.uniform(0.5, 0.75, pairs) * np.linspace(1.0, 0.7, pairs)
  s = np.linspace(0.0, 1.0, 12)
  strokes = []
  for sign in (-1.0, 1.0):
    for pair in range(pairs):
      heading = sign * spread * (1.0 - pair / pairs) * (1.0 - 0.3 * s)
      root = -0.05, sign * 0.12 * (1.0 - pair / pairs)
      arm = trail(heading + rng.normal(0.0, 0.04), reach[pair], root)
      strokes += [
        tube(arm, 0.03 * (1.0 - 0.45 * s), 0.36),
        lines(arm, 0.85, 0.01),
      ]
  body = np.array(
    [
      [-0.38, -0.02],
      [-0.38, 0.02],
      [-0.1, 0.14],
      [0.03, 0.17],
      [0.06, 0.08],
      [-0.02, 0.0],
      [0.06, -0.08],
      [0.03, -0.17],
      [-0.1, -0.14],
    ]
  )
  rods = np.array([[[-0.38, 0.0], [0.02, y]] for y in (-0.14, 0.14)])
  return [
    *strokes,
    polygon(body * 1.06, 0.65),
    polygon(body * 0.92 - [0.008, 0.0], 0.38),
    lines(rods, 0.85, 0.012),
    ellipses((-0.16, 0.0), (0.075, 0.06), 0.8),
    ellipses((-0.16, 0.0), (0.04, 0.03), 0.5),
    ellipses((-0.06, 0.0), (0.03, 0.04), 0.7),
  ]
