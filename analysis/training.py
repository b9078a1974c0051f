"""How the training went: losses, distances, fractions, spread, by epoch.

`python -m analysis.training --workdir=DIR` reads DIR/metrics.jsonl.
"""

import pathlib
from typing import Any

import numpy as np

from analysis.figures import figures, training_figures
from analysis.files import inputs, tables
from analysis.files.training_log import Log, column, read_log


def summary(name: str, log: Log) -> dict[str, Any]:
  """The run in one row; NaN where it logged no such thing."""
  train, val = log.get('train', []), log.get('val', [])
  val_loss, epochs = column(val, 'loss'), log.get('epoch', [])
  best = int(np.nanargmin(val_loss)) if np.isfinite(val_loss).any() else None
  last = {split: rows[-1] for split, rows in log.items()}
  retrieval = column(val, 'map_at_r')
  finite = np.isfinite(retrieval)

  def final(split, metric):
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


def analyse(sources: list[inputs.Source], out: pathlib.Path) -> None:
  """Draws the training logs, a column a source; out/training.{png,svg,…}."""
  logs = {}
  for source in sources:
    path = (source.workdir or pathlib.Path()) / 'metrics.jsonl'
    if source.workdir is None:
      print(f'training: {source.name} needs a workdir: skipped')
    elif not path.is_file():
      print(f'training: {source.name} has no metrics.jsonl: skipped')
    else:
      log, broken = read_log(path)
      if broken:
        print(f'training: {path}: {broken} unreadable lines left out')
      for row in log.get('collapse', []):
        print(
          f'training: {source.name}: epoch {row["epoch"]:.1f}: {row["warning"]}'
        )
      if log.get('train') or log.get('val'):
        logs[source.name] = (source, log)
      else:
        print(f'training: {path} holds no training step: skipped')
  if not logs:
    return
  rows = [summary(name, log) for name, (_, log) in logs.items()]
  tables.show(rows, 'training')
  tables.write_json(out / 'training.json', rows)
  flat = [
    {'source': name, **row}
    for name, (_, log) in logs.items()
    for split in ('train', 'val', 'epoch', 'test')
    for row in log.get(split, [])
  ]
  fields = list(dict.fromkeys(field for row in flat for field in row))
  tables.write_csv(
    out / 'training.csv',
    [{field: row.get(field, '') for field in fields} for row in flat],
  )
  stages = [source.config.get('curriculum', []) for source, _ in logs.values()]
  figure = training_figures.draw(
    list(logs), [log for _, log in logs.values()], stages
  )
  citations = [source.config.get('citation', '') for source, _ in logs.values()]
  figures.save(figure, out, 'training', citations=citations)


if __name__ == '__main__':
  inputs.main(analyse)
