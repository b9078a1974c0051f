"""Draws how groups differ, and which new samples alarm."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.figures import style
from analysis.figures.style import plt
from analysis.files import tables

MOST = 3000  # points of a cloud
SAMPLES = 40  # in a figure: those of the smallest p


def draw_groups(lines: Sequence[Mapping[str, Any]]) -> plt.Figure:
  """Draws accuracy and share of unknowns of groups, left out and not."""
  figure, (left, right) = plt.subplots(
    1,
    2,
    figsize=(8.4, 1.3 + 0.24 * len(lines)),
    sharey=True,
    layout='constrained',
  )
  place = np.arange(len(lines))
  columns = {name: np.array([x[name] for x in lines]) for name in lines[0]}
  accuracy = columns['accuracy']
  left.errorbar(
    accuracy,
    place,
    xerr=np.maximum(
      [accuracy - columns['low'], columns['high'] - accuracy], 0.0
    ),
    fmt='o',
    ms=4,
    color='C0',
    label='centres of the other groups (95 % interval)',
  )
  left.plot(
    columns['accuracy_all'], place, 'x', color='C1', label='of all groups'
  )
  right.plot(columns['unknown'], place, 'o', ms=4, color='C0')
  right.plot(columns['unknown_all'], place, 'x', color='C1')
  texts = [
    f'{tables.short(line["group"])} ({line["images"]:,})' for line in lines
  ]
  left.set_yticks(place, texts)
  left.set_ylim(len(lines) - 0.5, -0.5)
  left.set_xlabel('share rightly labelled')
  right.set_xlabel('share unknown')
  right.set_xlim(left=-0.01)
  figure.legend(loc='outside upper center', ncols=2)
  return figure


def draw_samples(
  lines: Sequence[Mapping[str, Any]],
  reference: np.ndarray,
  new: np.ndarray,
  alarmed: np.ndarray,
  level: float,
) -> plt.Figure:
  """Draws embeddings of both sides in a plane, and each sample's p.

  `alarmed` [N] bool marks the new images whose sample alarms.
  """
  shown = sorted(lines, key=lambda line: line['p'])[:SAMPLES]
  figure, (left, right) = plt.subplots(
    1,
    2,
    figsize=(9.6, max(4.0, 1.2 + 0.22 * len(shown))),
    width_ratios=(3, 2),
    layout='constrained',
  )
  plane = _plane(reference)
  sides = (
    ('outside of training', reference, '0.7'),
    ('new, no alarm', new[~alarmed], 'C0'),
    ('new, alarm', new[alarmed], 'C3'),
  )
  for name, rows, colour in sides:
    if len(rows):
      x, y = plane(rows[:: -(-len(rows) // MOST)]).T
      label = f'{name} ({len(rows):,})'
      left.plot(x, y, '.', ms=3, alpha=0.6, color=colour, label=label)
  left.set(
    xlabel='first principal component of those outside of training',
    ylabel='second',
  )
  place = np.arange(len(shown))
  p = np.array([line['p'] for line in shown])
  colours = ['C3' if line['alarm'] else 'C0' for line in shown]
  right.scatter(p, place, c=colours, s=18, zorder=3)
  texts = [
    f'{tables.short(line["sample"])} ({line["images"]:,})' for line in shown
  ]
  right.set_yticks(place, texts)
  right.set_ylim(len(shown) - 0.5, -0.5)
  right.axvline(level, color='0.4', ls='--', lw=1)
  style.set_log(right, 'x')
  right.set_xlabel(
    f'p; dashed: {level:g}; red: alarm, by Holm over all samples'
  )
  right.set_xlim(right=1.3)
  figure.legend(loc='outside upper center', ncols=3)
  return figure


def _plane(rows: np.ndarray) -> Any:
  """Returns a projection [N, D] -> [N, 2] onto the rows' principal axes."""
  mean = rows.mean(axis=0)
  axes = np.linalg.svd(rows - mean, full_matrices=False)[2][:2]
  return lambda others: (others - mean) @ axes.T
