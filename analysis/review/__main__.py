"""Opens a local page to sort images: take, name, grow, undo, and write tables.

`python -m analysis.review --workdir=DIR --images=FOLDER` prints an address to
open in a browser. Without --images the images of --pile are sorted. Decisions
are kept in DIR/analysis/review/review.sqlite as they are made; starting again
goes on with them. With --check only the images are shown that a table of
`analysis.counts --check` lists. docs/review.md has the keys.
"""

import logging
import pathlib
import secrets
import socket
from collections.abc import Sequence

from absl import flags

from analysis.files import command as analyses
from analysis.files import pile, taxa
from analysis.files.inputs import Source
from analysis.review import prepare, server, store
from analysis.review.session import Session
from analysis.review.store import Store
from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.errors import InputError
from plankton_jax.files import home

PORT = flags.DEFINE_integer('port', 0, 'The port; 0 takes any free one.')
PREPARE = flags.DEFINE_bool(
  'prepare', False, 'Embed, group and make thumbnails, then end.'
)
CHECK = flags.DEFINE_string(
  'check', None, 'A table that analysis.counts --check wrote: these images.'
)
for name in (
  'workdir', 'encoder', 'images', 'export', 'pixel_um', 'pile', 'taxa', 'out',
  'acceptance',
):  # fmt: skip
  flags.declare_key_flag(name)  # --help shows it

THREADS = 6


def open_session(source: Source, out: pathlib.Path) -> Session:
  """Prepares the images that the flags name, and opens their decisions.

  Raises:
    InputError: as prepare.images and Store do.
  """
  analyses.check_share('acceptance', analyses.ACCEPTANCE.value)
  images = prepare.images(
    source,
    folder_=analyses.IMAGES.value,
    export=analyses.EXPORT.value,
    check=pathlib.Path(CHECK.value) if CHECK.value else None,
    splits=pile.SPLITS.value,
    acceptance=analyses.ACCEPTANCE.value,
    pixel_um=analyses.PIXEL_UM.value,
    listed=taxa.given(analyses.TAXA.value),
    out=out,
  )
  return Session(images, Store(out / store.FILE, images.ids, images.group))


def listen(port: int) -> socket.socket:
  """Opens a port of this machine alone.

  Raises:
    InputError: it is taken, or no port.
  """
  found = socket.socket()
  found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    found.bind(('127.0.0.1', port))
  except (OSError, OverflowError) as error:
    found.close()
    raise InputError(
      f'--port={port}: {error}; give another, or 0 for any'
    ) from None
  return found


def main(argv: Sequence[str]) -> None:
  """Serves the page until Ctrl-C."""
  import waitress

  del argv
  host.show_log(logging.WARNING)
  sources, default = analyses.given(untrained=True)
  source = analyses.one_run(sources, 'review')
  own = 'check' if CHECK.value else 'review'
  out = home.expand(analyses.OUT.value or default / own)
  listening = listen(PORT.value)
  session = open_session(source, out)
  count = len(session.images.ids)
  print(f'{count:,} images; decisions in {out}')
  if PREPARE.value:
    listening.close()
    return
  token = secrets.token_urlsafe(16)
  app = server.make_app(session, token, out)
  port = listening.getsockname()[1]
  print(f'open http://127.0.0.1:{port}/{token}/', flush=True)
  print('Ctrl-C ends the review; every decision is kept.', flush=True)
  waitress.serve(app, sockets=[listening], threads=THREADS)


if __name__ == '__main__':
  command.run(main, interrupted='ended; every decision is kept', fast=True)
