"""Which images are of no class that training saw.

`python -m analysis.novelty --workdir=DIR [--neighbours=10] [--acceptance=0.95]`
scores images by their distance to the nearest class mean of train and by that
to their k-th nearest train image. Thresholds, one a class, are set on the
validation images; what lies beyond them is predicted `unknown`. Given files,
`--embeddings=train.npz --embeddings=val.npz --embeddings=NEW.npz`, it predicts
for any other images.
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags

from analysis.figures import figures, novelty_figures
from analysis.files import inputs, tables
from analysis.files.inputs import Embeddings, Source
from analysis.measures import openset, thresholds
from analysis.measures.openset import MEASURES, NO_CURVE, UNKNOWN, Judged, Score
from analysis.measures.thresholds import ACCEPTANCE, Limits
from plankton_jax.errors import InputError

NEIGHBOURS = flags.DEFINE_integer(
  'neighbours', 10, 'The novelty of an image: how far its k-th neighbour is.'
)
FITTED = ('train', 'val')  # splits that are not predicted
LOST = {  # without a split
  'val': 'no thresholds and no predictions',
  'test': 'no measures',
  'unseen': 'only the risk on seen images',
}

Row = dict[str, Any]


def usable(source: Source) -> dict[str, Embeddings] | None:
  """Its splits that have rows; None without labelled train images.

  Raises:
    InputError: a split has other dimensions than train.
  """
  train = inputs.labelled(source, 'train', 'novelty')
  if train is None:
    return None
  splits = {name: rows for name, rows in source.splits.items() if len(rows.id)}
  splits['train'] = train
  for name, rows in splits.items():
    dims = rows.embedding.shape[1], train.embedding.shape[1]
    if dims[0] != dims[1]:
      raise InputError(
        f'{source.name}: {name} has {dims[0]} dimensions and train {dims[1]};'
        ' embed both by one run'
      )
  for name, lost in LOST.items():
    if name not in splits:
      print(f'novelty: {source.name} has no {name} images: {lost}')
  return splits


def names(rows: Embeddings, label: np.ndarray) -> np.ndarray:
  """Class names [N] of labels [N]; that of -1 is empty."""
  return np.array([*rows.class_names, ''], object)[label]


def measure(
  source: str,
  by: str,
  limits: Limits | None,
  seen: tuple[Judged, np.ndarray] | None,
  unseen: Judged | None,
) -> Score:
  """One score of one source; `seen` is test, with which are right [S] bool."""
  found = dict.fromkeys(MEASURES, np.nan)
  roc = oscr = risk = NO_CURVE
  near = far = np.empty(0)
  if unseen is not None:
    far = unseen.distance
    if limits:
      found['unseen_unknown'] = float(np.mean(far > limits.of(unseen.label)))
  if seen is not None:
    (label, near), right = seen
    risk = openset.risk_coverage(near, right)
    found |= {'accuracy': float(right.mean()), 'aurc': risk.area}
    if limits:
      found['seen_accepted'] = float(np.mean(near <= limits.of(label)))
    if unseen is not None:
      roc, others = openset.detection(near, far)
      oscr = openset.oscr(near, right, far)
      found |= {'auroc': roc.area, 'oscr': oscr.area, **others}
  every = limits.every if limits else np.nan
  return Score(source, by, near, far, roc, oscr, risk, every, found)


def calibrated(
  source: str, by: str, judged: Judged, train: Embeddings, acceptance: float
) -> Limits | None:
  """Thresholds of the train classes; what validation is too few for is said."""
  fewest = thresholds.fewest(acceptance)
  where = f'novelty: {source}, {by}'
  if len(judged.label) < fewest:
    print(
      f'{where}: {len(judged.label)} validation images are too few for'
      f' thresholds at {acceptance:.0%} ({fewest} needed): no predictions'
    )
    return None
  classes = np.unique(train.label)
  limits = thresholds.calibrate(judged, classes, acceptance=acceptance)
  few = sum(not one.own for one in limits.by_class.values())
  if few:
    print(
      f'{where}: {few} of {len(classes)} classes have fewer than {fewest}'
      ' validation images: the threshold over all classes holds for them'
    )
  return limits


def predictions(
  split: str,
  rows: Embeddings,
  train: Embeddings,
  judged: Judged,
  limits: Limits,
) -> list[Row]:
  """A line an image: what it is taken for, or that it is unknown."""
  limit = limits.of(judged.label)
  nearest = names(train, judged.label)
  accepted = judged.distance <= limit
  return [
    {
      'id': rows.id[i],
      'split': split,
      'class': true,
      'predicted': nearest[i] if accepted[i] else UNKNOWN,
      'nearest_class': nearest[i],
      'distance': judged.distance[i],
      'threshold': limit[i],
    }
    for i, true in enumerate(names(rows, rows.label))
  ]


def score(
  source: Source, *, neighbours: int, acceptance: float
) -> tuple[list[Score], list[Row], list[Row]]:
  """One source by either score; thresholds and predictions as tables."""
  scores: list[Score] = []
  limits_table: list[Row] = []
  predicted: list[Row] = []
  splits = usable(source)
  if splits is None:
    return scores, limits_table, predicted
  train = splits.pop('train')
  k = min(neighbours, len(train.id))
  if k < neighbours:
    print(f'novelty: {source.name} has {k} train images: k = {k} neighbours')
  ways = {
    openset.CENTROID: lambda x: openset.by_centroid(train, x),
    f'neighbour {k}': lambda x: openset.by_neighbour(train, x, k),
  }
  for by, judge in ways.items():
    judged = {name: judge(rows.embedding) for name, rows in splits.items()}
    limits = seen = None
    if 'val' in judged:
      limits = calibrated(source.name, by, judged['val'], train, acceptance)
    test = splits.get('test')
    if test is not None:
      taken = names(train, judged['test'].label)
      right = taken == names(test, test.label)
      seen = judged['test'], right.astype(bool)
    scores.append(measure(source.name, by, limits, seen, judged.get('unseen')))
    if limits is None:
      continue
    head = {'source': source.name, 'by': by}
    limits_table += [
      {**head, 'class': train.class_names[label], **one._asdict()}
      for label, one in limits.by_class.items()
    ]
    for name, rows in splits.items():
      if name not in FITTED:
        found = predictions(name, rows, train, judged[name], limits)
        predicted += [{**head, **row} for row in found]
  return scores, limits_table, predicted


def analyse(
  sources: list[Source],
  out: pathlib.Path,
  *,
  neighbours: int,
  acceptance: float,
) -> None:
  """Scores and draws; out/novelty{,_scores}.{png,svg}, novelty*.csv, .json.

  Raises:
    InputError: neighbours below 1, acceptance outside 0 … 1, or splits of
      different dimensions.
  """
  if neighbours < 1:
    raise InputError(f'--neighbours={neighbours}: give 1 or more')
  thresholds.check(acceptance)
  scores: list[Score] = []
  limits: list[Row] = []
  predicted: list[Row] = []
  for source in sources:
    one = score(source, neighbours=neighbours, acceptance=acceptance)
    scores += one[0]
    limits += one[1]
    predicted += one[2]
  if predicted:
    tables.write_csv(out / 'novelty_thresholds.csv', limits)
    tables.write_csv(out / 'novelty_predictions.csv', predicted)
  scores = [one for one in scores if one.seen.size]
  if not scores:
    return
  rows = [
    {
      **{'source': one.source, 'by': one.by},
      **{'seen': len(one.seen), 'unseen': len(one.unseen)},
      **one.measures,
    }
    for one in scores
  ]
  fields = {'source': 'source', 'by': 'by', **MEASURES}
  tables.show(
    [{title: row[field] for field, title in fields.items()} for row in rows],
    'novelty: test images accepted as seen, and unseen images',
  )
  tables.write_csv(out / 'novelty.csv', rows)
  tables.write_json(
    out / 'novelty.json', {'acceptance': acceptance, 'scores': rows}
  )
  citations = inputs.citations(sources)
  for name, figure in (
    ('novelty', novelty_figures.curves(scores)),
    ('novelty_scores', novelty_figures.histograms(scores, acceptance)),
  ):
    figures.save(figure, out, name, citations=citations)


if __name__ == '__main__':
  inputs.main(
    lambda sources, out: analyse(
      sources,
      out,
      neighbours=NEIGHBOURS.value,
      acceptance=ACCEPTANCE.value,
    )
  )
