"""Layouts that say more than modules.json: late interaction (sentence-transformers 6, PyLate, Stanford), static models."""
