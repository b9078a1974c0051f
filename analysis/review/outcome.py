"""Writes what a review decided, and what is predicted of the rest."""

import functools
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from analysis.files import result, tables
from analysis.files.result import Result
from analysis.formats import darwin_core
from analysis.formats import ecotaxa as calls
from analysis.measures.openset import no_class
from analysis.review.prepare import Images
from analysis.review.refit import Predicted
from analysis.review.store import UNDECIDED, Event, State
from plankton_jax.data.ecotaxa import write as ecotaxa
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

ECOTAXA = 'ecotaxa_review.tsv'
CALL = 'ecotaxa_validated.json'  # the body of a call
CHECKED = 'checked.csv'
VALIDATED, PREDICTED = 'validated', 'predicted'

Row = dict[str, Any]


def rows(
  images: Images, state: State, predicted: Predicted, events: Sequence[Event]
) -> list[Row]:
  """Makes a line for each image: its class, who decided it and when."""
  by = {event.seq: event for event in events}
  lines = []
  for row, key in enumerate(images.ids):
    label, first = int(state.label[row]), int(predicted.first[row])
    guess = predicted.names[first] if first >= 0 else ''
    line: Row = {
      'id': key,
      'class': guess,
      'status': PREDICTED if guess else '',
      'confidence': float(predicted.confidence[row]),
      'predicted_class': guess,
      'group': int(state.group[row]),
      'who': '',
      'when': '',
    }
    if label != UNDECIDED:
      event = by[int(state.last[row])]
      line |= {
        'class': state.names[label],
        'status': VALIDATED,
        'who': event.who,
        'when': event.time,
      }
    lines.append(line)
  return lines


def counts(lines: Sequence[Row]) -> list[Row]:
  """Counts validated and predicted images of each class."""
  names = sorted({line['class'] for line in lines if line['class']})
  found = {name: dict.fromkeys((VALIDATED, PREDICTED), 0) for name in names}
  for line in lines:
    if line['class']:
      found[line['class']][line['status']] += 1
  return [{'class': name, **of} for name, of in found.items()]


def table(images: Images, lines: Sequence[Row]) -> list[Row]:
  """Makes rows that update EcoTaxa's objects.

  Images decided as unknown stay unclassified, as EcoTaxa has no such taxon.
  """
  none = no_class(images.known.names)
  return [
    {
      'img_file_name': item.image,
      'object_id': item.object_id,
      'object_annotation_category': (
        '' if line['class'] == none else line['class']
      ),
      'object_annotation_status': (
        '' if line['class'] in ('', none) else line['status']
      ),
      'object_annotation_person_name': line['who'],
      'object_annotation_date': line['when'][:10],
      'object_annotation_time': line['when'][11:19],
      ecotaxa.SCORE: line['confidence'],
    }
    for item, line in zip(images.items, lines, strict=True)
  ]


def occurrences(images: Images, lines: Sequence[Row]) -> list[dict[str, str]]:
  """Makes Darwin Core's occurrences of all images that have a taxon."""
  return [
    darwin_core.occurrence(
      item,
      line['id'],
      line['class'],
      images.taxa,
      who=line['who'],
      references='' if line['status'] == VALIDATED else images.references,
      score=None if line['status'] == VALIDATED else line['confidence'],
    )
    | {'dateIdentified': line['when']}
    for item, line in zip(images.items, lines, strict=True)
    if darwin_core.is_taxon(line['class'])
  ]


