"""`make demo`: embeds and searches a small real corpus on this machine."""
