"""Names the group of each image: its sample, day, or a part of its id."""

import re
from collections.abc import Sequence

import numpy as np

from plankton_jax.data.ecotaxa import read
from plankton_jax.data.sources.objects import Object
from plankton_jax.errors import InputError

TABLED = ('sample', 'acquisition', 'day')


def name_groups(
  ids: Sequence[str], by: str, items: Sequence[Object] = ()
) -> np.ndarray:
  """Names the group [N] of each image.

  Args:
    ids: of the images. Those of an EcoTaxa export hold sample and acquisition.
    by: 'sample', 'acquisition', 'day', or a regular expression that is
      searched in each id; its first group, or else all it matches, is the name.
    items: what a table says of the images, if there is one.

  Raises:
    InputError: an image has no group by this.
  """
  if by in TABLED and any(item.sample or item.date for item in items):
    found = [_tabled(item, by) for item in items]
  elif by == 'day':
    raise InputError('--by=day: no table gives the date; give a regex of ids')
  else:
    found = _matched(ids, by)
  missing = [id for id, name in zip(ids, found, strict=True) if not name]
  if missing:
    raise InputError(
      f'--by={by}: {len(missing):,} of {len(ids):,} images have no such group,'
      f' as {missing[0]}; give a regex that finds the sample in each id, as'
      " --by='^([^/_]+)' where its name ends at the first / or _"
    )
  return np.array(found, dtype=np.str_)


def _tabled(item: Object, by: str) -> str:
  if by == 'day':
    return item._replace(time='').moment
  if by == 'acquisition':
    return f'{item.sample}/{item.acquisition}'
  return item.sample


def _matched(ids: Sequence[str], by: str) -> list[str]:
  try:
    pattern = re.compile(read.GROUPS.get(by, by))
  except re.error as error:
    raise InputError(f'--by={by}: no regular expression ({error})') from None
  matches = [pattern.search(str(id)) for id in ids]
  return [
    (match[1] if pattern.groups else match[0]) or '' if match else ''
    for match in matches
  ]
