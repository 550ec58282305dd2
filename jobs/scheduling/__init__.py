"""The scheduler: which replica embeds which shard when, and which failures are charged. Pure: no Ray, clock or storage."""
