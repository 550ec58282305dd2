"""What differs between two snapshots, row by row, without opening the parts that both have."""
