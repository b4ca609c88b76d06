"""The commands of `ap2o`, by what they are about: each parses, calls and prints. Options, output and end are shared."""
