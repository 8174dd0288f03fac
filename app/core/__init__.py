"""What every feature stands on; knows nothing of frames, topics or features."""
