"""Prepares a public set as a TFDS data set, classes.csv and skipped.json.

Finds the images of the set in its archives by their layout.
"""

import collections
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from plankton_jax.data import records
from plankton_jax.data.pixels import images
from plankton_jax.data.public.catalogue import ImageSet
from plankton_jax.data.sources import archives
from plankton_jax.data.sources.files import is_image
from plankton_jax.data.sources.source import Example, Source, one_line
from plankton_jax.errors import InputError
from plankton_jax.files import atomic, home

Row = dict[str, str]

TAXA = 'taxa.csv.gz'  # of the SEANOE sets: id, taxon, lineage, split


class Taxon(NamedTuple):
  """An object's row in `TAXA`; '' where a cell is empty."""

  taxon: str = ''
  lineage: str = ''
  set: str = ''  # train, val or test, as the publisher split


class Contents(NamedTuple):
  """The contents of a set's archives."""

  wanted: tuple[dict[str, str], ...]  # of each archive: path -> id class/file
  class_names: tuple[str, ...]
  taxa: dict[str, Taxon]  # by object id; empty where there is no list
  skipped: list[tuple[str, str]]  # (name, reason)


def prepared_at(name: str, data_dir: str) -> Path:
  """Returns the folder of a prepared set; a root of '' is TFDS's own folder."""
  root = Path(data_dir) if data_dir else records.default_root()
  return home.expand(root) / name / records.VERSION


def prepare(
  name: str, about: ImageSet, paths: Sequence[Path], final: Path
) -> None:
  """Writes a set's records, classes.csv and skipped.json to a new folder.

  Raises:
    InputError: an archive cannot be read, holds no image where it should, or
      no readable one.
  """
  found = scan(paths, about.layout)
  counts: collections.Counter[int] = collections.Counter()
  total = sum(map(len, found.wanted))

  def examples() -> Iterator[Example]:
    stream = read_images(paths, found)
    for example in tqdm(stream, name, total, unit=' images', delay=2):
      counts[example.label] += example.image is not None
      yield example

  source = Source(
    place=str(paths[0]),
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
      texts=Taxon._fields if found.taxa else (),
      description=f'{about.title}, taken by {about.instrument}.',
      homepage=f'https://doi.org/{about.doi}',
      citation=about.citation,
      license=about.licence,
    )
    (building / 'skipped.json').write_text(json.dumps(left_out))
    _write(building / 'classes.csv', inventory(found, counts))


def classes(final: Path) -> list[Row]:
  """Reads a prepared set's classes.csv: class, images, taxon, lineage."""
  with (final / 'classes.csv').open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def scan(paths: Sequence[Path], layout: str) -> Contents:
  """Lists archives, without reading an image.

  Ignores files other than images, hidden ones, and folders that systems make.

  Raises:
    InputError: an archive cannot be read, or holds no image where the layout
      says.
  """
  pattern = _pattern(layout)
  ids: set[str] = set()
  wanted: list[dict[str, str]] = []
  skipped: list[tuple[str, str]] = []
  known: dict[str, Taxon] = {}
  for path in paths:
    names, refused, tables = archives.listing(path, TAXA)
    skipped += refused
    for table in tables.values():
      known |= parse_taxa(table, str(path))
    here: dict[str, str] = {}
    keys = {name: _key(pattern, name) for name in names if is_image(name)}
    elsewhere = [name for name, key in keys.items() if not key]
    if len(elsewhere) == len(keys):
      held = f'such as {names[0]}' if names else 'and is empty'
      raise InputError(f'{path} holds no image as {layout}, {held}')
    for name, key in keys.items():
      if not key:
        continue
      if key in ids:
        skipped.append((name, f'a second image {key}'))
        continue
      ids.add(key)
      here[name] = key
    if elsewhere:
      others = f' (and {n} more)' if (n := len(elsewhere) - 1) else ''
      skipped.append((elsewhere[0] + others, f'does not lie as {layout}'))
    wanted.append(here)
  class_names = tuple(sorted({key.split('/')[0] for key in ids}))
  return Contents(tuple(wanted), class_names, known, skipped)


def parse_taxa(data: bytes, place: str) -> Mapping[str, Taxon]:
  """Parses taxa.csv.gz by object id, the image's name without its extension.

  Raises:
    InputError: the file is damaged or lacks a column.
  """
  try:
    text = gzip.decompress(data).decode('utf-8-sig')
    rows = csv.DictReader(io.StringIO(text))
    header = rows.fieldnames or []
    for column in ('objid', 'taxon', 'lineage'):
      if column not in header:
        raise InputError(
          f'{place}: {TAXA} has no column {column!r} (it has'
          f' {one_line(", ".join(header))})'
        )
    once: dict[Taxon, Taxon] = {}  # A million objects, a hundred taxa.
    taxa = {}
    for row in rows:
      taxon = Taxon(*(row.get(field) or '' for field in Taxon._fields))
      taxa[row['objid']] = once.setdefault(taxon, taxon)
    return taxa
  except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as e:
    raise InputError(f'{place}: {TAXA} cannot be read ({e})') from e


def read_images(paths: Sequence[Path], contents: Contents) -> Iterator[Example]:
  """Yields the images in the order of the archives, one in memory at a time."""
  label = {name: i for i, name in enumerate(contents.class_names)}
  for path, wanted in zip(paths, contents.wanted, strict=True):
    read = set()
    for name, data, reason in archives.read(path, wanted):
      key = wanted[name]
      number = label[key.split('/')[0]]
      try:
        if name in read:
          raise ValueError('a second file of this name in the archive')
        read.add(name)
        if data is None:
          raise ValueError(reason)
        texts = taxon_of(contents, key)._asdict() if contents.taxa else {}
        normal = images.ingest(data)
        yield Example(
          key, number, normal.data, '', texts, normal.deepest, normal.note
        )
      except ValueError as error:
        yield Example(key, number, None, str(error))


def taxon_of(contents: Contents, key: str) -> Taxon:
  """Looks an image up in the taxa list."""
  stem = os.path.splitext(key.split('/')[1])[0]
  return contents.taxa.get(stem, Taxon())


def inventory(
  contents: Contents, counts: collections.Counter[int]
) -> list[dict[str, str | int]]:
  """Lists each class with its count, its commonest taxon and lineage."""
  votes: dict[str, collections.Counter[tuple[str, str]]]
  votes = collections.defaultdict(collections.Counter)
  if contents.taxa:
    for key in (key for wanted in contents.wanted for key in wanted.values()):
      taxon, lineage, _ = taxon_of(contents, key)
      votes[key.split('/')[0]][taxon, lineage] += 1
  rows: list[dict[str, str | int]] = []
  for label, name in enumerate(contents.class_names):
    taxon, lineage = (
      votes[name].most_common(1)[0][0] if votes[name] else ('', '')
    )
    rows.append(
      {
        'class': name,
        'images': counts[label],
        'taxon': taxon,
        'lineage': lineage,
      }
    )
  return rows


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
  with file.open('w', newline='', encoding='utf-8') as stream:
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


def _pattern(layout: str) -> re.Pattern:
  parts = re.split(r'\{(\w+)\}', layout)
  parts[::2] = [re.escape(text) for text in parts[::2]]
  parts[1::2] = [f'(?P<{name}>[^/]+)' for name in parts[1::2]]
  return re.compile(''.join(parts))


def _key(pattern: re.Pattern, name: str) -> str:
  """Returns class/file of an image; '' if its path does not fit the layout."""
  match = pattern.fullmatch(name)
  return f'{match["class"]}/{match["file"]}' if match else ''
