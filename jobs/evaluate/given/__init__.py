"""Tasks that are given files beside the snapshot: queries and judgements, graded pairs; reading them, embedding texts."""
