"""Runs a command: parses its flags, prints an error as one line, exits."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import app

from plankton_jax import host
from plankton_jax.errors import DivergedError, InputError
from plankton_jax.files import write_errors

HELP = ('--help', '-help', '-h')


def run(
  main: Callable[[Sequence[str]], int | None],
  *,
  arguments: int = 0,
  interrupted: str = 'interrupted',
  fast: bool = False,
  flags_parser: Callable[[list[str]], Any] = app.parse_flags_with_usage,
) -> None:
  """Parses absl's flags, calls `main(argv)` and exits with its status.

  Args:
    main: takes the program's name and the positional arguments; returns the
      exit status, None for 0.
    arguments: the most positional arguments that it takes.
    interrupted: the line printed after Ctrl-C, such as how to go on.
    fast: whether to restart with `host.use_fast_settings` first; not done for
      --help.
    flags_parser: as in `absl.app.run`.
  """

  def guarded(argv: Sequence[str]) -> None:
    with errors_as_lines(interrupted):
      if len(argv) > 1 + arguments:
        raise InputError(
          f'unexpected argument {argv[1 + arguments]!r}; flags take --'
        )
      sys.exit(main(argv))

  if fast and not any(arg in HELP for arg in sys.argv[1:]):
    host.use_fast_settings()
  app.run(guarded, flags_parser=flags_parser)


@contextlib.contextmanager
def errors_as_lines(interrupted: str = 'interrupted') -> Iterator[None]:
  """Turns errors that a user can mend into `error: …` on stderr and a status.

  The status is 2 for an `InputError`, a `DivergedError` or a place that cannot
  be written, and 130 for Ctrl-C. Any other exception is a bug and keeps its
  traceback.
  """
  try:
    yield
  except (InputError, DivergedError) as error:
    fail(error)
  except KeyboardInterrupt:
    print(interrupted, file=sys.stderr)
    sys.exit(130)
  except OSError as error:
    text = write_errors.explain(error)
    if text is None:
      raise
    fail(text)


def fail(message: Any) -> NoReturn:
  """Prints `error: message` and exits with status 2."""
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)
