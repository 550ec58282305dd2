"""What a row and a part of the output are: schema, vectors, partitions, part files."""
