"""Reads what is known of taxa: lineages, and their numbers elsewhere."""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from analysis.files import tables
from analysis.files.inputs import Source
from plankton_jax.data.sources.objects import Object
from plankton_jax.data.sources.source import one_line
from plankton_jax.errors import InputError
from plankton_jax.files import home

RANKS = ('kingdom', 'phylum', 'class', 'order', 'family', 'genus', 'species')
WORMS = 'urn:lsid:marinespecies.org:taxname:'

# Columns of a file of taxa, by what they hold; the first that is there counts.
_COLUMNS = {
  'taxon': ('taxon', 'category', 'object_annotation_category', 'name'),
  'lineage': ('lineage', 'hierarchy', 'object_annotation_hierarchy'),
  'category_id': ('category_id', 'object_annotation_category_id'),
  'name': ('scientific_name', 'scientificname'),
  'name_id': ('scientificnameid', 'scientific_name_id', 'aphia_id', 'aphiaid'),
  'rank': ('rank', 'taxonrank', 'taxon_rank'),
}
_SEPARATORS = '>|;/'  # of a lineage; the first that occurs


Path = tuple[str, ...]  # from the root to a taxon


class Taxon(NamedTuple):
  """Holds a taxon's lineage, numbers, scientific name and rank."""

  lineage: Path = ()  # () if not known
  category_id: int | None = None  # EcoTaxa's
  name: str = ''  # scientific
  name_id: str = ''  # of WoRMS, as an LSID
  rank: str = ''


class Taxa(NamedTuple):
  """Taxa by their names in the labels."""

  of: Mapping[str, Taxon]
  ranks: tuple[str, ...] = ()  # of a lineage's places, where columns name them

  def categories(self) -> dict[str, int]:
    """Lists EcoTaxa's numbers, where they are known."""
    return {
      name: taxon.category_id
      for name, taxon in self.of.items()
      if taxon.category_id is not None
    }


NONE = Taxa({})


def given(path: str | None) -> Taxa:
  """Reads the table that --taxa names, as `read` does; none without a path."""
  return read(pathlib.Path(path)) if path else NONE


def read(path: pathlib.Path) -> Taxa:
  """Reads a table of taxa: CSV or tab-separated, may be gzipped.

  It may be in any encoding that spreadsheets write.

  It has a column `taxon`, and may have `lineage`, or the columns of `RANKS`,
  and `category_id`, `scientific_name`, `aphia_id` and `rank`. A taxon may have
  several rows, if they say the same.

  Raises:
    InputError: it cannot be read, lacks the column, has a column in use twice
      or a row of more cells than columns, or contradicts itself.
  """
  header, rows = tables.read_csv(path, 'taxa', _COLUMNS['taxon'])
  columns = tables.find_columns(path, header, _COLUMNS, ['taxon'])
  for name in (*columns.values(), *RANKS):
    if name and header.count(name) > 1:
      raise InputError(f'{path}: column {name!r} is there twice: keep one')
  ranks = tuple(name for name in RANKS if name in header)
  found: dict[str, Taxon] = {}
  for line, row in rows:
    cells = {
      field: row[column] if column else '' for field, column in columns.items()
    }
    name = cells['taxon']
    if not name:
      continue
    if columns['lineage']:
      lineage = split_lineage(cells['lineage'])
    else:
      lineage = _by_rank([(rank, row[rank]) for rank in ranks])
    number = parse_number(cells['category_id'])
    if number is None and cells['category_id']:
      raise InputError(
        f'{path}, line {line}: category_id {cells["category_id"]!r}: no number;'
        " give EcoTaxa's, or nothing"
      )
    taxon = Taxon(
      lineage,
      number,
      cells['name'],
      _lsid(cells['name_id'], f'{path}, line {line}'),
      cells['rank'],
    )
    if found.setdefault(name, taxon) != taxon:
      raise InputError(
        f'{path}, line {line}: {one_line(name)} differs from an earlier row:'
        ' keep one'
      )
  return Taxa(found, () if columns['lineage'] else ranks)


