"""Writes what EcoTaxa takes, so that experts can check predictions.

This is a table to import, or the body of a call that predicts objects.

rows = [
  predicted(
    img_file_name='a.png', object_id='a', category='Calanoida',
    score=0.97, neighbours=['copepod/17.png', ...],
  ),
  ...
]
write_tsv(folder / 'ecotaxa_predictions.tsv', rows)
"""

import csv
import io
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plankton_jax.data.ecotaxa import rules, table
from plankton_jax.data.sources.source import one_line
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

Row = Mapping[str, Any]
Taxa = Sequence[tuple[int, float]]  # number of the taxon, and its score

SCORE = 'object_predicted_score'  # free columns, as EcoTaxa keeps no score
NEIGHBOUR = 'object_neighbour_{}'  # from 1 on
MOST = 3  # taxa of an object that EcoTaxa keeps


def predicted(
  *,
  img_file_name: str,
  object_id: str,
  category: str,
  score: float,
  neighbours: Sequence[str],
) -> dict[str, Any]:
  """Makes the row of one prediction.

  Args:
    img_file_name: path from the table to the image.
    object_id: EcoTaxa's, to update an object; any unique name for a new one.
    category: the taxon as EcoTaxa names it; '' leaves the object unclassified.
    score: in [0, 1].
    neighbours: ids of the most similar labelled images, nearest first.
  """
  near = {
    NEIGHBOUR.format(i): id[-rules.TEXT_LENGTH :]
    for i, id in enumerate(neighbours, start=1)
  }
  return {
    'img_file_name': img_file_name,
    'object_id': object_id,
    'object_annotation_category': category,
    'object_annotation_status': 'predicted' if category else '',
    SCORE: score,
    **near,
  }


def update(
  *,
  img_file_name: str,
  object_id: str,
  category: str,
  category_id: int | None = None,
) -> dict[str, Any]:
  """Makes the row that gives an object of a project a predicted taxon.

  It has no more than EcoTaxa's update of metadata and classification needs:
  what it names not, stays.

  Args:
    img_file_name: the object's image; it need not be there.
    object_id: EcoTaxa's.
    category: the taxon as EcoTaxa names it.
    category_id: its number, if known. The importer takes it in place of the
      name: give it in all rows of a table or in none.
  """
  number = (
    {}
    if category_id is None
    else {'object_annotation_category_id': category_id}
  )
  return {
    'img_file_name': img_file_name,
    'object_id': object_id,
    'object_annotation_category': category,
    **number,
    'object_annotation_status': 'predicted',
  }


def write_tsv(path: Path, rows: Sequence[Row]) -> None:
  """Writes rows as a table that EcoTaxa's importer takes; see `encode`."""
  data = encode(path, rows)
  path.parent.mkdir(parents=True, exist_ok=True)
  with atomic.file(path) as building:
    building.write_bytes(data)


def encode(path: Path, rows: Sequence[Row]) -> bytes:
  """Encodes rows as a table that EcoTaxa's importer takes, for a file `path`.

  Columns are EcoTaxa's. `img_file_name` and `object_id` are required;
  docs/ecotaxa.md lists the others that it defines, such as
  `object_annotation_category`. Free ones begin with `object_`, `acq_`,
  `process_` or `sample_`. A free `object_` column of numbers is typed [f], any
  other [t]. Rows may lack columns; None and NaN become empty cells.

  Raises:
    InputError: EcoTaxa would refuse a name, column or value.
  """
  if not rows:
    raise InputError(f'{path}: there is no row to write')
  columns = list(dict.fromkeys(name for row in rows for name in row))
  types = [_type(name, [row.get(name) for row in rows]) for name in columns]
  text = io.StringIO()
  writer = csv.writer(text, delimiter='\t', lineterminator='\n')
  writer.writerow(columns)
  writer.writerow(types)
  for row in rows:
    writer.writerow([_text(row.get(name)) for name in columns])
  # The byte order mark tells the importer and spreadsheets that it is UTF-8.
  try:
    data = text.getvalue().encode('utf-8-sig')
  except UnicodeEncodeError as error:
    cell = re.split('[\t\n]', error.object[: error.end])[-1]
    raise InputError(
      f'{path}: {one_line(cell)} is no UTF-8 text: rename the image or class'
    ) from None
  found = list(rules.problems(path.name, table.parse(data, str(path))))
  if found:
    more = f' (and {len(found) - 1} more)' if len(found) > 1 else ''
    raise InputError(f'{path}: EcoTaxa would refuse it: {found[0]}{more}')
  return data


def _type(name: str, values: Sequence[Any]) -> str:
  if not rules.is_free(name):
    return '[f]' if name in rules.NUMBERS else '[t]'
  given = [value for value in values if value is not None and value != '']
  is_number = given and all(isinstance(v, numbers.Real) for v in given)
  return '[f]' if is_number and name.startswith('object_') else '[t]'


def _text(value: Any) -> str:
  if value is None or (isinstance(value, numbers.Real) and math.isnan(value)):
    return ''
  if isinstance(value, numbers.Real) and not isinstance(
    value, numbers.Integral
  ):
    return repr(float(value))
  return str(value)


def classify_request(objects: Sequence[tuple[int, Taxa]]) -> dict[str, Any]:
  """Makes the body of EcoTaxa's call that predicts objects with scores.

  POST object_set/classify_auto_multiple takes ClassifyAutoReqMult, as
  py/API_models/crud.py of github.com/ecotaxa/ecotaxa_back defines it: three
  lists of one length, target_ids [N], and for each object its taxa and their
  scores, classifications [N][K] and scores [N][K]. EcoTaxa shows the taxon with
  the highest score; it leaves objects that a person has annotated as they are.

  Args:
    objects: each by its number, with its likeliest taxa.

  Raises:
    ValueError: an object has no taxon, or a score is outside 0 … 1.
  """
  for number, taxa in objects:
    if not taxa:
      raise ValueError(f'object {number} has no taxon')
    if not all(0.0 <= score <= 1.0 for _, score in taxa):
      raise ValueError(f'object {number}: a score is outside 0 to 1')
  best = [
    sorted(taxa, key=lambda taxon: -taxon[1])[:MOST] for _, taxa in objects
  ]
  return {
    'target_ids': [number for number, _ in objects],
    'classifications': [[taxon for taxon, _ in taxa] for taxa in best],
    'scores': [[score for _, score in taxa] for taxa in best],
    'keep_log': True,  # required, though EcoTaxa always keeps it
  }


def validate_request(objects: Sequence[tuple[int, Taxa]]) -> dict[str, Any]:
  """Makes the body of EcoTaxa's call that validates the first taxon of objects.

  POST object_set/classify takes ClassifyReq, of the same file: two lists of one
  length, target_ids [N] and classifications [N], and V for validated.

  Args:
    objects: as those of `classify_request`; scores count for nothing.
  """
  return {
    'target_ids': [number for number, _ in objects],
    'classifications': [taxa[0][0] for _, taxa in objects],
    'wanted_qualification': 'V',
  }
