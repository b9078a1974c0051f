"""Tells whether images are unlike those of training, by sample or cruise.

`python -m analysis.shift --workdir=DIR --by=REGEX` leaves one group of the
run's own images out after another (the regex finds the group's name in an
image's id), and tells how well it is labelled from the others. With
`--images=FOLDER` or `--export=EXPORT` it tests each sample of new images, says
which are unlike anything outside of training, and which images to label first.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import drifted
from analysis.files import command, inputs, new_images, samples
from analysis.files.inputs import Embeddings, Source
from analysis.files.new_images import NewImages
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import (
  calibration,
  drift,
  fitted,
  labeller,
  openset,
  unknowns,
)
from analysis.measures.drift import Rows
from analysis.measures.fitted import Fitted
from plankton_jax.errors import InputError, shorten_list

LABEL_FIRST = flags.DEFINE_integer(
  'label_first', 40, 'How many images to label first.'
)
LEVEL = flags.DEFINE_float(
  'alarm_level', 0.05, 'Probability of a false alarm in any sample.'
)
for name in ('images', 'export', 'by', 'pixel_um', 'acceptance'):
  flags.declare_key_flag(name)  # --help shows it

PERMUTATIONS = 999
MOST_GROUPS = 60  # of labelled images: the largest
SHOWN = 6  # names in a sentence

Row = dict[str, Any]


class Asked(NamedTuple):
  """Names what to test, and how."""

  images: str | None = None  # a folder, or an embedding file
  export: str | None = None  # any source
  by: str = command.BY.default
  acceptance: float = command.ACCEPTANCE.default
  label: int = LABEL_FIRST.default
  level: float = LEVEL.default
  pixel_um: float | None = None  # of all new images; None takes the run's


class Measured(NamedTuple):
  """How a labeller does on some images."""

  images: int
  accuracy: float
  calibration_error: float
  unknown: float  # share that no class takes; NaN without thresholds


def measure(fit: Fitted, rows: Embeddings) -> Measured:
  """Measures a labeller on rows that are labelled by its classes."""
  label, sure = labeller.guess(fit.labeller, rows.embedding)
  right = label == rows.label
  unknown = np.nan
  if np.isfinite(fit.labeller.threshold):
    distance = unknowns.judge(fit.labeller.seen, rows.embedding).distance
    unknown = float(np.mean(distance > fit.labeller.threshold))
  return Measured(
    len(right),
    float(right.mean()),
    calibration.reliability(sure, right).error,
    unknown,
  )


def leave_one_out(
  source: Source, by: str, acceptance: float
) -> tuple[list[Row], list[str]]:
  """Labels the val and test images of each group by centres of the others.

  Thresholds and confidence, too, come from the others. The columns that end in
  `_all` are of centres and thresholds of all groups.

  Raises:
    InputError: an image has no group, there is one group, or there are no val
      and test images.
  """
  splits, notes = _labelled(source)
  groups = {
    name: samples.name_groups(rows.id.tolist(), by)
    for name, rows in splits.items()
  }
  every, counts = np.unique(
    np.concatenate(list(groups.values())), return_counts=True
  )
  if len(every) < 2:
    raise InputError(
      f'--by={by}: all images are of one group, {every[0]}; give what makes two'
      ' groups or more, so that one can be left out'
    )
  if len(every) > MOST_GROUPS:
    notes.append(
      f'{len(every):,} groups: the {MOST_GROUPS} of most images are left out'
    )
    every = every[np.argsort(-counts, kind='stable')[:MOST_GROUPS]]
  whole = fitted.fit(source, None, acceptance=acceptance)
  lines = []
  for group in sorted(every.tolist()):
    own = {
      name: inputs.take(rows, groups[name] == group)
      for name, rows in splits.items()
    }
    others = {
      name: inputs.take(rows, groups[name] != group)
      for name, rows in splits.items()
    }
    if not len(others['train'].id):
      notes.append(f'{group} has all train images: not left out')
      continue
    del own['train']
    others.pop('test', None)  # nothing is fitted to it
    one = source._replace(splits={**others, 'own': _concatenate(own.values())})
    line = _left_out(one, whole, acceptance)
    if line is None:
      notes.append(
        f'{group} has no val or test images of a class: not measured'
      )
      continue
    lines.append({'group': group, **line})
  return lines, notes


def _labelled(source: Source) -> tuple[dict[str, Embeddings], list[str]]:
  """Selects the labelled rows of train, val and test, with notes on others.

  Raises:
    InputError: there are no val and test images.
  """
  splits: dict[str, Embeddings] = {}
  notes = []
  for name in ('train', 'val', 'test'):
    rows, missing = inputs.labelled(source, name)
    notes += missing
    if rows is not None:
      splits[name] = rows
  if not {'val', 'test'} & splits.keys():
    raise InputError(
      f'{source.name} has no labelled val or test images: only those that the'
      ' encoder was not trained on tell how well a group is labelled'
    )
  return splits, notes


def _left_out(source: Source, whole: Fitted, acceptance: float) -> Row | None:
  """Measures the split `own` by the others of a source, and by `whole`.

  Returns:
    None if it has no images of the others' classes.
  """
  fit = fitted.fit(source, None, acceptance=acceptance)
  rows, _ = labeller.split(source, 'own', fit.labeller.gallery.class_names)
  if rows is None:
    return None
  own = source.splits['own']
  kept = inputs.take(own, np.isin(own.id, rows.id))
  inside, _ = labeller.split(
    source._replace(splits={'own': kept}),
    'own',
    whole.labeller.gallery.class_names,
  )
  assert inside is not None
  apart, together = measure(fit, rows), measure(whole, inside)
  low, high = calibration.wilson(apart.accuracy, apart.images)
  return {
    'images': apart.images,
    'accuracy': apart.accuracy,
    'low': low,
    'high': high,
    'accuracy_all': together.accuracy,
    'calibration_error': apart.calibration_error,
    'unknown': apart.unknown,
    'unknown_all': together.unknown,
  }


def _concatenate(splits: Iterable[Embeddings]) -> Embeddings:
  """Puts rows of one run's splits together."""
  parts = list(splits)
  return Embeddings(
    np.concatenate([part.embedding for part in parts]),
    np.concatenate([part.label for part in parts]),
    np.concatenate([part.id for part in parts]),
    parts[0].class_names,
  )


