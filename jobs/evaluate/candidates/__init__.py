"""Candidates: models, layers and poolings that could have made the snapshot, embedded on a sample and evaluated alike."""
