"""The machine: isolated processes, freed memory, spill files."""
