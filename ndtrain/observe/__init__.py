"""What a run tells about itself: metrics, events, traces, its directory, trackers, report, bundle.

Nothing here imports torch unless a tracker or a bundle is asked for.
"""
