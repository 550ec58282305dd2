"""The source as the driver sees it: objects listed, footers and samples read, one schema inferred."""
