"""Labels new images.

`python -m analysis.predict --workdir=DIR --images=FOLDER [--examples=FOLDER]`
gives each image the class whose centre is nearest in the embedding, or
`unknown` if it lies too far from every class, with a calibrated confidence and
its nearest labelled images. --examples holds a folder with a few images for
each class to add without training.

`--export=PLACE` in place of --images predicts objects where they are: of an
EcoTaxa export, of a table without annotation, of IFCB bins. For an export it
writes the table that updates its objects in EcoTaxa.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import reliability
from analysis.files import (
  command,
  ecotaxa_files,
  folders,
  inputs,
  new_images,
  result,
  tables,
  taxa,
)
from analysis.files.folders import Embedded
from analysis.files.inputs import Embeddings, Source
from analysis.files.new_images import NewImages
from analysis.files.result import Drawing, Picture, Result, Shown
from analysis.files.taxa import Taxa
from analysis.measures import calibration, labeller, predictions, thresholds
from analysis.measures.calibration import Reliability
from analysis.measures.labeller import Labeller
from analysis.measures.predictions import Prediction
from analysis.page import predicted
from plankton_jax.data.sources import folder
from plankton_jax.data.sources.source import one_line
from plankton_jax.errors import InputError

if TYPE_CHECKING:  # JAX is imported only where something is embedded.
  from plankton_jax.encoder import Encoder

EXAMPLES = flags.DEFINE_string(
  'examples', None, 'A folder of labelled images, one folder a class, to add.'
)
EXPORT = flags.DEFINE_string(
  'export', None, 'An EcoTaxa export, a table, or IFCB bins: predict in place.'
)
OVERWRITE = flags.DEFINE_bool(
  'overwrite_validated', False, 'Update what a person has annotated, too.'
)
for name in ('workdir', 'images', 'out', 'acceptance'):
  flags.declare_key_flag(name)  # --help shows it

LOST = {  # without a split
  'val': 'confidence is not calibrated, and no image is unknown',
  'test': 'the calibration is not tested',
}


class Asked(NamedTuple):
  """What to predict, and from what besides the workdir."""

  images: str | None = None  # a folder
  export: str | None = None  # in place of it, any source
  examples: str | None = None  # a folder of labelled images
  acceptance: float = 0.95
  overwrite_validated: bool = False


class Fitted(NamedTuple):
  """A labeller, and how well it does on images outside of it."""

  labeller: Labeller
  tested: 'Tested'
  notes: list[str]  # what was left out
  remarks: list[str]  # what the reader of the page should know


class Tested(NamedTuple):
  """A labeller's accuracy and calibration on test images."""

  measures: dict[str, Any]
  ways: dict[str, Reliability]  # by the way confidence is computed


def test(fitted: Labeller, rows: Embeddings, trained: Sequence[str]) -> Tested:
  """Measures accuracy and calibration on test images."""
  distance = labeller.squared(rows.embedding, fitted.means)
  right = distance.argmin(axis=1) == rows.label
  ways = {
    name: calibration.reliability(
      calibration.softmax(-distance, scale).max(axis=1), right
    )
    for name, scale in (
      ('temperature 1', 1.0),
      ('calibrated', fitted.temperature),
    )
  }
  seen = [name in trained for name in fitted.gallery.class_names]
  alone = np.where(seen, distance, np.inf).argmin(axis=1) == rows.label
  measures = {
    'test_images': len(right),
    'accuracy': float(right.mean()),
    'accuracy_without_new_classes': float(alone.mean()),
    'calibration_error': ways['calibrated'].error,
    'calibration_error_at_1': ways['temperature 1'].error,
  }
  return Tested(measures, ways)


def fit(
  source: Source,
  added: Embedded | None,
  acceptance: float,
  trained: Sequence[str],
) -> Fitted:
  """Takes centres from train images and examples, thresholds from val images.

  Raises:
    InputError: there are no labelled train images.
  """
  gallery, rows, notes = labeller.gallery(source, added)
  (val, no_val), (held_out, no_test) = (
    labeller.split(source, split, gallery.class_names) for split in LOST
  )
  notes += no_val + no_test
  remarks = [
    f'No {split} images: {lost}.'
    for (split, lost), found in zip(LOST.items(), (val, held_out), strict=True)
    if found is None
  ]
  fitted = labeller.fit(gallery, rows, val, acceptance=acceptance)
  if val is not None and fitted.limits is None:
    remarks.append(
      f'Too few validation images for thresholds at {acceptance:.0%}'
      f' ({thresholds.fewest(acceptance)} needed): no image is unknown.'
    )
  tested = Tested({}, {})
  if held_out is not None:
    tested = test(fitted, held_out, trained)
  return Fitted(fitted, tested, notes, remarks)


