"""What a run tells about itself: metrics, sinks, span traces, the run directory. No torch."""
