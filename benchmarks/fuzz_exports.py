"""Files of instruments and of others' tables: whole ones, hostile ones.

Raw bins of the IFCB, tables of taxa, and the table that updates EcoTaxa.
"""

import csv
import gzip
import io
import json
import pathlib
import re
from typing import Any

import numpy as np

from benchmarks import fuzz_values as values

Rng = np.random.Generator

_BINS = ('IFCB5_2012_028_081515', 'D20130526T095207_IFCB013')
_BREAK = b'\n--8<--\n'  # between the files of a bin, in one case
_NUMBERS = ('0', '1', '3', '70', '65535', '8193', '2147483648', '4e9', '-1')


def bin_files(rng: Rng | None = None) -> bytes:
  """A bin: its name, .adc, .hdr and .roi; the first two regions overlap."""
  old = rng is None or rng.random() < 0.5
  before = ['.5'] * (8 if old else 12)
  boxes = [
    (4, 100, 50, 12, 10, 0),
    (4, 107, 53, 13, 11, 120),
    (5, -11, -11, 0, 0, 263),
    (6, 700, 3, 4, 12, 263),
  ]
  lines = [
    [str(trigger), *before, *map(str, box), '-.25'] for trigger, *box in boxes
  ]
  header = 'imagerID: 13\nmicronsPerPixel: 0.36\n'
  if rng is not None:
    for _ in range(rng.integers(1, 5)):
      line = lines[rng.integers(len(lines))]
      at = int(rng.choice([0, *range(len(before) + 1, len(line))]))
      odd = rng.random() < 0.3
      line[at] = values.text(rng) if odd else str(rng.choice(_NUMBERS))
    if rng.random() < 0.3:
      header = f'pixelsPerMicron: {values.text(rng)}\n{values.text(rng)}'
  adc = ''.join(','.join(line) + '\r\n' for line in lines)
  parts = [
    _BINS[0 if old else 1].encode(),
    adc.encode('utf-8', 'replace'),
    header.encode('utf-8', 'replace'),
    bytes(range(256)) + bytes(55),
  ]
  if rng is not None and rng.random() < 0.4:
    at = int(rng.integers(1, 4))
    parts[at] = values.damage(rng, parts[at])
  return _BREAK.join(parts)


def vary_bin(rng: Rng) -> bytes:
  return bin_files(rng)


def read_bin(data: bytes, folder: pathlib.Path) -> None:
  """Each line of a bin is an image, or is counted with what has none."""
  from plankton_jax.data.pixels import images
  from plankton_jax.data.sources import ifcb

  name, *files = [*data.split(_BREAK), b'', b'', b''][:4]
  stem = name.decode('utf-8', 'replace')
  stem = stem if stem in _BINS else _BINS[0]
  for ending, content in zip(('adc', 'hdr', 'roi'), files, strict=True):
    (folder / f'{stem}.{ending}').write_bytes(content)
  found = ifcb.objects(str(folder))
  for id in found.ids:
    try:
      images.decode(found.read(id))
    except ValueError as error:  # the reason that skipped.txt gives
      values.one_line(error)
  for _, reason in found.skipped:
    values.one_line(ValueError(reason))


def taxa(rng: Rng | None = None) -> bytes:
  """A table of taxa as `--taxa` takes it."""
  lines = [
    ['taxon', 'lineage', 'category_id', 'scientific_name', 'aphia_id', 'rank'],
    ['copepod', 'living>Copepoda', '45', 'Copepoda', '1080', 'class'],
    ['Calanus', 'living>Copepoda>Calanus', '46', 'Calanus', '104152', 'genus'],
    ['fish', '', '', '', '', ''],
  ]
  mark = '\t'
  if rng is not None:
    mark = str(rng.choice(['\t', ',', ';']))
    if rng.random() < 0.2:
      lines[0][1:3] = ['kingdom', 'phylum']
    for _ in range(rng.integers(1, 4)):
      line = lines[rng.integers(len(lines))]
      choice = rng.random()
      if choice < 0.7 and line:
        line[rng.integers(len(line))] = values.text(rng)
      elif choice < 0.85:
        line.append(values.text(rng))
      else:
        del line[rng.integers(len(line) + 1) :]
  data = _table(lines, mark)
  if rng is not None and rng.random() < 0.2:
    data = gzip.compress(data, mtime=0)
  return data


