"""Reads what runs and analyses have written."""

import csv
import json


def read_csv(path):
  """Reads the lines of a table as dicts of strings."""
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def read_log(workdir, split):
  """Reads the lines of a run's log that are of a split."""
  text = (workdir / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  return [line for line in lines if line['split'] == split]
