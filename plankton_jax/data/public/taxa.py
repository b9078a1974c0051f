"""Reads taxa.csv.gz of the SEANOE sets: object id, taxon, lineage, split."""

import csv
import gzip
import io
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from plankton_jax.data.sources.source import one_line
from plankton_jax.errors import InputError

FILE = 'taxa.csv.gz'


class Taxon(NamedTuple):
  """An object's row in the file; '' where a cell is empty."""

  taxon: str = ''
  lineage: str = ''
  set: str = ''  # train, val or test, as the publisher split


def parse(data: bytes, place: str) -> Mapping[str, Taxon]:
  """Parses taxa by object id, the image's name without its extension.

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
          f'{place}: {FILE} has no column {column!r} (it has'
          f' {one_line(", ".join(header))})'
        )
    once: dict[Taxon, Taxon] = {}  # A million objects, a hundred taxa.
    taxa = {}
    for row in rows:
      taxon = Taxon(*(row.get(field) or '' for field in Taxon._fields))
      taxa[row['objid']] = once.setdefault(taxon, taxon)
    return taxa
  except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as e:
    raise InputError(f'{place}: {FILE} cannot be read ({e})') from e
