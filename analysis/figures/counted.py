"""Draws counts with intervals, the errors of methods, and size spectra."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.figures import style
from analysis.figures.style import plt
from analysis.files import tables
from analysis.measures import classes, prevalence
from analysis.measures.tallies import Sample

MOST_SAMPLES = 6  # in a figure: the largest
MOST_CLASSES = 15  # in a panel: the most numerous
ALL_CLASSES = 8  # in a spectrum


def draw_counts(
  found: Sequence[Sample], names: Sequence[str], method: str
) -> plt.Figure:
  """Draws each sample's objects by class: trusted, and as plainly counted."""
  plain = next(iter(prevalence.METHODS))
  by = {(one.name, one.method): one for one in found}
  sizes = {one.name: one.images for one in found}
  shown = sorted(sizes, key=lambda name: -sizes[name])[:MOST_SAMPLES]
  total = np.sum([by[name, method].objects for name in shown], axis=0)
  kept = classes.first(total, MOST_CLASSES)
  columns = min(3, len(shown))
  rows = -(-len(shown) // columns)
  figure, grid = plt.subplots(
    rows,
    columns,
    figsize=(1.8 + 2.6 * columns, 1.0 + rows * (0.9 + 0.2 * len(kept))),
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  place = np.arange(len(kept))
  for ax in grid.flat[len(shown) :]:
    ax.set_axis_off()
  for ax, name in zip(grid.flat, shown, strict=False):
    one = by[name, method]
    ax.errorbar(
      one.objects[kept],
      place,
      xerr=[(one.objects - one.low)[kept], (one.high - one.objects)[kept]],
      fmt='o',
      ms=4,
      lw=1.2,
      color='C0',
      label=f'{method}, 95 % interval',
    )
    ax.plot(by[name, plain].objects[kept], place, 'x', color='C1', label=plain)
    title = f'{tables.short(name, 25)}: {one.images:,} objects'
    ax.set_title(title)
    ax.set_xlim(left=0.0)
  texts = [tables.short(names[c]) for c in kept]
  grid[0, 0].set_yticks(place, texts)
  grid[0, 0].invert_yaxis()
  for ax in grid[-1]:
    ax.set_xlabel('objects')
  figure.legend(
    *grid[0, 0].get_legend_handles_labels(), loc='outside upper center', ncols=2
  )
  return figure


def draw_methods(
  tried: Mapping[str, np.ndarray],
  tested: Mapping[str, np.ndarray] | None,
  trusted: str,
) -> plt.Figure:
  """Draws the errors of each method in simulated samples as boxes."""
  sets = {'validation images': tried}
  if tested is not None:
    sets['test images'] = tested
  figure, ax = plt.subplots(figsize=(6.4, 3.6), layout='constrained')
  names = list(prevalence.METHODS)
  for i, (title, errors) in enumerate(sets.items()):
    drawn: dict[str, Any] = ax.boxplot(
      [errors[name] for name in names],
      positions=np.arange(len(names)) + (i - 0.5 * (len(sets) - 1)) * 0.36,
      widths=0.3,
      orientation='horizontal',
      patch_artist=True,
      showfliers=False,
      medianprops={'color': '0.1'},
      manage_ticks=False,
    )
    for box in drawn['boxes']:
      box.set(facecolor=f'C{i}', alpha=0.6)
    drawn['boxes'][0].set_label(title)
  texts = [f'{n} (trusted)' if n == trusted else n for n in names]
  ax.set_yticks(range(len(names)), texts)
  ax.invert_yaxis()
  ax.set_xlim(left=0.0)
  ax.set_xlabel(
    'Bray-Curtis error by sample; box: quartiles, whiskers: 1.5 of their range'
  )
  figure.legend(loc='outside upper center', ncols=2)
  return figure


def draw_spectra(lines: Sequence[Mapping[str, Any]]) -> plt.Figure:
  """Draws objects by size, all samples together, for the largest classes.

  Per m³ and µm where volumes are known, else objects of a bin.
  """
  by_volume = 'per_m3_um' in lines[0]
  field = 'per_m3_um' if by_volume else 'objects'
  ends = sorted({(line['from_um'], line['to_um']) for line in lines})
  at = {end: i for i, end in enumerate(ends)}
  totals: dict[str, np.ndarray] = {}
  samples = {line['sample'] for line in lines if np.isfinite(line[field])}
  for line in lines:
    if np.isfinite(line[field]):
      values = totals.setdefault(line['class'], np.zeros(len(ends)))
      values[at[line['from_um'], line['to_um']]] += line[field]
  if by_volume:
    totals = {name: x / len(samples) for name, x in totals.items()}
  largest = sorted(totals, key=lambda name: -totals[name].sum())[:ALL_CLASSES]
  figure, ax = plt.subplots(figsize=(6.8, 4.0), layout='constrained')
  middle = np.array([np.sqrt(a * b) for a, b in ends])
  colours = style.palette(max(len(largest), 1))
  for colour, name in zip(colours, largest, strict=False):
    some = totals[name] > 0.0
    # Matplotlib leaves out names with a leading underscore.
    label = f' {tables.short(name)}'
    ax.plot(
      middle[some], totals[name][some], '.-', color=colour, lw=1.2, label=label
    )
  y = 'objects per m³ and µm, mean of samples' if by_volume else 'objects'
  style.set_log(ax, 'x', 'y')
  ax.set(xlabel='equivalent diameter (µm)', ylabel=y)
  figure.legend(loc='outside right upper')
  return figure
