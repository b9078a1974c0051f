"""Labels new images.

`python -m analysis.predict --workdir=DIR --images=FOLDER [--examples=FOLDER]`
gives each image the class whose centre is nearest in the embedding, or
`unknown` if it lies too far from every class, with a calibrated confidence and
its nearest labelled images. --examples holds a folder with a few images for
each class to add without training; with `--encoder=plankton` in place of the
workdir these are all that is known.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import reliability
from analysis.files import command, folders, inputs, result, tables
from analysis.files.inputs import Embeddings, Source
from analysis.files.result import Drawing, Picture, Result, Shown
from analysis.measures import calibration, labeller, predictions, thresholds
from analysis.measures.calibration import Reliability
from analysis.measures.labeller import Labeller
from analysis.page import predicted
from plankton_jax.data.ecotaxa import write as ecotaxa
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError

EXAMPLES = flags.DEFINE_string(
  'examples', None, 'A folder of labelled images, one folder a class, to add.'
)
for name in ('workdir', 'encoder', 'images', 'out', 'acceptance'):
  flags.declare_key_flag(name)  # --help shows it

ECOTAXA = 'ecotaxa_predictions.tsv'
LOST = {  # without a split
  'val': 'confidence is not calibrated, and no image is unknown',
  'test': 'the calibration is not tested',
}


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


def analyse(
  sources: Sequence[Source],
  *,
  images: str,
  examples: str | None,
  acceptance: float,
) -> Result:
  """Predicts every readable image of a folder.

  Raises:
    InputError: there is not one run, or an encoder without examples; the folder
      has no readable image, embeddings or a checkpoint are missing, or
      acceptance is outside 0 … 1.
  """
  # Inputs.
  source = command.one_run(sources, 'predict')
  thresholds.check(acceptance)
  listing = folder.scan(images, field='--images')
  further = None
  if examples:
    further = folder.scan_classes(examples, field='--examples')
  encoder = folders.encoder(source)
  added = None
  if source.encoder is not None:
    if further is None:
      raise InputError(
        '--examples is missing: --encoder takes a folder of labelled images,'
        ' one folder a class'
      )
    source = folders.collect(source, encoder, further, 'train')
  elif further is not None:
    added = folders.embed(encoder, further, desc='examples')

  # Centres from train images and examples, thresholds from validation images.
  gallery, rows, notes = labeller.gallery(source, added)
  val = held_out = None
  remarks = []
  if source.encoder is not None:
    rows = np.arange(len(gallery.label))  # it was trained on none of them
  else:
    (val, no_val), (held_out, no_test) = (
      labeller.split(source, split, gallery.class_names) for split in LOST
    )
    notes += no_val + no_test
    missing = {'val': val is None, 'test': held_out is None}
    remarks += [f'No {s} images: {LOST[s]}.' for s in LOST if missing[s]]
    if val is None:
      rows = rows[:0]
  fitted = labeller.fit(gallery, rows, val, acceptance=acceptance)
  if fitted.limits is None and (source.encoder or val is not None):
    few = 'examples' if val is None else 'validation images'
    remarks.append(
      f'Too few {few} for thresholds at {acceptance:.0%}'
      f' ({thresholds.fewest(acceptance)} needed): no image is unknown.'
    )
  tested = Tested({}, {})
  if held_out is not None:
    tested = test(fitted, held_out, encoder.class_names)

  # New images.
  new = folders.embed(encoder, listing, desc='predict')
  labels = labeller.label(
    fitted, new.rows.embedding, count=predictions.NEIGHBOURS
  )
  found = predictions.collect(new.rows.id.tolist(), fitted, labels)

  # Tables, figure and page.
  classes = predictions.classes(fitted, encoder.class_names, found)
  measures = {
    'temperature': fitted.temperature,
    'acceptance': acceptance,
    **tested.measures,
  }
  files: dict[str, result.Writer | None] = {
    'predictions.parquet': functools.partial(
      tables.write_parquet, columns=predictions.columns(found)
    ),
    'skipped.txt': None,
    ECOTAXA: None,
  }
  try:
    table = ecotaxa.encode(pathlib.Path(ECOTAXA), predictions.ecotaxa(found))
    files[ECOTAXA] = result.content(table)
  except InputError as error:
    remarks.append(f'No table for EcoTaxa: {error}')
  if new.skipped:
    lines = [f'{name}\t{reason}\n' for name, reason in new.skipped]
    files['skipped.txt'] = result.content(''.join(lines))
  figures: dict[str, Drawing | Picture] = {}
  picture = None
  csvs = {
    'predictions.csv': list(predictions.rows(found)),
    'classes.csv': classes,
  }
  if tested.ways:
    drawing = Drawing(
      functools.partial(reliability.draw, tested.ways),
      inputs.citations(sources),
    )
    picture = result.render(drawing)
    figures['reliability'] = picture
    csvs['reliability.csv'] = reliability.rows(tested.ways)
  page = predicted.render(
    source=source,
    encoder_step=encoder.step,
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
    notes + remarks,
    [Shown(title, classes)],
    csvs,
    {'calibration.json': measures},
    figures,
    files,
    {'predictions.html': ' ({size})'},
  )


def asked(sources: Sequence[Source]) -> Result:
  """Runs the analysis that the flags ask for."""
  command.one_run(sources, 'predict')
  if not command.IMAGES.value:
    raise InputError('--images is missing: the folder of images to label')
  return analyse(
    sources,
    images=command.IMAGES.value,
    examples=EXAMPLES.value,
    acceptance=command.ACCEPTANCE.value,
  )


if __name__ == '__main__':
  command.run('predict', asked, folder='predict', untrained=True, fast=True)
