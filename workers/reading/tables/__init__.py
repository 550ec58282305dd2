"""Tables whose rows only their own library reads, and credentials in the words of such libraries."""
