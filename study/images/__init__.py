"""Images: from a source into one FFCV file, from there into splits and batches."""