class Alarms(NamedTuple):
  """The tests of new images."""

  lines: list[Row]  # one a sample
  chosen: list[Row]  # the images to label first
  said: list[str]
  reference: Rows
  sample: Rows


def _predicted(fit: Fitted, embedding: np.ndarray) -> Rows:
  return Rows(embedding, labeller.guess(fit.labeller, embedding)[0])


def test_new(
  source: Source, new: NewImages, groups: np.ndarray, asked: Asked
) -> Alarms:
  """Tests each sample of new images against those outside of training.

  Raises:
    InputError: the run has no val or test images.
  """
  fit = fitted.fit(source, None, acceptance=asked.acceptance)
  inputs.check_dimensions(fit.labeller.gallery, new.rows)
  outside = [rows.embedding for rows in (fit.val, fit.held_out) if rows]
  if not outside:
    raise InputError(
      f'{source.name} has no labelled val or test images: new ones cannot be'
      ' compared with those of training, which the encoder knows'
    )
  reference = _predicted(fit, np.concatenate(outside))
  sample = _predicted(fit, new.rows.embedding)
  rng = np.random.default_rng(drift.SEED)
  distance = unknowns.judge(fit.labeller.seen, new.rows.embedding).distance
  names = np.unique(groups)
  # With K samples, the smallest of all p is held against level / K.
  permutations = max(PERMUTATIONS, int(np.ceil(2 * len(names) / asked.level)))
  tests = [
    drift.test(
      reference, sample.take(groups == name), permutations=permutations, rng=rng
    )
    for name in names
  ]
  alarms = drift.alarm([one.p for one in tests], asked.level)
  power: dict[int, float] = {}
  lines = []
  for name, one, alarmed in zip(names, tests, alarms, strict=True):
    own = groups == name
    size = 2 ** int(np.log2(max(one.compared, 1)))
    if size not in power:
      power[size] = drift.find_power(
        reference, size, level=asked.level, rng=rng
      )
    lines.append(
      {
        'sample': str(name),
        'images': int(own.sum()),
        'compared': one.compared,
        'p': one.p,
        'alarm': bool(alarmed),
        'unknown': float(np.mean(distance[own] > fit.labeller.threshold)),
        'noticed_move': power[size],
      }
    )
  rows = np.flatnonzero(np.isin(groups, names[alarms]))
  order = drift.farthest_first(
    fit.labeller.gallery.embedding, new.rows.embedding[rows], asked.label
  )
  chosen = [
    {
      'rank': rank,
      'file': new.items[row].image,
      'object_id': new.items[row].object_id,
      'sample': str(groups[row]),
      'nearest_class': fit.labeller.gallery.class_names[sample.label[row]],
      'distance': float(distance[row]),
    }
    for rank, row in enumerate(rows[order].tolist(), 1)
  ]
  return Alarms(lines, chosen, say(lines, chosen, asked), reference, sample)


