"""Trains and measures one cell, a contestant in a process of its own.

`python -m benchmarks.contestants WORK RESULT PEER_PYTHON` trains what
WORK/spec.json says. The measures are ours for both contestants.
"""

import json
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from analysis import classifiers
from analysis.files import inputs, tables
from analysis.measures import curves
from benchmarks import cells, contest
from plankton_jax import checkpoints, retrieval
from plankton_jax.data import pipeline
from plankton_jax.errors import DivergedError, InputError
from plankton_jax.files.config_file import Config
from plankton_jax.train import experiment, failures, log, loop
from plankton_jax.train.step import spread

NOTHING = dict.fromkeys(cells.MEASURES, math.nan)


def measure(
  embed: Callable[[str], np.ndarray], data: pipeline.Data
) -> dict[str, float]:
  """Computes the measures of a table.

  Args:
    embed: rows of a split -> embeddings [N, D].
    data: the splits, with their labels and ids.
  """
  found = {}
  for split in ('test', 'unseen'):
    rows = data.splits[split]
    ranked = retrieval.evaluate(embed(split), data.labels[rows], ks=(1,))
    found[f'{split} R@1'] = ranked['recall_at_1']
    found[f'{split} MAP@R'] = ranked['map_at_r']
    if split == 'test':
      found['test macro MAP@R'] = ranked['macro_map_at_r']
  unseen = inputs.Embeddings(
    embed('unseen'), data.labels[rows], data.ids[rows], data.class_names
  )
  return found | _few_shots(unseen)


def _few_shots(unseen: inputs.Embeddings) -> dict[str, float]:
  """Scores support vectors on 30 and all training images: balanced accuracy."""
  score = dict.fromkeys(('unseen SVC n=30', 'unseen SVC n=max'), math.nan)
  rows, _ = classifiers.usable(unseen, 'unseen')
  if rows is None:
    return score
  (curve,) = curves.learn(
    'unseen', rows.embedding, rows.label, classifiers=('SVC',)
  )
  means = curve.scores['balanced accuracy'].mean(axis=0)
  if curve.sizes[0] == curves.SMALLEST:
    score['unseen SVC n=30'] = means[0]
  return score | {'unseen SVC n=max': means[-1]}


def ours(config: Config, work: pathlib.Path) -> cells.Result:
  """Trains as launch.py does; measures the checkpoint that embed uses."""
  note = ''
  try:
    loop.train_and_evaluate(config, work)
  except DivergedError as error:
    note = f'diverged: {error}'
  rows = log.read(work / 'metrics.jsonl').by_split
  warned = [row['warning'] for row in rows.get('collapse', [])]
  seconds = sum(row['seconds'] for row in rows.get('epoch', []))
  found, epoch = NOTHING, None
  if 'val' in rows:
    data = experiment.load_data(config, work)
    encoder = checkpoints.load_encoder(work)
    epoch = next(
      round(row['epoch']) for row in rows['val'] if row['step'] == encoder.step
    )
    embedded = {
      split: encoder.embed(data.images[rows], measures=data.measures_of(rows))
      for split, rows in data.splits.items()
      if split in ('test', 'unseen')
    }
    found = measure(embedded.__getitem__, data)
  note = note or (f'collapsed: {warned[0]}' if warned else '')
  return {**found, 'seconds': seconds, 'epoch': epoch, 'note': note}


def peer(config: Config, work: pathlib.Path, python: str) -> cells.Result:
  """Trains PyTorch on the same rows; chooses its best epoch as ours is.

  Args:
    config: the settings, as for ours.
    work: folder to exchange arrays in.
    python: an interpreter with the peers.
  """
  data = experiment.load_data(config, work)
  spec = _exchange(data, work) | {
    'config': config,
    'num_classes': data.num_seen,
    'work': str(work),
  }
  best, kept, seconds, note = -1.0, None, 0.0, ''
  read = lambda split: np.load(work / f'{split}.npy')
  with contest.opened('peer_training', python, spec) as worker:
    for epoch in range(1, config['epochs'] + 1):
      said = worker.hear()
      seconds += said['seconds']
      rows = read('val')
      if not (math.isfinite(said['loss']) and np.isfinite(rows).all()):
        note = f'diverged: the loss is {said["loss"]} in epoch {epoch}'
        break
      labels = data.labels[data.splits['val']]
      found = retrieval.evaluate(rows, labels, ks=(1,))['map_at_r']
      note = note or _collapse(config, said['loss'], rows)
      if found > best:
        best, kept = found, epoch
      worker.tell('keep' if kept == epoch else 'go on')
    if kept is None:
      return {**NOTHING, 'seconds': seconds, 'epoch': None, 'note': note}
    worker.tell('end')
    worker.hear()
  measured = measure(read, data)
  return {**measured, 'seconds': seconds, 'epoch': kept, 'note': note}


def _exchange(data: pipeline.Data, work: pathlib.Path) -> dict[str, Any]:
  """Writes arrays for the peer, which reads the same pixel cache as ours."""
  np.save(work / 'labels.npy', data.labels)
  for name, rows in data.splits.items():
    np.save(work / f'{name}_rows.npy', rows)
  assert isinstance(data.images, np.memmap)
  return {'images': str(data.images.filename)}


def _collapse(config: Config, loss: float, rows: np.ndarray) -> str:
  """Diagnoses the peer's validation embeddings as ours; '' if healthy."""
  values = spread(jnp.asarray(rows), jnp.ones(len(rows), bool))
  text = failures.diagnose_collapse(
    [{'loss': loss, **{name: float(x) for name, x in values.items()}}],
    collapsed_loss=config['objective'].get('margin')
    if config['curriculum']
    else None,
    embedding_dim=rows.shape[1],
    stage='',
  )
  return f'collapsed: {text}' if text else ''


def main(work: pathlib.Path, final: pathlib.Path, python: str) -> None:
  """Trains the cell of a folder, and writes its result."""
  spec = json.loads((work / 'spec.json').read_text())
  try:
    if spec['peer']:
      found = peer(spec['config'], work, python)
    else:
      found = ours(spec['config'], work)
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  tables.write_json(final, {'spec': spec, 'result': found})


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3])
