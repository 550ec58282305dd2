"""What concerns the machine: isolated processes, extras, memory given back, files that tables are spilled to."""
