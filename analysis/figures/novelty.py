"""Draws how scores tell unseen from seen images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.figures import style
from analysis.figures.style import plt
from analysis.measures import openset
from analysis.measures.openset import Score

DASHES = ('-', '--', ':')
AXES = (
  'distance from all classes (whitened)',
  'distance to the nearest class mean of train',
  'distance to the k-th nearest train image',
)


def _column(found: Score) -> int:
  """Numbers the kind of a score: its column of AXES, and its DASHES."""
  ways = [openset.WHITENED, openset.CENTROID]
  return ways.index(found.by) if found.by in ways else len(ways)


def _percent(share: float, place: int) -> str:
  return f'{100.0 * share:.3g} %'


def draw_curves(found: Sequence[Score]) -> plt.Figure:
  """Draws ROC, OSCR and risk by source (colour) and score (dashes)."""
  sources = list(dict.fromkeys(f.source for f in found))
  colours = style.colours(sources)
  figure, grid = plt.subplots(1, 3, figsize=(10.5, 3.9), layout='constrained')
  panels = (
    ('roc', 'ROC', 'unseen images accepted', 'seen images accepted'),
    ('oscr', 'OSCR', 'unseen images accepted', 'seen, accepted and right'),
    (
      'risk',
      'risk and coverage',
      'seen images accepted',
      'mistakes among them',
    ),
  )
  for ax, (field, title, x, y) in zip(grid, panels, strict=True):
    ax.set(title=title, xlabel=x, ylabel=y, xlim=(0.0, 1.0))
    for f in found:
      curve = getattr(f, field)
      dash = DASHES[_column(f)]
      (line,) = ax.plot(curve.x, curve.y, dash, color=colours[f.source], lw=1.4)
      line.set_label(f'{f.source}, {f.by}')
    for axis in (ax.xaxis, ax.yaxis):
      axis.set_major_formatter(_percent)
    if field != 'risk':
      ax.set_ylim(0.0, 1.01)
    if not any(getattr(f, field).x.size for f in found):
      ax.text(0.5, 0.5, 'no unseen images', ha='center', color='0.4')
  grid[2].set_ylim(0.0)
  grid[0].plot([0.0, 1.0], [0.0, 1.0], ':', color='0.5', lw=1, zorder=0)
  # A column for each source, or for each score of the only one.
  columns = len(sources) if len(sources) > 1 else len(DASHES)
  figure.legend(
    *grid[0].get_legend_handles_labels(),
    loc='outside upper center',
    ncols=min(3, columns),
  )
  return figure


def draw_scores(found: Sequence[Score]) -> plt.Figure:
  """Draws distances of seen and unseen, by source (row) and score (column)."""
  sources = list(dict.fromkeys(f.source for f in found))
  figure, grid = plt.subplots(
    len(sources),
    len(AXES),
    figsize=(12.0, 0.8 + 2.2 * len(sources)),
    squeeze=False,
    layout='constrained',
  )
  for f in found:
    ax = grid[sources.index(f.source), _column(f)]
    both = np.concatenate([f.seen, f.unseen])
    edges = np.linspace(0.0, both.max() or 1.0, 51)
    for distance, colour, name in (
      (f.seen, 'C0', 'seen: test'),
      (f.unseen, 'C1', 'unseen'),
    ):
      if distance.size:
        ax.hist(
          distance,
          edges,
          weights=np.full(len(distance), 1.0 / len(distance)),
          color=colour,
          alpha=0.55,
          label=f'{name} ({len(distance):,})',
        )
    if f.limit is not None:
      ax.axvline(f.limit, color='0.3', ls='--', lw=1, label='threshold')
    area = f.measures['auroc']
    title = '' if np.isnan(area) else f', AUROC {area:.3f}'
    ax.set_title(f'{f.source}: {f.by}{title}')
    ax.set_xlim(0.0, edges[-1])
    ax.set_axisbelow(True)
    ax.yaxis.set_major_formatter(_percent)
  for ax in grid[:, 0]:
    ax.set_ylabel('share of images')
  for ax, text in zip(grid[-1], AXES, strict=True):
    ax.set_xlabel(text)
  handles: dict[str, Any] = {}
  for ax in grid.flat:
    for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
      handles.setdefault(text, handle)
  figure.legend(
    list(handles.values()),
    list(handles),
    loc='outside upper center',
    ncols=len(handles),
  )
  return figure