def encode_calls(
  images: Images, predicted: Predicted, lines: Sequence[Row]
) -> Result:
  """Encodes calls of EcoTaxa that validate what was decided and score the rest.

  There are none where no image has a number of EcoTaxa's.
  """
  files: dict[str, result.Writer | None] = {CALL: None, calls.SCORES: None}
  if not any(item.number for item in images.items):
    return Result(files=files)
  none = no_class(images.known.names)
  by_hand, rest = [], []
  for row, (item, line) in enumerate(zip(images.items, lines, strict=True)):
    if line['status'] == VALIDATED and line['class'] != none:
      by_hand.append(calls.Scored(item.number, [(line['class'], 1.0)]))
    elif line['status'] == PREDICTED:
      chance = predicted.chance[row]
      order = np.argsort(-chance, kind='stable')[: ecotaxa.MOST]
      ranked = [(predicted.names[i], float(chance[i])) for i in order]
      rest.append(calls.Scored(item.number, ranked))
  notes = []
  for file, chosen, body in (
    (CALL, by_hand, ecotaxa.validate_request),
    (calls.SCORES, rest, ecotaxa.classify_request),
  ):
    files[file], reason = calls.call(
      file, chosen, images.taxa.categories(), body
    )
    notes += [reason] if reason else []
  return Result(notes, files=files)


def gather(
  images: Images, predicted: Predicted, lines: Sequence[Row]
) -> Result:
  """Gathers the tables: CSV, Parquet, EcoTaxa's, Darwin Core's, and counts.

  Of a draw there is the table that `analysis.counts --checked` reads, too.
  """
  files: dict[str, result.Writer | None] = {
    'review.parquet': functools.partial(
      tables.write_parquet, columns=tables.columns(lines)
    ),
    ECOTAXA: None,
    darwin_core.FILE: None,
  }
  called = encode_calls(images, predicted, lines)
  files |= called.files
  notes = [*called.notes]
  try:
    encoded = ecotaxa.encode(pathlib.Path(ECOTAXA), table(images, lines))
    files[ECOTAXA] = result.content(encoded)
  except InputError as error:
    notes.append(f'No table for EcoTaxa: {error}')
  csvs: dict[str, Sequence[Row]] = {
    'review.csv': lines, 'counts.csv': counts(lines)
  }  # fmt: skip
  if images.drawn is not None:
    csvs[CHECKED] = [lines[row] for row in images.drawn.tolist()]
    notes.append(f'Give {CHECKED} to analysis.counts as --checked.')
  found = occurrences(images, lines)
  if found:
    csvs[darwin_core.FILE] = found
    del files[darwin_core.FILE]
    notes += darwin_core.remarks(found)
  return Result(notes, tables=csvs, files=files)


def write_classes(
  folder: pathlib.Path, images: Images, lines: Sequence[Row]
) -> tuple[int, int]:
  """Writes the validated images into one folder a class.

  `launch.py` trains on such a folder. Images of a folder are copied as they
  are, those of records written as PNG. A folder from before is replaced.

  Returns:
    How many are written, and how many are not, as their file is gone.

  Raises:
    InputError: a name cannot be a folder's, or nothing is validated.
  """
  none = no_class(images.known.names)
  chosen = [
    line
    for line in lines
    if line['status'] == VALIDATED and line['class'] != none
  ]
  if not chosen:
    raise InputError('no image has a class yet: decide some first')
  for line in chosen:
    parts = pathlib.PurePosixPath(line['class']).parts
    if any(part in ('/', '.', '..') or '\\' in part for part in parts):
      raise InputError(
        f'{line["class"]!r} cannot name a folder: rename the class'
      )
  old = folder.with_name(f'.{folder.name}.old')
  shutil.rmtree(old, ignore_errors=True)
  if folder.exists():
    folder.rename(old)
  gone = 0
  with atomic.directory(folder) as building:
    for number, line in enumerate(chosen):
      place, stem = building / line['class'], line['id'].replace('/', '_')
      if images.original is None:
        place.mkdir(parents=True, exist_ok=True)
        picture = np.squeeze(images.read(line['id']))
        Image.fromarray(picture).save(place / f'{number}_{stem}.png')
        continue
      try:
        data = images.original(line['id'])
      except (KeyError, ValueError):
        gone += 1
        continue
      place.mkdir(parents=True, exist_ok=True)
      if (place / stem).exists():  # of a/b.png and a_b.png, for example
        stem = f'{number}_{stem}'
      (place / stem).write_bytes(data)
  shutil.rmtree(old, ignore_errors=True)
  return len(chosen) - gone, gone
