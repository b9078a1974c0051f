"""Parses the flags of a benchmark, for tests that call it in their process."""

from absl import flags


def parse(module, *argv):
  """The values of the flags that a module defines, given on a command line."""
  values = flags.FlagValues()
  module.define(values)
  values(['command', *argv])
  return values
