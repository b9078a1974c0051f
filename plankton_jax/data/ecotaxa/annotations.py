"""Completes and settles what the rows of an export say of taxa."""

import collections
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from plankton_jax.data.sources.objects import Object

UNCLASSIFIED = 'unclassified'

# A person's word counts more than that of a machine.
_ORDER = ('validated', 'dubious', 'predicted')


# An object's fields that say what it is.
_ANNOTATION = (
  *('status', 'taxon', 'lineage', 'category_id', 'person'),
  *('annotation_date', 'annotation_time'),
)
# How objects are settled of which two taxa of one state are named.
_LAST = 'of which the last counts'
_DOUBTED = 'and count as dubious, or unclassified if only predicted'
# Characters that nobody sees: soft hyphens, marks of width, order or direction.
_UNSEEN = dict.fromkeys(map(ord, '\xad\u200b\u200e\u200f\u2060\ufeff'))


def tidy(name: str) -> str:
  """Writes a taxon in one way: composed characters, single blanks."""
  seen = unicodedata.normalize('NFC', name).translate(_UNSEEN)
  return ' '.join(seen.split())


class Annotated(NamedTuple):
  """The annotation of each of a table's N rows."""

  states: Sequence[str]
  taxa: Sequence[str]
  notes: Sequence[str]  # on columns that stand for others


def complete(
  states: Sequence[str],
  taxa: Sequence[str],
  lineages: Sequence[str],
  numbers: Sequence[str],
) -> Annotated:
  """Fills in the states and taxa of a table that has none of them.

  Where no row has a category, the last of its hierarchy, or else its number, is
  the taxon. Where no row has a state, those with a category are validated.

  Args:
    states: [N].
    taxa: [N] categories.
    lineages: [N] hierarchies, root>...>taxon.
    numbers: [N] EcoTaxa's of the taxa.
  """
  notes = []
  if not any(taxa):
    last = [lineage.rpartition('>')[2].strip() for lineage in lineages]
    for name, values in (
      ('object_annotation_hierarchy', last),
      ('object_annotation_category_id', numbers),
    ):
      if any(values):
        notes.append(f'no row has a category: {name} names the taxa')
        taxa = values
        break
  if any(taxa) and not any(states):
    notes.append('no row has a state: those with a category are validated')
    states = ['validated' if taxon else '' for taxon in taxa]
  return Annotated(states, taxa, notes)


def settle(
  items: Sequence[Object], said: Mapping[str, Sequence[Object]]
) -> tuple[list[Object], list[str]]:
  """Settles the annotation of objects by all that their rows say.

  The state that counts most wins: validated, dubious, predicted. Where it names
  two taxa the last wins, if all rows say when they were annotated. Else nobody
  can tell which is right: the object becomes dubious, or unclassified if only
  predictions differ.

  Args:
    items: all objects.
    said: id -> what each row says, of objects that they annotate differently.

  Returns:
    The objects, and notes on those of which two taxa of one state are named.
  """
  by_id = {item.id: item for item in items}
  found: dict[str, list[str]] = {}
  for id, rows in said.items():
    by_id[id], how = _settled(by_id[id], rows)
    taxa = ', '.join(sorted({row.taxon for row in rows} - {''}))
    found.setdefault(how, []).append(f'{id} ({taxa})')
  return list(by_id.values()), [
    f'{len(found[how]):,} objects are annotated as different taxa, {how}:'
    f' {", ".join(found[how][:3])}'
    for how in (_LAST, _DOUBTED)
    if how in found
  ]


def _settled(item: Object, said: Sequence[Object]) -> tuple[Object, str]:
  """Settles one object; says how, if two taxa of one state are named."""
  states = [state for state in _ORDER if any(o.status == state for o in said)]
  if not states:
    return item, ''
  best = [other for other in said if other.status == states[0]]
  how = _LAST if len({other.taxon for other in best}) > 1 else ''
  if how and all(map(_annotated, best)):
    last = max(map(_annotated, best))
    best = [other for other in best if _annotated(other) == last]
  item = item._replace(**{n: getattr(best[0], n) for n in _ANNOTATION})
  if len({other.taxon for other in best}) == 1:
    return item, how
  if states[0] == 'predicted':
    item = item._replace(**dict.fromkeys(_ANNOTATION, ''))
    return item._replace(status=UNCLASSIFIED), _DOUBTED
  return item._replace(status='dubious'), _DOUBTED


def _annotated(item: Object) -> str:
  """Says when an object was annotated, by ISO 8601; '' if it is not clear."""
  date, time = item.annotation_date, item.annotation_time
  return item._replace(date=date, time=time).moment


def by_parent(items: Sequence[Object]) -> tuple[tuple[Object, ...], list[str]]:
  """Names taxa of one name but several parents as EcoTaxa does: name<parent.

  A name whose objects all have one category id is left alone, as are objects
  without a lineage. Where parents have one name, too, but category ids differ,
  more of the lineage follows: name<parent<grandparent.

  Returns:
    The objects, and a note on each such name.
  """
  every = [_above(item) for item in items]
  lineages: dict[str, set[tuple[str, ...]]] = collections.defaultdict(set)
  numbers: dict[str, set[str]] = collections.defaultdict(set)
  for item, above in zip(items, every, strict=True):
    if above:
      lineages[item.taxon].add(above)
    numbers[item.taxon].add(item.category_id)
  depths = {
    name: _depth(found, numbers[name])
    for name, found in lineages.items()
    if name and '<' not in name
  }
  several: dict[str, set[str]] = collections.defaultdict(set)
  renamed = []
  for item, above in zip(items, every, strict=True):
    depth = depths.get(item.taxon, 0)
    if depth and above:
      taxon = '<'.join((item.taxon, *above[:depth]))
      several[item.taxon].add(taxon)
      item = item._replace(taxon=taxon)
    renamed.append(item)
  return tuple(renamed), list(_describe(several))


def _depth(lineages: Collection[tuple[str, ...]], numbers: set[str]) -> int:
  """Counts the names above a taxon that tell its lineages apart; 0 for none.

  Lineages also change from one export to the next: they count beyond the parent
  only where the category ids differ.
  """
  if len(lineages) < 2 or (len(numbers) == 1 and numbers != {''}):
    return 0
  most = max(map(len, lineages)) if len(numbers - {''}) > 1 else 1
  for depth in range(1, most + 1):
    if len({above[:depth] for above in lineages}) > 1:
      return depth
  return 0


def _above(item: Object) -> tuple[str, ...]:
  """Reads the names above a taxon in its lineage, the nearest first.

  Returns () if the lineage, root>...>taxon, has none, or ends in another taxon.
  """
  path = [tidy(name) for name in item.lineage.split('>') if name.strip()]
  if not path or path[-1].casefold() != item.taxon.casefold():
    return ()
  return tuple(path[-2::-1]) if len(path) > 1 else ()


def _describe(several: Mapping[str, Iterable[str]]) -> Iterable[str]:
  for name, taxa in several.items():
    shown = ', '.join(sorted(taxa))
    yield f'{name} stands for several taxa, which are kept apart: {shown}'
