"""Shows the course of training: losses, distances, fractions, spread.

`python -m analysis.training --workdir=DIR` reads DIR/metrics.jsonl.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.figures import style
from analysis.figures.style import plt
from analysis.files import command, inputs, tables
from analysis.files.result import Drawing, Result, Shown
from plankton_jax.train.log import BySplit, column, read

# A panel each: its label, and (metric, colour) of each curve in it.
PANELS = (
  ('loss', (('loss', 'C0'),)),
  ('accuracy', (('accuracy', 'C0'),)),
  ('retrieval', (('recall_at_1', 'C0'), ('map_at_r', 'C3'))),
  ('squared distance', (('d_ap', 'C0'), ('d_an', 'C3'))),
  (
    'share of anchors',
    (('active_fraction', 'C0'), ('fallback_fraction', 'C3')),
  ),
  ('spread (mean std)', (('spread', 'C0'),)),
  ('effective rank', (('effective_rank', 'C0'),)),
)
LEGEND: tuple[tuple[dict[str, Any], str], ...] = (
  ({'color': '0.3', 'lw': 0.4, 'alpha': 0.5}, 'training step'),
  ({'color': '0.3', 'lw': 1.6}, 'its running mean over 2 % of the steps'),
  (
    {'color': '0.3', 'lw': 1.0, 'ls': '--'},
    'validation (triplets: hard + hard)',
  ),
)


def summary(name: str, log: BySplit) -> dict[str, Any]:
  """Sums the run up in one row; NaN for values that it did not log."""
  train, val = log.get('train', []), log.get('val', [])
  val_loss, epochs = column(val, 'loss'), log.get('epoch', [])
  best = int(np.nanargmin(val_loss)) if np.isfinite(val_loss).any() else None
  last = {split: rows[-1] for split, rows in log.items()}
  retrieval = column(val, 'map_at_r')
  finite = np.isfinite(retrieval)

  def final(split: str, metric: str) -> float:
    return float(column([last.get(split, {})], metric)[0])

  rates = column(epochs, 'images_per_second')
  return {
    'source': name,
    'epochs': final('train', 'epoch'),
    'steps': len(train),
    'best val loss': float(val_loss[best]) if best is not None else np.nan,
    'at epoch': column(val, 'epoch')[best] if best is not None else np.nan,
    'last val loss': final('val', 'loss'),
    'best val MAP@R': float(retrieval[finite].max())
    if finite.any()
    else np.nan,
    'test loss': final('test', 'loss'),
    'test accuracy': final('test', 'accuracy'),
    'images/s': float(np.nanmedian(rates)) if np.any(rates > 0) else np.nan,
    'minutes': float(np.nansum(column(epochs, 'seconds')) / 60),
    'losses not finite': int(np.sum(~np.isfinite(column(train, 'loss')))),
  }


def analyse(sources: Sequence[inputs.Source]) -> Result:
  """Sums up the training logs, and draws a column for each source."""
  logs: dict[str, tuple[inputs.Source, BySplit]] = {}
  notes: list[str] = []
  for source in sources:
    if source.workdir is None:
      notes.append(f'{source.name} needs a workdir: skipped')
      continue
    path = source.workdir / 'metrics.jsonl'
    if not path.is_file():
      notes.append(
        f'{source.name} has no metrics.jsonl (not trained here): skipped'
      )
      continue
    log, broken = read(path)
    if broken:
      notes.append(f'{path}: {broken} unreadable lines left out')
    collapses = log.get('collapse', [])
    notes += [
      f'{source.name}: epoch {epoch:.1f}: {row.get("warning")}'
      for row, epoch in zip(collapses, column(collapses, 'epoch'), strict=True)
    ]
    if log.get('train') or log.get('val'):
      logs[source.name] = (source, log)
    else:
      notes.append(f'{path} holds no training step: skipped')
  if not logs:
    return Result(notes)
  rows = [summary(name, log) for name, (_, log) in logs.items()]
  flat = [
    {'source': name, **row}
    for name, (_, log) in logs.items()
    for split in ('train', 'val', 'epoch', 'test')
    for row in log.get(split, [])
  ]
  drawn = [source for source, _ in logs.values()]
  stages = [(source.config or {}).get('curriculum', []) for source in drawn]
  every = [log for _, log in logs.values()]
  figure = lambda: draw(list(logs), every, stages)
  return Result(
    notes,
    [Shown('training', rows)],
    {'training.csv': tables.filled(flat)},
    {'training.json': rows},
    {'training': Drawing(figure, inputs.citations(drawn))},
  )


def draw(
  names: Sequence[str], logs: Sequence[BySplit], stages: Sequence[list]
) -> plt.Figure:
  """Draws sources as columns and, as rows, panels that any of them logged."""
  metrics = {
    name
    for log in logs
    for s in ('train', 'val')
    for r in log.get(s, [])
    for name in r
  }
  panels = [p for p in PANELS if any(m in metrics | {'loss'} for m, _ in p[1])]
  figure, grid = plt.subplots(
    len(panels),
    len(logs),
    figsize=(max(6.6, 1 + 4.6 * len(logs)), 1.8 * len(panels)),
    sharex='col',
    squeeze=False,
    layout='constrained',
  )
  pad = 16 if any(stages) else 6
  for i, (name, log, curriculum) in enumerate(
    zip(names, logs, stages, strict=True)
  ):
    grid[0, i].set_title(name, pad=pad, weight='bold')
    grid[-1, i].set_xlabel('epoch')
    for j, (label, drawn) in enumerate(panels):
      ax = grid[j, i]
      ax.set_ylabel(label, fontsize=8)
      _bands(ax, curriculum, log, named=j == 0)
      if not _curves(ax, log, drawn):
        ax.text(
          0.5,
          0.5,
          'not logged',
          transform=ax.transAxes,
          ha='center',
          color='0.5',
        )
        ax.set_yticks([])
  handles = [plt.Line2D([], [], label=text, **look) for look, text in LEGEND]
  figure.legend(
    handles=handles, loc='outside upper center', ncols=3, fontsize=8
  )
  figure.align_ylabels()
  return figure


def smooth(values: np.ndarray, window: int) -> np.ndarray:
  """Computes a centred running mean [N], cut at the ends, without NaN."""
  finite = np.isfinite(values)
  sums = np.cumsum(np.concatenate([[0.0], np.where(finite, values, 0.0)]))
  counts = np.cumsum(np.concatenate([[0], finite]))
  at, half = np.arange(len(values)), window // 2
  first = np.maximum(at - half, 0)
  last = np.minimum(at + half + 1, len(values))
  total, count = sums[last] - sums[first], counts[last] - counts[first]
  return np.divide(
    total, count, out=np.full(len(values), np.nan), where=count > 0
  )


def _curves(
  ax: plt.Axes, log: BySplit, drawn: Sequence[tuple[str, str]]
) -> bool:
  """Draws the metrics that were logged; returns False if none was."""
  lows, highs, drawn_names = [], [], []
  for split, metric, colour in (
    (split, *pair) for pair in drawn for split in ('train', 'val')
  ):
    rows = log.get(split, [])
    values, epochs = column(rows, metric), column(rows, 'epoch')
    if not np.isfinite(values).any():
      continue
    lows.append(np.nanmin(values))
    highs.append(np.nanmax(values))
    named = None if metric in drawn_names else metric
    drawn_names.append(metric)
    if split == 'train':
      ax.plot(epochs, values, color=colour, lw=0.4, alpha=0.3)
      values = smooth(values, len(values) // 50)
      ax.plot(epochs, values, color=colour, lw=1.6, label=named)
    else:
      shade = colour if len(drawn) > 1 else 'C1'
      ax.plot(epochs, values, color=shade, lw=1.0, ls='--', label=named)
  if not lows:
    return False
  if drawn[0][0] == 'loss' and 0 < 50 * min(lows) < max(highs):
    style.set_log(ax, 'y')  # cross-entropies fall by orders of magnitude
  if len(drawn) > 1:
    ax.legend(fontsize=7, ncols=2, loc='best')
  return True


def _bands(
  ax: plt.Axes, curriculum: list, log: BySplit, *, named: bool
) -> None:
  """Shades the curriculum's stages; names them above the panel."""
  end = max(
    np.nanmax(column(rows, 'epoch'), initial=0.0)
    for split, rows in log.items()
    if split in ('train', 'val')
  )
  starts = [float(start) for start, _, _ in curriculum] + [np.inf]
  for i, (start, positive, negative) in enumerate(curriculum):
    stop = min(starts[i + 1], end)
    if stop <= start:
      continue  # the run ended before this stage
    ax.axvspan(start, stop, color=f'C{i % 10}', alpha=0.07, lw=0)
    if named:
      ax.text(
        (start + stop) / 2,
        1.02,
        f'{positive} + {negative}',
        ha='center',
        fontsize=7,
        color='0.3',
        transform=ax.get_xaxis_transform(),
      )


if __name__ == '__main__':
  command.run('training', analyse)
