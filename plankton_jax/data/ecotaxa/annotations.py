"""Settles what an export says of its objects' taxa in more than one way."""

import collections
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from plankton_jax.data.sources.objects import Object

UNCLASSIFIED = 'unclassified'

# A person's word counts more than that of a machine.
_ORDER = ('validated', 'dubious', 'predicted')


def tidy(name: str) -> str:
  """Writes a taxon in one way: composed characters, single blanks."""
  return ' '.join(unicodedata.normalize('NFC', name).split())


def settle(item: Object, said: Sequence[Object]) -> tuple[Object, bool]:
  """Settles the annotation of an object by all that its rows say.

  The state that counts most wins: validated, dubious, predicted. Where it names
  two taxa nobody can tell which is right: the object becomes dubious, or
  unclassified if only predictions differ.

  Returns:
    The object, and whether two taxa of one state were named.
  """
  states = [state for state in _ORDER if any(o.status == state for o in said)]
  if not states:
    return item, False
  best = [other for other in said if other.status == states[0]]
  first = best[0]
  item = item._replace(
    status=first.status,
    taxon=first.taxon,
    lineage=first.lineage,
    category_id=first.category_id,
    person=first.person,
  )
  if len({other.taxon for other in best}) == 1:
    return item, False
  if states[0] == 'predicted':
    empty = {'taxon': '', 'lineage': '', 'category_id': '', 'person': ''}
    return item._replace(status=UNCLASSIFIED, **empty), True
  return item._replace(status='dubious'), True


def by_parent(
  items: Sequence[Object],
) -> tuple[tuple[Object, ...], list[str]]:
  """Names taxa of one name but several parents as EcoTaxa does: name<parent.

  A name whose objects all have one category id is left alone, as are objects
  without a lineage.

  Returns:
    The objects, and a note on each such name.
  """
  parents: dict[str, set[str]] = collections.defaultdict(set)
  numbers: dict[str, set[str]] = collections.defaultdict(set)
  for item in items:
    if item.lineage:
      parents[item.taxon].add(_parent(item))
    numbers[item.taxon].add(item.category_id)
  several = {
    name: sorted(found)
    for name, found in parents.items()
    if name and '<' not in name and len(found - {''}) > 1
    if len(numbers[name]) > 1 or numbers[name] == {''}
  }
  if not several:
    return tuple(items), []
  return tuple(
    item._replace(taxon=f'{item.taxon}<{_parent(item)}')
    if item.taxon in several and _parent(item)
    else item
    for item in items
  ), list(_describe(several))


def _parent(item: Object) -> str:
  """Reads the name above a taxon in its lineage, root>...>taxon.

  Returns '' if the lineage has no such name, or ends in another taxon.
  """
  path = [tidy(name) for name in item.lineage.split('>') if name.strip()]
  if len(path) < 2 or path[-1].casefold() != item.taxon.casefold():
    return ''
  return path[-2]


def _describe(several: Mapping[str, Iterable[str]]) -> Iterable[str]:
  for name, parents in several.items():
    shown = ', '.join(f'{name}<{parent}' for parent in parents if parent)
    yield f'{name} stands for several taxa, which are kept apart: {shown}'
