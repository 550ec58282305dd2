"""The commands that are not jobs (plan, status, verify, ...): one module for each."""
