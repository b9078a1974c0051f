"""Parses JSON that a run wrote and that may since have been damaged."""

import json
from typing import Any

from plankton_jax.errors import InputError


def parse(text: str | bytes, kind: type = dict) -> Any:
  """Parses a JSON value of one type.

  Args:
    text: str, or UTF-8 bytes.
    kind: that the value must be exactly: True is no int.

  Raises:
    InputError: it is damaged, or of another type. The message is the reason
      alone, for the caller to say of what file.
  """
  try:
    value = json.loads(text.decode() if isinstance(text, bytes) else text)
  except ValueError as error:
    raise InputError(f'no JSON: {error}') from None
  except RecursionError:
    raise InputError('no JSON: nested too deeply') from None
  if type(value) is not kind:
    raise InputError(f'of type {type(value).__name__}, not {kind.__name__}')
  return value
