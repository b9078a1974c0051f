"""Turns predictions into what EcoTaxa takes: tables, and bodies of calls."""

import collections
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from analysis.files import result, taxa
from analysis.measures.predictions import Prediction
from plankton_jax.data.ecotaxa import write
from plankton_jax.errors import InputError

TABLE = 'ecotaxa_predictions.tsv'  # of objects that are new to EcoTaxa
UPDATE = 'ecotaxa_update.tsv'  # of those that it has
SCORES = 'ecotaxa_scores.json'

# States that a person gave. EcoTaxa's own predictions never override them.
BY_HAND = ('validated', 'dubious')


class Scored(NamedTuple):
  """An object by EcoTaxa's number, and its names, the one to show first."""

  number: str
  ranked: Sequence[tuple[str, float]]  # names and their probabilities


class Files(NamedTuple):
  """Files to write, and what is to be said of them."""

  files: dict[str, result.Writer | None]  # None removes an earlier one
  remarks: list[str]


def of_new(found: Sequence[Prediction]) -> Files:
  """Makes the table that imports new objects; the unknown stay unclassified."""
  rows = [
    write.predicted(
      img_file_name=one.file,
      object_id=one.object_id,
      category=one.taxon,
      score=one.score,
      neighbours=[other.id for other in one.neighbours],
    )
    for one in found
  ]
  none: dict[str, result.Writer | None] = {UPDATE: None, SCORES: None}
  return _with_table(TABLE, rows, none)


def of_exported(
  found: Sequence[Prediction],
  *,
  categories: Mapping[str, int],
  overwrite_validated: bool,
) -> Files:
  """Makes what updates objects that EcoTaxa has: a table, and a call.

  Both leave out the unknown, and, unless `overwrite_validated`, what a person
  has annotated. The table leaves out objects that share their id, too, as
  EcoTaxa could not tell them apart. The call needs the numbers of all objects
  and of the taxa, `categories`.
  """
  remarks = []
  chosen = [one for one in found if one.taxon]
  if not overwrite_validated:
    free = [one for one in chosen if one.item.status not in BY_HAND]
    kept = sum(one.item.status in BY_HAND for one in found)
    if kept:
      remarks.append(
        f'{kept:,} objects that a person annotated keep that'
        ' (--overwrite_validated).'
      )
    chosen = free
  counts = collections.Counter(one.object_id for one in found)
  alone = [one for one in chosen if counts[one.object_id] == 1]
  if len(alone) < len(chosen):
    remarks.append(
      f'{len(chosen) - len(alone):,} objects share their object_id with others'
      f' and are not in {UPDATE}: EcoTaxa could not tell them apart.'
    )
  numbered = all(one.taxon in categories for one in alone)
  rows = [
    write.update(
      img_file_name=one.file,
      object_id=one.object_id,
      category=one.taxon,
      category_id=categories[one.taxon] if numbered else None,
    )
    for one in alone
  ]
  scores, reason = call(
    SCORES,
    [Scored(one.item.number, one.ranked) for one in chosen],
    categories,
    write.classify_request,
  )
  others: dict[str, result.Writer | None] = {TABLE: None, SCORES: scores}
  if reason:
    remarks.append(reason)
  if not rows:
    remarks.append(f'No {UPDATE}: there is no object to update.')
    return Files({**others, UPDATE: None}, remarks)
  made = _with_table(UPDATE, rows, others)
  return made._replace(remarks=remarks + made.remarks)


def _with_table(
  name: str,
  rows: Sequence[Mapping[str, Any]],
  others: dict[str, result.Writer | None],
) -> Files:
  """Encodes the table; says why if EcoTaxa would refuse it."""
  try:
    data = write.encode(pathlib.Path(name), rows)
  except InputError as error:
    return Files({**others, name: None}, [f'No table for EcoTaxa: {error}'])
  return Files({**others, name: result.content(data)}, [])


def call(
  file: str,
  chosen: Sequence[Scored],
  categories: Mapping[str, int],
  body: Callable[[Sequence[tuple[int, write.Taxa]]], dict[str, Any]],
) -> tuple[result.Writer | None, str]:
  """Encodes the `body` of a call as a file, or says why there is none.

  Objects of which the number of the first taxon is not known are left out.
  """
  if not chosen:
    return None, ''
  numbers = [
    number
    for one in chosen
    if (number := taxa.parse_number(one.number)) is not None
  ]
  if len(numbers) < len(chosen):
    return None, (
      f'No {file}: the export has no numbers of its objects (objid); export'
      ' with internal ids.'
    )
  known = [
    (
      number,
      [(categories[n], score) for n, score in one.ranked if n in categories],
    )
    for one, number in zip(chosen, numbers, strict=True)
    if one.ranked[0][0] in categories
  ]
  if not known:
    return None, (
      f'No {file}: the numbers of the taxa are not known; give them in --taxa.'
    )
  reason = ''
  if len(known) < len(chosen):
    lacking = sorted({one.ranked[0][0] for one in chosen} - set(categories))
    reason = (
      f'{len(chosen) - len(known):,} objects are not in {file}, as the number'
      f' of their taxon is not known: {", ".join(lacking[:5])}'
      f'{", ..." if len(lacking) > 5 else ""}.'
    )
  text = json.dumps(body(known), allow_nan=False, separators=(',', ':'))
  return result.content(text + '\n'), reason
