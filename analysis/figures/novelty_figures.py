"""The figures of `analysis.novelty`."""

import numpy as np

from analysis.figures import figures
from analysis.figures.figures import plt
from analysis.measures import openset
from analysis.measures.openset import Score


def _percent(share: float, place: int) -> str:
  return f'{100.0 * share:.3g} %'


def curves(found: list[Score]) -> plt.Figure:
  """ROC, OSCR and risk over coverage; a colour a source, a dash a score."""
  sources = list(dict.fromkeys(f.source for f in found))
  colours = dict(zip(sources, figures.palette(len(sources)), strict=True))
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
      dash = '-' if f.by == openset.CENTROID else '--'
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
  handles, texts = grid[0].get_legend_handles_labels()
  legend = figure.legend(
    handles, texts, loc='outside upper center', ncols=min(3, len(sources))
  )
  for text in legend.get_texts():
    text.set_parse_math(False)  # names may hold $
  return figure


def histograms(found: list[Score], acceptance: float) -> plt.Figure:
  """A row a source, a column a score: distances of seen and unseen images."""
  sources = list(dict.fromkeys(f.source for f in found))
  ways = ['centroid', 'neighbour']
  figure, grid = plt.subplots(
    len(sources),
    len(ways),
    figsize=(9.0, 0.8 + 2.2 * len(sources)),
    squeeze=False,
    layout='constrained',
  )
  for f in found:
    column = int(f.by != openset.CENTROID)
    ax = grid[sources.index(f.source), column]
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
    if np.isfinite(f.limit):
      label = f'threshold over all classes: {acceptance:.0%} of validation'
      ax.axvline(f.limit, color='0.3', ls='--', lw=1, label=label)
    area = f.measures['auroc']
    title = '' if np.isnan(area) else f', AUROC {area:.3f}'
    ax.set_title(f'{f.source}: {f.by}{title}', parse_math=False)
    ax.set_xlim(0.0, edges[-1])
    ax.set_axisbelow(True)
    ax.yaxis.set_major_formatter(_percent)
  for ax in grid[:, 0]:
    ax.set_ylabel('share of images')
  grid[-1, 0].set_xlabel('distance to the nearest class mean of train')
  grid[-1, 1].set_xlabel('distance to the k-th nearest train image')
  handles = {}
  for ax in grid.flat:
    for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
      handles.setdefault(text, handle)
  figure.legend(
    handles.values(), handles, loc='outside upper center', ncols=len(handles)
  )
  return figure
