"""Which replica embeds which shard when, and what answers for a failure. Pure: no Ray, no clock, no storage."""
