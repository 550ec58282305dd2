"""Replicas on Ray. The only room that imports ray."""
