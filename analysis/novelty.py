"""Finds images of classes that training did not see.

`python -m analysis.novelty --workdir=DIR [--neighbours=10] [--acceptance=0.95]`
scores images by their distances to train in the whitened embedding, which
`analysis.predict` uses too, and for comparison by the distance to the nearest
class mean and to the k-th nearest train image. A threshold is set on the
validation images; images beyond it are predicted `unknown`. `--community` takes
the threshold by which classes are counted best. Given files,
`--embeddings=train.npz --embeddings=val.npz --embeddings=NEW.npz`, it predicts
for any other images.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import novelty as figures
from analysis.files import command, inputs
from analysis.files.inputs import Embeddings, Source
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import openset, unknowns
from analysis.measures.openset import MEASURES, NO_CURVE, Best, Judged, Score
from plankton_jax.errors import InputError

NEIGHBOURS = flags.DEFINE_integer(
  'neighbours', 10, 'The novelty of an image: how far its k-th neighbour is.'
)
COMMUNITY = flags.DEFINE_bool(
  'community', False, 'Accept the share that counts classes best instead.'
)
FITTED = ('train', 'val')  # splits that are not predicted
LOST = {  # without a split
  'val': 'no thresholds and no predictions',
  'test': 'no measures',
  'unseen': 'only the risk on seen images',
}

Row = dict[str, Any]


def usable(source: Source) -> tuple[dict[str, Embeddings], list[str]]:
  """Selects the splits that have rows; none if train has no labelled images.

  Returns:
    The splits, and notes on those that are missing.

  Raises:
    InputError: splits differ in dimensions.
  """
  train, notes = inputs.labelled(source, 'train')
  if train is None:
    return {}, notes
  splits = {name: rows for name, rows in source.splits.items() if len(rows.id)}
  splits['train'] = train
  inputs.check_widths(source.name, splits)
  notes += [
    f'{source.name} has no {name} images: {lost}'
    for name, lost in LOST.items()
    if name not in splits
  ]
  return splits, notes


class Truth(NamedTuple):
  """Test and unseen images, to compare counts of classes on."""

  true: np.ndarray  # [N] classes 0 ... unknown
  nearest: np.ndarray  # [N] the class of each if it is accepted
  distance: np.ndarray  # [N]
  unknown: int  # the bin of unseen images


def truth(
  train: Embeddings, splits: dict[str, Embeddings], judged: dict[str, Judged]
) -> Truth | None:
  """Gathers labelled test and unseen images; None without either split.

  The bin of unseen images holds those of classes that train has not.
  """
  if not {'test', 'unseen'} <= judged.keys():
    return None
  present = np.unique(train.label)
  index = {
    name: i for i, name in enumerate(inputs.named(train.class_names, present))
  }
  unknown = len(index)
  true, nearest, distance = [], [], []
  for split in ('test', 'unseen'):
    rows = splits[split]
    known = rows.label >= 0
    labels = inputs.named(rows.class_names, rows.label[known])
    true.append([index.get(name, unknown) for name in labels])
    nearest.append(np.searchsorted(present, judged[split].label[known]))
    distance.append(judged[split].distance[known])
  return Truth(
    np.concatenate(true).astype(int),
    np.concatenate(nearest),
    np.concatenate(distance),
    unknown,
  )


def measure(
  source: str,
  by: str,
  limit: float | None,
  seen: tuple[Judged, np.ndarray] | None,
  unseen: Judged | None,
) -> Score:
  """Measures one score; `seen` is test, with its right rows, [S] bool."""
  found = dict.fromkeys(MEASURES, np.nan)
  roc = oscr = risk = NO_CURVE
  near = far = np.empty(0)
  if unseen is not None:
    far = unseen.distance
    if limit is not None:
      found['unseen_unknown'] = float(np.mean(far > limit))
  if seen is not None:
    (_, near), right = seen
    risk = openset.risk_coverage(near, right)
    found |= {'accuracy': float(right.mean()), 'aurc': risk.area}
    if limit is not None:
      found['seen_accepted'] = float(np.mean(near <= limit))
    if unseen is not None:
      roc, others = openset.detection(near, far)
      oscr = openset.oscr(near, right, far)
      found |= {'auroc': roc.area, 'oscr': oscr.area, **others}
  return Score(source, by, near, far, roc, oscr, risk, limit, found)


def count(
  counted: Truth | None, val: np.ndarray | None, limit: float | None
) -> tuple[dict[str, float], Best | None]:
  """Measures counts of classes at the threshold, and at the best one."""
  if counted is None or val is None or limit is None or not len(counted.true):
    return {}, None
  predicted = np.where(
    counted.distance <= limit, counted.nearest, counted.unknown
  )
  at_limit = openset.dissimilarity(counted.true, predicted, counted.unknown + 1)
  best = openset.best_acceptance(
    counted.true,
    counted.nearest,
    counted.distance,
    val,
    unknown=counted.unknown,
  )
  found = {'bray_curtis': float(at_limit)}
  if best:
    found |= {
      'community_acceptance': best.acceptance,
      'community_bray_curtis': best.dissimilarity,
    }
  return found, best


def predictions(
  split: str, rows: Embeddings, train: Embeddings, judged: Judged, limit: float
) -> list[Row]:
  """Tabulates the class predicted for each image, or that it is unknown."""
  nearest = inputs.named(train.class_names, judged.label)
  accepted, none = judged.distance <= limit, openset.no_class(train.class_names)
  return [
    {
      'id': rows.id[i],
      'split': split,
      'class': true,
      'predicted': nearest[i] if accepted[i] else none,
      'nearest_class': nearest[i],
      'distance': judged.distance[i],
      'threshold': limit,
    }
    for i, true in enumerate(inputs.named(rows.class_names, rows.label))
  ]


class Scored(NamedTuple):
  """One source by every score."""

  scores: list[Score]
  limits: list[Row]
  predicted: list[Row]
  notes: list[str]


def score(
  source: Source, *, neighbours: int, acceptance: float, by_counts: bool
) -> Scored:
  """Scores a source every way; returns thresholds and predictions as tables.

  `by_counts` accepts the share by which classes are counted best in place of
  `acceptance`, where there are images to tell.
  """
  splits, notes = usable(source)
  found = Scored([], [], [], notes)
  if not splits:
    return found
  train = splits.pop('train')
  k = min(neighbours, len(train.id))
  if k < neighbours:
    notes.append(f'{source.name} has {k} train images: k = {k} neighbours')
  val = splits['val'].embedding if 'val' in splits else None
  space = unknowns.fit(train.embedding, train.label, val, neighbours=k)
  ways = {
    openset.WHITENED: lambda x: unknowns.judge(space, x),
    openset.CENTROID: lambda x: openset.by_centroid(train, x),
    f'neighbour {k}': lambda x: openset.by_neighbour(train, x, k),
  }
  fewest = openset.fewest(acceptance)
  if val is not None and len(val) < fewest:
    notes.append(
      f'{source.name}: {len(val)} validation images are too few for'
      f' thresholds at {acceptance:.0%} ({fewest} needed): no predictions'
    )
  for by, judge in ways.items():
    judged = {name: judge(rows.embedding) for name, rows in splits.items()}
    held_out = judged['val'].distance if 'val' in judged else None
    limit = seen = None
    share = acceptance
    if held_out is not None and len(held_out) >= fewest:
      limit = openset.threshold(held_out, share)
    counts, best = count(truth(train, splits, judged), held_out, limit)
    if by_counts and best and held_out is not None:
      share = best.acceptance
      limit = openset.threshold(held_out, share)
    test = splits.get('test')
    if test is not None:
      taken = inputs.named(train.class_names, judged['test'].label)
      right = taken == inputs.named(test.class_names, test.label)
      seen = judged['test'], right.astype(bool)
    one = measure(source.name, by, limit, seen, judged.get('unseen'))
    one.measures.update(counts)
    found.scores.append(one)
    if limit is None:
      continue
    if by == openset.WHITENED and 'unseen' in judged:
      notes.append(told(source.name, judged['unseen'].distance, limit))
    head = {'source': source.name, 'by': by}
    found.limits.append(
      {
        **head,
        'acceptance': share,
        'images': len(held_out) if held_out is not None else 0,
        'threshold': limit,
      }
    )
    found.predicted.extend(
      {**head, **row}
      for name, rows in splits.items()
      if name not in FITTED
      for row in predictions(name, rows, train, judged[name], limit)
    )
  return found


def told(source: str, distance: np.ndarray, limit: float) -> str:
  """Says how many images of unseen classes would have been named."""
  named = int(np.sum(distance <= limit))
  return (
    f'{source}: of {len(distance):,} images of classes it never saw it would'
    f' have named {named:,} ({named / len(distance):.0%})'
  )


def analyse(
  sources: Sequence[Source],
  *,
  neighbours: int,
  acceptance: float,
  by_counts: bool = False,
) -> Result:
  """Scores test and unseen images, and predicts all but train and val.

  Raises:
    InputError: neighbours are below 1, acceptance is outside 0 … 1, or splits
      differ in dimensions.
  """
  if neighbours < 1:
    raise InputError(f'--neighbours={neighbours}: give 1 or more')
  command.check_share('acceptance', acceptance)
  scored = [
    score(
      source, neighbours=neighbours, acceptance=acceptance, by_counts=by_counts
    )
    for source in sources
  ]
  notes = [note for one in scored for note in one.notes]
  tables: dict[str, list[Row]] = {}
  if any(one.predicted for one in scored):
    tables['novelty_thresholds.csv'] = [x for one in scored for x in one.limits]
    tables['novelty_predictions.csv'] = [
      row for one in scored for row in one.predicted
    ]
  found = [f for one in scored for f in one.scores if f.seen.size]
  if not found:
    return Result(notes, tables=tables)
  rows = [
    {
      'source': f.source,
      'by': f.by,
      'seen': len(f.seen),
      'unseen': len(f.unseen),
      **f.measures,
    }
    for f in found
  ]
  fields = {'source': 'source', 'by': 'by', **MEASURES}
  shown = [
    {title: row[field] for field, title in fields.items()} for row in rows
  ]
  citations = inputs.citations(sources)
  return Result(
    notes,
    [Shown('novelty: test images accepted as seen, and unseen images', shown)],
    {**tables, 'novelty.csv': rows},
    {'novelty.json': {'acceptance': acceptance, 'scores': rows}},
    {
      'novelty': Drawing(lambda: figures.draw_curves(found), citations),
      'novelty_scores': Drawing(lambda: figures.draw_scores(found), citations),
    },
  )


if __name__ == '__main__':
  command.run(
    'novelty',
    lambda sources: analyse(
      sources,
      neighbours=NEIGHBOURS.value,
      acceptance=command.ACCEPTANCE.value,
      by_counts=COMMUNITY.value,
    ),
  )
