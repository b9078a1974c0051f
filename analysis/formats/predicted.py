"""Writes predictions in our format, EcoTaxa's and Darwin Core."""

import functools
from collections.abc import Sequence

from analysis.files import result, tables
from analysis.files.new_images import NewImages
from analysis.files.result import Result
from analysis.files.taxa import Taxa
from analysis.formats import darwin_core, ecotaxa
from analysis.measures import predictions
from analysis.measures.predictions import Prediction
from plankton_jax.data.sources.source import one_line


def write(
  new: NewImages,
  found: Sequence[Prediction],
  known: Taxa,
  references: str,
  *,
  overwrite_validated: bool,
) -> Result:
  """Makes the files of predictions, in our and others' formats."""
  files: dict[str, result.Writer | None] = {
    'predictions.parquet': functools.partial(
      tables.write_parquet, columns=predictions.columns(found)
    ),
    'skipped.txt': None,
    darwin_core.FILE: None,
  }
  if new.exported:
    made = ecotaxa.of_exported(
      found,
      categories=known.categories(),
      overwrite_validated=overwrite_validated,
    )
  else:
    made = ecotaxa.of_new(found)
  if new.skipped:
    lines = [f'{one_line(name)}\t{why}\n' for name, why in new.skipped]
    files['skipped.txt'] = result.content(''.join(lines))
  csvs: dict[str, Sequence[tables.Row]] = {
    'predictions.csv': list(predictions.rows(found))
  }
  notes = made.remarks
  if any(item.status or item.date for item in new.items):
    occurrences = list(
      darwin_core.rows(
        found,
        known,
        references,
        overwrite_validated=overwrite_validated,
      )
    )
    notes = notes + darwin_core.remarks(occurrences)
    if occurrences:
      csvs[darwin_core.FILE] = occurrences
      del files[darwin_core.FILE]
  return Result(notes, tables=csvs, files=files | made.files)
