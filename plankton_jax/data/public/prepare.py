"""Prepares a public set as a TFDS data set, classes.csv and skipped.json."""

import collections
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from plankton_jax.data import records
from plankton_jax.data.public import contents, taxa
from plankton_jax.data.public.catalogue import ImageSet
from plankton_jax.data.sources.source import Example, Source
from plankton_jax.files import atomic

Row = dict[str, str]


def prepared_at(name: str, data_dir: str) -> Path:
  """Returns the folder of a prepared set; a root of '' is TFDS's own folder."""
  root = Path(data_dir) if data_dir else records.default_root()
  return root.expanduser() / name / records.VERSION


def prepare(
  name: str, about: ImageSet, archives: Sequence[Path], final: Path
) -> None:
  """Writes a set's records, classes.csv and skipped.json to a new folder.

  Raises:
    InputError: an archive cannot be read, holds no image where it should, or
      no readable one.
  """
  found = contents.scan(archives, about.layout)
  counts: collections.Counter[int] = collections.Counter()
  total = sum(map(len, found.wanted))

  def examples() -> Iterator[Example]:
    stream = contents.examples(archives, found)
    for example in tqdm(stream, name, total, unit=' images', delay=2):
      counts[example.label] += example.image is not None
      yield example

  source = Source(
    place=str(archives[0]),
    fingerprint='',
    class_names=found.class_names,
    examples=examples,
    total=total,
    skipped=tuple(found.skipped),
  )
  with atomic.directory(final) as building:
    left_out = records.store(
      building,
      source,
      name=name,
      texts=taxa.Taxon._fields if found.taxa else (),
      description=f'{about.title}, taken by {about.instrument}.',
      homepage=f'https://doi.org/{about.doi}',
      citation=about.citation,
      license=about.licence,
    )
    (building / 'skipped.json').write_text(json.dumps(left_out))
    _write(building / 'classes.csv', contents.inventory(found, counts))


def classes(final: Path) -> list[Row]:
  """Reads a prepared set's classes.csv: class, images, taxon, lineage."""
  with (final / 'classes.csv').open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
  with file.open('w', newline='', encoding='utf-8') as stream:
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
