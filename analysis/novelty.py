"""Finds images of classes that training did not see.

`python -m analysis.novelty --workdir=DIR [--neighbours=10] [--acceptance=0.95]`
scores images by their distance to the nearest class mean of train and by that
to their k-th nearest train image. Thresholds, one for each class, are
set on the validation images; images beyond them are predicted `unknown`. Given
files, `--embeddings=train.npz --embeddings=val.npz --embeddings=NEW.npz`, it
predicts for any other images.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import style
from analysis.figures.style import plt
from analysis.files import command, inputs
from analysis.files.inputs import Embeddings, Source
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import openset, thresholds
from analysis.measures.openset import MEASURES, NO_CURVE, UNKNOWN, Judged, Score
from analysis.measures.thresholds import Limits
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


def usable(source: Source) -> tuple[dict[str, Embeddings], list[str]]:
  """Selects the splits that have rows; none if train has no labelled images.

  Returns:
    The splits, and notes on those that are missing.

  Raises:
    InputError: a split differs from train in dimensions.
  """
  train, notes = inputs.labelled(source, 'train')
  if train is None:
    return {}, notes
  splits = {name: rows for name, rows in source.splits.items() if len(rows.id)}
  splits['train'] = train
  for name, rows in splits.items():
    dims = rows.embedding.shape[1], train.embedding.shape[1]
    if dims[0] != dims[1]:
      raise InputError(
        f'{source.name}: {name} has {dims[0]} dimensions and train {dims[1]};'
        ' embed both by one run'
      )
  notes += [
    f'{source.name} has no {name} images: {lost}'
    for name, lost in LOST.items()
    if name not in splits
  ]
  return splits, notes


def names(rows: Embeddings, label: np.ndarray) -> np.ndarray:
  """Names the classes [N] of labels [N]; -1 gives an empty name."""
  return np.array([*rows.class_names, ''], object)[label]


def measure(
  source: str,
  by: str,
  limits: Limits | None,
  seen: tuple[Judged, np.ndarray] | None,
  unseen: Judged | None,
) -> Score:
  """Measures one score; `seen` is test, with its right rows, [S] bool."""
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
) -> tuple[Limits | None, list[str]]:
  """Sets thresholds of the train classes, and notes classes of few images.

  Returns None if there are too few validation images in all.
  """
  fewest = thresholds.fewest(acceptance)
  where = f'{source}, {by}'
  if len(judged.label) < fewest:
    return None, [
      f'{where}: {len(judged.label)} validation images are too few for'
      f' thresholds at {acceptance:.0%} ({fewest} needed): no predictions'
    ]
  classes = np.unique(train.label)
  limits = thresholds.calibrate(judged, classes, acceptance=acceptance)
  few = sum(not one.own for one in limits.by_class.values())
  if not few:
    return limits, []
  return limits, [
    f'{where}: {few} of {len(classes)} classes have fewer than {fewest}'
    ' validation images: the threshold over all classes holds for them'
  ]


def predictions(
  split: str,
  rows: Embeddings,
  train: Embeddings,
  judged: Judged,
  limits: Limits,
) -> list[Row]:
  """Tabulates the class predicted for each image, or that it is unknown."""
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


class Scored(NamedTuple):
  """One source by both scores."""

  scores: list[Score]
  limits: list[Row]
  predicted: list[Row]
  notes: list[str]


def score(source: Source, *, neighbours: int, acceptance: float) -> Scored:
  """Scores a source both ways; returns thresholds and predictions as tables."""
  splits, notes = usable(source)
  found = Scored([], [], [], notes)
  if not splits:
    return found
  train = splits.pop('train')
  k = min(neighbours, len(train.id))
  if k < neighbours:
    notes.append(f'{source.name} has {k} train images: k = {k} neighbours')
  ways = {
    openset.CENTROID: lambda x: openset.by_centroid(train, x),
    f'neighbour {k}': lambda x: openset.by_neighbour(train, x, k),
  }
  for by, judge in ways.items():
    judged = {name: judge(rows.embedding) for name, rows in splits.items()}
    limits = seen = None
    if 'val' in judged:
      limits, few = calibrated(
        source.name, by, judged['val'], train, acceptance
      )
      notes += few
    test = splits.get('test')
    if test is not None:
      taken = names(train, judged['test'].label)
      right = taken == names(test, test.label)
      seen = judged['test'], right.astype(bool)
    found.scores.append(
      measure(source.name, by, limits, seen, judged.get('unseen'))
    )
    if limits is None:
      continue
    head = {'source': source.name, 'by': by}
    found.limits.extend(
      {**head, 'class': train.class_names[label], **one._asdict()}
      for label, one in limits.by_class.items()
    )
    found.predicted.extend(
      {**head, **row}
      for name, rows in splits.items()
      if name not in FITTED
      for row in predictions(name, rows, train, judged[name], limits)
    )
  return found


def analyse(
  sources: Sequence[Source], *, neighbours: int, acceptance: float
) -> Result:
  """Scores test and unseen images, and predicts all but train and val.

  Raises:
    InputError: neighbours are below 1, acceptance is outside 0 … 1, or splits
      differ in dimensions.
  """
  if neighbours < 1:
    raise InputError(f'--neighbours={neighbours}: give 1 or more')
  thresholds.check(acceptance)
  scored = [
    score(source, neighbours=neighbours, acceptance=acceptance)
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
      'novelty': Drawing(functools.partial(draw_curves, found), citations),
      'novelty_scores': Drawing(
        functools.partial(draw_scores, found, acceptance), citations
      ),
    },
  )


def _percent(share: float, place: int) -> str:
  return f'{100.0 * share:.3g} %'


def draw_curves(found: list[Score]) -> plt.Figure:
  """Draws ROC, OSCR and risk by source (colour) and score (dashes)."""
  sources = list(dict.fromkeys(f.source for f in found))
  colours = dict(zip(sources, style.palette(len(sources)), strict=True))
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


def draw_scores(found: list[Score], acceptance: float) -> plt.Figure:
  """Draws distances of seen and unseen, by source (row) and score (column)."""
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


if __name__ == '__main__':
  command.run(
    'novelty',
    lambda sources: analyse(
      sources,
      neighbours=NEIGHBOURS.value,
      acceptance=command.ACCEPTANCE.value,
    ),
  )
