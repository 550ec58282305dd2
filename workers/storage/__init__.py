"""Access to stored bytes: source objects, the output store, reads that are verified and retried."""
