"""Writes tables that EcoTaxa imports, so that experts can check predictions.

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

SCORE = 'object_predicted_score'  # free columns, as EcoTaxa keeps no score
NEIGHBOUR = 'object_neighbour_{}'  # from 1 on


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
