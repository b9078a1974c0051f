"""The exceptions that commands show to their user without a traceback."""


class InputError(ValueError):
  """Bad input: one line that names the file or field, and the remedy."""


class DivergedError(ArithmeticError):
  """Training cannot go on: where it stands, and what to try."""
