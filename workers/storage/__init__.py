"""The one door to bytes: objects, the output store, checked and patient reads."""