def vary_taxa(rng: Rng) -> bytes:
  data = taxa(rng)
  return values.sometimes_damaged(rng, data, whole=0.7)


def read_taxa(data: bytes, folder: pathlib.Path) -> None:
  from analysis.files import taxa as reader

  file = folder / 'taxa.csv'
  file.write_bytes(data)
  found = reader.read(file)
  found.categories()
  reader.merge(found, found)


def published(rng: Rng | None = None) -> bytes:
  """A table of taxa as SEANOE publishes it, gzipped."""
  lines = [
    ['objid', 'taxon', 'lineage', 'set'],
    *([f'{k}', 'ab'[k % 2], 'living>a', 'train'] for k in range(5)),
  ]
  if rng is not None:
    for _ in range(rng.integers(1, 4)):
      line = lines[rng.integers(len(lines))]
      if rng.random() < 0.7 and line:
        line[rng.integers(len(line))] = values.text(rng)
      else:
        del line[rng.integers(len(line) + 1) :]
  data = _table(lines, ',')
  if rng is not None and rng.random() < 0.3:
    data = values.damage(rng, data)
  return gzip.compress(data, mtime=0)


def vary_published(rng: Rng) -> bytes:
  data = published(rng)
  return values.sometimes_damaged(rng, data, whole=0.8)


def read_published(data: bytes, folder: pathlib.Path) -> None:
  from plankton_jax.data.public import prepare

  del folder
  for key, taxon in prepare.parse_taxa(data, 'archive.tar').items():
    if not all(isinstance(text, str) for text in (key, *taxon)):
      raise AssertionError('a cell of a table that is no text')


def updates() -> list[dict[str, Any]]:
  """Fields of the rows of a table that updates EcoTaxa."""
  return [
    {
      'img_file_name': f'{k}.png',
      'object_id': f'o{k}',
      'category': 'Calanoida',
      'category_id': 45,
    }
    for k in range(3)
  ]


def vary_updates(rng: Rng) -> bytes:
  """Names and taxa with whatever a file's name or a class may hold."""
  rows = updates()
  for _ in range(rng.integers(1, 4)):
    row = rows[rng.integers(len(rows))]
    if rng.random() < 0.15:
      row['category_id'] = None
    else:
      field = str(rng.choice(['img_file_name', 'object_id', 'category']))
      row[field] = values.text(rng)
  return json.dumps(rows).encode()


def read_updates(data: bytes, folder: pathlib.Path) -> None:
  """Reads a table that was written, and compares it with what was to be.

  But for spaces around it, zero bytes and byte order marks, which are dropped
  in reading.
  """
  from plankton_jax.data.ecotaxa import table, write

  path = folder / 'ecotaxa_update.tsv'
  try:
    rows = [write.update(**fields) for fields in json.loads(data)]
  except (ValueError, TypeError, RecursionError):
    return  # only how the case was packed
  write.write_tsv(path, rows)
  found = table.parse(path.read_bytes(), str(path))
  for name in ('img_file_name', 'object_id', 'object_annotation_category'):
    want = [re.sub('[\0\ufeff]', '', row[name]).strip() for row in rows]
    if list(found.column(name)) != want:
      raise AssertionError(f'column {name} differs when it is read')


def _table(lines: list[list[str]], mark: str) -> bytes:
  stream = io.StringIO()
  csv.writer(stream, delimiter=mark).writerows(lines)
  return stream.getvalue().encode('utf-8', 'surrogatepass')
