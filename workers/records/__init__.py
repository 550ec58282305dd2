"""Records that are passed between processes and between the stages of a replica."""