def say(lines: Sequence[Row], chosen: Sequence[Row], asked: Asked) -> list[str]:
  """Says which samples alarm, what to do, and what could stay unnoticed."""
  alarmed = [line['sample'] for line in lines if line['alarm']]
  some = 'sample' if len(alarmed) == 1 else 'samples'
  if alarmed:
    verb = 'looks' if len(alarmed) == 1 else 'look'
    first = (
      f'{some} {shorten_list(alarmed, SHOWN)} {verb} unlike anything outside of'
      f' training; label {len(chosen)} of the images first: label_first.csv'
    )
  else:
    first = f'no sample of {len(lines)} looks unlike those of training'
  moves = [line['noticed_move'] for line in lines]
  worst = max(moves)
  if np.isfinite(worst):
    power = (
      f'a move by {worst:g} of the spread of classes is noticed in'
      f' {drift.POWER:.0%} of samples as small as these, by one test at'
      f' {asked.level:.0%}'
    )
  else:
    few = min(lines, key=lambda line: line['compared'])
    power = (
      f'samples as small as {few["sample"]} ({few["compared"]} images compared)'
      f' notice no move up to {max(drift.MOVES):g} of the spread of classes'
    )
  return [first, power]


def analyse(sources: Sequence[Source], asked: Asked) -> Result:
  """Measures shift between groups, and that of new images if there are any.

  Raises:
    InputError: there is not one source, an option is out of range, images have
      no group, or nothing is left to compare.
  """
  source = command.one_source(sources, 'shift')
  openset.check_acceptance(asked.acceptance)
  if not 0.0 < asked.level < 1.0:
    raise InputError(
      f'--alarm_level={asked.level}: give a probability such as 0.05'
    )
  if asked.label < 1:
    raise InputError(f'--label_first={asked.label}: label 1 image or more')
  train, _ = inputs.labelled(source, 'train')
  if train is None:
    raise InputError(
      f'{source.name}: no labelled train images; embed images in class folders,'
      ' or an annotated export'
    )
  given = bool(asked.images or asked.export)
  listed = new_images.list_folder(asked.images, asked.export, asked.by)
  notes: list[str] = []
  lines: list[Row] = []
  try:
    lines, notes = leave_one_out(source, asked.by, asked.acceptance)
  except InputError as error:
    if not given:
      raise
    notes.append(f"the run's own images are not grouped: {error}")
  shown, tables, figures = [], {}, {}
  values: dict[str, Any] = {'by': asked.by, 'groups': lines}
  citations = inputs.citations(sources)
  if lines:
    shown.append(Shown('shift: each group labelled from the others', lines))
    tables['groups.csv'] = lines
    figures['groups'] = Drawing(lambda: drifted.draw_groups(lines), citations)
  if given:
    encoder = new_images.encoder_for(source, asked.images)
    new = new_images.gather(
      encoder, asked.images, asked.export, asked.pixel_um, listed=listed
    )
    groups = samples.name_groups(new.rows.id.tolist(), asked.by, new.items)
    found = test_new(source, new, groups, asked)
    notes += found.said
    shown.append(Shown('shift: samples of new images', found.lines))
    tables |= {'samples.csv': found.lines, 'label_first.csv': found.chosen}
    values |= {'samples': found.lines, 'said': found.said}
    alarmed = {line['sample'] for line in found.lines if line['alarm']}
    draw = lambda: drifted.draw_samples(
      found.lines,
      found.reference.embedding,
      found.sample.embedding,
      np.isin(groups, list(alarmed)),
      asked.level,
    )
    figures['samples'] = Drawing(draw, citations)
  return Result(notes, shown, tables, {'shift.json': values}, figures)


def asked(sources: Sequence[Source]) -> Result:
  """Runs the analysis that the flags ask for."""
  images, export = command.IMAGES.value, command.EXPORT.value
  if images or export:
    new_images.check(images, export)
  return analyse(
    sources,
    Asked(
      images=images,
      export=export,
      by=command.BY.value,
      acceptance=command.ACCEPTANCE.value,
      label=LABEL_FIRST.value,
      level=LEVEL.value,
      pixel_um=command.PIXEL_UM.value,
    ),
  )


if __name__ == '__main__':
  command.run('shift', asked, folder='shift', fast=True)
