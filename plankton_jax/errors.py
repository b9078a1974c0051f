"""Declares the errors that commands show in a line, without a traceback."""


class InputError(ValueError):
  """Bad input; one line names the file or field, and the remedy."""


class DivergedError(ArithmeticError):
  """Training cannot go on; the message says at which step, and what to try."""
