"""A public set prepared as TFDS data set, in array_record files."""

import collections
import csv
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from plankton_jax import atomic
from plankton_jax.data.pixels import records
from plankton_jax.data.public import contents
from plankton_jax.data.public.catalogue import ImageSet
from plankton_jax.data.public.taxa import Taxon
from plankton_jax.data.sources import folder
from plankton_jax.data.sources.sources import Example

Row = dict[str, str]

_TAXA = Taxon._fields


class PublicImages(tfds.core.GeneratorBasedBuilder):
  """Image, label, id, and what the publisher's list says of its taxon."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(
    self,
    *,
    name: str,
    about: ImageSet,
    found: contents.Contents,
    examples: Iterator[Example],
    **kwargs: Any,
  ):
    self.name = name
    self._about = about
    self._found = found
    self._examples = examples
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      'image': tfds.features.Image(),
      'label': tfds.features.ClassLabel(names=self._found.class_names),
      'id': tfds.features.Text(),
    }
    if self._found.taxa:
      features |= {field: tfds.features.Text() for field in _TAXA}
    about = self._about
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'{about.title}, taken by {about.instrument}.',
      features=tfds.features.FeaturesDict(features),
      homepage=f'https://doi.org/{about.doi}',
      citation=about.citation,
      license=about.licence,
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {'images': self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, example in enumerate(self._examples):
      fields = {'image': example.image, 'label': example.label}
      fields['id'] = example.id
      if self._found.taxa:
        fields |= contents.taxon_of(self._found, example.id)._asdict()
      yield key, fields


def prepared_at(name: str, data_dir: str) -> Path:
  """Where a set is, or would be, prepared; '' is TFDS's own folder."""
  root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  return root / name / str(PublicImages.VERSION)


def prepare(
  name: str, about: ImageSet, archives: Sequence[Path], final: Path
) -> None:
  """Writes a set's records, classes.csv and skipped.json to a new folder.

  Raises:
    InputError: an archive that cannot be read, holds no image where it should,
      or not one that is readable.
  """
  found = contents.scan(archives, about.layout)
  left_out, counts = found.skipped, collections.Counter()
  total = sum(map(len, found.wanted))

  def readable() -> Iterator[Example]:
    stream = contents.examples(archives, found)
    for example in tqdm(stream, name, total, unit=' images', delay=2):
      if example.image is None:
        left_out.append((example.id, example.reason))
      else:
        counts[example.label] += 1
        yield example

  examples = readable()
  first = next(examples, None)
  if first is None:
    raise folder.none_readable(archives[0], left_out)
  with atomic.directory(final) as building, records.quiet_tfds():
    builder = PublicImages(
      name=name,
      about=about,
      found=found,
      examples=itertools.chain([first], examples),
      data_dir=str(building / 'tfds'),
      file_format='array_record',
    )
    builder.download_and_prepare()
    for file in Path(builder.data_dir).iterdir():
      file.rename(building / file.name)
    shutil.rmtree(building / 'tfds')
    (building / 'skipped.json').write_text(json.dumps(left_out))
    _write(building / 'classes.csv', contents.inventory(found, counts))


def classes(final: Path) -> list[Row]:
  """The rows of a prepared set's classes.csv: class, images, taxon, lineage."""
  with (final / 'classes.csv').open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
  with file.open('w', newline='', encoding='utf-8') as stream:
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
