"""Finds the home folder that a path names by ~."""

import pathlib

from plankton_jax.errors import InputError


def expand(path: str | pathlib.Path) -> pathlib.Path:
  """Puts the home folder in place of a leading ~ or ~user.

  Raises:
    InputError: there is no such user.
  """
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError:
    raise InputError(
      f'{str(path)[:80]!r} begins with ~ and a name that no user here has:'
      ' write it out'
    ) from None
