"""Labels for new images.

`python -m analysis.predict --workdir=DIR --images=FOLDER [--examples=FOLDER]`
gives each image the class whose centre is nearest in the embedding, a
calibrated confidence, `unknown` where it lies too far from every class, and its
nearest labelled images. --examples holds one folder a class, with a few images
each: classes that are added without training.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from analysis.figures import reliability
from analysis.files import inputs, tables, unlabelled
from analysis.files.inputs import Embeddings, Source
from analysis.files.unlabelled import Embedded
from analysis.measures import (
  calibration,
  labelled,
  labeller,
  predictions,
  thresholds,
)
from analysis.measures.labeller import Labeller
from analysis.measures.predictions import Prediction
from analysis.page import predicted
from plankton_jax import atomic
from plankton_jax.cli import host
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError

EXAMPLES = flags.DEFINE_string(
  'examples', None, 'A folder of labelled images, one folder a class, to add.'
)
for name in ('workdir', 'images', 'out', 'acceptance'):
  flags.declare_key_flag(name)  # --help shows it

LOST = {  # without a split
  'val': 'confidence is not calibrated, and no image is unknown',
  'test': 'the calibration is not tested',
}


def tested(
  fitted: Labeller,
  test: Embeddings,
  trained: Sequence[str],
  out: pathlib.Path,
  citations: list[str],
) -> dict[str, Any]:
  """Accuracy and calibration on test images; out/reliability.{png,svg,csv}."""
  distance = labeller.squared(test.embedding, fitted.means)
  right = distance.argmin(axis=1) == test.label
  scales = {'temperature 1': 1.0, 'calibrated': fitted.temperature}
  found = reliability.write(
    out,
    {
      name: (calibration.softmax(-distance, scale).max(axis=1), right)
      for name, scale in scales.items()
    },
    citations=citations,
  )
  seen = [name in trained for name in fitted.gallery.class_names]
  alone = np.where(seen, distance, np.inf).argmin(axis=1) == test.label
  return {
    'test_images': len(right),
    'accuracy': float(right.mean()),
    'accuracy_without_new_classes': float(alone.mean()),
    'calibration_error': found['calibrated'].error,
    'calibration_error_at_1': found['temperature 1'].error,
  }


def fit(
  source: Source, added: Embedded | None, acceptance: float
) -> tuple[Labeller, Embeddings | None, list[str]]:
  """A labeller of train images and examples, test images for it, and notes on
  what has to be done without."""
  gallery, examples = labelled.gallery(source, added)
  val, test = (labelled.split(source, s, gallery.class_names) for s in LOST)
  notes = [
    f'No {name} images: {lost}.'
    for (name, lost), rows in zip(LOST.items(), (val, test), strict=True)
    if rows is None
  ]
  fitted = labeller.fit(gallery, examples, val, acceptance=acceptance)
  if val is not None and fitted.limits is None:
    notes.append(
      f'Too few validation images for thresholds at {acceptance:.0%}'
      f' ({thresholds.fewest(acceptance)} needed): no image is unknown.'
    )
  return fitted, test, notes


def analyse(
  source: Source,
  out: pathlib.Path,
  *,
  images: str,
  examples: str | None,
  acceptance: float,
) -> list[Prediction]:
  """Predicts, and writes the tables, the page and what was skipped.

  Returns:
    A prediction for each readable image, in the order of their names.

  Raises:
    InputError: a folder without readable images, embeddings or a checkpoint
      that are missing, or acceptance outside 0 … 1.
  """
  thresholds.check(acceptance)
  listing = folder.scan(images, field='--images')
  further = None
  if examples:
    further = folder.scan_classes(examples, field='--examples')
  encoder = unlabelled.encoder(source)
  added = further and unlabelled.embed(encoder, further, desc='examples')
  fitted, test, notes = fit(source, added, acceptance)
  new = unlabelled.embed(encoder, listing, desc='predict')
  found = predictions.collect(
    new.rows.id.tolist(),
    fitted,
    labeller.label(fitted, new.rows.embedding, count=predictions.NEIGHBOURS),
  )
  out.mkdir(parents=True, exist_ok=True)
  trained = encoder.class_names
  classes = predictions.classes(fitted, trained, found)
  measures = {'temperature': fitted.temperature, 'acceptance': acceptance}
  if test is not None:
    citations = inputs.citations([source])
    measures |= tested(fitted, test, trained, out, citations)
  predictions.write(out, found)
  try:
    predictions.write_ecotaxa(out / 'ecotaxa_predictions.tsv', found)
  except InputError as error:
    notes.append(f'No table for EcoTaxa: {error}')
  tables.write_csv(out / 'classes.csv', classes)
  tables.write_json(out / 'calibration.json', measures)
  write_skipped(out / 'skipped.txt', new.skipped)
  unknown = sum(not one.known for one in found)
  tables.show(classes, f'predict: {len(found):,} images, {unknown:,} unknown')
  for note in notes:
    print(f'predict: {note}')
  predicted.write(
    out,
    source=source,
    encoder_step=encoder.step,
    new=new,
    examples=added,
    found=found,
    classes=classes,
    measures=measures,
    notes=notes,
  )
  return found


def write_skipped(path: pathlib.Path, skipped: list[tuple[str, str]]) -> None:
  """Lists images that could not be read, or removes an older list."""
  if skipped:
    lines = [f'{name}\t{reason}\n' for name, reason in skipped]
    atomic.text(path, ''.join(lines))
  else:
    path.unlink(missing_ok=True)


def run(sources: list[Source], out: pathlib.Path) -> None:
  """What the flags ask for."""
  images = unlabelled.IMAGES.value
  if len(sources) > 1 or sources[0].workdir is None:
    raise InputError('predict takes one --workdir')
  if not images:
    raise InputError('--images is missing: the folder of images to label')
  analyse(
    sources[0],
    out if inputs.OUT.value else out / 'predict',
    images=images,
    examples=EXAMPLES.value,
    acceptance=thresholds.ACCEPTANCE.value,
  )


if __name__ == '__main__':
  host.use_fast_settings()
  inputs.main(run)
