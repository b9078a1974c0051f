"""Writes what a review decided, and what is predicted of the rest."""

import functools
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from analysis.files import new_images, result, tables
from analysis.files.result import Result
from analysis.review.prepare import Images
from analysis.review.refit import UNKNOWN, Predicted
from analysis.review.store import UNDECIDED, Event, State
from plankton_jax.data.ecotaxa import write as ecotaxa
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

ECOTAXA = 'ecotaxa_review.tsv'
VALIDATED, PREDICTED = 'validated', 'predicted'

Row = dict[str, Any]


def rows(
  images: Images, state: State, predicted: Predicted, events: Sequence[Event]
) -> list[Row]:
  """Makes a line an image: its class, and by whom it was decided and when."""
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


def table(lines: Sequence[Row]) -> list[Row]:
  """Makes rows that update EcoTaxa's objects.

  Images decided as unknown stay unclassified, as EcoTaxa has no such taxon.
  """
  objects = new_images.object_ids([line['id'] for line in lines])
  return [
    {
      'img_file_name': line['id'],
      'object_id': object_id,
      'object_annotation_category': (
        '' if line['class'] == UNKNOWN else line['class']
      ),
      'object_annotation_status': (
        '' if line['class'] in ('', UNKNOWN) else line['status']
      ),
      'object_annotation_person_name': line['who'],
      'object_annotation_date': line['when'][:10],
      'object_annotation_time': line['when'][11:19],
      ecotaxa.SCORE: line['confidence'],
    }
    for line, object_id in zip(lines, objects, strict=True)
  ]


def gather(lines: Sequence[Row]) -> Result:
  """Gathers the tables: CSV, Parquet, EcoTaxa's, and counts of classes."""
  columns = {field: [line[field] for line in lines] for field in lines[0]}
  files: dict[str, result.Writer | None] = {
    'review.parquet': functools.partial(tables.write_parquet, columns=columns),
    ECOTAXA: None,
  }
  notes = []
  try:
    encoded = ecotaxa.encode(pathlib.Path(ECOTAXA), table(lines))
    files[ECOTAXA] = result.content(encoded)
  except InputError as error:
    notes.append(f'No table for EcoTaxa: {error}')
  return Result(
    notes,
    tables={'review.csv': lines, 'counts.csv': counts(lines)},
    files=files,
  )


def write_classes(
  folder: pathlib.Path, images: Images, lines: Sequence[Row]
) -> int:
  """Writes the validated images into one folder a class; returns how many.

  `launch.py` trains on such a folder. Images of a folder are copied as they
  are, those of records written as PNG. A folder from before is replaced.

  Raises:
    InputError: a name cannot be a folder's, or nothing is validated.
  """
  chosen = [
    line
    for line in lines
    if line['status'] == VALIDATED and line['class'] != UNKNOWN
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
  with atomic.directory(folder) as building:
    for number, line in enumerate(chosen):
      place = building / line['class']
      place.mkdir(parents=True, exist_ok=True)
      stem = line['id'].replace('/', '_')
      if images.root is not None:
        shutil.copyfile(images.root / line['id'], place / stem)
      else:
        picture = np.squeeze(images.read(line['id']))
        Image.fromarray(picture).save(place / f'{number}_{stem}.png')
  shutil.rmtree(old, ignore_errors=True)
  return len(chosen)
