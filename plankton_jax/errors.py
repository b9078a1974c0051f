"""Declares the errors that commands show in a line, without a traceback."""

from collections.abc import Sequence


class InputError(ValueError):
  """Bad input; one line names the file or field, and the remedy."""


class DivergedError(ArithmeticError):
  """Training cannot go on; the message says at which step, and what to try."""


def reason(error: BaseException) -> str:
  """Returns an exception's message in one line, its type if it has none."""
  return ' '.join(str(error).split())[:200] or type(error).__name__


def shorten_list(names: Sequence[str], shown: int = 3) -> str:
  """Joins the first names for a line: 'a.png, b.png, c.png and 61 more'."""
  text = ', '.join(names[:shown])
  more = len(names) - shown
  return f'{text} and {more} more' if more > 0 else text
