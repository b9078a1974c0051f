"""Labels new images.

`python -m analysis.predict --workdir=DIR --images=FOLDER [--examples=FOLDER]`
gives each image the class whose centre is nearest in the embedding, or
`unknown` if it lies too far from every class, with a calibrated confidence and
its nearest labelled images. --examples holds a folder with a few images for
each class to add without training; with `--encoder=plankton` in place of the
workdir these are all that is known.

`--export=PLACE` in place of --images predicts objects where they are: of an
EcoTaxa export, of a table without annotation, of IFCB bins. For an export it
writes what updates its objects in EcoTaxa. `--embeddings=FILE.npz` in place of
--workdir takes anyone's embeddings, and `--images=FILE.npz` those to predict.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from analysis.figures import reliability
from analysis.files import (
  command,
  folders,
  inputs,
  new_images,
  result,
  tables,
  taxa,
)
from analysis.files.folders import Embedded
from analysis.files.inputs import Source
from analysis.files.new_images import NewImages
from analysis.files.result import Drawing, Picture, Result, Shown
from analysis.formats import darwin_core, ecotaxa
from analysis.measures import fitted, labeller, lineages, predictions
from analysis.measures.predictions import Prediction
from analysis.page import predicted as page
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError

if TYPE_CHECKING:  # JAX is imported only where something is embedded.
  from plankton_jax.encoder import Encoder

EXAMPLES = flags.DEFINE_string(
  'examples',
  None,
  'A folder of labelled images, one folder a class, or an archive, to add.',
)
OVERWRITE = flags.DEFINE_bool(
  'overwrite_validated', False, 'Update what a person has annotated, too.'
)
SURE = flags.DEFINE_float(
  'sure', 0.95, 'Share of right names to reach at the rank that is named.'
)
for name in ('images', 'export', 'pixel_um', 'taxa', 'acceptance', 'search'):
  flags.declare_key_flag(name)  # --help shows it


class Asked(NamedTuple):
  """Names what to predict, and from what besides embeddings, by the flags."""

  images: str | None = None  # a folder, or an embedding file
  export: str | None = None  # any source
  examples: str | None = EXAMPLES.default  # a folder of labelled images
  acceptance: float = command.ACCEPTANCE.default
  overwrite_validated: bool = OVERWRITE.default
  taxa: str | None = None  # a table of lineages and numbers
  sure: float = SURE.default
  pixel_um: float | None = None  # of all new images; None takes the run's
  search: str = 'auto'  # the way of `choice.nearest`


class Gathered(NamedTuple):
  """All that is embedded besides the labelled rows of the source."""

  encoder: 'Encoder | None'  # None where nothing had to be embedded
  new: NewImages
  added: Embedded | None  # the examples


def gather(source: Source, asked: Asked) -> Gathered:
  """Embeds the examples and the images to predict, or reads embeddings.

  Raises:
    InputError: the checkpoint is missing, an encoder is given without examples,
      or no image can be read.
  """
  encoder: Encoder | None
  added = None
  if asked.examples:
    found = folder.scan_classes(asked.examples, field='--examples').images
    encoder = folders.encoder(source)
    added = folders.embed(
      encoder, found, pixel_um=asked.pixel_um, desc='examples'
    )
  elif source.encoder is not None:
    raise InputError(
      '--examples is missing: --encoder takes a folder of labelled images, one'
      ' folder a class'
    )
  else:
    encoder = new_images.encoder_for(source, asked.images)
  new = new_images.gather(encoder, asked.images, asked.export, asked.pixel_um)
  return Gathered(encoder, new, added)


def analyse(sources: Sequence[Source], asked: Asked) -> Result:
  """Predicts every readable image that is asked for.

  Raises:
    InputError: there is not one source, no image can be read, embeddings or a
      checkpoint are missing, or a flag's value is out of its range.
  """
  source = command.one_source(sources, 'predict')
  command.check_share('acceptance', asked.acceptance)
  command.check_share('sure', asked.sure)
  listed = taxa.given(asked.taxa)
  encoder, new, added = gather(source, asked)
  known, unclear = taxa.from_objects(new.listed)
  trained_on, missing = taxa.of_run(source, asked.export)
  known = functools.reduce(taxa.merge, (listed, known, trained_on))

  fit = fitted.fit(source, added, acceptance=asked.acceptance)
  inputs.check_widths(
    source.name,
    {'labelled images': fit.labeller.gallery, 'new images': new.rows},
  )
  ranks = lineages.fit(fit, known, asked.sure)
  labels = labeller.label(
    fit.labeller,
    new.rows.embedding,
    count=predictions.NEIGHBOURS,
    way=asked.search,
  )
  found = predictions.collect(
    new.rows.id.tolist(),
    new.items,
    fit.labeller,
    labels,
    lineages.place_images(ranks, fit, new.rows.embedding),
  )

  written = make_files(
    new,
    found,
    known,
    darwin_core.references(source.name, encoder.step if encoder else None),
    overwrite_validated=asked.overwrite_validated,
  )
  remarks = [*fit.remarks, *ranks.remarks, *written.notes]
  classes = predictions.classes(fit.labeller, fit.trained, found)
  measures = {
    'temperature': fit.labeller.temperature,
    'acceptance': asked.acceptance,
    'threshold': fit.labeller.threshold,
    **fit.tested.measures,
    **ranks.measures,
  }
  csvs = {**written.tables, 'classes.csv': classes}
  unknown = sum(not one.known for one in found)
  title = f'predict: {len(found):,} images, {unknown:,} unknown'
  footer = f'{accounting(new)}\n  nearest labelled images: {labels.how}'
  shown = [Shown(title, classes, footer)]
  if ranks.lines:
    csvs['ranks.csv'] = ranks.lines
    shown.append(Shown('predict: ranks, by test images', ranks.lines))
  figures: dict[str, Picture] = {}
  if fit.tested.ways:
    drawing = Drawing(
      lambda: reliability.draw(fit.tested.ways), inputs.citations(sources)
    )
    figures['reliability'] = result.render(drawing)
    csvs['reliability.csv'] = reliability.rows(fit.tested.ways)
  text = page.render(
    source=source,
    encoder=encoder,
    new=new,
    examples=added,
    found=found,
    classes=classes,
    ranks=ranks.lines,
    measures=measures,
    notes=remarks,
    reliability=figures.get('reliability'),
  )
  return Result(
    [*fit.notes, *unclear, *missing, *remarks],
    shown,
    csvs,
    {'calibration.json': measures},
    figures,
    {
      **written.files,
      **({} if ranks.lines else {'ranks.csv': None}),  # of an earlier run
      'predictions.html': result.content(text),
    },
    {'predictions.html': ' ({size})'},
  )


def make_files(
  new: NewImages,
  found: Sequence[Prediction],
  known: taxa.Taxa,
  references: str,
  *,
  overwrite_validated: bool,
) -> Result:
  """Makes the files of predictions, in our and others' formats."""
  lines = list(predictions.rows(found))
  files: dict[str, result.Writer | None] = {
    'predictions.parquet': functools.partial(
      tables.write_parquet, columns=tables.columns(lines)
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
    files['skipped.txt'] = result.content(tables.skipped(new.skipped))
  csvs: dict[str, Sequence[tables.Row]] = {'predictions.csv': lines}
  notes = made.remarks
  if any(item.status or item.date for item in new.items):
    occurrences = list(
      darwin_core.rows(
        found, known, references, overwrite_validated=overwrite_validated
      )
    )
    notes = notes + darwin_core.remarks(occurrences)
    if occurrences:
      csvs[darwin_core.FILE] = occurrences
      del files[darwin_core.FILE]
  return Result(notes, tables=csvs, files=files | made.files)


def accounting(new: NewImages) -> str:
  """Accounts for all that was read: predicted, or left out by reason."""
  parts = [f'{len(new.items):,} predicted']
  if new.skipped:
    parts.append(f'{len(new.skipped):,} left out (skipped.txt)')
  parts += [f'{n:,} {reason}' for reason, n in new.left_aside.items()]
  return f'{new.total:,} read = {" + ".join(parts)}'


def asked(sources: Sequence[Source]) -> Result:
  """Runs the analysis that the flags ask for."""
  command.one_source(sources, 'predict')  # before --images is missed
  new_images.check(command.IMAGES.value, command.EXPORT.value)
  return analyse(sources, command.options(Asked))


if __name__ == '__main__':
  command.run('predict', asked, folder='predict', untrained=True, fast=True)
