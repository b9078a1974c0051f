"""Shows what an EcoTaxa export holds, or checks a table to import.

python -m plankton_jax.data.ecotaxa EXPORT     an archive, a folder, a list
python -m plankton_jax.data.ecotaxa FILE.tsv   would EcoTaxa import it?
"""

import collections
from collections.abc import Sequence
from pathlib import Path

from plankton_jax.cli import command
from plankton_jax.data.ecotaxa import (
  annotations,
  files,
  names,
  read,
  rules,
  source,
  table,
)
from plankton_jax.errors import InputError
from plankton_jax.files import home


def show_export(path: str) -> None:
  """Prints an export's objects by state and class, and those left out."""
  export = read.export(path)
  print(f'{export.files.place}: {source.describe(export)}')
  counts = collections.Counter((i.taxon, i.status) for i in export.objects)
  known = (*table.STATES, annotations.UNCLASSIFIED)
  states = dict.fromkeys([*known, *(item.status for item in export.objects)])
  lineage = {item.taxon: item.lineage for item in export.objects}
  width = max((len(taxon) for taxon in lineage), default=0)
  print(' ' * (width + 4) + ''.join(f'{state:>13}' for state in states))
  for taxon in sorted(lineage):
    row = ''.join(f'{counts[taxon, state]:13,}' for state in states)
    print(f'  {taxon:{width}}  {row}  {lineage[taxon]}'.rstrip())
  for note in export.notes:
    print(f'note: {note}')
  for name, reason in export.skipped:
    print(f'left out: {name}: {reason}')
  left_out = export.further + export.repeated + len(export.skipped)
  print(
    f'{len(export.objects) + left_out:,} read = {len(export.objects):,} objects'
    f' + {export.further:,} further images + {export.repeated:,} repeated'
    f' rows + {len(export.skipped):,} left out'
  )


def check_table(path: Path) -> int:
  """Prints why EcoTaxa would refuse a table; returns the number of reasons."""
  found = table.parse(path.read_bytes(), str(path))
  reasons = list(rules.problems(path.name, found))
  for line, image in zip(
    found.lines, found.column('img_file_name'), strict=True
  ):
    try:
      there = (path.parent / names.beside('', image)).is_file()
    except ValueError as error:
      reasons.append(f'line {line}, image {image}: {error}')
      continue
    if not there:
      reasons.append(f'line {line}: image {image!r} is not beside the table')
  for reason in reasons:
    print(f'{path}: {reason}')
  if not reasons:
    print(f'{path}: {len(found.rows):,} rows that EcoTaxa can import')
  return len(reasons)


def main(argv: Sequence[str]) -> int:
  """Shows the named export or checks the table; returns 1 if it has errors."""
  if len(argv) != 2:
    raise InputError('name one EcoTaxa export, or one table to import')
  path = home.expand(argv[1])
  if path.is_file() and path.suffix.lower() in files.TEXTS:
    return 1 if check_table(path) else 0
  show_export(argv[1])
  return 0


if __name__ == '__main__':
  command.run(main, arguments=1)
