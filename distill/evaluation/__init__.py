"""What evaluation consists of: baselines, the ceiling, scoring of frames, protocols, averages, intervals."""
