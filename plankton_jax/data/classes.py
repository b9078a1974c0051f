"""Chooses the classes to use, and those that stay unseen."""

import difflib
import re
import unicodedata
from collections.abc import Collection, Sequence

import numpy as np

from plankton_jax.data import splits
from plankton_jax.errors import InputError

_SHOWN = 50  # names of classes that an error lists at most


def choose(
  class_names: Sequence[str], wanted: Sequence[str]
) -> tuple[str, ...]:
  """Keeps the wanted classes, or all if none is named, in their order.

  Raises:
    InputError: an unknown class.
  """
  if isinstance(wanted, str):
    raise InputError(
      f'data.classes must be a tuple of names: write ({wanted!r},)'
    )
  found = {_find('data.classes', name, class_names) for name in wanted}
  return tuple(n for n in class_names if n in found or not wanted)


def plain(name: str) -> str:
  """Writes a name without letter case, Unicode form, _ and -, blanks once."""
  folded = unicodedata.normalize('NFKC', name).casefold()
  return re.sub(r'[\s_-]+', ' ', folded).strip()


def meant(name: str, class_names: Collection[str]) -> str:
  """Finds the class that a person means by a name.

  Returns:
    The name itself if it is a class, else the only class of which it is another
    spelling by `plain`, else the name.
  """
  alike = {other for other in class_names if plain(other) == plain(name)}
  return name if name in alike or len(alike) != 1 else alike.pop()


def doubts(class_names: Sequence[str]) -> list[str]:
  """Names classes that differ only in letter case, blanks or Unicode form."""
  alike: dict[str, list[str]] = {}
  for name in class_names:
    alike.setdefault(plain(name), []).append(name)
  several = [names for names in alike.values() if len(names) > 1]
  if not several:
    return []
  shown = '; '.join(', '.join(map(repr, names)) for names in several[:3])
  more = ', ...' if several[3:] else ''
  return [
    'classes that differ only in letter case, blanks or signs between words'
    f' are classes of their own: {shown}{more}'
  ]


def order(
  class_names: Sequence[str],
  unseen_classes: int | Sequence[str],
  seed: int,
  small: Collection[str] = (),
) -> tuple[tuple[str, ...], int]:
  """Puts seen classes first, unseen ones last; counts the seen.

  Both are sorted. `unseen_classes` holds names, or is a count to be drawn by
  seed; `small` classes are drawn only if the others are too few.

  Raises:
    InputError: an unknown name, or fewer than two seen classes left.
  """
  if len(class_names) < 2:
    raise InputError(
      f'only one class ({class_names[0]}): at least two are needed to train on;'
      ' add images of another'
    )
  if isinstance(unseen_classes, str):
    raise InputError(
      f'data.unseen_classes must be a tuple of names or a count, '
      f"not a string: write ('{unseen_classes}',)"
    )
  if isinstance(unseen_classes, int):
    count = unseen_classes
    if not 0 <= count <= len(class_names):
      raise InputError(
        f'data.unseen_classes={count} of {len(class_names)} classes; give fewer'
      )
    large = [name for name in class_names if name not in small]
    rest = [name for name in class_names if name in small]
    drawn = np.random.default_rng(seed).permutation(len(large))
    unseen = [*[large[index] for index in drawn], *rest][:count]
  else:
    unseen = [
      _find('data.unseen_classes', name, class_names) for name in unseen_classes
    ]
  seen = sorted(set(class_names) - set(unseen))
  if len(seen) < 2:
    raise InputError(
      f'{len(seen)} of {len(class_names)} classes '
      f'({_listed(class_names)}) would be seen in training: at least '
      'two are needed; add class folders or shorten data.unseen_classes'
    )
  return (*seen, *sorted(set(unseen))), len(seen)


def arrange(
  labels: np.ndarray,
  class_names: Sequence[str],
  num_seen: int,
  rare: Collection[str],
  fate: str,
) -> tuple[np.ndarray, tuple[str, ...], int]:
  """Reorders the classes once the rare ones are known.

  Args:
    labels: [N], as `order` ordered the classes.
    class_names: seen classes, then unseen ones.
    num_seen: how many of them are seen.
    rare: seen classes that are not trained on.
    fate: what becomes of the rare classes, one of `splits.RARE`.

  Returns:
    labels [N] int32, -1 for a dropped class; the names of the classes trained
    on, then unseen, then rare, each sorted; how many are trained on.
  """
  names = list(class_names)
  seen, unseen = {*names[:num_seen]}, names[num_seen:]
  if fate == 'other' and rare:
    labels, names = splits.merge(labels, {*rare} - {splits.OTHER}, names)
    seen |= {splits.OTHER}
  # Only 'other' itself can be too small where the rare ones are merged.
  kept = {'gallery': {*rare}, 'other': {splits.OTHER}, 'drop': set()}[fate]
  last = kept & {*rare}
  trained = sorted(seen - {*rare})
  final = (*trained, *unseen, *sorted(last))
  position = {name: label for label, name in enumerate(final)}
  relabel = np.array([position.get(name, -1) for name in names], np.int32)
  return relabel[labels], final, len(trained)


def _find(field: str, name: str, class_names: Sequence[str]) -> str:
  """Finds a class by its name, in whatever Unicode form.

  Raises:
    InputError: there is none.
  """
  if name in class_names:
    return name
  form = unicodedata.normalize('NFC', name)
  for other in class_names:
    if unicodedata.normalize('NFC', other) == form:
      return other
  raise _unknown(field, name, class_names)


def _listed(names: Sequence[str]) -> str:
  """Lists names, sorted, the first of very many."""
  more = f' and {len(names) - _SHOWN:,} more' if len(names) > _SHOWN else ''
  return ', '.join(sorted(names)[:_SHOWN]) + more


def _unknown(field: str, name: str, class_names: Sequence[str]) -> InputError:
  """Builds the error for a missing class, which suggests similar names."""
  alike = {other.casefold(): other for other in class_names}
  near = difflib.get_close_matches(name.casefold().strip(), alike, cutoff=0.5)
  close = [alike[other] for other in near]
  hint = f'did you mean {" or ".join(close)}' if close else 'choose from '
  hint += '?' if close else _listed(class_names)
  return InputError(f'{field}: no class {name!r}; {hint}')
