"""What concerns the machine: isolated processes, memory given back to the system, files that tables are spilled to."""