def gather(encoder: 'Encoder', asked: Asked) -> NewImages:
  """Embeds the images to predict."""
  if asked.export:
    return new_images.from_source(encoder, asked.export)
  assert asked.images
  return new_images.from_folder(encoder, asked.images)


def write(
  new: NewImages, found: Sequence[Prediction], known: Taxa, asked: Asked
) -> tuple[dict[str, result.Writer | None], list[str]]:
  """Makes the files of predictions in others' formats, and remarks on them."""
  files: dict[str, result.Writer | None] = {
    'predictions.parquet': functools.partial(
      tables.write_parquet, columns=predictions.columns(found)
    ),
    'skipped.txt': None,
  }
  if new.exported:
    made = ecotaxa_files.of_exported(
      found,
      categories=known.categories(),
      overwrite_validated=asked.overwrite_validated,
    )
  else:
    made = ecotaxa_files.of_new(found)
  if new.skipped:
    lines = [f'{one_line(name)}\t{why}\n' for name, why in new.skipped]
    files['skipped.txt'] = result.content(''.join(lines))
  return files | made.files, made.remarks


def analyse(sources: Sequence[Source], asked: Asked) -> Result:
  """Predicts every readable image that is asked for.

  Raises:
    InputError: there is not one run, no image can be read, embeddings or a
      checkpoint are missing, or acceptance is outside 0 … 1.
  """
  source = command.one_run(sources, 'predict')
  thresholds.check(asked.acceptance)
  further = None
  if asked.examples:
    further = folder.scan_classes(asked.examples, field='--examples')
  encoder = folders.encoder(source)
  added = further and folders.embed(encoder, further, desc='examples')
  fitted = fit(source, added, asked.acceptance, encoder.class_names)
  new = gather(encoder, asked)
  known, unclear = taxa.from_objects(new.listed)
  labels = labeller.label(
    fitted.labeller, new.rows.embedding, count=predictions.NEIGHBOURS
  )
  found = predictions.collect(
    new.rows.id.tolist(), new.items, fitted.labeller, labels
  )

  classes = predictions.classes(fitted.labeller, encoder.class_names, found)
  measures = {
    'temperature': fitted.labeller.temperature,
    'acceptance': asked.acceptance,
    **fitted.tested.measures,
  }
  files, remarks = write(new, found, known, asked)
  remarks = fitted.remarks + remarks
  csvs = {
    'predictions.csv': list(predictions.rows(found)),
    'classes.csv': classes,
  }
  figures: dict[str, Drawing | Picture] = {}
  picture = None
  if fitted.tested.ways:
    drawing = Drawing(
      functools.partial(reliability.draw, fitted.tested.ways),
      inputs.citations(sources),
    )
    picture = result.render(drawing)
    figures['reliability'] = picture
    csvs['reliability.csv'] = reliability.rows(fitted.tested.ways)
  page = predicted.render(
    source=source,
    encoder=encoder,
    new=new,
    examples=added,
    found=found,
    classes=classes,
    measures=measures,
    notes=remarks,
    reliability=picture,
  )
  files['predictions.html'] = result.content(page)
  unknown = sum(not one.known for one in found)
  title = f'predict: {len(found):,} images, {unknown:,} unknown'
  return Result(
    fitted.notes + unclear + remarks,
    [Shown(title, classes, accounting(new))],
    csvs,
    {'calibration.json': measures},
    figures,
    files,
    {'predictions.html': ' ({size})'},
  )


def accounting(new: NewImages) -> str:
  """Accounts for all that was read: predicted, or left out by reason."""
  parts = [f'{len(new.items):,} predicted']
  if new.skipped:
    parts.append(f'{len(new.skipped):,} left out (skipped.txt)')
  parts += [f'{n:,} {reason}' for reason, n in new.left_aside.items()]
  return f'{new.total:,} read = {" + ".join(parts)}'


def asked(sources: Sequence[Source]) -> Result:
  """Runs the analysis that the flags ask for."""
  command.one_run(sources, 'predict')
  images, export = command.IMAGES.value, EXPORT.value
  if not images and not export:
    raise InputError(
      '--images is missing: the folder of images to label; or give --export'
    )
  if images and export:
    raise InputError('--images and --export exclude each other')
  return analyse(
    sources,
    Asked(
      images, export, EXAMPLES.value, command.ACCEPTANCE.value, OVERWRITE.value
    ),
  )


if __name__ == '__main__':
  command.run('predict', asked, folder='predict', fast=True)