def from_objects(items: Iterable[Object]) -> tuple[Taxa, list[str]]:
  """Collects the taxa of annotated objects, and notes on contradictions.

  A lineage or number of which two are given for one name is left out.
  """
  lineages: dict[str, set[Path]] = {}
  numbers: dict[str, set[int]] = {}
  for item in items:
    if not item.taxon:
      continue
    lineage = lineages.setdefault(item.taxon, set())
    number = numbers.setdefault(item.taxon, set())
    if item.lineage:
      lineage.add(split_lineage(item.lineage))
    if (found := parse_number(item.category_id)) is not None:
      number.add(found)
  taxa, notes = {}, []
  for name in sorted(lineages):
    for what, given in (
      ('lineages', ['>'.join(path) for path in lineages[name]]),
      ('category ids', list(map(str, numbers[name]))),
    ):
      if len(given) > 1:
        notes.append(
          f'{one_line(name)} has several {what}, none of which is used:'
          f' {one_line(", ".join(sorted(given)[:3]))}'
        )
    lineage, number = lineages[name], numbers[name]
    taxa[name] = Taxon(
      lineage.pop() if len(lineage) == 1 else (),
      number.pop() if len(number) == 1 else None,
    )
  return Taxa(taxa), notes


def of_run(source: Source, read: str | None = None) -> tuple[Taxa, list[str]]:
  """Collects the taxa of the EcoTaxa export that a run was trained on.

  If that is `read`, an export whose taxa are known, it is not read again.

  Returns:
    The taxa, none for other data, and notes on what is missing.
  """
  own = (source.config or {}).get('data', {}).get('path')
  place = lambda path: home.expand(path).resolve()
  if read and own and place(read) == place(own):
    return NONE, []
  try:
    return from_objects(objects_of_run(source))
  except InputError as error:
    return NONE, [f'{source.name}: no taxa of its export: {error}']


def objects_of_run(source: Source) -> Sequence[Object]:
  """Reads the objects of the EcoTaxa export that a run was trained on.

  Returns none for other data.

  Raises:
    InputError: the export cannot be read.
  """
  data = (source.config or {}).get('data', {})
  if data.get('source') != 'ecotaxa':
    return ()
  from plankton_jax.data.ecotaxa import read as export

  return export.export(data['path']).objects


def merge(first: Taxa, second: Taxa) -> Taxa:
  """Completes what the first knows of each taxon by what the second knows.

  Places of lineages have the ranks of the first, if it has any lineage.
  """
  of = dict(first.of)
  for name, taxon in second.of.items():
    known = of.get(name, Taxon())._asdict()
    of[name] = taxon._replace(**{k: v for k, v in known.items() if v})
  has_lineages = any(taxon.lineage for taxon in first.of.values())
  return Taxa(of, first.ranks if has_lineages else second.ranks)


def split_lineage(text: str) -> tuple[str, ...]:
  """Splits root>...>taxon; `|`, `;` and `/` are taken for `>` too."""
  separator = next((mark for mark in _SEPARATORS if mark in text), '>')
  parts = (part.strip() for part in text.split(separator))
  return tuple(part for part in parts if part not in ('', '#'))


def _by_rank(cells: Sequence[tuple[str, str]]) -> tuple[str, ...]:
  """Makes a lineage of ranks; an empty one between others is named so."""
  last = max((at for at, (_, name) in enumerate(cells) if name), default=-1)
  found: list[str] = []
  for rank, name in cells[: last + 1]:
    found.append(name or f'{found[-1] if found else "living"}, no {rank}')
  return tuple(found)


def _lsid(text: str, place: str) -> str:
  """Turns a number of WoRMS into an LSID, and lets an LSID pass."""
  number = re.fullmatch(r'(\d+)(\.0)?', text)
  if number:
    return f'{WORMS}{number[1]}'
  if text and not text.startswith('urn:lsid:'):
    raise InputError(f'{place}: {text!r} is neither an AphiaID nor an LSID')
  return text


def parse_number(text: str) -> int | None:
  """Parses a number that EcoTaxa gave, which Excel may have made 45.0.

  Returns:
    None if the text is no number, or has more digits than EcoTaxa's have.
  """
  found = re.fullmatch(r'(\d{1,18})(\.0)?', text)
  return int(found[1]) if found else None
