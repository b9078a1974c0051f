"""Tells whether images are unlike those of training, by sample or cruise.

`python -m analysis.shift --workdir=DIR --by=REGEX` leaves one group of the
run's own images out after another (the regex finds the group's name in an
image's id), and tells how well it is labelled from the others. With
`--images=FOLDER` or `--export=EXPORT` it tests each sample of new images, says
which are unlike anything outside of training, and which images to label first.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import drifted
from analysis.files import command, inputs, new_images
from analysis.files.inputs import Source
from analysis.files.new_images import NewImages
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import (
  drift,
  fitted,
  labeller,
  left_out,
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
SHOWN = 6  # names in a sentence

Row = dict[str, Any]


class Asked(NamedTuple):
  """Names what to test, and how, by the flags."""

  images: str | None = None  # a folder, or an embedding file
  export: str | None = None  # any source
  by: str = command.BY.default
  acceptance: float = command.ACCEPTANCE.default
  label_first: int = LABEL_FIRST.default
  alarm_level: float = LEVEL.default
  pixel_um: float | None = None  # of all new images; None takes the run's


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
  fit: Fitted, new: NewImages, groups: np.ndarray, asked: Asked
) -> Alarms:
  """Tests each sample of new images against those outside of training."""
  outside = [rows.embedding for rows in (fit.val, fit.held_out) if rows]
  reference = _predicted(fit, np.concatenate(outside))
  sample = _predicted(fit, new.rows.embedding)
  rng = np.random.default_rng(drift.SEED)
  distance = unknowns.judge(fit.labeller.seen, new.rows.embedding).distance
  names = np.unique(groups)
  # With K samples, the smallest of all p is held against level / K.
  permutations = max(
    PERMUTATIONS, int(np.ceil(2 * len(names) / asked.alarm_level))
  )
  tests = [
    drift.test(
      reference, sample.take(groups == name), permutations=permutations, rng=rng
    )
    for name in names
  ]
  alarms = drift.alarm([one.p for one in tests], asked.alarm_level)
  power: dict[int, float] = {}
  lines = []
  for name, one, alarmed in zip(names, tests, alarms, strict=True):
    own = groups == name
    size = 2 ** int(np.log2(max(one.compared, 1)))
    if size not in power:
      power[size] = drift.find_power(
        reference, size, level=asked.alarm_level, rng=rng
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
    fit.labeller.gallery.embedding, new.rows.embedding[rows], asked.label_first
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
      f' {asked.alarm_level:.0%}'
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
      no group, or there are no train, or neither val nor test images.
  """
  source = command.one_source(sources, 'shift')
  command.check_share('acceptance', asked.acceptance)
  command.check_share('alarm_level', asked.alarm_level)
  if asked.label_first < 1:
    raise InputError(
      f'--label_first={asked.label_first}: label 1 image or more'
    )
  fit = fitted.fit(source, None, acceptance=asked.acceptance)
  if not (fit.val or fit.held_out):
    raise InputError(
      f'{source.name} has no labelled val or test images: only those that the'
      ' encoder was not trained on tell how well a group is labelled, or what'
      ' new images are unlike'
    )
  new, groups = None, np.empty(0, str)
  if asked.images or asked.export:
    new, groups = new_images.gather_grouped(
      source, asked.images, asked.export, asked.by, asked.pixel_um
    )
  notes: list[str] = []
  lines: list[Row] = []
  try:
    lines, notes = left_out.by_group(source, fit, asked.by, asked.acceptance)
  except InputError as error:
    if new is None:
      raise
    notes.append(f"the run's own images are not grouped: {error}")
  shown, tables, figures = [], {}, {}
  values: dict[str, Any] = {'by': asked.by, 'groups': lines}
  citations = inputs.citations(sources)
  if lines:
    shown.append(Shown('shift: each group labelled from the others', lines))
    tables['groups.csv'] = lines
    figures['groups'] = Drawing(lambda: drifted.draw_groups(lines), citations)
  if new is not None:
    found = test_new(fit, new, groups, asked)
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
      asked.alarm_level,
    )
    figures['samples'] = Drawing(draw, citations)
  return Result(notes, shown, tables, {'shift.json': values}, figures)


def asked(sources: Sequence[Source]) -> Result:
  """Runs the analysis that the flags ask for."""
  images, export = command.IMAGES.value, command.EXPORT.value
  if images or export:
    new_images.check(images, export)
  return analyse(sources, command.options(Asked))


if __name__ == '__main__':
  command.run('shift', asked, folder='shift', fast=True)
