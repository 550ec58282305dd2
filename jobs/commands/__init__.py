"""The commands beside the jobs: one module a command, each a few calls into the rooms below."""
