"""Runs a command: its flags in, at most one line of error and a status out."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import app

from plankton_jax import disk
from plankton_jax.cli import host
from plankton_jax.errors import DivergedError, InputError

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
    main: gets the arguments that are no flags, the program's name first;
      returns the exit status, None for 0.
    arguments: how many arguments that are no flags it takes at most.
    interrupted: printed after Ctrl-C; says how to go on.
    fast: restart the process with `host.use_fast_settings` first, except for
      its help.
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
  """Turns what a user can mend into `error: …` on stderr and a status.

  The statuses are 2 for an `InputError`, a `DivergedError` or a place that
  cannot be written, 130 for Ctrl-C. Any other exception is a fault of ours
  and keeps its traceback.
  """
  try:
    yield
  except (InputError, DivergedError) as error:
    fail(error)
  except KeyboardInterrupt:
    print(interrupted, file=sys.stderr)
    sys.exit(130)
  except OSError as error:
    text = disk.explain(error)
    if text is None:
      raise
    fail(text)


def fail(message: Any) -> NoReturn:
  """Prints `error: message` and exits with status 2."""
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)
