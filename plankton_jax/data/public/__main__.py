"""Lists the public sets of plankton images, or prepares one.

  python -m plankton_jax.data.public                       all sets
  python -m plankton_jax.data.public NAME                  one set, its classes
  python -m plankton_jax.data.public NAME --download       get and prepare it
  python -m plankton_jax.data.public NAME --archive=FILE   prepare from a file

A prepared set is trained on by --config.data.source=tfds
--config.data.name=NAME.
"""

import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from absl import flags

from plankton_jax.cli import command
from plankton_jax.data.public import catalogue, download
from plankton_jax.data.public.catalogue import ImageSet
from plankton_jax.errors import InputError
from plankton_jax.files import home

ARCHIVE = flags.DEFINE_multi_string(
  'archive', [], 'A local tar, tar.gz or zip; repeat the flag for several.'
)
DOWNLOAD = flags.DEFINE_bool('download', False, 'Get the archive first.')
YES = flags.DEFINE_bool('yes', False, 'Download without asking.')
DATA_DIR = flags.DEFINE_string(
  'data_dir', '', "Where it is prepared [TFDS's own folder]."
)


def run(
  name: str, *, archives: Sequence[str], get: bool, yes: bool, data_dir: str
) -> None:
  """Describes a set, and prepares it if asked to.

  Raises:
    InputError: the name is unknown, or its archive cannot be fetched or read.
  """
  from plankton_jax.data import records  # brings in TFDS
  from plankton_jax.data.public import prepare

  about = _find(name)
  final = prepare.prepared_at(name, data_dir)
  _describe(name, about)
  if (archives or get) and not final.exists():
    if archives:
      paths = [home.expand(archive) for archive in archives]
      for path in paths:
        download.verify(path)
    else:
      paths = [_downloaded(about, final.parents[1], name, yes=yes)]
    prepare.prepare(name, about, paths, final)
  if not final.exists():
    by_hand = '' if about.url else ' (there is no single file to download)'
    print(f'not prepared: give --download or --archive=FILE{by_hand}')
    return
  _show_classes(prepare.classes(final))
  _show_skipped(records.skipped(final))
  print(f'prepared at {final}; delete that folder to prepare it again')
  flag = f' --config.data.data_dir={data_dir}' if data_dir else ''
  print(
    'train with --config.data.source=tfds --config.data.name='
    f"{name}{flag} --config.citation='{about.citation}'"
  )


def _find(name: str) -> ImageSet:
  if name not in catalogue.SETS:
    known = ', '.join(catalogue.SETS)
    raise InputError(f'no public set {name!r}; choose from {known}')
  return catalogue.SETS[name]


def _downloaded(about: ImageSet, root: Path, name: str, *, yes: bool) -> Path:
  """Returns the archive in root/downloads; fetches it if the user agrees."""
  if not about.url:
    raise InputError(
      f'{name} cannot be downloaded: get its archives from'
      f' https://doi.org/{about.doi} and give them with --archive'
    )
  path = PurePosixPath(urlsplit(about.url).path)
  file = root / 'downloads' / f'{name}{"".join(path.suffixes[-2:])}'
  if not file.exists():
    _ask(about, file, yes=yes)
  download.fetch(about.url, file)
  return file


def _ask(about: ImageSet, file: Path, *, yes: bool) -> None:
  """Asks for consent to the download: --yes, or y typed in.

  Raises:
    InputError: the user declines, or no one can be asked.
  """
  size = download.size(about.url)
  amount = 'unknown size' if size is None else f'{size / 1e9:.2f} GB'
  print(f'{about.url}\n  {amount}, to {file}')
  if yes:
    return
  if not sys.stdin.isatty():
    raise InputError('nobody is there to ask: give --yes to download')
  if input(f'Download under {about.licence}? [y/N] ').strip().lower() != 'y':
    raise InputError('not downloaded; answer y, or give --yes')


def _describe(name: str, about: ImageSet) -> None:
  print(f'{name}: {about.title}')
  print(f'  instrument  {about.instrument}')
  print(
    f'  images      {about.images or "?"} in {about.classes or "?"} classes'
  )
  print(f'  licence     {about.licence}')
  print(f'  DOI         https://doi.org/{about.doi}')


def _show_classes(rows: Sequence[dict[str, str]]) -> None:
  total = sum(int(row['images']) for row in rows)
  print(f'{total:,} images in {len(rows)} classes')
  width = max(len(row['class']) for row in rows)
  for row in rows:
    line = f'  {row["class"]:{width}}  {int(row["images"]):>9,}  '
    print(f'{line}{row["lineage"] or row["taxon"]}'.rstrip())


def _show_skipped(skipped: Sequence[tuple[str, str]]) -> None:
  if skipped:
    print(f'{len(skipped)} left out:')
  for name, reason in skipped:
    print(f'  {name}: {reason}')


def _show_all() -> None:
  width = max(map(len, catalogue.SETS))
  for name, about in catalogue.SETS.items():
    print(
      f'{name:{width}}  {about.instrument:19}  {about.images:>22}  '
      f'{about.classes:16}  {about.licence}'
    )


def main(argv: Sequence[str]) -> None:
  """Lists the sets, or describes and prepares the named one."""
  if len(argv) < 2:
    _show_all()
    return
  if ARCHIVE.value and DOWNLOAD.value:
    raise InputError('--archive and --download exclude each other')
  run(
    argv[1],
    archives=ARCHIVE.value,
    get=DOWNLOAD.value,
    yes=YES.value,
    data_dir=DATA_DIR.value,
  )


if __name__ == '__main__':
  command.run(
    main, arguments=1, interrupted='interrupted; the same command goes on'
  )
