"""Accounts for every object read: kept, or left out for a named reason."""

import collections
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plankton_jax.data.sources.source import one_line
from plankton_jax.data.splits import Split
from plankton_jax.files import atomic

log = logging.getLogger(__name__)

COPY = 'same pixels as an image of an unseen class'
NOT_CHOSEN = 'of a class that data.classes does not name'

_FATES = {
  'gallery': 'embedded and searchable, not trained on',
  'other': "merged into 'other'",
  'drop': 'left out',
}
_SHOWN = 20  # names that the log lists; the files list all


class Accounts(NamedTuple):
  """The fate of everything that a source read."""

  read: int  # objects, and rows or files that could not become one
  kept: dict[str, int]  # split -> images
  left_out: dict[str, int]  # reason -> objects
  named: list[tuple[str, str]]  # (name, reason) of those known by name


def make(
  *,
  read: int,
  left_aside: Mapping[str, int],
  skipped: Sequence[tuple[str, str]],
  ids: np.ndarray,
  labels: np.ndarray,
  split: Split,
) -> Accounts:
  """Adds up a run's objects.

  Args:
    read: how many the source read.
    left_aside: reason -> how many were left out without a name.
    skipped: (name, reason) of each one that could not be used.
    ids: [N] of the decoded images.
    labels: [N] of the decoded images; -1 for a class that is left out.
    split: the split of the decoded images.
  """
  named = list(skipped)
  for row in split.dropped:
    reason = 'of a class with too few images' if labels[row] < 0 else COPY
    named.append((str(ids[row]), reason))
  left_out = collections.Counter(dict(left_aside))
  left_out.update(reason for _, reason in named)
  kept = {name: len(rows) for name, rows in split.rows.items()}
  rest = read - sum(kept.values()) - left_out.total()
  if rest:
    left_out[NOT_CHOSEN] += rest
  return Accounts(read, kept, dict(left_out), named)


def write(workdir: Path, accounts: Accounts) -> None:
  """Writes accounting.json, and skipped.txt if an object is left out by name.

  Logs the first of the names.
  """
  content = {
    'read': accounts.read,
    'kept': accounts.kept,
    'left_out': accounts.left_out,
  }
  atomic.text(
    workdir / 'accounting.json',
    json.dumps(content, indent=1, ensure_ascii=False) + '\n',
  )
  file = workdir / 'skipped.txt'
  if not accounts.named:
    file.unlink(missing_ok=True)
    return
  lines = [f'{one_line(name)}\t{reason}' for name, reason in accounts.named]
  atomic.text(file, '\n'.join(lines) + '\n')
  shown = [
    f'\n  {one_line(name)}: {reason}'
    for name, reason in accounts.named[:_SHOWN]
  ]
  more = len(accounts.named) - len(shown)
  log.warning(
    '%d images left out, listed in %s:%s%s',
    len(accounts.named),
    file,
    ''.join(shown),
    f'\n  and {more:,} more' if more else '',
  )


def table(
  accounts: Accounts, split: Split, labels: np.ndarray, num_seen: int, fate: str
) -> list[str]:
  """Tabulates how many classes and images went where, and why.

  Args:
    accounts: the run's.
    split: the split of the images.
    labels: [N] of the images, trained classes first.
    num_seen: classes that are trained on.
    fate: what becomes of the rare classes, one of `splits.RARE`.
  """
  kept = accounts.kept
  sides = {name: kept[name] for name in ('train', 'val', 'test')}
  unseen = len(np.unique(labels[split.rows['unseen']]))
  lines = [
    _row('trained on', num_seen, sum(sides.values()))
    + ': '
    + ', '.join(f'{count:,} {name}' for name, count in sides.items()),
    _row('unseen', unseen, kept['unseen']),
  ]
  if split.rare:
    ordered = sorted(split.rare.items())
    shown = ', '.join(
      f'{one_line(name)} ({why})' for name, why in ordered[:_SHOWN]
    )
    more = f' and {len(ordered) - _SHOWN} more' if len(ordered) > _SHOWN else ''
    images = kept.get('rare')
    lines.append(
      _row('too few images', len(split.rare), images)
      + f': {_FATES[fate]} (data.rare={fate!r}): {shown}{more}'
    )
  left_out = sum(accounts.left_out.values())
  lines += [
    f'{count:>9,} left out: {reason}'
    for reason, count in sorted(accounts.left_out.items())
  ]
  total = sum(kept.values())
  lines.append(
    f'{accounts.read:>9,} read = {total:,} kept + {left_out:,} left out'
  )
  return lines


def _row(what: str, classes: int, images: int | None) -> str:
  held = '' if images is None else f', {images:,} images'
  return f'{what:14} {classes:,} classes{held}'
