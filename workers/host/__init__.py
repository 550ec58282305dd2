"""What concerns the machine: processor, isolated processes, extras, memory given back, files that tables are spilled to."""
